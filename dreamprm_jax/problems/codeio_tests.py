"""Makes tests for CodeI/O tasks: the reference's outputs on generated inputs. All code runs in the sandbox.

Generator and reference each run twice, in processes with different hash seeds and different states of ``random``.
A task is kept if both runs agree, its outputs are JSON values that the judge's ``==`` can compare, and at least
``MIN_DISTINCT`` of them are different. Otherwise it is left out, with a reason. The same task and seed give the same
tests.
"""

from __future__ import annotations

import ast
import contextlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from dreamprm_jax.config import SandboxConfig
from dreamprm_jax.problems.codeio import ENTRY_POINT, GENERATOR, Signature, Task, signature
from dreamprm_jax.runs.journal import Journal
from dreamprm_jax.sandbox import Judge, JudgeTask, Limits
from dreamprm_jax.schema import TestCase, Verdict, content_hash

MIN_DISTINCT = 3  # also the minimum of the setting problems.made_tests
DRAWS = 4  # inputs generated per test, because generators produce duplicates
LIMITS = Limits(cpu_seconds=2.0, wall_seconds=20.0, memory_bytes=512 << 20, output_bytes=1 << 20)
_CLOCKS = {"now", "today", "utcnow", "localtime", "gmtime", "ctime", "time_ns", "perf_counter", "monotonic"}
_CHUNK = 64  # tasks per pass of the sandbox
_FORMAT = "codeio-tests-1"  # must be changed if the same task would get other tests

# Both runs execute the same program; the second starts from another state of ``random``.
_OTHER_STATE = "import random as _random\n_random.seed(9)\n"
_DRIVER = """
def _generate():
    import io, json, random, sys
    output, sys.stdout = sys.stdout, io.StringIO()
    first, count, names, required = json.loads(input())
    lines = []
    for seed in range(first, first + count):
        line = "null"
        try:
            drawn = {generator}(random.Random(seed))
            given = [name for name in names if name in drawn]
            if len(given) == len(drawn) and given == names[: max(len(given), required)]:
                line = json.dumps([json.dumps(drawn[name], allow_nan=False) for name in given])
        except Exception:
            pass
        lines.append(line)
    output.write("\\n" + "\\n".join(lines))


_generate()
"""


@dataclass(frozen=True)
class MadeTests:
    """The tests of one task, or the reason why it has none."""

    tests: tuple[TestCase, ...]
    reason: str  # "" if there are tests
    rounded: bool  # whether all floats in the outputs have at most six decimals, so that ``==`` is reliable

    def to_json(self) -> dict[str, Any]:
        """The value stored in the journal."""
        return {"tests": [[t.input, t.output] for t in self.tests], "reason": self.reason, "rounded": self.rounded}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> MadeTests:
        """Inverse of ``to_json``."""
        tests = tuple(TestCase(given, wanted, "functional") for given, wanted in value["tests"])
        return cls(tests, value["reason"], value["rounded"])


def made_key(task: Task, count: int, seed: int) -> str:
    """Hash of everything that a task's tests depend on."""
    return content_hash(_FORMAT, task.task_id, task.reference, task.generator, str(count), str(seed))


