"""Reads solutions with step labels from other sources, in the formats in which they are published.

| format | fields of a row |
|---|---|
| TRL's stepwise supervision | ``prompt, completions, labels`` (true, false, 0 to 1 or null), optional outcome; also |
| | named ``question``, ``problem``, ``instruction``; ``steps``; ``rewards``; optional ``rollouts`` |
| PRM800K | ``question.problem``, ``label.steps[].completions[].rating``, ``chosen_completion`` |
| OpenR | ``question, process`` (steps separated by five line breaks), ``label`` (a list of ``+`` and ``-``) |
| Math-Shepherd | ``input`` with ``ки`` after each step, ``label`` with ``+`` or ``-`` in its place |
| ProcessBench | ``problem, steps``, ``label`` (index of the first wrong step, or -1), ``final_answer_correct`` |

Files and folders are read with ``problems.json_rows``. The package ``datasets`` reads saved ``Dataset`` folders, URLs
and data sets of the hub. A row that cannot be used becomes a ``Skip``.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dreamprm_jax.cof.splitter import split_steps
from dreamprm_jax.config import StepDataConfig
from dreamprm_jax.labeling.step_sources import step_rows
from dreamprm_jax.problems.json_rows import check_text, type_error
from dreamprm_jax.schema import DataError, Granularity, Program, Skip, content_hash

OUTCOME_FIELDS = ("outcome", "passed", "is_correct", "correct", "final_answer_correct")
PROMPTS = ("prompt", "question", "problem", "instruction")
STEPS, LABELS = ("completions", "steps"), ("labels", "rewards")
IGNORED = -100  # label that TRL and transformers exclude from the loss
MARK = "ки"  # Math-Shepherd's step tag


@dataclass(frozen=True)
class LabeledSteps:
    """One solution with step labels.

    Attributes:
      prompt: the text that the steps answer.
      steps: the texts of the steps, in order.
      labels: one label per step: 1 is correct, 0 is wrong, values between them are soft labels, NaN is unknown.
      outcome: label of the whole solution: 1 is correct, 0 is wrong, NaN is unknown.
      rollouts: number of rollouts of each step, of which the step's label is the fraction that passed. Empty if the
        source has no counts.
    """

    prompt: str
    steps: tuple[str, ...]
    labels: tuple[float, ...]
    outcome: float = math.nan
    rollouts: tuple[int, ...] = ()

    @property
    def problem_id(self) -> str:
        """Key of the problem: a hash of the prompt."""
        return content_hash(self.prompt, digits=16)

    def is_meta(self, share: float) -> bool:
        """Whether the solution is in the meta set, which holds a fraction ``share`` of the problems.

        A solution without an outcome never is. The choice depends only on the prompt's text, so that a file to which
        rows are added keeps its meta problems.
        """
        return int(content_hash("meta", self.problem_id, digits=8), 16) < share * 16**8 and math.isfinite(self.outcome)

    @property
    def known(self) -> list[int]:
        """The indices of the steps that have a label."""
        return [index for index, label in enumerate(self.labels) if math.isfinite(label)]


@dataclass(frozen=True)
class SteppedProgram(Program):
    """A program or another text whose division into steps is given."""

    steps: tuple[str, ...] = ()

    @classmethod
    def of(cls, problem_id: str, steps: Sequence[str], sample_index: int = 0) -> SteppedProgram:
        """The row for given steps. Equal texts with different divisions into steps are different programs."""
        return cls(problem_id, content_hash(problem_id, *steps), sample_index, "".join(steps), "", "{}", tuple(steps))


def step_texts(program: Program, granularity: Granularity) -> list[str]:
    """The texts of a program's steps: the given steps, or otherwise those of the splitter."""
    if isinstance(program, SteppedProgram):
        return list(program.steps)
    return [program.code[step.start : step.end] for step in split_steps(program.code, granularity)]


def read_steps(path: str, settings: StepDataConfig, split: str = "") -> Iterator[LabeledSteps | Skip]:
    """Yields every labeled solution of a data set, or the reason why a row is skipped.

    Args:
      path: a file, a folder, a URL or an id of the hub.
      settings: split, subset and revision of the data set, label of neutral steps, strictness, and maximum number of
        solutions.
      split: split of the data set; "" selects the split of ``settings``.

    Raises:
      DataError: if the data set as a whole cannot be read or, with ``settings.strict``, for the first invalid row.
    """
    count, known = 0, Counter[str]()
    for where, row in step_rows(path, settings, split or settings.split):
        try:
            found = _parse(row, settings)
        except DataError as error:
            if settings.strict:
                raise DataError(f"{path}, {where}: {error}; without --strict it is skipped and counted") from error
            yield Skip(path, where, str(error))
            continue
        for one in found:
            key = content_hash(one.prompt, *one.steps)
            known[key] += 1
            if known[key] > 1:
                yield Skip(path, where, "the same prompt and steps are in an earlier row")
                continue
            yield one
            count += 1
            if count == settings.limit:
                return


# ---------------------------------------------------------------- one row


