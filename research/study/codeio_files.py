"""``python -m research.study codeio-files``: CodeI/O variants as files of step labels, to train on real code.

One file a labeling, in TRL's form (prompt, completions, labels, outcome), of the same programs; and one of held-out
problems, whose labels are the exact recoverability. ``dreamprm train --steps=FILE --eval-steps=test.jsonl`` trains on
them, on a CPU or an accelerator: the files need neither sandbox nor package.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dreamprm_jax.config import LabelsConfig, SandboxConfig
from dreamprm_jax.labeling.correction.methods import StepKey, fixed_labels, step_key
from dreamprm_jax.problems.codeio import Task, read_tasks
from dreamprm_jax.storage import write_text
from research.study.codeio import CodeioSettings, Drawn, draw_programs
from research.study.codeio_variants import Variants, read_variants
from research.study.regimes import regime as named

DESCRIPTION = """\
Writes WORKDIR/REGIME/train_LABELING.jsonl and test.jsonl from the CodeI/O variants of `python -m research.study codeio`
(the same --config and --workdir go on from its verdicts). Every fourth problem is held out.
"""
LABELINGS = ("raw", "raw_with_outcome", "outcome", "closure", "closure_mixture", "scan", "em", "undetected_fault")
HELD_OUT_EVERY = 4


SETTINGS = CodeioSettings
OPTIONS = {"--regime": {"default": "k4_repair20", "help": "of the training labels (default: %(default)s)"}}


def run(
    settings: CodeioSettings, folder: Path, regime: str = "k4_repair20", tasks: list[Task] | None = None
) -> list[Path]:
    """Writes the files of one regime. Returns them.

    Raises:
      DataError: where the package is missing, or there is no such regime.
    """
    here = named(regime)
    tasks = read_tasks() if tasks is None else tasks
    sandbox = SandboxConfig(tier=settings.tier, workers=settings.workers)
    problems, _ = read_variants(folder / "work", settings.limits, settings.data_seed, sandbox, tasks)
    prompts = {task.task_id: f"{task.description.strip()}\n\n{task.specification.strip()}\n" for task in tasks}
    test = problems[HELD_OUT_EVERY - 1 :: HELD_OUT_EVERY]
    held_out = {one.problem_id for one in test}
    train = [one for one in problems if one.problem_id not in held_out]
    drawn = [draw_programs(train, settings, here, seed) for seed in settings.seeds]
    written = []
    for name in (*LABELINGS, "clean"):
        written.append(folder / regime / f"train_{name}.jsonl")
        _write(written[-1], drawn, train, prompts, name)
    written.append(folder / regime / "test.jsonl")
    _write(written[-1], [draw_programs(test, settings, here, seed) for seed in settings.seeds], test, prompts, "clean")
    return written


def _write(
    path: Path, drawn: Sequence[Drawn], problems: Sequence[Variants], prompts: dict[str, str], name: str
) -> None:
    """Each program once, as the first seed that drew it labels it."""
    rows: dict[tuple[str, str], str] = {}
    for one in drawn:
        rows = _rows(one, problems, prompts, _labels(one, name)) | rows
    write_text(path, "".join(rows.values()))


def _labels(drawn: Drawn, name: str) -> dict[StepKey, float]:
    """Of every step; the last one's is the program's outcome, known exactly."""
    if name == "clean":
        return {key: float(recoverable) for key, (recoverable, _, _) in drawn.truth.items()}
    values = fixed_labels(name, drawn.source, LabelsConfig())
    labels = {step_key(row): float(value) for row, value in zip(drawn.source.steps, values, strict=True)}
    return {step_key(row): row.mean for row in drawn.source.labels} | labels


def _rows(
    drawn: Drawn, problems: Sequence[Variants], prompts: dict[str, str], labels: dict[StepKey, float]
) -> dict[tuple[str, str], str]:
    by_id, rows = {one.problem_id: one for one in problems}, {}
    for (problem_id, code), choice in drawn.choices.items():
        texts = [steps[variant] for steps, variant in zip(by_id[problem_id].texts, choice, strict=True)]
        values = [labels[problem_id, code, step] for step in range(len(choice))]
        row = {
            "prompt": prompts[problem_id],
            "completions": texts,
            "labels": [round(value, 4) if np.isfinite(value) else None for value in values],
            "outcome": bool(by_id[problem_id].passed()[choice]),
        }
        rows[problem_id, code] = json.dumps(row) + "\n"
    return rows
