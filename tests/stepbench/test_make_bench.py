"""A benchmark made in the sandbox from small tasks: its content, reproducible bytes, resumption after a stop."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from stepbench_toy import TASKS, task

from dreamprm_jax.cof.splitter import split_steps
from dreamprm_jax.config import SandboxConfig
from dreamprm_jax.problems.codeio import read_tasks
from dreamprm_jax.runs.journal import Journal
from dreamprm_jax.sandbox import Judge, JudgeTask
from dreamprm_jax.schema import DataError, Verdict, program_hash
from dreamprm_jax.stepbench.make import make_bench, split_of, unsuitable
from dreamprm_jax.stepbench.records import CLEAN, BenchPaths, read_bench
from dreamprm_jax.stepbench.trial import close_enough

SANDBOX = SandboxConfig(workers=2)
FILES = ("problems.parquet", "programs.parquet", "truth.parquet", "card.json", "README.md")
ALONE = task("def main_solution(values, limit):\n    return values[:limit]\n", number=20)
FOREIGN = task(
    "import numpy\n\ndef f(a):\n    return a\n\ndef main_solution(values, limit):\n    return 1\n", number=21
)
CONSTANT = task("def f():\n    return 1\n\ndef main_solution(values, limit):\n    return f()\n", number=22)
EVERYTHING = [*TASKS, ALONE, FOREIGN, CONSTANT]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, dict]:
    root = tmp_path_factory.mktemp("bench")
    return root, make_bench(root, 3, 12, SANDBOX, EVERYTHING)


def test_what_is_in_it(made):
    root, card = made
    bench = read_bench(root)
    assert card["programs"] == {"all": 12, "erroneous": 8, "clean": 4, "problems": 4}
    assert {p.problem_id for p in bench.programs} == set(bench.problems) == {t.task_id for t in TASKS}
    references = {t.task_id: t.reference for t in TASKS}
    for program in bench.programs:
        truth, reference = bench.truth[program.program_hash], references[program.problem_id]
        steps = split_steps(program.code)
        assert program.program_hash == program_hash(program.problem_id, program.code)
        assert truth.step_ends == tuple(step.end for step in steps)
        assert truth.split == split_of(program.problem_id)
        if truth.operator == CLEAN:
            assert (program.code, truth.first_wrong, truth.verdict) == (reference, -1, "AC")
        else:
            assert program.code[: truth.start] + truth.before + program.code[truth.end :] == reference
            assert program.code[truth.start : truth.end] == truth.after
            assert steps[truth.first_wrong].start <= truth.start <= steps[truth.first_wrong].end
            assert steps[truth.first_wrong].name == truth.function
            assert truth.verdict in ("WA", "RE", "TLE")
    assert len({t.operator for t in bench.truth.values()}) >= 6  # each of 8 mutants has the rarest operator so far


def test_the_judge_says_the_same_of_the_written_files(made):
    """A plain judge with the tolerance agrees: clean programs pass the stored tests, and erroneous programs fail."""
    bench = read_bench(made[0])
    with Judge(workers=2) as judge:
        tasks = [
            JudgeTask(p.program_hash, p.code, bench.problems[p.problem_id].tests, "main_solution", close_enough)
            for p in bench.programs
        ]
        for result in judge.evaluate(tasks):
            assert (result.verdict is Verdict.AC) == (bench.truth[result.key].first_wrong == -1)


def test_the_card_counts_everything(made):
    root, card = made
    assert card == json.loads(BenchPaths(root).card.read_text())
    assert card["left_out"] == {
        "fewer than two functions": 1,
        "imports beyond the standard library: numpy": 1,
        "no tests: fewer than 3 different outputs": 1,
    }
    assert card["tasks"] == {"in the source": 7, "used": 4, "left out": 3, "not needed for this size": 0}
    run, used = card["mutants"]["run"], card["mutants"]["in the benchmark"]
    assert run == card["mutants"]["shown by a test"] + card["mutants"]["survived"] + card["mutants"]["no verdict"]
    assert (run, used) == (sum(o["run"] for o in card["operators"].values()), 8)
    assert sum(card["place"].values()) == sum(card["first_wrong"].values()) == sum(card["verdicts"].values()) == 8
    assert sum(card["steps"].values()) == 12
    assert "| fewer than two functions | 1 |" in BenchPaths(root).readme.read_text()


def test_the_same_bytes_after_a_stop_and_with_other_workers(made, tmp_path, monkeypatch):
    root, _ = made
    put, left = Journal.put, [15]

    def stopping(self, key, value):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return put(self, key, value)

    monkeypatch.setattr(Journal, "put", stopping)
    with pytest.raises(KeyboardInterrupt):
        make_bench(tmp_path, 3, 12, SANDBOX, EVERYTHING)
    monkeypatch.undo()
    assert not BenchPaths(tmp_path).card.exists()
    with pytest.raises(DataError, match="no StepBench here"):
        read_bench(tmp_path)
    make_bench(tmp_path, 3, 12, SandboxConfig(workers=1), EVERYTHING[::-1])
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (root / name).read_bytes(), name


def test_another_seed_gives_another_benchmark(made, tmp_path):
    make_bench(tmp_path, 4, 4, SANDBOX, TASKS[:2])
    hashes = {program.program_hash for program in read_bench(made[0]).programs}
    other = [program.program_hash for program in read_bench(tmp_path).programs]
    assert len(other) == 4
    assert set(other) - hashes


def test_sizes_out_of_reach(tmp_path):
    with pytest.raises(DataError, match=r"--size 1: at least 2"):
        make_bench(tmp_path, 0, 1, SANDBOX, TASKS)
    with pytest.raises(DataError, match=r"--size 90: 1 problems give 1 clean programs and 4 .*largest size is 5"):
        make_bench(tmp_path, 0, 90, SANDBOX, TASKS[:1])


@pytest.mark.parametrize(
    ("output", "close"),
    [
        ("[1,2.0000001]", True), ("[1,2.1]", False), ("[true,2]", False), ("[1,2,3]", False), ("?", False),
        ("[1,0x10]", False), ("{}", False),
    ],
)  # fmt: skip
def test_the_tolerance(output, close):
    try:
        said = close_enough("", "[1,2]", output)
    except ValueError:  # the judge treats this as a wrong answer
        said = False
    assert said is close


def test_unsuitable_references():
    assert unsuitable("import os, json\nfrom . import x\n\ndef f():\n    pass\n\ndef g():\n    pass\n").endswith(
        "relative"
    )
    assert unsuitable("def f(:\n").startswith("cannot be mapped: not Python")
    assert unsuitable(TASKS[0].reference) == ""


@pytest.mark.slow
def test_a_small_benchmark_of_the_installed_package(tmp_path):
    try:
        tasks = read_tasks()
    except DataError as error:
        pytest.skip(str(error))
    assert len(tasks) == 3002
    card = make_bench(tmp_path, 0, 8, SANDBOX, [task for task in tasks if not unsuitable(task.reference)][:8])
    assert card["programs"] == {"all": 8, "erroneous": 4, "clean": 4, "problems": 4}
    assert card["mutants"]["no verdict"] == 0
