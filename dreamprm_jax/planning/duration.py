"""How many steps a run takes: its arms, their shared warm-ups, and the calls that move the labels."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dreamprm_jax.config import TrainConfig
from dreamprm_jax.labeling.labellings import CROSS_FITTED
from dreamprm_jax.training.labelling import ORM, plans


@dataclass(frozen=True)
class Steps:
    """Inner steps of all arms of a run, by what each of them costs."""

    plain: int
    bilevel: int  # steps of calls with an outer step; K of an unrolled call count K times


def run_steps(settings: TrainConfig) -> Steps:
    """Counts as ``training/stage.py`` trains: arms with equal labels share their warm-up; cross-fitted labels come from
    models that train on all folds but one."""
    arms, meta, labels = plans(settings), settings.meta, settings.labels
    whole = settings.warmup_steps + settings.steps
    plain = len({plan.warmup for plan in arms}) * settings.warmup_steps + whole * (ORM in settings.arms)
    bilevel = 0
    for plan in arms:
        if plan.start in CROSS_FITTED:
            plain += labels.rounds * labels.folds * max(1, whole * (labels.folds - 1) // labels.folds)
        if not plan.learned:
            plain += settings.steps
            continue
        calls = math.ceil(settings.steps / meta.unroll)
        first = settings.warmup_steps // meta.unroll
        learning = sum((first + call) % meta.every == 0 for call in range(calls))
        bilevel += learning * meta.unroll
        plain += (calls - learning) * meta.unroll
    return Steps(plain, bilevel)
