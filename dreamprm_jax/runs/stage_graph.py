"""The stages in their order: what each does, needs and depends on.

The command line's help reads this table; it imports nothing else, so that help comes at once.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dreamprm_jax.config import Config
    from dreamprm_jax.runs.paths import Paths


@dataclass(frozen=True)
class Stage:
    """One stage of the pipeline."""

    name: str
    function: str  # "module:function", imported when the stage runs, so that host stages never load jax
    sections: tuple[str, ...]  # settings that its output depends on, beside its inputs
    inputs: tuple[str, ...]  # stages whose folders it reads
    summary: str
    together: bool = False  # all processes of a run work on it; the others are the first process's alone
    agreed: bool = False  # and after SIGTERM they stop at the same step; else whoever gets it stops the others at once

    def load(self) -> Callable[[Config, Paths], dict[str, int]]:
        """The stage's function."""
        module, function = self.function.split(":")
        return getattr(importlib.import_module(module), function)


STAGES = {
    stage.name: stage
    for stage in (
        Stage(
            "generate", "dreamprm_jax.stages.generate:generate", ("seed", "problems", "policy", "generate"), (),
            "load the problems and let the policy write candidate programs",
        ),
        Stage(
            "label", "dreamprm_jax.stages.label:label", ("label", "sandbox", "engine"), ("generate",),
            "judge every program; roll out and judge every prefix: outcomes and Monte-Carlo step labels",
        ),
        Stage(
            "train", "dreamprm_jax.stages.train:train", ("model", "train"), ("generate", "label"),
            "train the reward models: outcomes only, raw labels, corrected labels", together=True, agreed=True,
        ),
        Stage(
            "score", "dreamprm_jax.stages.score:score", ("score",), ("generate", "train"),
            "score every step of every test candidate in one pass", together=True,
        ),
        Stage(
            "evaluate", "dreamprm_jax.stages.evaluate:evaluate", ("evaluate",),
            ("generate", "label", "train", "score"),
            "select programs, compare methods with paired statistics, print the table",
        ),
        Stage(
            "report", "dreamprm_jax.stages.report:report", (), ("evaluate",),
            "write the HTML report",
        ),
    )
}  # fmt: skip