def _parse(row: Any, settings: StepDataConfig) -> list[LabeledSteps]:
    """The solutions of one row. Raises DataError that names the field at fault."""
    if isinstance(row, DataError):
        raise row
    found = next((parse for fields, parse in _FORMATS if all(map(functools.partial(_first, row), fields))), None)
    if found is None:
        fields = "; ".join(", ".join("/".join(names) for names in fields) for fields, _ in _FORMATS)
        raise DataError(f"has the fields {', '.join(map(str, row)) or 'none'}; those of a known format are: {fields}")
    results = found(row, settings)
    for one in results:
        if not one.steps:
            raise DataError("has no step")
        for text, name in [(one.prompt, "prompt"), *((step, f"step {n}") for n, step in enumerate(one.steps))]:
            if not check_text(text, name).strip():
                raise DataError(f"{name}: is empty")
    known = [one for one in results if any(map(math.isfinite, (*one.labels, one.outcome)))]
    if not known:
        raise DataError("has no label")
    return known


def _trl(row: Mapping[str, Any], settings: StepDataConfig) -> list[LabeledSteps]:
    steps = _texts(row, _first(row, STEPS))
    labels, outcome = _labels(row, _first(row, LABELS), steps), _outcome(row)
    rollouts = _rollouts(row, labels, outcome)
    return [LabeledSteps(_prompt(row, _first(row, PROMPTS)), steps, labels, outcome, rollouts)]


def _rollouts(row: Mapping[str, Any], labels: Sequence[float], outcome: float) -> tuple[int, ...]:
    """The rollout counts of a row that has them, else (). Every label must be a fraction of its step's rollouts."""
    if (counts := row.get("rollouts")) is None:
        return ()
    if not isinstance(counts, list) or len(counts) != len(labels):
        raise DataError(f"field rollouts: must be a list of {len(labels)} counts, one for each step")
    if math.isnan(outcome):
        raise DataError(f"field rollouts: needs an outcome of the solution too ({', '.join(OUTCOME_FIELDS)})")
    for index, (count, label) in enumerate(zip(counts, labels, strict=True)):
        if not isinstance(count, int) or isinstance(count, bool) or not 0 <= count < 2**31:
            raise DataError(f"field rollouts[{index}]: {count!r} is not a count")
        if math.isfinite(label) and not (count and abs(label * count - round(label * count)) < 0.005 * count):
            raise DataError(f"field rollouts[{index}]: label {label:g} is not a share of {count} rollouts")
    return tuple(counts)


def _openr(row: Mapping[str, Any], settings: StepDataConfig) -> list[LabeledSteps]:
    steps = tuple(text.strip() for text in _text(row, "process").split("\n" * 5) if text.strip())
    return [LabeledSteps(_text(row, "question"), steps, _labels(row, "label", steps), _outcome(row))]


def _labels(row: Mapping[str, Any], name: str, steps: Sequence[str]) -> tuple[float, ...]:
    labels = row[name]
    if not isinstance(labels, list):
        raise type_error(f"field {name}", labels, "a list")
    if len(steps) != len(labels):
        raise DataError(f"field {name}: {len(labels)} labels for {len(steps)} steps")
    return tuple(_number(value, f"field {name}[{index}]") for index, value in enumerate(labels))


def _process_bench(row: Mapping[str, Any], settings: StepDataConfig) -> list[LabeledSteps]:
    steps, first = _texts(row, "steps"), row["label"]
    if not isinstance(first, int) or isinstance(first, bool) or not -1 <= first < len(steps):
        raise DataError(f"field label: {first!r} is neither -1 nor the index of one of the {len(steps)} steps")
    # The steps after the first error have no label.
    labels = [1.0 if first < 0 or index < first else 0.0 if index == first else math.nan for index in range(len(steps))]
    return [LabeledSteps(_text(row, "problem"), steps, tuple(labels), _outcome(row))]


def _math_shepherd(row: Mapping[str, Any], settings: StepDataConfig) -> list[LabeledSteps]:
    text, marked = _text(row, "input"), _text(row, "label")
    pieces, place = text.split(MARK), 0
    signs: list[float] = []
    for piece in pieces[:-1]:
        end = place + len(piece)
        sign = marked[end : end + 1]
        if marked[place:end] != piece or sign not in ("+", "-"):
            raise DataError(f"field label: no + or - where field input has its {len(signs) + 1}. {MARK}")
        signs.append(1.0 if sign == "+" else 0.0)
        place = end + 1
    if not signs:
        raise DataError(f"field input: has no {MARK}")
    start = re.search(r"\s*\bStep 1\s*:", pieces[0])
    if start is None:
        raise DataError("field input: has no 'Step 1:', before which the question is")
    steps = (pieces[0][start.start() :], *pieces[1:-1])
    # The last step contains the answer, so its label is also the outcome.
    return [LabeledSteps(pieces[0][: start.start()], tuple(map(str.strip, steps)), tuple(signs), signs[-1])]


