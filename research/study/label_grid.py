"""``python -m research.study labels``: compares labels without training, by rollouts per prefix, repair and regime.

There is one file for each seed and cell, so that a killed command can resume.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from dreamprm_jax.config import LabelsConfig
from dreamprm_jax.labeling.correction.methods import FIXED, LabelSource, fixed_labels, step_key
from dreamprm_jax.runs.locks import run_lock
from dreamprm_jax.schema import DataError
from dreamprm_jax.storage import read_json, write_json, write_text
from dreamprm_jax.tables import csv_text, markdown_table
from research.study.measures import label_measures
from research.study.regimes import REGIMES, regime
from research.study.results import Row
from research.study.world import Sizes, World, draw_labels, make_world

DESCRIPTION = """\
Draws Monte-Carlo labels in every cell of the grid (regime x rollouts a prefix x repair), makes each labeling from them
and compares it with the exact truth: AUROC and Brier score against recoverability. No reward model is trained. Writes
WORKDIR/study.md and study.csv; killed and run again, it goes on where it was.
"""


@dataclass(frozen=True)
class LabelGridSettings:
    """Settings of the grid."""

    name: str = "study_labels"
    regimes: tuple[str, ...] = ("k4", "weak_tests", "weak_completer", "family_bias")
    rollouts: tuple[int, ...] = (1, 2, 4, 16)
    repairs: tuple[int, ...] = (0, 2, 5, 10, 20)  # percentage of rollouts of unrecoverable prefixes that pass
    seeds: tuple[int, ...] = (100,)
    labelings: tuple[str, ...] = (
        "raw",
        "raw_with_outcome",
        "outcome",
        "closure",
        "closure_mixture",
        "scan",
        "em",
        "undetected_fault",
    )
    sizes: Sizes = field(default_factory=lambda: Sizes(train=1200, meta=1, test=1, test_programs=1))

    def __post_init__(self) -> None:
        """Raises DataError for an unknown or unsuitable regime, labeling or number."""
        for name in self.regimes:
            if name not in REGIMES:
                raise DataError(f"config.regimes: no regime {name!r}; choose among {', '.join(REGIMES)}")
        for cell in self.cells:
            regime(cell)
        if unfit := [name for name in self.labelings if name not in FIXED or name in ("clean", "stored", "calibrator")]:
            raise DataError(f"config.labelings: {', '.join(unfit)}: no labeling that needs counts and outcomes alone")

    @property
    def cells(self) -> list[str]:
        """The names of the grid's regimes."""
        return [
            f"{base}_k{rollouts}" + (f"_repair{repair}" if repair else "")
            for base, rollouts, repair in itertools.product(self.regimes, self.rollouts, self.repairs)
        ]


SETTINGS = LabelGridSettings
OPTIONS: dict[str, Any] = {}


def run(settings: LabelGridSettings, folder: Path) -> list[Path]:
    """Computes the cells that are missing, and writes the tables. Returns the written files."""
    with run_lock(folder):
        every = [(seed, cell) for seed in settings.seeds for cell in settings.cells]
        paths = {unit: folder / "results" / str(unit[0]) / f"{unit[1]}.json" for unit in every}
        world: World | None = None
        for unit in tqdm([unit for unit in every if not paths[unit].exists()], desc="label grid", unit="cell"):
            seed, cell = unit
            if world is None or world.seed != seed:
                world = make_world(seed, settings.sizes)
            write_json(paths[unit], _measure(world, cell, settings.labelings))
        rows: list[Row] = [row for unit in every for row in read_json(paths[unit])]
    written = folder / "study.md", folder / "study.csv"
    write_text(written[0], tables(rows))
    write_text(written[1], csv_text(rows))
    return list(written)


def _measure(world: World, cell: str, labelings: Sequence[str]) -> list[Row]:
    programs = world.programs["train"]
    labels = draw_labels(world, regime(cell), "train", programs)
    source = LabelSource(labels, {row.program_hash: row for row in world.outcomes("train")})
    truth = {one.program.program_hash: (one.recoverable, one.value) for one in programs}
    keys = [step_key(row) for row in source.steps]
    recoverable = np.array([truth[code][0][step] for _, code, step in keys])
    value = np.array([truth[code][1][step] for _, code, step in keys])
    rows = []
    for name in labelings:
        made = fixed_labels(name, source, LabelsConfig())
        figures = {key: round(found, 5) for key, found in label_measures(made, recoverable, value).items()}
        rows.append({"regime": cell, "seed": world.seed, "labeling": name} | figures)
    return rows


def tables(rows: Sequence[Row]) -> str:
    """AUROC and Brier score of every labeling in every cell, as means over the seeds."""
    labelings = list(dict.fromkeys(row["labeling"] for row in rows))
    cells = list(dict.fromkeys(row["regime"] for row in rows))
    seeds = sorted({row["seed"] for row in rows})
    parts = [f"# Labels against recoverability; means over seeds {', '.join(map(str, seeds))}"]
    for measure, title, best in (("label_auroc", "AUROC", max), ("label_brier", "Brier score", min)):
        lines = []
        for cell in cells:
            means = {
                name: float(
                    np.mean([row[measure] for row in rows if row["regime"] == cell and row["labeling"] == name])
                )
                for name in labelings
            }
            top = best(means.values())
            cells_of = [f"**{mean:.3f}**" if mean == top else f"{mean:.3f}" for mean in means.values()]
            lines.append([cell, *(text.replace("0.", ".", 1) for text in cells_of)])
        parts += [f"\n## {title}\n", *markdown_table(["regime", *(f"`{name}`" for name in labelings)], lines)]
    return "\n".join(parts) + "\n"
