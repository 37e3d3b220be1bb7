"""Tests made from references: tasks kept, tasks left out, and reasons. No task's code runs in this process."""

from __future__ import annotations

import dataclasses
import gzip
import json

import pytest

from dreamprm_jax.config import SandboxConfig
from dreamprm_jax.problems import codeio
from dreamprm_jax.problems.codeio import Task, difficulty, problem, read_tasks, signature
from dreamprm_jax.problems.codeio_tests import make_tests
from dreamprm_jax.runs.journal import Journal
from dreamprm_jax.sandbox import Judge, JudgeTask
from dreamprm_jax.schema import DataError, Verdict

SANDBOX = SandboxConfig(workers=2)
NUMBERS = "def generate_inputs(rng: Random):\n    return {'n': rng.randint(0, 50)}\n"
BY_CHANCE = "the outputs are not deterministic"
CLOCK = "reads the clock: runs on different days may differ"
FEW_INPUTS = "fewer than 3 different inputs that are JSON arguments"
FAILS = "the reference fails on a generated input: "
NO_JSON = "an output is not a JSON value"


def returning(value: str) -> str:
    return f"def main_solution(n):\n    return {value}\n"


# Name -> reference, generator, and the reason why the task is left out ("" if it is kept).
REFERENCES = {
    "kept": (returning("[n, n * 0.5]"), NUMBERS, ""),
    "prints": ("print('loaded')\n\ndef main_solution(n):\n    print(n)\n    return n\n", NUMBERS, ""),
    "uses the reference": (
        "LIMIT = 40\n\ndef main_solution(n=3):\n    return n % LIMIT\n",
        "def generate_inputs(rng):\n    return {'n': rng.randrange(LIMIT)}\n",
        "",
    ),
    "often optional": (
        "def main_solution(n, by=2):\n    return n * by\n",
        "def generate_inputs(rng):\n    n = rng.randint(1, 99)\n    return {'n': n, 'by': n} if n % 2 else {'n': n}\n",
        "",
    ),
    "unrounded": (returning("n / 7"), NUMBERS, ""),
    "random": ("import random\n\n" + returning("random.random()"), NUMBERS, BY_CHANCE),
    "hashes": (returning("list({'a' + str(n), 'b' + str(n), 'c', 'd'})"), NUMBERS, BY_CHANCE),
    "addresses": (returning("id(object())"), NUMBERS, BY_CHANCE),
    "clock": ("import time\n\n" + returning("n + time.time() // 10 ** 12"), NUMBERS, CLOCK),
    "date": ("from datetime import *\n\n" + returning("n + date.today().year"), NUMBERS, CLOCK),
    "imported clock": ("from time import time\n\n" + returning("n + time() // 10 ** 12"), NUMBERS, CLOCK),
    "random inputs": (
        returning("n"),
        "import random\n\ndef generate_inputs(rng):\n    return {'n': random.randint(0, 10 ** 9)}\n",
        "the inputs are not deterministic",
    ),
    "two outputs": (returning("n > 3"), NUMBERS, "fewer than 3 different outputs"),
    "one input": (returning("n"), "def generate_inputs(rng):\n    return {'n': 1}\n", FEW_INPUTS),
    "other names": (returning("n"), "def generate_inputs(rng):\n    return {'m': rng.random()}\n", FEW_INPUTS),
    "sets": (returning("n"), "def generate_inputs(rng):\n    return {'n': {rng.random()}}\n", FEW_INPUTS),
    "no generator": (returning("n"), "x = 1\n", FEW_INPUTS),
    "ends at once": ("import sys\nsys.exit(0)\n\n" + returning("n"), NUMBERS, FEW_INPUTS),
    "broken generator": (returning("n"), "1 / 0\n", "the input generator fails: RE ZeroDivisionError"),
    "infinity": (returning("[n, float('inf')]"), NUMBERS, NO_JSON),
    "inner tuple": (returning("[(n, n)]"), NUMBERS, NO_JSON),
    "raises": (returning("1 / (n % 2)"), NUMBERS, FAILS + "RE ZeroDivisionError"),
    "opens": (returning("open('/tmp/x', 'w')"), NUMBERS, FAILS + "RE PermissionError"),
    "endless": ("def main_solution(n):\n    while True: pass\n", NUMBERS, FAILS + "TLE"),
    "keywords": (
        "def main_solution(*, n):\n    return n\n", NUMBERS, "the entry point has non-positional parameters",
    ),
    "nothing": ("def main_solution():\n    return 1\n", NUMBERS, "the entry point takes no parameter"),
}  # fmt: skip


def task(name: str) -> Task:
    reference, generator, _ = REFERENCES[name]
    return Task(f"codeio/{name}", "Do it.", "Input: n.", reference, generator, 7)


TASKS = [task(name) for name in REFERENCES]


