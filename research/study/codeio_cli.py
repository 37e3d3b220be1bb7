"""``python -m research.study codeio``: compares labelings on real programs whose truth is measured by execution."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from dreamprm_jax.config import SandboxConfig
from dreamprm_jax.problems.codeio import Task
from dreamprm_jax.schema import DataError
from dreamprm_jax.storage import write_text
from dreamprm_jax.tables import csv_text, markdown_table, number, percent, signed
from research.study.codeio import BASELINE, CodeioSettings, Steps, compare, draw_steps
from research.study.codeio_variants import LeftOut, Variants, read_variants
from research.study.regimes import Regime, regime
from research.study.results import Row

DESCRIPTION = """\
Takes the reference programs of CodeI/O problems, makes a few wrong variants of their functions, runs every combination
of them in the sandbox, and compares the labelings of their steps with the truth so known. No reward model is trained.
Writes WORKDIR/study.md (tables) and study.csv; verdicts are kept, so that the command, killed and run again, goes on.
Needs the package reasoning-gym: pip install --no-deps reasoning-gym==0.1.25
"""
COLUMNS = {
    "label_auroc": "AUROC",
    "label_brier": "Brier",
    "label_ece": "ECE",
    "label_brier_value": "Brier to V",
}


SETTINGS = CodeioSettings
OPTIONS: dict[str, Any] = {}


def run(settings: CodeioSettings, folder: Path, tasks: list[Task] | None = None) -> list[Path]:
    """Runs or resumes the study. Returns the written files.

    Args:
      settings: settings of the study.
      folder: folder of the verdicts and the tables.
      tasks: source tasks; None uses those of the installed package.

    Raises:
      DataError: if the package is missing, if too few problems are usable, or if another process uses the folder.
    """
    sandbox = SandboxConfig(tier=settings.tier, workers=settings.workers)
    problems, left_out = read_variants(folder / "work", settings.limits, settings.data_seed, sandbox, tasks)
    if len(problems) < settings.clean_problems + 2:
        raise DataError(f"{len(problems)} usable problems, {settings.clean_problems} of them for config.clean_problems")
    rows: list[Row] = []
    texts = [_data_text(problems, left_out, settings)]
    for name in tqdm(settings.regimes, desc="compare labelings", unit="regime"):
        here = regime(name)
        steps = draw_steps(problems, settings, here)
        found = compare(steps, here, settings.bootstrap_samples)
        rows += found
        texts.append(_regime_text(here, steps, found))
    written = folder / "study.md", folder / "study.csv"
    write_text(written[0], "\n".join(texts))
    write_text(written[1], csv_text([_rounded(row) for row in rows]))
    return list(written)


def _data_text(problems: Sequence[Variants], left_out: LeftOut, settings: CodeioSettings) -> str:
    runs = sum(one.tests_passed.size for one in problems)
    functions = sum(len(variants) > 1 for one in problems for variants in one.texts)
    steps = sum(len(one.texts) for one in problems)
    hidden = sum(int((one.passed(1) & ~one.passed()).sum()) for one in problems)
    failing = sum(int((~one.passed()).sum()) for one in problems)
    lines = [
        "# Labelings on CodeI/O variants",
        "",
        f"{len(problems)} problems with {steps} function steps, {functions} of them with wrong variants; {runs} "
        f"programs run, of which {failing} fail, {hidden} of these ({percent(hidden / failing)}%) only after the first "
        f"test. {settings.clean_problems} problems are for the calibrator; the tables are of the other "
        f"{len(problems) - settings.clean_problems}. Differences from `{BASELINE}` are paired; 95% intervals by "
        f"{settings.bootstrap_samples} bootstrap resamples of the problems.",
        "",
    ]
    references = left_out.tally.dropped + left_out.problems
    counts = [(f"problems: {reason}", count) for reason, count in references.most_common()]
    counts += [(f"variants: {reason}", count) for reason, count in left_out.variants.most_common()]
    lines += markdown_table(("left out", "count"), counts)
    return "\n".join([*lines, ""])


def _regime_text(here: Regime, steps: Steps, rows: Sequence[Row]) -> str:
    good = steps.recoverable
    lines = [
        f"## {here.name}: K = {here.rollouts}",
        "",
        f"{len(steps.passed)} programs, {percent(float(steps.passed.mean()))}% pass; {len(good)} steps, "
        f"{percent(float(good.mean()))}% recoverable. A rollout of a prefix that cannot be saved passes with chance "
        f"{number(float(np.mean(steps.chance[~good])))}, one of a prefix that can fails with chance "
        f"{number(float(np.mean(1.0 - steps.chance[good])))}.",
        "",
    ]
    header = ["labeling", *(title for column in COLUMNS.values() for title in (column, f"- {BASELINE}"))]
    table = []
    for row in sorted(rows, key=lambda row: -row["label_auroc"]["value"]):
        cells = [f"`{row['labeling']}`"]
        for measure in COLUMNS:
            figure = row[measure]
            ends = ", ".join(signed(figure[end], 3) for end in ("minus_raw_low", "minus_raw_high"))
            difference = f"{signed(figure['minus_raw'], 3)} [{ends}]"
            cells += [number(figure["value"]), "" if row["labeling"] == BASELINE else difference]
        table.append(cells)
    return "\n".join([*lines, *markdown_table(header, table), ""])


def _rounded(row: Row) -> Row:
    """The row with figures rounded to four decimals; the intervals justify no more digits."""
    return {
        name: {key: round(figure, 4) for key, figure in value.items()} if isinstance(value, dict) else value
        for name, value in row.items()
    }
