"""Arms of the study. An arm is a labeling and a way to train its reward model, written as

LABELING[:KEY=VALUE,...]     for example  raw    label_table:meta=same,rate=0.3    label_table:start=em,phase=retrain
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_type_hints

import dacite

from dreamprm_jax.config.renamed import current_name
from dreamprm_jax.labeling.correction.methods import FIXED, ONLINE
from dreamprm_jax.schema import DataError
from research.study.fit import Inner, Outer

ORM = "orm"
LEARNED = ("label_table", "weight_table", "corrector_net")
RELEASE = "release_weight_table"  # reproduction of the released code (``faithful``)
REFINED = ("self_training", "nait")  # labels from a reward model that was trained on raw labels (``unit.Unit``)
Meta = Literal["same", "held_out", "clean_steps"]


@dataclass(frozen=True)
class ArmSpec:
    """One arm. Keys from ``start`` on are for learned labelings, except ``inner`` (``frozen`` also for RELEASE)."""

    labeling: str
    outcomes: bool = True  # whether the inner loss has the outcome term
    target: Literal["recoverable", "value"] = "recoverable"  # target of the labelings clean and calibrator
    clean: bool = False  # fixed labelings: whether clean steps of the meta problems are training data
    without_meta: bool = False  # other than learned: no outcomes of meta programs, as the control of meta=held_out
    value_head: bool = False  # whether a second head on the same decoder is trained on raw labels, to predict V
    certainty: bool = False  # whether step labels have weight |2 label - 1|
    mask: float = 0.0  # fraction of the input tokens that are masked in each training step
    start: str = "raw"  # the fixed labeling from which phi starts
    meta: Meta = "held_out"  # data of the outer loss: outcomes; clean_steps: held-out outcomes and their clean steps
    rate: float = 0.5  # learning rate of phi
    unroll: int = 1  # inner steps per hypergradient
    inner: Inner = "adamw"  # optimizer of the inner loss
    phase: Literal["joint", "retrain"] = "joint"  # retrain: trains a new model on the corrected labels and all outcomes

    outer: Outer = "last"  # the aggregate of a program's step logits that the outer loss compares with its outcome
    two_stages: bool = False  # after the warm-up: inner loss of step labels only, with a fresh optimizer
    frozen: bool = False  # the control: the same training with constant phi

    @property
    def learned(self) -> bool:
        """Whether the labels (or their weights) are learned in the outer problem."""
        return self.labeling in LEARNED

    @property
    def name(self) -> str:
        """The canonical text of the arm, with the keys that differ from the defaults."""
        default = ArmSpec(self.labeling)
        parts = [
            f"{field.name}={_text(getattr(self, field.name))}"
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != getattr(default, field.name)
        ]
        return self.labeling + (":" + ",".join(parts) if parts else "")


def _text(value: Any) -> str:
    return str(int(value)) if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


def parse_arm(text: str) -> ArmSpec:
    """Parses the text of an arm.

    Raises:
      DataError: if a labeling, key or value is unknown, or if a key has no effect on the labeling.
    """
    labeling, _, rest = text.partition(":")
    labeling = current_name(labeling, f"arm {text!r}")
    known = (ORM, *FIXED, *ONLINE, *LEARNED, *REFINED, RELEASE)
    if labeling not in known or labeling == "stored":
        raise DataError(f"arm {text!r}: no labeling {labeling!r}; choose among {', '.join(known)}")
    hints = get_type_hints(ArmSpec)
    values: dict[str, Any] = {"labeling": labeling}
    for part in filter(None, rest.split(",")):
        key, equals, value = part.partition("=")
        if key not in hints or key == "labeling" or not equals:
            keys = ", ".join(name for name in hints if name != "labeling")
            raise DataError(f"arm {text!r}: {part!r} is no KEY=VALUE with a key among {keys}")
        try:
            values[key] = (
                bool(int(value)) if hints[key] is bool else value if get_args(hints[key]) else hints[key](value)
            )
        except ValueError as error:
            raise DataError(f"arm {text!r}: {key}={value!r} is no {hints[key].__name__}") from error
    if "start" in values:
        values["start"] = current_name(values["start"], f"arm {text!r}")
    try:
        spec = dacite.from_dict(ArmSpec, values)
    except dacite.WrongTypeError as error:
        choices = ", ".join(map(str, get_args(hints[str(error.field_path)])))
        raise DataError(f"arm {text!r}: {error.field_path} must be one of {choices}") from error
    if spec.start not in FIXED or spec.start == "stored":
        raise DataError(f"arm {text!r}: start={spec.start!r} is no fixed labeling")
    if spec.unroll < 1 or spec.rate <= 0:
        raise DataError(f"arm {text!r}: unroll must be at least 1 and rate above 0")
    if not 0.0 <= spec.mask < 1.0:
        raise DataError(f"arm {text!r}: mask must be at least 0 and below 1")
    default, learned_keys = ArmSpec(labeling), ("start", "meta", "rate", "unroll", "phase", "outer", "two_stages")
    idle: tuple[str, ...] = ("clean", "without_meta") if spec.learned else learned_keys
    if not spec.learned and labeling != RELEASE:
        idle += ("frozen",)
    if labeling == RELEASE:  # it has settings of its own
        idle = tuple(name for name in hints if name not in ("labeling", "frozen"))
    if spec.learned or labeling in (ORM, RELEASE, *REFINED):
        idle += ("value_head", "certainty", "mask")
    if labeling not in ("clean", "calibrator"):
        idle += ("target",)
    if labeling == ORM:
        idle += ("outcomes", "clean")  # it is trained only on outcomes
    if labeling in (*ONLINE, *REFINED):
        idle += ("clean",)  # their label slots contain evidence or the model's own scores
    if spec.meta == "clean_steps" and spec.outer != "last":
        raise DataError(f"arm {text!r}: outer={spec.outer} has no effect with meta=clean_steps")
    if labeling == "weight_table" and spec.phase == "retrain":
        raise DataError(f"arm {text!r}: weights correct no label, so there is nothing to retrain on")
    for key in idle:
        if getattr(spec, key) != getattr(default, key):
            raise DataError(f"arm {text!r}: {key} has no effect on {labeling}")
    return spec


def same_everywhere(spec: ArmSpec) -> bool:
    """Whether an arm's result is the same in every regime, because it uses no Monte-Carlo labels."""
    return spec.labeling in (ORM, "clean")
