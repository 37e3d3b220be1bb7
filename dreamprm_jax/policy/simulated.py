"""The simulated policy: writes Chain-of-Function programs for the procedural benchmark, with mistakes at known rates.

It has the interface of the server policy: text in, text out. It keeps no state between calls and parses the choices
made in a prefix. The sampling temperature does not change the mistake rates, on which the exact truth depends.

Its reported log-probabilities are miscalibrated, like those of language models (arXiv 2402.02047): a fraction
``UNAWARE`` of the mistakes is reported with the probability of the correct choice, and random log-probabilities for the
wording are added. ``exact_log_probability`` returns the true values.
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
from dreamprm_jax.problems.procedural.writing import ARGUMENTS, CALL, Style, read, read_style, write_helper, write_main
from dreamprm_jax.schema import DataError, content_hash

UNAWARE = 0.7  # fraction of the mistakes that are reported as if they were correct
WORDING = 0.5  # nats; mean of the exponentially distributed decrease due to a function's wording


class SimulatedPolicy:
    """Samples each function's form from the exact distribution in ``problems.procedural.mistakes``."""

    def __init__(self, compositions: dict[str, Composition], wrong_rate_scale: float = 1.0):
        self.compositions = compositions
        self.wrong_rate_scale = wrong_rate_scale
        self.name = f"simulated-{wrong_rate_scale:g}"

    @classmethod
    def from_file(cls, path: Path, wrong_rate_scale: float = 1.0) -> SimulatedPolicy:
        """Reads the compositions that the generate stage wrote. Raises DataError if the file is missing."""
        try:
            rows = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise DataError(
                f"{path}: no such file; the simulated policy knows only the procedural benchmark"
            ) from error
        return cls({row["problem_id"]: Composition.from_json(row) for row in rows}, wrong_rate_scale)

    def complete(self, request: CompletionRequest) -> list[Completion]:
        """Completes the prefix ``n`` times. Raises PolicyError if the problem or the prefix is unknown."""
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
        # Rollouts of a prefix share a style, like those of a model at a low temperature; whole programs do not.
        style = _style(composition, prefix, random.Random(key) if prefix else rng)
        plan, text = written.plan, prefix
        reported: list[float] = []
        confidence = random.Random(f"{key}/{index}/confidence")
        if plan is None:
            known, weights = plans(composition), plan_probabilities(composition, self.wrong_rate_scale)
            (place,) = rng.choices(range(len(known)), weights)
            plan = known[place]
            reported.append(_reported(weights, place, confidence))
            text = write_main(composition, plan, style)
        for position in plan.calls[len(written.forms) :]:
            weights = form_probabilities(composition, position, self.wrong_rate_scale)
            (form,) = rng.choices(range(len(weights)), weights)
            reported.append(_reported(weights, form, confidence))
            text += write_helper(composition, position, form, style)
        mean = sum(reported) / len(reported) if reported else None
        return Completion(text if written.closed else text + CALL, "stop", True, mean)

    def sampling(self, temperature: float) -> dict[str, Any]:
        """The sampling parameters that are stored in rows."""
        return {"temperature": temperature, "wrong_rate_scale": self.wrong_rate_scale}

    def close(self) -> None:
        """Nothing to release."""


def exact_log_probability(composition: Composition, code: str, scale: float = 1.0) -> float:
    """The mean log-probability, in nats, of the choices that determine whether a program is correct.

    Args:
      composition: The composition of the program's problem.
      code: The program.
      scale: The policy's ``wrong_rate_scale``.

    Returns:
      The mean over main() and every helper; NaN if the policy cannot have written the program.
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
    """The log-probability that the policy reports for a choice. The first weight is that of the correct choice."""
    unaware, wording = rng.random() < UNAWARE, rng.expovariate(1.0 / WORDING)
    return math.log(weights[0] if unaware else weights[chosen]) - wording


def _style(composition: Composition, prefix: str, rng: random.Random) -> Style:
    functions, argument = read_style(composition, prefix)
    count = composition.length
    chosen = tuple(functions.get(i, rng.randrange(2)) for i in range(count))
    docstrings = tuple(rng.randrange(2) for _ in range(count))
    drawn = rng.randrange(len(ARGUMENTS))
    return Style(chosen, docstrings, drawn if argument is None else argument)
