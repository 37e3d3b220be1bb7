"""Step scores laid over the code of a handful of problems' candidates. Programs and statements are untrusted text.

The template escapes all text; ``visible`` also shows what escaping leaves invisible or active: control characters
(which browsers drop) and bidirectional overrides (which reorder the code that is read, "Trojan Source").
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dreamprm_jax.cof.splitter import split_steps
from dreamprm_jax.evaluation.judged_candidates import Candidates
from dreamprm_jax.evaluation.ranking import methods
from dreamprm_jax.schema import Granularity, Step, StepTruth
from dreamprm_jax.selection.aggregators import sigmoid
from dreamprm_jax.selection.best_of_n import choose
from dreamprm_jax.selection.reward_models import arm_label

MAX_CHARACTERS, MAX_STEPS = 20_000, 100
"""Characters of one program or statement, and steps of one program, that the page shows; the files hold the rest."""

_CONTROL = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"} | {127: 0x2421}
_HIDDEN = {
    code: f"[U+{code:04X}]"
    for code in (
        *range(0x80, 0xA0),
        0x061C,
        *range(0x200B, 0x2010),
        *range(0x202A, 0x202F),
        *range(0x2060, 0x206A),
        0xFEFF,
    )
}
_SURROGATES = dict.fromkeys(range(0xD800, 0xE000), 0xFFFD)
_VISIBLE: dict[int, int | str] = {**_CONTROL, **_HIDDEN, **_SURROGATES}


def visible(text: str, limit: int = MAX_CHARACTERS) -> str:
    """The text with control, zero-width and bidirectional characters made visible, cut after ``limit`` characters."""
    rest = len(text) - max(limit, 0)
    if rest <= 0:
        return text.translate(_VISIBLE)
    return f"{text[: len(text) - rest].translate(_VISIBLE)}[{rest} more characters]\n"


@dataclass(frozen=True)
class HeatStep:
    """One step: its text, what each arm says of it, and the truth."""

    code: str
    name: str
    scores: tuple[float | None, ...]  # one an arm
    colours: tuple[str, ...]  # CSS colour, one an arm
    truth: StepTruth | None


@dataclass(frozen=True)
class HeatProgram:
    """One candidate."""

    sample_index: int
    program_hash: str
    passed: bool
    chosen_by: tuple[str, ...]  # arms whose pick it is
    steps: tuple[HeatStep, ...]


@dataclass(frozen=True)
class HeatProblem:
    """One problem with its candidates."""

    problem_id: str
    title: str
    difficulty: str
    statement: str
    programs: tuple[HeatProgram, ...]


def colour(score: float | None) -> str:
    """Orange for low, blue for high, transparent at one half; readable under light and dark text."""
    if score is None:
        return "transparent"
    red, green, blue = (209, 87, 27) if score < 0.5 else (43, 131, 186)
    return f"rgba({red},{green},{blue},{0.42 * abs(2 * score - 1):.2f})"


def heat_problems(
    candidates: Sequence[Candidates],
    arms: Sequence[str],
    aggregator: str,
    truth: Sequence[StepTruth] | None,
    count: int = 6,
    granularity: Granularity = "function",
) -> list[HeatProblem]:
    """First the problems on which the arms' picks differ in outcome, then those with passing and failing candidates."""
    picks = {method.key: method.numbers for method in methods(candidates, arms, aggregator) if method.key in arms}
    chosen = {arm: [choose(numbers) for numbers in rows] for arm, rows in picks.items()}
    known = {(row.program_hash, row.step_index): row for row in truth or ()}

    def interest(index: int) -> tuple[bool, bool, int]:
        passed = candidates[index].passed
        accuracies = {round(float(passed[rows[index]].mean()), 9) for rows in chosen.values()}
        return len(accuracies) < 2, bool(passed.min() == passed.max()), index

    shown = sorted(range(len(candidates)), key=interest)[:count]
    return [
        _problem(candidates[index], arms, {arm: rows[index] for arm, rows in chosen.items()}, known, granularity)
        for index in shown
    ]


