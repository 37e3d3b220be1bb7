"""Programs as token sequences with their labels: what the reward model is trained on and scored on."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

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
    label_index: Int[np.ndarray, " s"]  # row of each step in the label table, NO_LABEL where it has no noisy label
    raw: Float[np.ndarray, " s"]  # the labels to train on or to start from, 0 where there is none
    outcome: float  # 1 passed, 0 failed, nan unknown


def relabel(examples: Iterable[Example], labels: Float[np.ndarray, " n"]) -> list[Example]:
    """The examples with the table's labels; a step whose label is nan counts as not labeled."""

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
    """How many first tokens of a statement go, so that it fits ``model.max_length`` with the rest; None: left out.

    Args:
      statement: its tokens.
      rest: tokens of the program and of all else that stays.
      model: ``max_length`` and ``overlong`` hold.
      counts: counts what is cut or left out.
      where: names the program in the error.
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


def build_examples(
    tokenizer: Tokenizer,
    model: ModelConfig,
    problems: Mapping[str, Problem],
    programs: Iterable[Program],
    outcomes: Iterable[Outcome],
    keys: Sequence[StepKey],
    counts: Counter[str],
    granularity: Granularity = "function",
) -> list[Example]:
    """Examples of all programs with an outcome, grouped by problem; ``keys`` are the rows of the label table.

    Their labels are still 0 (``relabel``). ``counts`` gathers what was left out.
    """
    known = {o.program_hash: float(o.passed) for o in outcomes if o.verdict.is_label}
    rows = {(program, step): i for i, (_, program, step) in enumerate(keys)}
    by_problem: dict[str, dict[str, Program]] = {}
    for program in programs:
        by_problem.setdefault(program.problem_id, {})[program.program_hash] = program
    examples = []
    for problem_id, unique in by_problem.items():
        found = tokenize(tokenizer, model, problems[problem_id], list(unique.values()), counts, granularity)
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
