"""Regimes of label noise: the policy that completes prefixes, the number of rollouts, and the tests that judge them.

The programs, their outcomes (on all tests) and the truth are the same in every regime of a seed, and only the
Monte-Carlo labels differ. Therefore label noise is the only difference between regimes.
"""

from __future__ import annotations

import dataclasses
import random
import re
from dataclasses import dataclass

from dreamprm_jax.problems.procedural.compose import PRIMITIVES
from dreamprm_jax.schema import DataError


@dataclass(frozen=True)
class Regime:
    """How the Monte-Carlo labels of the training steps are generated."""

    name: str
    rollouts: int = 4  # K, the number of rollouts per prefix
    judge_tests: int = 0  # number of tests that judge a rollout; 0: all. Outcomes are always judged by all tests.
    completer_scale: float = 1.0  # factor on the mistake rates of the policy that wrote the programs
    # Probability that a failing rollout of an unrecoverable prefix counts as a pass. On CodeI/O variants: fraction of
    # the completions that define a function of the prefix again.
    repair: float = 0.0
    weak_share: float = 0.0  # fraction of the primitives for which the completer has the highest mistake rate

    def weak_primitives(self, seed: int) -> frozenset[str]:
        """The primitives for which the completer is weak, drawn with the seed."""
        names = sorted(PRIMITIVES)
        return frozenset(random.Random(f"family/{seed}").sample(names, round(self.weak_share * len(names))))


REGIMES = {
    regime.name: regime
    for regime in (
        Regime("k1", rollouts=1),
        Regime("k2", rollouts=2),
        Regime("k4", rollouts=4),
        Regime("k16", rollouts=16),
        Regime("weak_tests", judge_tests=1),  # false positives: wrong programs that pass the one test
        Regime("weak_completer", completer_scale=3.0),  # false negatives: good prefixes that it fails to complete
        Regime("family_bias", weak_share=0.3),  # false negatives that remain with many rollouts
    )
}


_VARIANT = re.compile(r"(?P<base>.+?)(_k(?P<rollouts>\d+))?(_repair(?P<percent>\d+))?")


def regime(name: str) -> Regime:
    """The regime with a name of the form BASE, BASE_kROLLOUTS, BASE_repairPERCENT or BASE_kROLLOUTS_repairPERCENT.

    For example, ``weak_tests_k1_repair5`` has one rollout per prefix and a ``repair`` of 5 %.

    Raises:
      DataError: if there is no such regime.
    """
    if name in REGIMES:
        return REGIMES[name]
    found = _VARIANT.fullmatch(name)
    if found is None or found["base"] not in REGIMES or int(found["percent"] or 0) > 100 or found["rollouts"] == "0":
        raise DataError(
            f"no regime {name!r}; choose among {', '.join(REGIMES)}, or one with _kROLLOUTS or _repairPERCENT behind"
        )
    base = REGIMES[found["base"]]
    rollouts = int(found["rollouts"] or base.rollouts)
    return dataclasses.replace(base, name=name, rollouts=rollouts, repair=int(found["percent"] or 0) / 100)
