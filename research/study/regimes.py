"""Regimes of label noise: who completes the prefixes, how often, and which tests judge the completions.

The programs, their outcomes (all tests) and the truth are the same in every regime of a seed; only the Monte-Carlo
labels differ. So a difference between regimes is one of label noise alone.
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
    """How the Monte-Carlo labels of the training steps come about."""

    name: str
    rollouts: int = 4  # K of every prefix
    judge_tests: int = 0  # how many of a problem's tests judge the rollouts; 0: all. Outcomes are judged by all.
    completer_scale: float = 1.0  # times the mistake rates of the policy that wrote the programs
    repair: float = 0.0  # chance that a rollout of a prefix that cannot be saved passes all the same
    weak_share: float = 0.0  # share of the primitives that the completer gets wrong as often as any may be

    def weak_primitives(self, seed: int) -> frozenset[str]:
        """The family of primitives that the completer cannot write, drawn by the seed."""
        names = sorted(PRIMITIVES)
        return frozenset(random.Random(f"family/{seed}").sample(names, round(self.weak_share * len(names))))


REGIMES = {
    regime.name: regime
    for regime in (
        Regime("k1", rollouts=1),
        Regime("k2", rollouts=2),
        Regime("k4", rollouts=4),
        Regime("k16", rollouts=16),
        Regime("weak_tests", judge_tests=1),  # false positives: wrong programs that the one test does not catch
        Regime("weak_completer", completer_scale=3.0),  # false negatives: good prefixes that it cannot complete
        Regime("family_bias", weak_share=0.3),  # false negatives that many rollouts do not cure
    )
}


_VARIANT = re.compile(r"(?P<base>.+?)(_k(?P<rollouts>\d+))?(_repair(?P<percent>\d+))?")


def regime(name: str) -> Regime:
    """The regime of a name: BASE, BASE_kROLLOUTS, BASE_repairPERCENT or BASE_kROLLOUTS_repairPERCENT.

    ``weak_tests_k1_repair5``: one rollout a prefix, of which 5 % pass where the prefix cannot be saved.

    Raises:
      DataError: where there is no such regime.
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