def _problem(
    one: Candidates,
    arms: Sequence[str],
    chosen: Mapping[str, np.ndarray],
    known: Mapping[tuple[str, int], StepTruth],
    granularity: Granularity,
) -> HeatProblem:
    programs = []
    for position, program in enumerate(one.programs):
        scores = [sigmoid(one.logits[arm][position]).tolist() for arm in arms]
        steps = _steps(program.code, program.program_hash, split_steps(program.code, granularity), scores, known)
        programs.append(
            HeatProgram(
                program.sample_index,
                program.program_hash,
                bool(one.passed[position]),
                tuple(arm_label(arm) for arm in arms if position in chosen[arm]),
                steps,
            )
        )
    problem = one.problem
    return HeatProblem(
        problem.problem_id, problem.title, problem.difficulty, visible(problem.statement), tuple(programs)
    )


def _steps(
    code: str, program_hash: str, cut: list[Step], scores: list[list[float]], known: Mapping[tuple[str, int], StepTruth]
) -> tuple[HeatStep, ...]:
    """The program as the splitter cut it. An arm whose scores do not fit the cut shows none."""
    steps = []
    for step in cut:
        if step.index == MAX_STEPS or step.start > MAX_CHARACTERS:
            rest = f"[{len(cut) - step.index} more steps, {len(code) - step.start} characters]"
            steps.append(HeatStep(rest, "", (), (), None))
            break
        values = tuple(row[step.index] if len(row) == len(cut) else None for row in scores)
        text = visible(code[step.start : step.end], MAX_CHARACTERS - step.start)
        truth = known.get((program_hash, step.index))
        steps.append(HeatStep(text, visible(step.name, 80), values, tuple(map(colour, values)), truth))
    return tuple(steps)


VIEWER_CHARACTERS = 6_000_000
"""Characters of programs and statements that the page's viewer holds, over all problems; the files hold the rest."""


def viewer_data(
    candidates: Sequence[Candidates],
    arms: Sequence[str],
    aggregator: str,
    truth: Sequence[StepTruth] | None,
    granularity: Granularity = "function",
    limit: int = VIEWER_CHARACTERS,
) -> dict[str, Any]:
    """All problems for the page's viewer, as JSON: what ``heat_problems`` shows of some, of every program.

    Returns:
      ``problems`` in their order, as many as fit into ``limit`` characters; ``left_out``: how many do not. A step is
      [code, scores of the arms, true value or null, 0 | 1 wrong | 2 first wrong].
    """
    shown = heat_problems(candidates, arms, aggregator, truth, len(candidates), granularity)
    order = {one.problem.problem_id: place for place, one in enumerate(candidates)}
    problems, room = [], limit
    for problem in sorted(shown, key=lambda one: order[one.problem_id]):
        room -= len(problem.statement) + sum(len(step.code) for program in problem.programs for step in program.steps)
        if room < 0:
            break
        problems.append(_viewer_problem(problem))
    return {"problems": problems, "left_out": len(shown) - len(problems)}


def _viewer_problem(problem: HeatProblem) -> dict[str, Any]:
    return {
        "id": visible(problem.problem_id, 200),
        "title": visible(problem.title, 200),
        "difficulty": problem.difficulty,
        "statement": problem.statement,
        "programs": [
            {
                "sample": program.sample_index,
                "hash": program.program_hash[:8],
                "passed": program.passed,
                "picked": list(program.chosen_by),
                "steps": [_viewer_step(step) for step in program.steps],
            }
            for program in problem.programs
        ],
    }


def _viewer_step(step: HeatStep) -> list[Any]:
    scores = [None if score is None else round(score, 3) for score in step.scores]
    if step.truth is None:
        return [step.code, scores, None, 0]
    first = step.truth.step_index == step.truth.first_wrong
    return [step.code, scores, round(step.truth.value, 3), int(step.truth.wrong) + int(step.truth.wrong and first)]


def json_for_script(value: Any) -> str:
    """JSON that may stand inside a script element: nothing in it can end the element or begin another."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
