"""Cached verdicts are found for the same content, and never for other content."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from dreamprm_jax.sandbox import Judge, JudgeTask, Limits
from dreamprm_jax.sandbox.cache import VerdictCache, task_digest
from dreamprm_jax.schema import DataError, TestCase, Verdict

TASK = JudgeTask("one", "print(input())", (TestCase("a", "a"), TestCase("b", "b")))
LIMITS = Limits(cpu_seconds=1.0, wall_seconds=2.0)


def digest(task: JudgeTask, mode: str = "faithful", tier: str = "PORTABLE", limits: Limits = LIMITS) -> str:
    return task_digest(task, mode, tier, limits)


def test_the_digest_covers_what_a_verdict_depends_on() -> None:
    others = [
        dataclasses.replace(TASK, code="print(input()) "),
        dataclasses.replace(TASK, tests=TASK.tests[:1]),
        dataclasses.replace(TASK, tests=TASK.tests[::-1]),
        dataclasses.replace(TASK, tests=(TestCase("a", "ab"), TestCase("", "b"))),
        dataclasses.replace(TASK, func_name="f"),
        dataclasses.replace(TASK, checker_name="any_order"),
    ]
    digests = {digest(task) for task in others}
    digests |= {digest(TASK, mode="lcb"), digest(TASK, tier="FULL"), digest(TASK, limits=Limits(2.0, 2.0))}
    digests.add(digest(TASK))
    digests |= {task_digest(TASK, "faithful", "PORTABLE", LIMITS, [f"numpy=={major}.0"]) for major in (1, 2)}
    assert len(digests) == len(others) + 6
    assert digest(dataclasses.replace(TASK, key="another")) == digest(TASK)


def test_a_second_judge_runs_nothing_again(tmp_path: Path) -> None:
    tasks = [
        TASK,
        JudgeTask("two", "print(1)", TASK.tests),
        JudgeTask("three", "while True: pass", TASK.tests),
        JudgeTask("four", "print(1)", ()),
        JudgeTask("five", "print(1)", TASK.tests, checker=lambda i, e, a: True),
    ]
    with Judge(limits=LIMITS, workers=1, cache=tmp_path / "verdicts") as judge:
        first = list(judge.evaluate(tasks))
    with Judge(limits=LIMITS, workers=1, cache=tmp_path / "verdicts") as judge:
        again = list(judge.evaluate([dataclasses.replace(task, key=task.key * 2) for task in tasks]))
    assert [result.verdict.value for result in first] == ["AC", "WA", "TLE", "INVALID_TASK", "AC"]
    assert [result.verdict for result in again] == [result.verdict for result in first]
    assert [result.key for result in again] == [task.key * 2 for task in tasks]
    kept = [new.cpu_seconds == old.cpu_seconds for new, old in zip(again, first, strict=True)]
    # The machine may have caused the time limit, and the checker without a name is unknown, so both ran again.
    assert kept == [True, True, False, True, False]


def test_a_kept_failure_keeps_its_details(tmp_path: Path) -> None:
    cache = VerdictCache(tmp_path)
    with Judge("lcb", limits=LIMITS, workers=1) as judge:
        (result,) = judge.evaluate([JudgeTask("k", "print(input() + 'x')", TASK.tests)])
    assert (result.verdict, result.codes) == (Verdict.WA, (-2,))
    cache.put("digest", result)
    assert cache.get("digest", dataclasses.replace(TASK, key="k"), "lcb", "PORTABLE") == result
    assert cache.get("other", TASK, "lcb", "PORTABLE") is None
    cache.close()


def test_a_file_that_is_no_cache_is_named(tmp_path: Path) -> None:
    (tmp_path / "verdicts.sqlite").write_text("not a database, but long enough to be read as one" * 100)
    with pytest.raises(DataError, match=r"verdicts\.sqlite.*remove it"):
        Judge(workers=1, cache=tmp_path)
