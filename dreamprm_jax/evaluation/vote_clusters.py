"""Clusters the test candidates by their outputs, for votes.

Candidates are run in the sandbox on inputs without expected outputs. A journal keeps the results, so that a killed run
resumes. Outputs are stored as hashes of their normalized text: they are untrusted, and only equality matters.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from dreamprm_jax.config import Config
from dreamprm_jax.evaluation.judged_candidates import Candidates, candidate_name
from dreamprm_jax.problems.hidden_tests import HiddenTests, digest_of_tests
from dreamprm_jax.problems.procedural.compose import Composition
from dreamprm_jax.runs.fingerprint import settings_digest
from dreamprm_jax.runs.input_digests import InputDigests
from dreamprm_jax.runs.journal import Journal
from dreamprm_jax.runs.paths import Paths
from dreamprm_jax.sandbox import Judge, JudgeResult, JudgeTask
from dreamprm_jax.sandbox.judging import judge_into
from dreamprm_jax.schema import Problem, Skip, TestCase, Verdict, content_hash
from dreamprm_jax.storage import read_json

_DIGITS = 16


@dataclass(frozen=True)
class Execution:
    """The outputs of one program."""

    outputs: tuple[str, ...]  # hash of the output on each input, up to the first input on which the program failed
    verdict: Verdict  # AC: it ran on all of them

    @property
    def ran(self) -> bool:
        """Whether it produced an output for every input."""
        return self.verdict is Verdict.AC


def vote_inputs(
    problem: Problem, hidden: Collection[str], composition: Composition | None, count: int, seed: int
) -> tuple[TestCase, ...]:
    """Inputs for votes: the inputs of the public tests and, on the procedural benchmark, ``count`` generated inputs.

    The generator replaces AlphaCode's input-generation model (arXiv 2203.07814). Expected outputs are not used, nor are
    hidden inputs: an input in ``hidden`` is left out.
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


def normalized(output: str) -> str:
    """The form of an output for comparison in votes: without trailing spaces and outer blank lines."""
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
    """Judge tasks that run programs on inputs and record the outputs.

    A failure on one input ends that program's run.

    Returns:
      The judge tasks, generated lazily; and a function that maps a result to [verdict, hash of the output on each input
      that the program answered], an ``Execution`` as JSON. Call it once per result.
    """
    outputs: dict[str, dict[str, str]] = {}
    inputs: dict[str, tuple[TestCase, ...]] = {}

    def judge_tasks() -> Iterator[JudgeTask]:
        for task in tasks:
            seen = outputs[task.key] = {}

            def record(given: str, _: str, answer: str, seen: dict[str, str] = seen) -> bool:
                seen[given] = content_hash(normalized(answer), digits=_DIGITS)  # overwritten if a run is repeated
                return True

            inputs[task.key] = task.inputs
            yield JudgeTask(task.key, task.code, task.inputs, task.func_name, record)

    def execution(result: JudgeResult) -> list[str]:
        seen, given = outputs.pop(result.key), inputs.pop(result.key)
        return [result.verdict.value, *(seen[test.input] for test in given[: result.tests_passed])]

    return judge_tasks(), execution


def clusters(executions: Sequence[Execution | None]) -> np.ndarray:
    """(n,) cluster of each program, numbered by first occurrence. Programs with equal outputs on every input share one.

    The cluster is -1 for a program that failed on an input or was not run.
    """
    known: dict[tuple[str, ...], int] = {}
    return np.array(
        [known.setdefault(one.outputs, len(known)) if one is not None and one.ran else -1 for one in executions],
        dtype=int,
    )


def execution_clusters(
    config: Config, paths: Paths, candidates: Sequence[Candidates], skips: list[Skip], notes: list[str]
) -> tuple[np.ndarray, ...] | None:
    """The clusters of each problem's candidates (``clusters``), or None with a note.

    Each distinct program of a problem with inputs is run once. A candidate on which the sandbox itself failed is added
    to ``skips`` and joins no cluster.
    """
    if not config.evaluate.execute:
        notes.append("no votes: evaluate.execute is false")
        return None
    compositions: dict[str, Composition] = {}
    if config.problems.source == "procedural" and paths.compositions().exists():
        rows = (Composition.from_json(row) for row in read_json(paths.compositions()))
        compositions = {composition.problem_id: composition for composition in rows}
    count, seed = config.evaluate.vote_inputs, config.seed
    hidden = HiddenTests(paths.hidden_tests()) if compositions else None
    inputs = [
        vote_inputs(
            one.problem,
            {test.input for test in hidden.of(one.problem.problem_id)} if hidden is not None else set(),
            compositions.get(one.problem.problem_id),
            count,
            seed,
        )
        for one in candidates
    ]
    without = sum(not own for own in inputs)
    if without:
        notes.append(f"{without} problems have no input to run candidates on: a vote there is a random choice")
    if without == len(candidates):
        return None
    tasks = {
        program.program_hash: ExecutionTask(program.program_hash, program.code, own, one.problem.func_name)
        for one, own in zip(candidates, inputs, strict=True)
        if own
        for program in one.programs
    }
    known = _run(config, paths, tasks)
    for one, own in zip(candidates, inputs, strict=True):
        for program in one.programs:
            if own and program.program_hash not in known:
                skips.append(Skip("executions", candidate_name(program), "the sandbox failed: has no vote"))
    return tuple(clusters([known.get(program.program_hash) for program in one.programs]) for one in candidates)


def _run(config: Config, paths: Paths, tasks: dict[str, ExecutionTask]) -> dict[str, Execution]:
    """Executions by program hash, without those on which the sandbox failed."""
    sandbox = settings_digest(config, {"sandbox"}, InputDigests(paths.root))
    keys = {name: content_hash(name, digest_of_tests(task.inputs), sandbox) for name, task in tasks.items()}
    with Journal(paths.results().parent / "executions.journal") as journal:
        missing = (
            dataclasses.replace(task, key=keys[name]) for name, task in tasks.items() if keys[name] not in journal
        )
        judge_tasks, execution = recording_tasks(missing)
        judge_into(
            journal,
            lambda: Judge.from_config(config.sandbox),
            judge_tasks,
            execution,
            planned=len(tasks),
            done=sum(key in journal for key in keys.values()),
            description="run for votes",
        )
        rows = {name: journal.get(key) for name, key in keys.items()}
    return {name: Execution(tuple(row[1:]), Verdict(row[0])) for name, row in rows.items() if row is not None}
