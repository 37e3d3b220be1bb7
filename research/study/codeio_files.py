"""``python -m research.study codeio-files``: CodeI/O variants as files of step labels, to train on real code.

One file a labeling, in TRL's form (prompt, completions, labels, outcome), of the same programs; and test.jsonl of
held-out problems, whose labels are the exact recoverability. ``dreamprm train --steps=FILE`` trains on the former, and
``codeio-measure`` measures on the latter, on a CPU or an accelerator: the files need neither sandbox nor package.

With ``--operators=seen`` training programs hold faults of one half of the mutation operators only (``seen``).
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dreamprm_jax.config import LabelsConfig, SandboxConfig
from dreamprm_jax.labeling.correction.methods import ONLINE, StepKey, fault_evidence, fixed_labels, step_key
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
OPTIONS = {
    "--regime": {"default": "k4_repair20", "help": "of the training labels (default: %(default)s)"},
    "--operators": {
        "choices": ("all", "seen"), "default": "all", "help": "of the training programs' faults (default: %(default)s)"
    },
}  # fmt: skip


def seen(operator: str) -> bool:
    """Whether a mutation operator is in the half that training may see with ``--operators=seen``."""
    return zlib.crc32(operator.encode()) % 2 == 0


def run(
    settings: CodeioSettings,
    folder: Path,
    regime: str = "k4_repair20",
    operators: str = "all",
    tasks: list[Task] | None = None,
) -> list[Path]:
    """Writes the files of one regime. Returns them.

    Raises:
      DataError: where the package is missing, or there is no such regime.
    """
    here = named(regime)
    tasks = read_tasks() if tasks is None else tasks
    sandbox = SandboxConfig(tier=settings.tier, workers=settings.workers)
    problems, _ = read_variants(folder / "work", settings.limits, settings.data_seed, sandbox, tasks)
    prompts = prompts_of(tasks)
    test = problems[HELD_OUT_EVERY - 1 :: HELD_OUT_EVERY]
    held_out = {one.problem_id for one in test}
    train = [one for one in problems if one.problem_id not in held_out]
    drawn = [draw_programs(train, settings, here, seed) for seed in settings.seeds]
    written = []
    for name in (*LABELINGS, "clean"):
        written.append(folder / regime / f"train_{name}.jsonl")
        _write(written[-1], drawn, train, prompts, name, operators == "seen")
    written.append(folder / regime / "test.jsonl")
    _write(written[-1], [draw_programs(test, settings, here, seed) for seed in settings.seeds], test, prompts, "clean")
    tests = [json.loads(line) for line in written[-1].read_text(encoding="utf-8").splitlines()]
    programs = [
        {"program_hash": row["program_hash"], "statement": row["prompt"], "code": "".join(row["completions"])}
        for row in tests
    ]
    written.append(folder / regime / "test_programs.jsonl")  # for benchmarks/stepbench_logprobs.py
    write_text(written[-1], "".join(json.dumps(row) + "\n" for row in programs))
    return written


def prompts_of(tasks: Sequence[Task]) -> dict[str, str]:
    """What stands before the program of each task."""
    return {task.task_id: f"{task.description.strip()}\n\n{task.specification.strip()}\n" for task in tasks}


def labeled_rows(
    drawn: Sequence[Drawn], problems: Sequence[Variants], prompts: dict[str, str], name: str
) -> list[dict[str, Any]]:
    """Each program once, as the first seed that drew it labels it; ``draws``: how often the seeds drew it."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for one in drawn:
        rows = _rows(one, problems, prompts, _labels(one, name)) | rows
    for key, row in rows.items():
        row["draws"] = sum(one.draws[key] for one in drawn)
    return list(rows.values())


def _write(
    path: Path,
    drawn: Sequence[Drawn],
    problems: Sequence[Variants],
    prompts: dict[str, str],
    name: str,
    seen_only: bool = False,
) -> None:
    rows = labeled_rows(drawn, problems, prompts, name)
    kept = [row for row in rows if not seen_only or all(map(seen, filter(None, row["operators"])))]
    write_text(path, "".join(json.dumps(row) + "\n" for row in kept))


def _labels(drawn: Drawn, name: str) -> dict[StepKey, float]:
    """Of every step; the last one's is the program's outcome, known exactly. For the online inference: evidence."""
    if name == "clean":
        return {key: float(recoverable) for key, (recoverable, _, _) in drawn.truth.items()}
    online = name in ONLINE
    values = fault_evidence(drawn.source)[0] if online else fixed_labels(name, drawn.source, LabelsConfig())
    labels = {step_key(row): float(value) for row, value in zip(drawn.source.steps, values, strict=True)}
    return {step_key(row): row.mean for row in drawn.source.labels} | labels


def _rows(
    drawn: Drawn, problems: Sequence[Variants], prompts: dict[str, str], labels: dict[StepKey, float]
) -> dict[tuple[str, str], dict[str, Any]]:
    by_id, rows = {one.problem_id: one for one in problems}, {}
    for (problem_id, code), choice in drawn.choices.items():
        texts = [steps[variant] for steps, variant in zip(by_id[problem_id].texts, choice, strict=True)]
        values = [labels[problem_id, code, step] for step in range(len(choice))]
        rows[problem_id, code] = {
            "problem_id": problem_id,
            "program_hash": code,
            "prompt": prompts[problem_id],
            "completions": texts,
            "labels": [round(value, 4) if np.isfinite(value) else None for value in values],
            "outcome": bool(by_id[problem_id].passed()[choice]),
            "operators": [names[variant] for names, variant in zip(by_id[problem_id].operators, choice, strict=True)],
        }
    return rows
