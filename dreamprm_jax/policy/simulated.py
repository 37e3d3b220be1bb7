"""The simulated policy: writes Chain-of-Function programs for the procedural benchmark, with mistakes at known rates.

It follows the protocol of the server policy: text in, text out. It keeps no state between calls; what a prefix has
decided is read back from the prefix. Sampling temperature does not change its rates: they are the benchmark's truth.
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
        chances = []  # the probability of each choice that decides correctness, like a model's of its tokens
        if plan is None:
            known, weights = plans(composition), plan_probabilities(composition, self.wrong_rate_scale)
            (place,) = rng.choices(range(len(known)), weights)
            plan = known[place]
            chances.append(weights[place])
            text = write_main(composition, plan, style)
        for position in plan.calls[len(written.forms) :]:
            weights = form_probabilities(composition, position, self.wrong_rate_scale)
            (form,) = rng.choices(range(len(weights)), weights)
            chances.append(weights[form])
            text += write_helper(composition, position, form, style)
        said = sum(map(math.log, chances)) / len(chances) if chances else None
        return Completion(text if written.closed else text + CALL, "stop", True, said)

    def sampling(self, temperature: float) -> dict[str, Any]:
        """What the rows record of how they were sampled."""
        return {"temperature": temperature, "wrong_rate_scale": self.wrong_rate_scale}

    def close(self) -> None:
        """Nothing to release."""


def _style(composition: Composition, prefix: str, rng: random.Random) -> Style:
    functions, argument = read_style(composition, prefix)
    count = composition.length
    chosen = tuple(functions.get(i, rng.randrange(2)) for i in range(count))
    docstrings = tuple(rng.randrange(2) for _ in range(count))
    drawn = rng.randrange(len(ARGUMENTS))
    return Style(chosen, docstrings, drawn if argument is None else argument)
