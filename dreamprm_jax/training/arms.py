"""The plan of an arm: its initial labels, its loss, and the label-side parameters of a learned labeling."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from dreamprm_jax.bilevel.corrector_net import corrector_net
from dreamprm_jax.bilevel.labels import LabelTable, Parametrisation, WeightTable
from dreamprm_jax.config import LabelsConfig, TrainConfig
from dreamprm_jax.labeling.correction.methods import CORRECTED, LEARNED, ORM, LabelSource, fixed_labels, step_features
from dreamprm_jax.schema import DataError
from dreamprm_jax.training.losses import LossKind
from dreamprm_jax.user_code import call_user_function, is_user_function

_PARTS = ("is_table", "init", "targets_and_weights", "labels", "project")  # of a Parametrisation


@dataclass(frozen=True)
class ArmPlan:
    """One step-labeled arm of the train stage."""

    arm: str
    labeling: str
    start: str  # the labeling of the warm-up and of the initial phi: a fixed labeling, or the online labeling itself
    loss: LossKind
    held_out: bool = False  # whether the inner loss leaves out the outcomes of the meta programs

    @property
    def learned(self) -> bool:
        """Whether the outer problem learns the labels."""
        return _is_learned(self.labeling)

    @property
    def warmup(self) -> str:
        """The warm-up arm that this one continues; arms with equal labels and programs share it."""
        return "warmup" + ("" if self.start == "raw" else f"_{self.start}") + ("_held_out" if self.held_out else "")


def arm_plans(settings: TrainConfig) -> list[ArmPlan]:
    """The step-labeled arms of ``settings.arms``, in order; ``orm`` has no step labels and is not among them."""
    found = []
    for arm in settings.arms:
        if arm == ORM:
            continue
        labeling = settings.labels.method if arm == CORRECTED else arm
        loss: LossKind = "gce" if labeling == "gce" else settings.loss
        start = "raw" if is_user_function(labeling) else LEARNED.get(labeling, labeling)
        found.append(ArmPlan(arm, labeling, start, loss, settings.meta.held_out and _is_learned(labeling)))
    return found


def _is_learned(labeling: str) -> bool:
    return labeling in LEARNED or is_user_function(labeling)


def make_parametrisation(
    labeling: str, start: Float[np.ndarray, " n"], source: LabelSource, settings: LabelsConfig, seed: int
) -> Parametrisation:
    """The label-side parameters of a learned labeling.

    Args:
      labeling: a key of ``LEARNED``, or FILE.py:FUNCTION, which is called with the other arguments.
      start: initial labels of ``source.steps``; NaN for steps without a label.
      source: counts and outcomes, for the corrector network's features.
      settings: floor and sizes.
      seed: seed of the corrector network.

    Raises:
      DataError: if the user's function fails or returns no parametrisation.
    """
    if is_user_function(labeling):
        field = "config.train.labels.method"
        own = call_user_function(labeling, field, start, source, settings, seed)
        if missing := [name for name in _PARTS if not hasattr(own, name)]:
            raise DataError(f"{field}: {labeling} gave {type(own).__name__}, which lacks {', '.join(missing)}")
        return own
    if labeling == "weight_table":
        return WeightTable()
    if labeling == "corrector_net":
        # The network needs a number for every step of a program; steps without rollouts get the prior's mean.
        whole = np.where(np.isfinite(start), start, fixed_labels("soft", source, settings))
        programs = {key: number for number, key in enumerate(dict.fromkeys(s.program_hash for s in source.steps))}
        program = np.array([programs[step.program_hash] for step in source.steps])
        return corrector_net(whole, step_features(source), program, settings.corrector_hidden, seed, settings.floor)
    return LabelTable(settings.floor)


def describe(plan: ArmPlan, settings: TrainConfig) -> str:
    """One line with the labeling and the settings that affect its labels; stored rows record it as their origin."""
    labels, meta = settings.labels, settings.meta
    parts = {
        "smoothing": [f"amount={labels.smoothing}"],
        "gce": [f"q={labels.gce_q}"],
        "calibrator": [f"target={labels.clean_target}"],
        "clean": [f"target={labels.clean_target}"],
        "stored": [labels.stored],
    }.get(plan.labeling, [])
    if plan.learned:
        parts = [f"from={plan.start}", meta.method, f"K={meta.unroll}", f"learning_rate={meta.learning_rate}"]
    return "/".join([plan.labeling, *parts])
