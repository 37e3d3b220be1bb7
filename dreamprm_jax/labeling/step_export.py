"""Exports a run's step labels to the formats of other training tools: TRL, PRM800K and Math-Shepherd."""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from dreamprm_jax.labeling.correction.methods import StepKey, read_labels
from dreamprm_jax.labeling.step_files import IGNORED, MARK, LabeledSteps, SteppedProgram, read_steps
from dreamprm_jax.runs.paths import Paths
from dreamprm_jax.runs.stage_folder import STARTED
from dreamprm_jax.schema import DataError, Outcome, Problem, Program, StepLabel
from dreamprm_jax.storage import atomic_path, read_json, read_records

THRESHOLD = 0.5


def run_labels(root: Path, arm: str, prompt: Callable[[Problem], str]) -> Iterator[LabeledSteps]:
    """Yields the labeled solutions of a run's train window.

    Args:
      root: the run's folder. Its label stage must be done, or the run must have been trained on given steps.
      arm: "raw" for the Monte Carlo estimates (or the labels of the given file), or an arm that corrected the labels.
      prompt: returns the text that precedes a program, given its problem.

    Raises:
      DataError: if the run has no such labels.
    """
    paths = Paths(root)
    corrected = None if arm == "raw" else _corrected(paths, arm)
    if not paths.step_labels().exists():
        yield from _given_labels(paths, corrected)
        return
    problems = {row.problem_id: row for row in read_records(paths.problems("train"), Problem)}
    programs = {row.program_hash: row for row in read_records(paths.programs("train"), Program)}
    outcomes = {row.program_hash: row for row in read_records(paths.outcomes("train"), Outcome)}
    by_program: dict[str, list[StepLabel]] = {}
    for row in read_records(paths.step_labels(), StepLabel):
        by_program.setdefault(row.program_hash, []).append(row)
    for key, rows in by_program.items():
        rows.sort(key=lambda row: row.step_index)
        program, outcome = programs[key], outcomes.get(key)
        known = outcome is not None and outcome.verdict.is_label
        passed = float(outcome.passed) if outcome is not None and known else math.nan
        # The last step's label is the program's outcome, which no arm corrects.
        labels = [row.mean if corrected is None else corrected.get(_key(row), math.nan) for row in rows[:-1]]
        texts = tuple(program.code[row.start : row.end] for row in rows)
        yield LabeledSteps(prompt(problems[program.problem_id]), texts, (*labels, passed), passed)


def _corrected(paths: Paths, arm: str) -> dict[StepKey, float]:
    if not paths.corrected_labels(arm).exists():
        found = [path.parent.name for path in sorted((paths.root / "train").glob("*/corrected_labels.parquet"))]
        raise DataError(
            f"--labels={arm}: {paths.corrected_labels(arm)} is not there; choose among raw, {', '.join(found)}"
        )
    return read_labels(paths.corrected_labels(arm))


def _key(row: StepLabel) -> StepKey:
    return row.problem_id, row.program_hash, row.step_index


def _given_labels(paths: Paths, corrected: Mapping[StepKey, float] | None) -> Iterator[LabeledSteps]:
    from dreamprm_jax.config import freeze

    started = paths.root / "train" / STARTED
    data = freeze(read_json(started)["config"]).train.step_data if started.exists() else None
    if data is None or not data.path:
        raise DataError(f"--run={paths.root}: has no step labels; its label stage writes {paths.step_labels()}")
    for one in read_steps(data.path, data):
        if isinstance(one, LabeledSteps):
            if corrected is None:
                yield one
                continue
            program = SteppedProgram.of(one.problem_id, one.steps).program_hash
            labels = [corrected.get((one.problem_id, program, step), math.nan) for step in range(len(one.steps))]
            if any(map(math.isfinite, labels)):
                yield LabeledSteps(one.prompt, one.steps, tuple(labels), one.outcome)


# ---------------------------------------------------------------- rows


def trl_row(one: LabeledSteps, threshold: float | None) -> dict[str, Any] | str:
    """The fields of TRL: ``prompt, completions, labels, outcome``.

    A step without a label gets TRL's ignored index, or null if ``threshold`` is None (soft labels).
    """
    if threshold is None:
        labels: list[Any] = [label if math.isfinite(label) else None for label in one.labels]
    else:
        labels = [int(label >= threshold) if math.isfinite(label) else IGNORED for label in one.labels]
    outcome = bool(one.outcome) if math.isfinite(one.outcome) else None
    return {"prompt": one.prompt, "completions": list(one.steps), "labels": labels, "outcome": outcome}


