"""The simulated policy's mistakes: the exact distribution over the forms of every function, including main().

The policy samples from these probabilities, and the truth is computed from the same ones, so it is exact.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

from dreamprm_jax.problems.procedural.compose import Composition
from dreamprm_jax.problems.procedural.primitive import Primitive

MAIN_WRONG_RATE = 0.10
HIGHEST_RATE = 0.7


@dataclass(frozen=True)
class Plan:
    """One form of main(): the helpers that it calls in order, as positions in the composition."""

    calls: tuple[int, ...]

    def is_right(self, composition: Composition) -> bool:
        """Whether this is the correct plan."""
        return self.calls == tuple(range(composition.length))


def plans(composition: Composition) -> list[Plan]:
    """The correct plan, then all plans with two neighboring stages swapped or a stage dropped whose types match."""
    order = list(range(composition.length))
    found = [Plan(tuple(order))]
    stages = range(1, composition.length - 2)
    for i in stages:
        if i + 1 in stages:
            found.append(Plan((*order[:i], i + 1, i, *order[i + 2 :])))
        found.append(Plan((*order[:i], *order[i + 1 :])))
    primitives = composition.primitives

    def fits(plan: Plan) -> bool:
        pairs = zip(plan.calls, plan.calls[1:], strict=False)
        return all(primitives[a].gives == primitives[b].takes for a, b in pairs)

    return [plan for plan in found if fits(plan)]


def plan_probabilities(composition: Composition, scale: float) -> list[float]:
    """The probability of each of ``plans``; ``scale`` multiplies all mistake rates."""
    return _spread(MAIN_WRONG_RATE * composition.ability * scale, len(plans(composition)) - 1)


def form_probabilities(
    composition: Composition, position: int, scale: float, weak: frozenset[str] = frozenset()
) -> list[float]:
    """The probability of each form of one helper; primitives in ``weak`` have the mistake rate ``HIGHEST_RATE``."""
    primitive = composition.primitives[position]
    rate = HIGHEST_RATE if primitive.name in weak else primitive.wrong_rate() * composition.ability * scale
    wrong = [form for form in range(1, len(primitive.forms)) if _known(primitive, form, composition)]
    chances = _spread(rate, len(wrong))
    given = dict(zip(wrong, chances[1:], strict=True))
    return [chances[0], *(given.get(form, 0.0) for form in range(1, len(primitive.forms)))]


def _known(primitive: Primitive, form: int, composition: Composition) -> bool:
    """Whether the composition's half contains a wrong form. A hash of the primitive's name decides the first half."""
    half = (form + zlib.crc32(primitive.name.encode())) % 2
    return composition.mistakes == "all" or half == (composition.mistakes == "second")


def _spread(wrong: float, ways: int) -> list[float]:
    if not ways:
        return [1.0]
    wrong = min(wrong, HIGHEST_RATE)
    return [1.0 - wrong, *[wrong / ways] * ways]