def make_tests(
    tasks: Iterable[Task], count: int, seed: int, sandbox: SandboxConfig, journal: Journal | None = None
) -> Iterator[tuple[Task, MadeTests]]:
    """Yields each task with its tests, in order. Tasks are processed lazily, one chunk at a time.

    Args:
      tasks: Tasks whose references and generators are run in the sandbox, never in this process.
      count: Tests per task.
      seed: Seed of the generated inputs.
      sandbox: Isolation tier and number of workers; the limits are ``LIMITS``.
      journal: Keeps the tests of finished tasks.
    """
    with contextlib.ExitStack() as stack:
        judges: list[Judge] = []
        remaining = iter(tasks)
        while chunk := list(itertools.islice(remaining, _CHUNK)):
            keys = {task.task_id: made_key(task, count, seed) for task in chunk}
            known = {task.task_id: MadeTests((), reason, False) for task in chunk if (reason := untestable(task))}
            for task in chunk:
                if journal is not None and task.task_id not in known and keys[task.task_id] in journal:
                    known[task.task_id] = MadeTests.from_json(journal.get(keys[task.task_id]) or {})
            todo = [task for task in chunk if task.task_id not in known]
            if todo and not judges:
                for hash_seed in (0, 1):
                    judge = Judge("faithful", sandbox.tier, LIMITS, sandbox.workers, retry_share=0, hash_seed=hash_seed)
                    judges.append(stack.enter_context(judge))
            for task_id, made in _make_chunk(todo, count, seed, judges).items() if todo else ():
                known[task_id] = made
                if journal is not None and Verdict.SANDBOX_ERROR not in made.reason:  # otherwise tried again next time
                    journal.put(keys[task_id], made.to_json())
            for task in chunk:
                yield task, known[task.task_id]


def untestable(task: Task) -> str:
    """Why no tests can be made for the task, according to its text; "" if they can."""
    parameters = signature(task)
    if parameters is None:
        return "the entry point has non-positional parameters"
    if not parameters.names:
        return "the entry point takes no parameter"
    if reads_clock(task.reference) or reads_clock(task.generator):
        return "reads the clock: runs on different days may differ"
    return ""


def reads_clock(code: str) -> bool:
    """Whether a program reads the time or date, according to the names that it uses."""
    try:
        nodes = list(ast.walk(ast.parse(code)))
    except (SyntaxError, ValueError, RecursionError):
        return False  # it fails when it is run
    imported = {
        name.name for node in nodes if isinstance(node, ast.ImportFrom) and node.module == "time" for name in node.names
    }
    called = [node.func for node in nodes if isinstance(node, ast.Call)]
    return any(
        (isinstance(function, ast.Attribute) and function.attr in _CLOCKS)
        or (isinstance(function, ast.Attribute) and ast.unparse(function) == "time.time")
        or (isinstance(function, ast.Name) and function.id in imported)
        for function in called
    )


def _make_chunk(tasks: list[Task], count: int, seed: int, judges: list[Judge]) -> dict[str, MadeTests]:
    made: dict[str, MadeTests] = {}

    def drop(task: Task, reason: str) -> None:
        made[task.task_id] = MadeTests((), reason, False)

    open_tasks: dict[str, tuple[Task, Signature]] = {}
    for task in tasks:
        parameters = signature(task)
        assert parameters is not None  # see untestable()
        open_tasks[task.task_id] = (task, parameters)

    drawn: list[dict[str, list[list[str]]]] = []
    for number, judge in enumerate(judges):
        runs = [_generator_run(task, parameters, count, seed, number) for task, parameters in open_tasks.values()]
        outputs, failures = _captured(judge, runs)
        for key, error in failures.items():
            drop(open_tasks.pop(key)[0], f"the input generator fails: {error}")
        drawn.append({key: _distinct_inputs(outputs[key][0], count) for key in open_tasks})
    for key, (task, _) in list(open_tasks.items()):
        if drawn[0][key] != drawn[1][key]:
            drop(task, "the inputs are not deterministic")
        elif len(drawn[0][key]) < MIN_DISTINCT:
            drop(task, f"fewer than {MIN_DISTINCT} different inputs that are JSON arguments")
        else:
            continue
        del open_tasks[key]

    inputs = {key: ["\n".join(arguments) for arguments in drawn[0][key]] for key in open_tasks}
    results: list[dict[str, list[str]]] = []
    for number, judge in enumerate(judges):
        runs = [_reference_run(task, inputs[key], number) for key, (task, _) in open_tasks.items()]
        outputs, failures = _captured(judge, runs)
        for key, error in failures.items():
            drop(open_tasks.pop(key)[0], f"the reference fails on a generated input: {error}")
        results.append(outputs)
    for key, (task, _) in open_tasks.items():
        first, second = results[0][key], results[1][key]
        values = [_strict_json(text) for text in first]
        if first != second:
            drop(task, "the outputs are not deterministic")
        elif any(value is _NOT_JSON for value in values):
            drop(task, "an output is not a JSON value")
        elif len(set(first)) < MIN_DISTINCT:
            drop(task, f"fewer than {MIN_DISTINCT} different outputs")
        else:
            tests = tuple(TestCase(*pair, "functional") for pair in zip(inputs[key], first, strict=True))
            made[task.task_id] = MadeTests(tests, "", all(_rounded(value) for value in values))
    return made


