"""``python -m research.study codeio-files``: writes CodeI/O variants with step labels, for training on real code.

train.jsonl has the fractions of rollouts that passed and the number of rollouts, in TRL's format (prompt, completions,
labels, rollouts, outcome), so that ``dreamprm train --steps`` can train every labeling that needs only counts and
outcomes. train_clean.jsonl has the same programs with exact recoverability as labels. test.jsonl has programs of
held-out problems with exact recoverability, for ``codeio-measure``. Using the files needs no sandbox and no CodeI/O.

With ``--operators=seen``, training programs contain only faults of one half of the mutation operators (``seen``).
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
Writes WORKDIR/REGIME/train.jsonl, train_clean.jsonl and test.jsonl from the CodeI/O variants of
`python -m research.study codeio` (the same --config and --workdir go on from its verdicts). Every fourth
problem is held out.
"""
HELD_OUT_EVERY = 4


SETTINGS = CodeioSettings
OPTIONS = {
    "--regime": {"default": "k4_repair20", "help": "of the training labels (default: %(default)s)"},
    "--operators": {
        "choices": ("all", "seen"), "default": "all", "help": "of the training programs' faults (default: %(default)s)"
    },
}  # fmt: skip


def seen(operator: str) -> bool:
    """Whether a mutation operator is in the half that training data contain with ``--operators=seen``."""
    return zlib.crc32(operator.encode()) % 2 == 0


def run(
    settings: CodeioSettings,
    folder: Path,
    regime: str = "k4_repair20",
    operators: str = "all",
    tasks: list[Task] | None = None,
) -> list[Path]:
    """Writes the files of one regime. Returns their paths.

    Raises:
      DataError: if the package is missing, or the regime is unknown.
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
    tests = labeled_rows([draw_programs(test, settings, here, seed) for seed in settings.seeds], test, prompts, "clean")
    files = {
        "train": labeled_rows(drawn, train, prompts, "raw"),
        "train_clean": labeled_rows(drawn, train, prompts, "clean"),
    }
    if operators == "seen":
        files = {name: [row for row in rows if all(map(seen, filter(None, row["operators"])))]
                 for name, rows in files.items()}  # fmt: skip
    files["test"] = tests
    files["test_programs"] = [  # for benchmarks/stepbench_logprobs.py
        {"program_hash": row["program_hash"], "statement": row["prompt"], "code": "".join(row["completions"])}
        for row in tests
    ]
    written = {folder / regime / f"{name}.jsonl": rows for name, rows in files.items()}
    for path, rows in written.items():
        write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
    return list(written)


def prompts_of(tasks: Sequence[Task]) -> dict[str, str]:
    """The prompt of each task, by task id."""
    return {task.task_id: f"{task.description.strip()}\n\n{task.specification.strip()}\n" for task in tasks}


def labeled_rows(
    drawn: Sequence[Drawn], problems: Sequence[Variants], prompts: dict[str, str], name: str
) -> list[dict[str, Any]]:
    """One row per distinct program, with the labels of the first seed that drew it and the number of ``draws``."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for one in drawn:
        rows = _rows(one, problems, prompts, _labels(one, name), name != "raw") | rows
    for key, row in rows.items():
        row["draws"] = sum(one.draws[key] for one in drawn)
    return list(rows.values())


def _labels(drawn: Drawn, name: str) -> dict[StepKey, float]:
    """The label of every step, or its evidence for the online inference. The last step's label is the outcome."""
    if name == "clean":
        return {key: float(recoverable) for key, (recoverable, _, _) in drawn.truth.items()}
    online = name in ONLINE
    values = fault_evidence(drawn.source)[0] if online else fixed_labels(name, drawn.source, LabelsConfig())
    labels = {step_key(row): float(value) for row, value in zip(drawn.source.steps, values, strict=True)}
    return {step_key(row): row.mean for row in drawn.source.labels} | labels


def _rows(
    drawn: Drawn, problems: Sequence[Variants], prompts: dict[str, str], labels: dict[StepKey, float], exact: bool
) -> dict[tuple[str, str], dict[str, Any]]:
    by_id, rows = {one.problem_id: one for one in problems}, {}
    counts = {step_key(row): 1 if exact else row.rollouts for row in drawn.source.labels}
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
            "rollouts": [counts[problem_id, code, step] for step in range(len(choice))],
            "operators": [names[variant] for names, variant in zip(by_id[problem_id].operators, choice, strict=True)],
        }
    return rows
