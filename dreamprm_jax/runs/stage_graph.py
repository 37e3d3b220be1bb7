"""The six stages of a run: their purpose, the settings that their output depends on, and their input stages.

The function of each stage is in the module of the same name in ``dreamprm_jax/stages``.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dreamprm_jax.config import Config  # loads ml_collections, which ``--help`` does not need


@dataclass(frozen=True)
class Stage:
    """One stage of the pipeline.

    Attributes:
      name: Name of the stage, its folder and its module.
      sections: Sections of the settings that its output depends on, besides those of its inputs.
      settings: Dotted names of settings of other sections that its output depends on.
      inputs: Stages whose folders it reads.
      summary: One line for the console and ``--help``.
      runs_on_all_processes: Whether all processes of a run work on it; otherwise only process 0 does.
      stops_in_sync: Whether all processes stop at the same step after SIGTERM. Otherwise the process that receives
        SIGTERM stops the others immediately.
    """

    name: str
    sections: tuple[str, ...]
    inputs: tuple[str, ...]
    summary: str
    settings: tuple[str, ...] = ()
    runs_on_all_processes: bool = False
    stops_in_sync: bool = False


STAGES = {
    stage.name: stage
    for stage in (
        Stage(
            "generate", ("seed", "problems", "policy", "generate"), (),
            "load the problems and let the policy write candidate programs", settings=("sandbox.packages",),
        ),
        Stage(
            "label", ("label", "sandbox", "engine"), ("generate",),
            "judge every program; roll out and judge every prefix: outcomes and Monte-Carlo step labels",
        ),
        Stage(
            "train", ("model", "train"), ("generate", "label"),
            "train the reward models: outcomes only, raw labels, corrected labels",
            runs_on_all_processes=True, stops_in_sync=True,
        ),
        Stage(
            "score", ("score",), ("generate", "train"),
            "score every step of every test candidate in one pass", runs_on_all_processes=True,
        ),
        Stage(
            "evaluate", ("evaluate",), ("generate", "label", "train", "score"),
            "select programs and compare the methods with paired statistics",
        ),
        Stage("report", (), ("evaluate",), "write the HTML report"),
    )
}  # fmt: skip


# `dreamprm train --steps` reads its labels from a file and needs no other stage.
TRAIN_ON_GIVEN_STEPS = dataclasses.replace(STAGES["train"], sections=("seed", "model", "train"), inputs=())


def stages_of(config: Config) -> dict[str, Stage]:
    """The stages of a run by name. A run on given step labels (``train --steps``) has only the train stage."""
    return {"train": TRAIN_ON_GIVEN_STEPS} if config.train.step_data.path else STAGES


def stage_of(config: Config, name: str) -> Stage:
    """The stage ``name`` of a run with these settings."""
    return stages_of(config).get(name, STAGES[name])


def with_inputs(name: str) -> tuple[str, ...]:
    """A stage and all stages that it depends on, in the order of the pipeline."""
    needed = {name}.union(*(with_inputs(one) for one in STAGES[name].inputs))
    return tuple(stage for stage in STAGES if stage in needed)
