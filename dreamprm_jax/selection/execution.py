"""Clusters of programs by what they print: candidates are run in the sandbox on inputs without expected outputs.

Outputs are kept as hashes of their normalised text: every byte of them is hostile, and only equality is asked for.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from dreamprm_jax.problems.procedural.compose import Composition
from dreamprm_jax.sandbox import JudgeResult, JudgeTask
from dreamprm_jax.schema import Problem, TestCase, Verdict, content_hash

DIGITS = 16


@dataclass(frozen=True)
class Execution:
    """What one program did on the inputs."""

    outputs: tuple[str, ...]  # hash of the output on each input, up to the first on which it failed
    verdict: Verdict  # AC: it ran on all of them

    @property
    def ran(self) -> bool:
        """Whether it gave an output for every input."""
        return self.verdict is Verdict.AC


def vote_inputs(
    problem: Problem, hidden: Collection[str], composition: Composition | None, count: int, seed: int
) -> tuple[TestCase, ...]:
    """Inputs to vote on: those of the public tests, and on the procedural benchmark ``count`` from its input writer.

    The writer stands for the model that AlphaCode (arXiv 2203.07814) asks for inputs. No expected output is used, and
    no hidden input: one that equals an item of ``hidden`` is left out.
    """
    inputs = {test.input: TestCase(test.input, "", test.testtype) for test in problem.public_tests}
    write = composition.primitives[0].write if composition is not None else None
    if write is not None:
        rng = random.Random(f"vote/{seed}/{problem.problem_id}")
        target = len(inputs) + count
        for _ in range(20 * count):
            if len(inputs) == target:
                break
            text = write(rng)
            if text not in hidden:
                inputs.setdefault(text, TestCase(text, ""))
    return tuple(inputs.values())


def normalised(output: str) -> str:
    """Output as votes compare it: without trailing spaces and outer blank lines."""
    return "\n".join(line.rstrip() for line in output.strip().split("\n"))


@dataclass(frozen=True)
class ExecutionTask:
    """One program and the inputs to run it on."""

    key: str
    code: str
    inputs: tuple[TestCase, ...]  # distinct, at least one
    func_name: str | None = None


def recording_tasks(
    tasks: Iterable[ExecutionTask],
) -> tuple[Iterator[JudgeTask], Callable[[JudgeResult], list[str]]]:
    """Judge tasks that run programs on inputs, and what they recorded.

    A failure on one input ends that program's run.

    Returns:
      The judge tasks, made lazily; and a function from a result to [verdict, hash of the output on each input that the
      program answered]: ``Execution`` as JSON. It is called once a result.
    """
    outputs: dict[str, dict[str, str]] = {}
    inputs: dict[str, tuple[TestCase, ...]] = {}

    def judge_tasks() -> Iterator[JudgeTask]:
        for task in tasks:
            seen = outputs[task.key] = {}

            def record(given: str, _: str, answer: str, seen: dict[str, str] = seen) -> bool:
                seen[given] = content_hash(normalised(answer), digits=DIGITS)  # again, where a run was repeated
                return True

            inputs[task.key] = task.inputs
            yield JudgeTask(task.key, task.code, task.inputs, task.func_name, record)

    def execution(result: JudgeResult) -> list[str]:
        seen, given = outputs.pop(result.key), inputs.pop(result.key)
        return [result.verdict.value, *(seen[test.input] for test in given[: result.tests_passed])]

    return judge_tasks(), execution


def clusters(executions: Sequence[Execution | None]) -> np.ndarray:
    """(n,) cluster of each program, numbered as they first occur: equal outputs on every input.

    -1 for a program that failed on an input or was not run: its failure is no answer that others could share.
    """
    known: dict[tuple[str, ...], int] = {}
    return np.array(
        [known.setdefault(one.outputs, len(known)) if one is not None and one.ran else -1 for one in executions],
        dtype=int,
    )