def prm800k_row(one: LabeledSteps, threshold: float | None) -> dict[str, Any] | str:
    """``question`` and ``label``, with every step chosen. A step without a label has the rating null.

    If ``threshold`` is None, returns the reason why the row cannot be written.
    """
    if threshold is None:
        return "PRM800K has no soft labels"

    def step(text: str, label: float) -> dict[str, Any]:
        rating = (1 if label >= threshold else -1) if math.isfinite(label) else None
        completion = {"text": text, "rating": rating, "flagged": None}
        return {"completions": [completion], "human_completion": None, "chosen_completion": 0}

    finish = {1.0: "solution", 0.0: "found_error"}.get(one.outcome, "give_up")
    steps = [step(*pair) for pair in zip(one.steps, one.labels, strict=True)]
    return {"question": {"problem": one.prompt}, "label": {"steps": steps, "finish_reason": finish}}


def math_shepherd_row(one: LabeledSteps, threshold: float | None) -> dict[str, Any] | str:
    """``input``, ``label`` and ``task``, with steps as "Step N: ...", or the reason why the row cannot be written."""
    if threshold is None:
        return "Math-Shepherd has no soft labels"
    if not all(map(math.isfinite, one.labels)):
        return "a step has no label, which Math-Shepherd's form cannot say"
    if any(MARK in text for text in (one.prompt, *one.steps)) or "Step 1:" in one.prompt:
        return f"the text holds {MARK}, or its prompt 'Step 1:', which divide it in Math-Shepherd's form"
    steps = [f"Step {number}: {text} " for number, text in enumerate(one.steps, 1)]
    signs = ["+" if label >= threshold else "-" for label in one.labels]
    lines = [
        "\n".join(step + mark for step, mark in zip(steps, marks, strict=True))
        for marks in ([MARK] * len(steps), signs)
    ]
    return {"input": f"{one.prompt} {lines[0]}", "label": f"{one.prompt} {lines[1]}", "task": "code"}


FORMATS = {"trl": trl_row, "prm800k": prm800k_row, "math_shepherd": math_shepherd_row}


def export_labels(rows: Iterator[LabeledSteps], form: str, threshold: float | None, output: Path) -> Counter[str]:
    """Writes the rows to a .jsonl file, a .parquet file, or otherwise the folder of a ``datasets.Dataset``.

    Line breaks at the end of a step are removed, because readers of these formats put a separator after each step.

    Args:
      rows: labeled solutions.
      form: a key of ``FORMATS``.
      threshold: steps with at least this label are correct; None writes soft labels.
      output: the file or folder. An existing .jsonl or .parquet file is replaced; a folder must not exist yet.

    Returns:
      The numbers of solutions and steps written, and the number of solutions left out for each reason.

    Raises:
      DataError: if a .parquet file or a folder would be empty, or if the folder exists.
    """
    counts: Counter[str] = Counter()

    def written() -> Iterator[dict[str, Any]]:
        for one in rows:
            row = FORMATS[form](dataclasses.replace(one, steps=tuple(step.rstrip() for step in one.steps)), threshold)
            if isinstance(row, str):
                counts[f"left out: {row}"] += 1
                continue
            counts["solutions"] += 1
            counts["steps"] += len(one.steps)
            yield row

    if output.suffix == ".jsonl":
        with atomic_path(output) as temporary, open(temporary, "w", encoding="utf-8") as handle:
            handle.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in written())
        return counts
    import datasets

    datasets.disable_progress_bars()
    found = list(written())
    if not found:
        raise DataError(
            "no labeled solution can be written" + "".join(f"; {count} {name}" for name, count in counts.items())
        )
    data = datasets.Dataset.from_list(found)
    if output.suffix == ".parquet":
        with atomic_path(output) as temporary:
            data.to_parquet(temporary)
    elif output.exists():
        raise DataError(f"--output={output}: is there already; name another folder")
    else:
        data.save_to_disk(output)
    return counts
