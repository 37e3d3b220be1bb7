"""Runs references and their mutants on the tests in the sandbox, to find the faults that tests detect."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

from dreamprm_jax.config import SandboxConfig
from dreamprm_jax.problems.codeio import ENTRY_POINT, Task
from dreamprm_jax.runs.journal import Journal
from dreamprm_jax.sandbox import Judge, JudgeResult, JudgeTask, Limits
from dreamprm_jax.sandbox.judging import judge_into
from dreamprm_jax.schema import TestCase, Verdict, content_hash
from dreamprm_jax.stepbench.mutate import Mutant, draw_mutants

TESTS = 20  # tests per problem
CANDIDATES = 10  # mutants drawn per program
LIMITS = Limits(cpu_seconds=1.0, wall_seconds=20.0, memory_bytes=512 << 20, output_bytes=1 << 20)
# Maximum CPU time of a reference for all its tests, so that no verdict on a mutant depends on the machine's speed.
REFERENCE_SECONDS = 0.25
RELATIVE, ABSOLUTE = 1e-6, 1e-9  # tolerances for numbers, because the order of summation changes their last digits
_FORMAT = "stepbench-trial-1"  # change it when a program could get another verdict
_SLOW = "slow"


def close_enough(given: str, wanted: str, output: str) -> bool:
    """The benchmark's comparison of outputs: equal JSON values, with tolerances for numbers.

    Args:
      given: the test's input, unused.
      wanted: the reference's output, canonical JSON.
      output: the program's output, untrusted text.
    """
    return output == wanted or _close(json.loads(wanted), json.loads(output))


def _close(wanted: Any, value: Any) -> bool:
    if isinstance(wanted, bool) or isinstance(value, bool) or wanted is None or isinstance(wanted, str):
        return type(wanted) is type(value) and wanted == value
    if isinstance(wanted, (int, float)):
        return isinstance(value, (int, float)) and math.isclose(wanted, value, rel_tol=RELATIVE, abs_tol=ABSOLUTE)
    if isinstance(wanted, list):
        same = isinstance(value, list) and len(wanted) == len(value)
        return same and all(map(_close, wanted, value))
    return (
        isinstance(value, dict) and wanted.keys() == value.keys() and all(_close(wanted[k], value[k]) for k in wanted)
    )


@dataclass(frozen=True)
class Tried:
    """A reference with its tests, and its mutants with their verdicts."""

    task: Task
    tests: tuple[TestCase, ...]
    mutants: tuple[tuple[Mutant, Verdict], ...]  # in the order of drawing
    reason: str  # the reason why the reference cannot be used; "" if it can

    def failing(self) -> list[tuple[Mutant, Verdict]]:
        """The mutants that fail a test."""
        return [(mutant, verdict) for mutant, verdict in self.mutants if verdict.is_label and verdict is not Verdict.AC]


def try_mutants(
    tasks: list[tuple[Task, tuple[TestCase, ...]]], seed: int, judge: Judge, journal: Journal
) -> Iterator[Tried]:
    """Judges each reference and up to ``CANDIDATES`` mutants of it. Verdicts in the journal are reused."""
    drawn = {
        task.task_id: draw_mutants(task.reference, CANDIDATES, Random(content_hash(str(seed), task.task_id)))
        for task, _ in tasks
    }
    wanted: dict[str, JudgeTask] = {}
    for task, tests in tasks:
        for code in (task.reference, *(mutant.code for mutant in drawn[task.task_id])):
            wanted[_key(code, tests)] = JudgeTask(_key(code, tests), code, tests, ENTRY_POINT, close_enough, _FORMAT)
    done = sum(key in journal for key in wanted)
    unjudged = judge_into(
        journal, judge, wanted.values(), _outcome, planned=len(wanted), done=done, description="", visible=False
    )

    def known(code: str, tests: tuple[TestCase, ...]) -> str:
        key = _key(code, tests)
        return unjudged.get(key) or str(journal.get(key))

    for task, tests in tasks:
        outcome = known(task.reference, tests)
        if outcome != Verdict.AC:
            slow = f"the reference takes more than {REFERENCE_SECONDS} s of CPU time for its tests"
            yield Tried(task, tests, (), slow if outcome == _SLOW else f"the reference fails its own tests: {outcome}")
            continue
        verdicts = [(mutant, known(mutant.code, tests)) for mutant in drawn[task.task_id]]
        judged = tuple((mutant, Verdict.AC if said == _SLOW else Verdict(said)) for mutant, said in verdicts)
        yield Tried(task, tests, judged, "")


def new_judge(sandbox: SandboxConfig) -> Judge:
    """The judge of references and mutants. Verdicts depend on CPU time, so that other load does not change them."""
    return Judge("faithful", sandbox.tier, LIMITS, sandbox.workers, retry_share=0)


def _key(code: str, tests: tuple[TestCase, ...]) -> str:
    return content_hash(_FORMAT, code, *(text for test in tests for text in (test.input, test.output)))


def _outcome(result: JudgeResult) -> str:
    accepted = result.verdict is Verdict.AC
    return _SLOW if accepted and result.cpu_seconds > REFERENCE_SECONDS else result.verdict.value