@pytest.fixture(scope="module")
def made():
    return {one.task_id.removeprefix("codeio/"): result for one, result in make_tests(TASKS, 8, 0, SANDBOX)}


def test_what_becomes_of_each(made):
    assert list(made) == list(REFERENCES)
    for name, (_, _, reason) in REFERENCES.items():
        assert made[name].reason == reason, name
        assert len(made[name].tests) == (0 if reason else 8), name


def test_the_references_pass_their_tests_in_a_plain_judge(made):
    kept = [name for name, (_, _, reason) in REFERENCES.items() if not reason]
    with Judge(workers=2) as judge:
        tasks = [JudgeTask(name, REFERENCES[name][0], made[name].tests, "main_solution") for name in kept]
        assert {result.key: result.verdict for result in judge.evaluate(tasks)} == dict.fromkeys(kept, Verdict.AC)


def test_the_tests_themselves(made):
    first = made["kept"].tests[0]
    n = json.loads(first.input)
    assert (first.testtype, json.loads(first.output)) == ("functional", [n, n * 0.5])
    assert len({test.input for test in made["kept"].tests}) == 8
    assert {len(test.input.split("\n")) for test in made["often optional"].tests} == {1, 2}
    assert (made["kept"].rounded, made["unrounded"].rounded) == (True, False)


def test_the_journal_is_asked_first_and_seeds_differ(made, tmp_path):
    some = [task("kept"), task("two outputs")]
    with Journal(tmp_path / "tests.journal") as journal:
        first = dict(make_tests(some, 8, 0, SANDBOX, journal))
        assert first == {one: made[one.task_id.removeprefix("codeio/")] for one in some}
        assert len(journal) == 2
        again = dict(make_tests(some, 8, 0, SandboxConfig(tier="FULL", workers=99), journal))  # starts no worker
        assert again == first
        other = dict(make_tests(some[:1], 8, 1, SANDBOX, journal))
    assert other[some[0]].tests != first[some[0]].tests


def test_the_sandboxs_own_failures(made, tmp_path, monkeypatch):
    """Repeated runs count once. A task on which the sandbox fails is left out, and is tried again next time."""
    evaluate = Judge.evaluate
    one = task("kept")

    def failing(self, tasks):
        for result in evaluate(self, tasks):
            yield dataclasses.replace(result, verdict=Verdict.SANDBOX_ERROR, error="worker ended")

    def repeating(self, tasks):
        tasks = list(tasks)
        for each in tasks:
            each.checker(each.tests[0].input, "null", "0")  # as if a child was lost after its first test
        return evaluate(self, tasks)

    with Journal(tmp_path / "tests.journal") as journal:
        monkeypatch.setattr(Judge, "evaluate", failing)
        ((_, left_out),) = make_tests([one], 8, 0, SANDBOX, journal)
        assert left_out.reason == "the input generator fails: SANDBOX_ERROR"
        assert len(journal) == 0
        monkeypatch.setattr(Judge, "evaluate", repeating)
        assert list(make_tests([one], 8, 0, SANDBOX, journal)) == [(one, made["kept"])]


def test_the_problem(made):
    one = task("often optional")
    found = problem(one, signature(one), made["often optional"].tests)
    assert found.statement == "Do it.\n\nInput: n.\n"
    assert (found.starter_code, found.func_name) == ("def main_solution(n, by=2):\n", "main_solution")
    assert (len(found.public_tests), len(found.private_tests)) == (3, 5)
    assert [difficulty(rating) for rating in (0, 6, 7, 8, 9)] == ["medium", "easy", "medium", "medium", "hard"]


def test_reading_the_file(tmp_path):
    path = tmp_path / "codeio.jsonl.gz"
    row = {
        "task_description": "d",
        "input_output_spec": "s",
        "code_sample": "c",
        "input_generator": "g",
        "difficulty": 8,
    }
    path.write_bytes(gzip.compress((json.dumps(row) + "\n" + json.dumps({**row, "difficulty": None}) + "\n").encode()))
    assert read_tasks(path) == [Task("codeio/0000", "d", "s", "c", "g", 8), Task("codeio/0001", "d", "s", "c", "g", 0)]
    path.write_bytes(gzip.compress(b'{"task_description": 3}\n'))
    with pytest.raises(DataError, match=r"row 1, field task_description: must be a string, not a number"):
        read_tasks(path)
    path.write_bytes(b"not gzip")
    with pytest.raises(DataError, match="cannot be read"):
        read_tasks(path)


def test_a_missing_package_comes_with_the_command(monkeypatch):
    monkeypatch.setattr(codeio, "DISTRIBUTION", "reasoning-gym-that-nobody-has")
    with pytest.raises(DataError, match=r"run: pip install --no-deps reasoning-gym-that-nobody-has==0\.1\.25"):
        read_tasks()
