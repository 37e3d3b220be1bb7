"""Programs as token sequences with their labels: what the reward model is trained on and scored on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from tokenizers import Tokenizer

from dreamprm_jax.config import ModelConfig
from dreamprm_jax.schema import DataError, Granularity, Outcome, Problem, Program, StepLabel
from dreamprm_jax.training.tokenizer import encode_prompt, encode_steps

NO_LABEL = -1


@dataclass(frozen=True)
class Example:
    """One program after its problem's prompt."""

    problem_id: str
    program_hash: str
    tokens: Int[np.ndarray, " t"]
    step_index: Int[np.ndarray, " s"]  # position of each step's last token
    label_index: Int[np.ndarray, " s"]  # row of each step in the label table, NO_LABEL where it has no noisy label
    raw: Float[np.ndarray, " s"]  # Monte-Carlo estimates, 0 where there is none
    outcome: float  # 1 passed, 0 failed, nan unknown


@dataclass(frozen=True)
class LabelledSteps:
    """The noisy labels in table order."""

    keys: list[tuple[str, str, int]]  # problem id, program hash, step index
    raw: Float[np.ndarray, " n"]


def label_table_rows(labels: Iterable[StepLabel]) -> LabelledSteps:
    """The rows of the label table: every step with rollouts but the last of its program, whose label is exact."""
    rows = list(labels)
    last: dict[str, int] = {}
    for row in rows:
        last[row.program_hash] = max(row.step_index, last.get(row.program_hash, 0))
    noisy = [row for row in rows if row.rollouts and row.step_index != last[row.program_hash]]
    keys = [(row.problem_id, row.program_hash, row.step_index) for row in noisy]
    return LabelledSteps(keys, np.asarray([row.mean for row in noisy], np.float32))


def tokenise(
    tokenizer: Tokenizer,
    model: ModelConfig,
    problem: Problem,
    programs: Sequence[Program],
    counts: Counter[str],
    granularity: Granularity = "function",
) -> list[tuple[Program, Int[np.ndarray, " t"], Int[np.ndarray, " s"]]]:
    """Token sequences of the programs of one problem: (program, tokens, last token of each step).

    Sequences beyond ``model.max_length`` follow ``model.overlong`` and are counted: ``truncate_statement`` drops the
    statement's beginning, and the program too where it alone does not fit; ``drop`` leaves the program out; ``raise``
    is an error that names it.
    """
    prompt = encode_prompt(tokenizer, problem)
    rows = []
    for program in programs:
        if not program.code:
            counts["left out: empty program"] += 1
            continue
        steps = encode_steps(tokenizer, program.code, granularity)
        length = sum(map(len, steps))
        used = prompt
        if len(prompt) + length > model.max_length:
            where = f"program {program.program_hash} of {problem.problem_id}"
            if model.overlong == "raise":
                raise DataError(
                    f"{where}: {len(prompt)} + {length} tokens exceed config.model.max_length={model.max_length}; "
                    "raise it, or set config.model.overlong to 'truncate_statement' or 'drop'"
                )
            if model.overlong == "drop" or length >= model.max_length:
                counts["dropped: longer than the model's context"] += 1
                continue
            counts["statements truncated on the left"] += 1
            used = prompt[len(prompt) + length - model.max_length :]
        tokens = np.concatenate([used, *steps])
        ends = len(used) + np.cumsum([len(step) for step in steps]) - 1
        rows.append((program, tokens, ends.astype(np.int32)))
    return rows


def build_examples(
    tokenizer: Tokenizer,
    model: ModelConfig,
    problems: Mapping[str, Problem],
    programs: Iterable[Program],
    outcomes: Iterable[Outcome],
    table: LabelledSteps,
    counts: Counter[str],
    granularity: Granularity = "function",
) -> list[Example]:
    """Examples of all programs with an outcome, grouped by problem. ``counts`` gathers what was left out."""
    known = {o.program_hash: float(o.passed) for o in outcomes if o.verdict.is_label}
    rows = {(program, step): i for i, (_, program, step) in enumerate(table.keys)}
    by_problem: dict[str, dict[str, Program]] = {}
    for program in programs:
        by_problem.setdefault(program.problem_id, {})[program.program_hash] = program
    examples = []
    for problem_id, unique in by_problem.items():
        found = tokenise(tokenizer, model, problems[problem_id], list(unique.values()), counts, granularity)
        for program, tokens, ends in found:
            index = np.asarray([rows.get((program.program_hash, i), NO_LABEL) for i in range(len(ends))], np.int32)
            raw = np.where(index == NO_LABEL, 0.0, table.raw[index]) if len(table.raw) else np.zeros(len(ends))
            outcome = known.get(program.program_hash, float("nan"))
            if np.isnan(outcome):
                counts["left out: no verdict"] += 1
                continue
            examples.append(
                Example(problem_id, program.program_hash, tokens, ends, index, raw.astype(np.float32), outcome)
            )
    return examples
