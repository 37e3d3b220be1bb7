"""The number of steps of a run, from its arms, their shared warm-ups, and the calls that update the labels."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dreamprm_jax.config import TrainConfig
from dreamprm_jax.training.arms import ORM, arm_plans


@dataclass(frozen=True)
class Steps:
    """Inner steps of all arms of a run, by their cost."""

    plain: int
    bilevel: int  # steps of calls with an outer step; K of an unrolled call count K times


def run_steps(settings: TrainConfig) -> Steps:
    """Counts the steps that ``stages/train.py`` takes: arms with equal labels share their warm-up."""
    arms, meta = arm_plans(settings), settings.meta
    plain = len({plan.warmup for plan in arms}) * settings.warmup_steps
    if ORM in settings.arms:
        plain += settings.warmup_steps + settings.steps
    bilevel = 0
    for plan in arms:
        if not plan.learned:
            plain += settings.steps
            continue
        calls = math.ceil(settings.steps / meta.unroll)
        first = settings.warmup_steps // meta.unroll
        learning = sum((first + call) % meta.every == 0 for call in range(calls))
        bilevel += learning * meta.unroll
        plain += (calls - learning) * meta.unroll
    return Steps(plain, bilevel)