# ---------------------------------------------------------------- runs in the sandbox


@dataclass(frozen=True)
class _Run:
    """One program and its inputs. Its outputs are captured, not judged."""

    key: str
    code: str
    inputs: tuple[str, ...]
    func_name: str | None


def _generator_run(task: Task, parameters: Signature, count: int, seed: int, number: int) -> _Run:
    # The reference comes first: generators use its imports and functions.
    driver = _DRIVER.replace("{generator}", GENERATOR)
    code = "\n\n".join([_state(number) + task.reference, "from random import Random", task.generator, driver])
    first = int(content_hash(str(seed), task.task_id, digits=8), 16)
    request = json.dumps([first, DRAWS * count, parameters.names, parameters.required])
    return _Run(task.task_id, code, (request,), None)


def _reference_run(task: Task, inputs: list[str], number: int) -> _Run:
    return _Run(task.task_id, _state(number) + task.reference, tuple(inputs), ENTRY_POINT)


def _state(number: int) -> str:
    return _OTHER_STATE if number else ""


def _captured(judge: Judge, runs: list[_Run]) -> tuple[dict[str, list[str]], dict[str, str]]:
    """The output (or the returned value as canonical JSON) of each program on each input, and errors of failed runs."""
    outputs: dict[str, dict[str, str]] = {run.key: {} for run in runs}
    failures: dict[str, str] = {}

    def capture(key: str) -> Callable[[str, str, str], bool]:
        def keep(given: str, wanted: str, output: str) -> bool:
            outputs[key][given] = output  # overwritten if a run is repeated
            return True

        return keep

    tasks = (
        JudgeTask(
            run.key,
            run.code,
            tuple(TestCase(text, "null", "functional" if run.func_name else "stdin") for text in run.inputs),
            run.func_name,
            capture(run.key),
        )
        for run in runs
    )
    for result in judge.evaluate(tasks):
        if result.verdict is not Verdict.AC:
            failures[result.key] = _kind(result.verdict, result.error)
    whole = (run for run in runs if run.key not in failures)
    return {run.key: [outputs[run.key][text] for text in run.inputs] for run in whole}, failures


def _kind(verdict: Verdict, error: str) -> str:
    """The verdict and the name of the exception, if any. Such texts are few, so that they can be counted."""
    name = error.split(":")[0]
    return f"{verdict} {name}" if verdict is Verdict.RE and name.isidentifier() else str(verdict)


# ---------------------------------------------------------------- outputs


def _distinct_inputs(output: str, count: int) -> list[list[str]]:
    """The first ``count`` different argument lists of a generator's output, each argument as JSON text."""
    kept: dict[str, list[str]] = {}
    for line in output.split("\n")[-DRAWS * count :]:  # earlier lines are printed when the reference is loaded
        try:
            arguments = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(arguments, list) and all(isinstance(text, str) for text in arguments):
            kept.setdefault(line, arguments)
    return list(kept.values())[:count]


_NOT_JSON = object()


def _strict_json(text: str) -> Any:
    """The value of a canonical text; ``_NOT_JSON`` if it contains infinity, a nested tuple, a set or an object."""

    def refuse(constant: str) -> Any:
        raise ValueError(constant)

    try:
        return json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError):
        return _NOT_JSON


def _rounded(value: Any) -> bool:
    """Whether another way of computing the same number is likely to give the same float."""
    if isinstance(value, float):
        return value == round(value, 6)
    if isinstance(value, list):
        return all(map(_rounded, value))
    return all(map(_rounded, value.values())) if isinstance(value, dict) else True
