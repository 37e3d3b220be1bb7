"""Data of the page's viewer: every candidate of every problem, with its code colored by step scores.

Programs and statements are untrusted text. The script inserts them as text nodes only; ``visible`` also exposes control
characters, which browsers drop, and bidirectional overrides, which reorder displayed code ("Trojan Source").
"""

from __future__ import annotations

import json
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dreamprm_jax.cof.splitter import split_steps
from dreamprm_jax.evaluation.judged_candidates import Candidates
from dreamprm_jax.evaluation.ranking import Method, methods
from dreamprm_jax.schema import Granularity, Outcome, Problem, StepTruth
from dreamprm_jax.selection.aggregators import as_probability, sigmoid
from dreamprm_jax.selection.best_of_n import choose
from dreamprm_jax.selection.reward_models import arm_aggregator

MAX_CHARACTERS, MAX_STEPS = 20_000, 100
"""Maximum characters of a program or statement, and steps of a program, on the page; the files contain the rest."""
VIEWER_CHARACTERS = 6_000_000
"""Maximum characters of all programs and statements on the page; the files contain the rest."""

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
    """The text with visible control, zero-width and bidirectional characters, cut after ``limit`` characters."""
    rest = len(text) - max(limit, 0)
    if rest <= 0:
        return text.translate(_VISIBLE)
    return f"{text[: len(text) - rest].translate(_VISIBLE)}[{rest} more characters]\n"


def color(score: float | None) -> str:
    """Orange for low, blue for high, transparent at one half; readable under light and dark text."""
    if score is None:
        return "transparent"
    red, green, blue = (209, 87, 27) if score < 0.5 else (43, 131, 186)
    return f"rgba({red},{green},{blue},{0.42 * abs(2 * score - 1):.2f})"


def problem_titles(problems: Sequence[Problem]) -> list[str]:
    """A title for each problem; a shared title is replaced by the beginning of the task."""
    shared = Counter(problem.title for problem in problems)
    titles = []
    for problem in problems:
        title = problem.title
        if shared[title] > 1 or not title.strip():
            first, _, rest = problem.statement.partition(". ")  # the first sentence describes the input
            title = textwrap.shorten(rest or first, 90, placeholder=" ...") or problem.problem_id
        titles.append(visible(title, 200))
    return titles


def viewer_data(
    candidates: Sequence[Candidates],
    arms: Sequence[str],
    aggregator: str,
    truth: Sequence[StepTruth] | None = None,
    outcomes: Mapping[str, Outcome] | None = None,
    granularity: Granularity = "function",
    limit: int = VIEWER_CHARACTERS,
) -> dict[str, Any]:
    """All problems for the page's viewer, as JSON.

    Args:
      candidates: Candidates of the test window.
      arms: Reward models with scores.
      aggregator: Aggregator of the PRM arms.
      truth: Truth of the steps, if it is known.
      outcomes: Verdicts by program hash, for the verdict and the number of tests.
      granularity: Definition of a step.
      limit: Maximum characters of programs and statements on the page.

    Returns:
      ``problems``: the first problems that fit into ``limit``; ``left_out``: the number of other problems. A program
      has each arm's aggregated score as a probability, and the arms that select it. A step is [code, name, scores of
      the arms, true value or null, 0 | 1 wrong | 2 first wrong].
    """
    picking = {method.key: method for method in methods(candidates, arms, aggregator) if method.key in arms}
    known = {(row.program_hash, row.step_index): row for row in truth or ()}
    titles = problem_titles([one.problem for one in candidates])
    problems: list[dict[str, Any]] = []
    for index, one in enumerate(candidates):
        programs = _programs(one, index, picking, arms, aggregator, known, outcomes or {}, granularity)
        statement = visible(one.problem.statement)
        limit -= len(statement) + sum(len(step[0]) for program in programs for step in program["steps"])
        if limit < 0:
            break
        problems.append(
            {
                "id": visible(one.problem.problem_id, 200),
                "title": titles[index],
                "difficulty": one.problem.difficulty,
                "statement": statement,
                "programs": programs,
            }
        )
    return {"problems": problems, "left_out": len(candidates) - len(problems)}


def _programs(
    one: Candidates,
    index: int,
    picking: Mapping[str, Method],
    arms: Sequence[str],
    aggregator: str,
    known: Mapping[tuple[str, int], StepTruth],
    outcomes: Mapping[str, Outcome],
    granularity: Granularity,
) -> list[dict[str, Any]]:
    numbers = {arm: as_probability(picking[arm].numbers[index], arm_aggregator(arm, aggregator)) for arm in arms}
    chosen = {arm: choose(picking[arm].numbers[index]) for arm in arms}
    return [
        {
            "sample": program.sample_index,
            "hash": program.program_hash[:8],
            "passed": bool(one.passed[place]),
            "verdict": _verdict(outcomes.get(program.program_hash), bool(one.passed[place])),
            "numbers": [_rounded(numbers[arm][place], 6) for arm in arms],
            "picked": [arm for arm in range(len(arms)) if place in chosen[arms[arm]]],
            "steps": _steps(
                program.code,
                program.program_hash,
                [sigmoid(one.logits[arm][place]).tolist() for arm in arms],
                known,
                granularity,
            ),
        }
        for place, program in enumerate(one.programs)
    ]


def _verdict(outcome: Outcome | None, passed: bool) -> str:
    """The verdict in words."""
    if outcome is None:
        return "passes" if passed else "fails"
    tests = f"{outcome.tests_passed} of {outcome.tests_total} tests"
    return f"{outcome.verdict.value}, {tests}" if outcome.tests_total else outcome.verdict.value


def _steps(
    code: str,
    program_hash: str,
    scores: Sequence[Sequence[float]],
    known: Mapping[tuple[str, int], StepTruth],
    granularity: Granularity,
) -> list[list[Any]]:
    """The steps of the program. Scores of an arm are omitted if their number differs from the number of steps."""
    steps: list[list[Any]] = []
    cut = split_steps(code, granularity)
    for step in cut:
        if step.index == MAX_STEPS or step.start > MAX_CHARACTERS:
            rest = f"[{len(cut) - step.index} more steps, {len(code) - step.start} characters]"
            steps.append([rest, "", [None] * len(scores), None, 0])
            break
        values = [_rounded(row[step.index]) if len(row) == len(cut) else None for row in scores]
        text, name = visible(code[step.start : step.end], MAX_CHARACTERS - step.start), visible(step.name, 80)
        truth = known.get((program_hash, step.index))
        wrong = 0 if truth is None else int(truth.wrong) + int(truth.wrong and step.index == truth.first_wrong)
        steps.append([text, name, values, None if truth is None else round(truth.value, 3), wrong])
    return steps


def _rounded(value: float, digits: int = 3) -> float | None:
    return None if np.isnan(value) else round(float(value), digits)


def json_for_script(value: Any) -> str:
    """JSON that is safe inside a script element: nothing in it can end the element or begin another."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