def _prm800k(row: Mapping[str, Any], settings: StepDataConfig) -> list[LabeledSteps]:
    """The solution of the chosen steps, and for each other rated completion a solution that ends with it."""
    question, label = row["question"], row["label"]
    if not isinstance(question, dict) or not isinstance(label, dict):
        raise DataError("fields question and label: must be JSON objects")
    prompt, reason = _text(question, "problem"), label.get("finish_reason")
    if reason == "bad_problem":
        raise DataError("its finish_reason is 'bad_problem'")
    steps: list[str] = []
    labels: list[float] = []
    found: list[LabeledSteps] = []
    for number, step in enumerate(_list(label, "steps")):
        completions = [] if step.get("completions") is None else _list(step, "completions")
        rated = [(_text(one, "text"), _rating(one.get("rating"), settings.neutral, number)) for one in completions]
        chosen = step.get("chosen_completion")
        for index, (text, value) in enumerate(rated):
            if index != chosen and math.isfinite(value) and (len(rated) > 1 or steps):
                found.append(LabeledSteps(prompt, (*steps, text), (*[math.nan] * len(steps), value)))
        human = step.get("human_completion")
        if isinstance(chosen, int) and 0 <= chosen < len(rated):
            text, value = rated[chosen]
        elif isinstance(human, dict):
            text, value = _text(human, "text"), 1.0
        elif len(rated) == 1:  # a single completion that nobody chose: the wrong step that ends the solution
            text, value = rated[0]
            found = [one for one in found if one.steps != (*steps, text)]
        else:
            break
        steps.append(text)
        labels.append(value)
    outcome = {"solution": 1.0, "found_error": 0.0}.get(str(reason), math.nan)
    return [*([LabeledSteps(prompt, tuple(steps), tuple(labels), outcome)] if steps else []), *found]


# The fields that identify each format; each field may have any of the names listed for it.
_FORMATS: tuple[
    tuple[tuple[tuple[str, ...], ...], Callable[[Mapping[str, Any], StepDataConfig], list[LabeledSteps]]], ...
] = (
    ((PROMPTS, STEPS, LABELS), _trl),
    ((("question",), ("process",), ("label",)), _openr),
    ((("question",), ("label",)), _prm800k),
    ((("input",), ("label",)), _math_shepherd),
    ((("problem",), ("steps",), ("label",)), _process_bench),
)
_WORDS = {"+": 1.0, "true": 1.0, "correct": 1.0, "good": 1.0, "-": 0.0, "false": 0.0, "incorrect": 0.0, "bad": 0.0}


def _first(row: Mapping[str, Any], names: Sequence[str]) -> str:
    """The first name whose field has a value; "" if there is none."""
    return next((name for name in names if row.get(name) is not None), "")


def _number(value: Any, where: str) -> float:
    if isinstance(value, str):  # a word, or a value from a mixed column that ``datasets`` converted to text
        if value.lower() in _WORDS:
            return _WORDS[value.lower()]
        with contextlib.suppress(ValueError, RecursionError):
            value = json.loads(value)
    if value is None or value == IGNORED or (isinstance(value, float) and math.isnan(value)):
        return math.nan
    if isinstance(value, bool | int | float) and 0 <= value <= 1:
        return float(value)
    raise DataError(f"{where}: {value!r} is neither true, false, null nor a number from 0 to 1")


def _rating(value: Any, neutral: float, step: int) -> float:
    if value is None:
        return math.nan
    if value not in (-1, 0, 1):
        raise DataError(f"field label.steps[{step}]: rating {value!r} is not -1, 0 or 1")
    if value == 0:
        return neutral if neutral >= 0 else math.nan
    return float(value > 0)


def _outcome(row: Mapping[str, Any]) -> float:
    name = next((name for name in OUTCOME_FIELDS if row.get(name) is not None), None)
    value = math.nan if name is None else _number(row[name], f"field {name}")
    if value not in (0.0, 1.0) and not math.isnan(value):
        raise DataError(f"field {name}: {row[str(name)]!r}: an outcome is right or wrong")
    return value


def _prompt(row: Mapping[str, Any], name: str) -> str:
    """A prompt's text; for a conversation, the contents of its messages."""
    value = row[name]
    if isinstance(value, list) and value and all(isinstance(one, dict) for one in value):
        return "\n\n".join(_text(one, "content") for one in value)
    return _text(row, name)


def _text(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    if not isinstance(value, str):
        raise type_error(f"field {name}", value, "a string")
    return value


def _list(row: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    value = row.get(name)
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise DataError(f"field {name}: a list of JSON objects belongs here")
    return value


def _texts(row: Mapping[str, Any], name: str) -> tuple[str, ...]:
    value = row[name]
    if not isinstance(value, list):
        raise type_error(f"field {name}", value, "a list of strings")
    value = [one.get("content") if isinstance(one, dict) else one for one in value]  # content of messages
    for index, text in enumerate(value):
        if not isinstance(text, str):
            raise type_error(f"field {name}[{index}]", text, "a string")
    return tuple(value)
