"""Programs as token sequences with labels: the inputs of the reward model in training and scoring."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from tokenizers import Tokenizer

from dreamprm_jax.config import ModelConfig
from dreamprm_jax.labeling.correction.methods import StepKey
from dreamprm_jax.labeling.step_files import step_texts
from dreamprm_jax.models.tokenizer import encode_prompt, encode_texts
from dreamprm_jax.schema import DataError, Granularity, Outcome, Problem, Program

NO_LABEL = -1
DROPPED_TOKENS = "tokens beyond the model's context, dropped"  # a key of counts


@dataclass(frozen=True)
class Example:
    """One program after its problem's prompt."""

    problem_id: str
    program_hash: str
    tokens: Int[np.ndarray, " t"]
    step_index: Int[np.ndarray, " s"]  # position of each step's last token
    label_index: Int[np.ndarray, " s"]  # row of each step in the label table, NO_LABEL for steps without a noisy label
    raw: Float[np.ndarray, " s"]  # the labels to train on or to start from, 0 for steps without a label
    outcome: float  # 1 passed, 0 failed, NaN unknown


def relabel(examples: Iterable[Example], labels: Float[np.ndarray, " n"]) -> list[Example]:
    """The examples with the table's labels; steps whose label is NaN are unlabeled."""

    def one(example: Example) -> Example:
        if not (example.label_index != NO_LABEL).any():
            return example
        values = np.where(example.label_index == NO_LABEL, np.nan, labels[example.label_index])
        known = np.isfinite(values)
        return dataclasses.replace(
            example,
            label_index=np.where(known, example.label_index, NO_LABEL).astype(np.int32),
            raw=np.where(known, values, 0.0).astype(np.float32),
        )

    return [one(example) for example in examples]


def tokenize(
    tokenizer: Tokenizer,
    model: ModelConfig,
    problem: Problem,
    programs: Sequence[Program],
    counts: Counter[str],
    granularity: Granularity = "function",
) -> list[tuple[Program, Int[np.ndarray, " t"], Int[np.ndarray, " s"]]]:
    """Token sequences of the programs of one problem: (program, tokens, last token of each step).

    Sequences longer than ``model.max_length`` are treated according to ``model.overlong`` and counted.
    ``truncate_statement`` drops the beginning of the statement, or the whole program if it does not fit even without
    the statement. ``drop`` leaves the program out. ``raise`` raises an error that names the program.
    """
    prompt = encode_prompt(tokenizer, problem)
    rows = []
    for program in programs:
        if not program.code:
            counts["left out: empty program"] += 1
            continue
        steps = encode_texts(tokenizer, step_texts(program, granularity))
        length = sum(map(len, steps))
        where = f"program {program.program_hash} of {problem.problem_id}"
        if (cut := cut_statement(len(prompt), length, model, counts, where)) is None:
            continue
        used = prompt[cut:]
        tokens = np.concatenate([used, *steps])
        ends = len(used) + np.cumsum([len(step) for step in steps]) - 1
        rows.append((program, tokens, ends.astype(np.int32)))
    return rows


def cut_statement(statement: int, rest: int, model: ModelConfig, counts: Counter[str], where: str) -> int | None:
    """The number of leading statement tokens to drop so that all fits ``model.max_length``; None: drop the program.

    Args:
      statement: number of tokens of the statement.
      rest: number of tokens of the program and of everything else that is kept.
      model: settings with ``max_length`` and ``overlong``.
      counts: counts what is cut or left out.
      where: name of the program, for the error.

    Raises:
      DataError: if the sequence is too long and ``model.overlong`` is ``raise``.
    """
    excess = statement + rest - model.max_length
    if excess <= 0:
        return 0
    if model.overlong == "raise":
        raise DataError(
            f"{where}: {statement} + {rest} tokens exceed config.model.max_length={model.max_length}; "
            "raise it (or --max-length), or set config.model.overlong (or --overlong) to 'truncate_statement' "
            "or 'drop'"
        )
    if model.overlong == "drop" or rest >= model.max_length:
        counts["dropped: longer than the model's context"] += 1
        counts[DROPPED_TOKENS] += statement + rest
        return None
    counts["statements truncated on the left"] += 1
    counts[DROPPED_TOKENS] += excess
    return excess


class Window(NamedTuple):
    """Problems of one window by id, their programs, and the outcomes of these."""

    problems: Mapping[str, Problem]
    programs: Sequence[Program]
    outcomes: Sequence[Outcome]


def build_examples(
    tokenizer: Tokenizer,
    model: ModelConfig,
    window: Window,
    keys: Sequence[StepKey],
    counts: Counter[str],
    granularity: Granularity = "function",
) -> list[Example]:
    """Examples of all programs with an outcome, grouped by problem; ``keys`` are the rows of the label table.

    All labels are 0 until ``relabel`` sets them. ``counts`` counts what was left out.
    """
    known = {o.program_hash: float(o.passed) for o in window.outcomes if o.verdict.is_label}
    rows = {(program, step): i for i, (_, program, step) in enumerate(keys)}
    by_problem: dict[str, dict[str, Program]] = {}
    for program in window.programs:
        by_problem.setdefault(program.problem_id, {})[program.program_hash] = program
    examples = []
    for problem_id, unique in by_problem.items():
        found = tokenize(tokenizer, model, window.problems[problem_id], list(unique.values()), counts, granularity)
        for program, tokens, ends in found:
            index = np.asarray([rows.get((program.program_hash, i), NO_LABEL) for i in range(len(ends))], np.int32)
            outcome = known.get(program.program_hash, float("nan"))
            if np.isnan(outcome):
                counts["left out: no verdict"] += 1
                continue
            examples.append(
                Example(problem_id, program.program_hash, tokens, ends, index, np.zeros(len(ends), np.float32), outcome)
            )
    return examples
