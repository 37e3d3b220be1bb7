"""The simulated policy: writes Chain-of-Function programs for the procedural benchmark, with mistakes at known rates.

It follows the protocol of the server policy: text in, text out. It keeps no state between calls; what a prefix has
decided is read back from the prefix. Sampling temperature does not change its rates: they are the benchmark's truth.

The log-probabilities that it reports are miscalibrated, as those of language models are (arXiv 2402.02047): a share
``UNAWARE`` of its mistakes is reported with the probability of the right choice, and the wording of a function, which
says nothing of its correctness, adds log-probabilities of its own. ``exact_log_probability`` has the true ones.
"""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

from dreamprm_jax.policy.protocol import Completion, CompletionRequest, PolicyError
from dreamprm_jax.problems.procedural.compose import Composition
from dreamprm_jax.problems.procedural.mistakes import form_probabilities, plan_probabilities, plans
from dreamprm_jax.problems.procedural.writing import (
    ARGUMENTS,
    CALL,
    Style,
    read,
    read_style,
    write_helper,
    write_main,
)
from dreamprm_jax.schema import DataError, content_hash

UNAWARE = 0.7  # share of the mistakes that are reported as if they were right
WORDING = 0.5  # nats: the mean of what a function's wording takes from the log-probability (exponential)


class SimulatedPolicy:
    """Draws each function's form from the exact distribution in ``problems.procedural.mistakes``."""

    def __init__(self, compositions: dict[str, Composition], wrong_rate_scale: float = 1.0):
        self.compositions = compositions
        self.wrong_rate_scale = wrong_rate_scale
        self.name = f"simulated-{wrong_rate_scale:g}"

    @classmethod
    def from_file(cls, path: Path, wrong_rate_scale: float = 1.0) -> SimulatedPolicy:
        """Reads the compositions that the generate stage wrote. Raises DataError where the file is missing."""
        try:
            rows = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise DataError(
                f"{path}: no such file; the simulated policy knows only the procedural benchmark"
            ) from error
        return cls({row["problem_id"]: Composition.from_json(row) for row in rows}, wrong_rate_scale)

    def complete(self, request: CompletionRequest) -> list[Completion]:
        """Completes the prefix ``n`` times. Raises PolicyError for a problem or prefix that it does not know."""
        composition = self.compositions.get(request.problem.problem_id)
        if composition is None:
            raise PolicyError(f"the simulated policy does not know problem {request.problem.problem_id!r}")
        written = read(composition, request.prefix)
        if written is None:
            raise PolicyError(f"{composition.problem_id}: the prefix is not one of a program of this benchmark")
        key = content_hash(composition.problem_id, request.prefix, str(request.seed), self.name)
        return [self._sample(composition, request.prefix, key, i) for i in range(request.n)]

    def _sample(self, composition: Composition, prefix: str, key: str, index: int) -> Completion:
        rng = random.Random(f"{key}/{index}")
        written = read(composition, prefix)
        assert written is not None
        # Rollouts of one prefix share a style, as those of one model at a low temperature do; whole programs do not.
        style = _style(composition, prefix, random.Random(key) if prefix else rng)
        plan, text = written.plan, prefix
        told: list[float] = []
        confidence = random.Random(f"{key}/{index}/confidence")
        if plan is None:
            known, weights = plans(composition), plan_probabilities(composition, self.wrong_rate_scale)
            (place,) = rng.choices(range(len(known)), weights)
            plan = known[place]
            told.append(_reported(weights, place, confidence))
            text = write_main(composition, plan, style)
        for position in plan.calls[len(written.forms) :]:
            weights = form_probabilities(composition, position, self.wrong_rate_scale)
            (form,) = rng.choices(range(len(weights)), weights)
            told.append(_reported(weights, form, confidence))
            text += write_helper(composition, position, form, style)
        mean = sum(told) / len(told) if told else None
        return Completion(text if written.closed else text + CALL, "stop", True, mean)

    def sampling(self, temperature: float) -> dict[str, Any]:
        """What the rows record of how they were sampled."""
        return {"temperature": temperature, "wrong_rate_scale": self.wrong_rate_scale}

    def close(self) -> None:
        """Nothing to release."""


def exact_log_probability(composition: Composition, code: str, scale: float = 1.0) -> float:
    """The mean log-probability, in nats, of the choices that decide whether a program of the policy is right.

    Args:
      composition: Of the program's problem.
      code: The program.
      scale: The policy's ``wrong_rate_scale``.

    Returns:
      The mean over main() and every helper; NaN for a program that the policy cannot have written.
    """
    written = read(composition, code)
    if written is None or written.plan is None:
        return math.nan
    known, weights = plans(composition), plan_probabilities(composition, scale)
    chances = [weights[known.index(written.plan)]]
    for position, form in zip(written.plan.calls, written.forms, strict=True):
        chances.append(form_probabilities(composition, position, scale)[form])
    return sum(map(math.log, chances)) / len(chances) if min(chances) > 0.0 else math.nan


def _reported(weights: list[float], chosen: int, rng: random.Random) -> float:
    """The log-probability that the policy reports for a choice, of which the first one is right."""
    unaware, wording = rng.random() < UNAWARE, rng.expovariate(1.0 / WORDING)
    return math.log(weights[0] if unaware else weights[chosen]) - wording


def _style(composition: Composition, prefix: str, rng: random.Random) -> Style:
    functions, argument = read_style(composition, prefix)
    count = composition.length
    chosen = tuple(functions.get(i, rng.randrange(2)) for i in range(count))
    docstrings = tuple(rng.randrange(2) for _ in range(count))
    drawn = rng.randrange(len(ARGUMENTS))
    return Style(chosen, docstrings, drawn if argument is None else argument)
