"""HumanEval, MBPP, evalplus and BigCodeBench rows: reading, judging of the references, omissions, conversion."""

from __future__ import annotations

import dataclasses
import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dreamprm_jax.cli.main import main
from dreamprm_jax.config import Config, PolicyConfig, ProblemsConfig, SandboxConfig
from dreamprm_jax.problems.function_rows import FunctionProblem, read_function_row
from dreamprm_jax.problems.humaneval import read_humaneval
from dreamprm_jax.problems.problem_files import iterate_problems, load_problems
from dreamprm_jax.problems.source import load_windows
from dreamprm_jax.runs.fingerprint import fingerprint
from dreamprm_jax.sandbox import Judge, JudgeTask
from dreamprm_jax.schema import DataError, Skip, TestCase, Verdict
from dreamprm_jax.scoring.inputs import Item, read_items, read_problems

PROMPT = '''from typing import List


def helper(x):
    """Not this."""
    return x


def double(values: List[int], by: int = 2) -> List[int]:
    """ Multiplies every value.
    >>> double([1, 2])
    [2, 4]
    """
'''
PLAIN = "def check(candidate):\n    assert candidate([1, 2]) == [2, 4]\n"
CHECKS = {
    "": PLAIN,
    "the check has more than assertions: For": PLAIN
    + "    for i in range(3):\n        assert candidate([i]) == [2 * i]\n",
    "an assertion compares with Lt, not with ==": PLAIN + "    assert abs(candidate([1])[0] - 2) < 1e-6\n",
    "an assertion compares no value": PLAIN + "    assert not candidate([])\n",
    "an assertion is not about the function's value itself": PLAIN + "    assert list(candidate([1])) == [2]\n",
    "an argument or an expected value is not a literal": PLAIN + "    assert candidate(list(range(3))) == [0, 2, 4]\n",
    "a tuple, which JSON cannot distinguish from a list": PLAIN + "    assert candidate((1, 2)) == [2, 4]\n",
    "the function is called with keywords": PLAIN + "    assert candidate([1], by=3) == [3]\n",
    "the check asserts nothing": "def check(candidate):\n    assert True\n",
}


def humaneval(number: int = 0, check: str = PLAIN, **changes: Any) -> dict[str, Any]:
    return {
        "task_id": f"HumanEval/{number}", "prompt": PROMPT, "entry_point": "double", "test": check,
        "canonical_solution": "    return [helper(value) * by for value in values]\n",
    } | changes  # fmt: skip


def evalplus(**changes: Any) -> dict[str, Any]:
    return humaneval(1, base_input=[[[1, 2]], [[]]], plus_input=[[[0.1], 3]], atol=0, contract="") | changes


def mbpp(number: int = 2, **changes: Any) -> dict[str, Any]:
    return {
        "task_id": number, "text": "Write a function to add.", "code": "def add(a, b):\r\n  return a + b",
        "test_setup_code": "", "test_list": ["assert add(1, 2)==3", "assert add([1], [2]) == [1, 2] "],
        "challenge_test_list": ["assert add('a', 'b') == 'ab'"],
    } | changes  # fmt: skip


UNITTEST = """
import unittest
from unittest.mock import patch

class TestCases(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.ready = True
    def setUp(self):
        self.values = [1, 2]
    def test_sum(self):
        self.assertTrue(self.ready)
        self.assertEqual(task_func(self.values), 6.0)
    def test_patched(self):
        with patch("math.fsum", return_value=5.0):
            with self.subTest("five"):
                self.assertAlmostEqual(task_func([0]), 10.0)
    @unittest.skip("not here")
    def test_skipped(self):
        self.fail()
    def helper(self):
        self.fail()
"""


def bigcodebench(number: int = 0, **changes: Any) -> dict[str, Any]:
    code = "import math\ndef task_func(values):\n"
    return {
        "task_id": f"BigCodeBench/{number}", "entry_point": "task_func", "test": UNITTEST, "libs": "['math']",
        "complete_prompt": code + '    """\n    Doubles the sum.\n    """\n', "code_prompt": code,
        "instruct_prompt": "Doubles the sum.\nYou should write self-contained code starting with:\n```\nimport\n```",
        "canonical_solution": "    return 2 * math.fsum(values)\n", "doc_struct": "{}",
    } | changes  # fmt: skip


def read(row: dict[str, Any]) -> FunctionProblem:
    return read_function_row(row, "f.jsonl, row 1")


@pytest.fixture(scope="module")
def judge():
    with Judge(workers=1) as one:
        yield one


def verdicts(judge: Judge, found: FunctionProblem, *programs: str) -> list[Verdict]:
    problem = found.problem
    tasks = (JudgeTask("", code, problem.tests, problem.func_name) for code in programs)
    return [result.verdict for result in judge.evaluate(tasks)]


@pytest.mark.parametrize("reason", CHECKS)
def test_checks_are_data_where_they_can_be_and_code_otherwise(judge, reason):
    found = read(humaneval(check=CHECKS[reason]))
    assert found.code_reason == reason
    assert {test.testtype for test in found.problem.tests} == {"code" if reason else "functional"}
    wrong = found.reference.replace("helper(value) * by", "by")
    assert verdicts(judge, found, found.reference, wrong) == [
        Verdict.AC, Verdict.AC if "nothing" in reason else Verdict.WA,
    ]  # fmt: skip


def test_a_humaneval_problem():
    check = (
        'def check(candidate):\n    import math\n    print\n    assert True, "easy"\n'
        '    assert candidate([1, 2], 3 * 1) == [3, 6], "three"\n    assert candidate([2**3], -1) == [-8]\n'
        "    assert candidate([]) == None\n"
    )
    found = read(humaneval(check=check))
    assert found.problem.public_tests == (
        TestCase("[1, 2]\n3", "[3, 6]", "functional"),
        TestCase("[8]\n-1", "[-8]", "functional"),
    )
    assert found.problem.private_tests == (TestCase("[]", "null", "functional"),)
    assert found.problem.statement == "Multiplies every value.\n>>> double([1, 2])\n[2, 4]\n"
    assert found.problem.starter_code == PROMPT.split('    """ Mult')[0]
    assert compile(found.reference, "reference", "exec")


def test_evalplus_inputs_are_compared_as_evalplus_does(judge):
    found = read(evalplus())
    assert [test.testtype for test in found.problem.private_tests] == ["code", "code"]
    near = found.reference.replace("helper(value) * by", "(value + value + value if by == 3 else by * value)")
    far = found.reference.replace("* by", "* by + 0.01")
    changes_input = found.reference.replace("return [", "values.append(1); return [")
    raises = found.reference.replace("return [helper", "return [missing")
    assert verdicts(judge, found, found.reference, near, far, changes_input, raises) == [
        Verdict.AC, Verdict.AC, Verdict.WA, Verdict.WA, Verdict.RE,
    ]  # fmt: skip
    root = 'def find_zero(xs):\n    """A root."""\n'
    row = evalplus(prompt=root, entry_point="find_zero", canonical_solution="    return -xs[0] / xs[1]\n", atol=1e-4,
                   base_input=[[[2, 1]]], plus_input=[[[1, 2]]])  # fmt: skip
    assert verdicts(judge, read(row), root + "    return -xs[0] / xs[1] + 1e-6\n", root + "    return 1\n") == [
        Verdict.AC, Verdict.WA,
    ]  # fmt: skip


def test_mbpp_problems(judge):
    plain = read(mbpp())
    assert (plain.problem.problem_id, plain.problem.func_name, plain.code_reason) == ("Mbpp/2", "add", "")
    assert [len(plain.problem.public_tests), len(plain.problem.private_tests)] == [1, 2]
    assert plain.problem.statement == (
        "Write a function to add.\n\nYour code should pass this test:\n\nassert add(1, 2)==3\n"
    )
    tuples = read(mbpp(test_list=["assert add((1,), (2,)) == (1, 2)"], challenge_test_list=None))
    sanitized = {
        "prompt": "Add.",
        "test_imports": ["import math"],
        "test_list": ["assert math.isclose(add(.1, .2), .3)"],
    }
    imports = read({k: v for k, v in (mbpp() | sanitized).items() if k not in ("text", "challenge_test_list")})
    plus = read(mbpp(test="import numpy as np\nfor a, b in [(1, 1)]:\n    assert np.allclose(add(a, b), a + b)\n"))
    assert [len(one.problem.tests) for one in (tuples, imports, plus)] == [1, 1, 4]
    lists = "def add(a, b):\n    return list(a) + list(b) if isinstance(a, tuple) else a + b\n"
    for found, other in ((plain, Verdict.AC), (tuples, Verdict.WA), (imports, Verdict.AC), (plus, Verdict.AC)):
        assert verdicts(judge, found, found.reference, lists, "def add(a, b):\n    return 0\n") == [
            Verdict.AC, other, Verdict.WA,
        ]  # fmt: skip


def test_bigcodebench_problems(judge):
    found = read(bigcodebench())
    assert found.problem.statement == "Doubles the sum.\n"
    assert found.problem.starter_code == "import math\ndef task_func(values):\n"
    assert len(found.problem.private_tests) == 3
    wrong = found.reference.replace("2 *", "3 *")
    exits = found.reference + "\nraise SystemExit(0)\n"
    # Does not import os. The name is defined nevertheless, as in the official evaluator.
    forgets = found.reference.replace("return", "assert os.sep\n    return")
    assert verdicts(judge, found, found.reference, forgets, wrong, exits, "def other():\n    pass\n") == [
        Verdict.AC, Verdict.AC, Verdict.WA, Verdict.RE, Verdict.RE,
    ]  # fmt: skip
    with Judge(mode="lcb", workers=1) as official:
        assert verdicts(official, found, found.reference, wrong) == [Verdict.AC, Verdict.WA]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (humaneval(entry_point="missing"), "(task_id HumanEval/0): the prompt does not define missing"),
        (humaneval(entry_point="a b"), "field entry_point: 'a b' is not a function's name"),
        (humaneval(prompt="def f(:"), "not a Python program"),
        (humaneval(canonical_solution=None), "field canonical_solution: must be a string, not null"),
        (evalplus(base_input={"x": 1}), "field base_input: not a list of lists of arguments"),
        (evalplus(task_id="Mbpp/3"), "lose tuples and sets; read its Parquet rows"),
        (mbpp(test_list="assert add(1, 2) == 3"), "field test_list: must be a list of strings, not a string"),
        (mbpp(test_list=[], challenge_test_list=[]), "field test_list: empty"),
        (mbpp(test_list=["assert other(1)"], challenge_test_list=[]), "calls no function that field code defines"),
        (mbpp(test_list=["assert ("]), "(task_id Mbpp/2): not a Python program"),
        (mbpp(test_list=["-" * 100_000 + "1"]), "(task_id Mbpp/2): not a Python program"),
        (mbpp(test_list=["assert '\ud800'"]), "field test_list: contains a lone surrogate"),
        (mbpp(test_setup_code=True), "field test_setup_code: must be a string, not a boolean"),
        (bigcodebench(canonical_solution="    import pandas as pd, seaborn.x\n"), "needs pandas, seaborn; sandbox"),
        (bigcodebench(test="x = 1\n"), "field test: has no test method"),
        (bigcodebench(task_id=True), "field task_id: must be a string, not a boolean"),
    ],
)  # fmt: skip
def test_rows_that_cannot_be_used_say_why(row, message):
    with pytest.raises(DataError) as error:
        read(row)
    assert str(error.value).startswith("f.jsonl, row 1")
    assert message in str(error.value)


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    lines = [json.dumps(row) for row in rows]
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".json":
        path.write_text(f"[{','.join(lines)}]")
    else:
        data = ("\ufeff" + "\r\n\n".join(lines)).encode()
        path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.mark.parametrize("name", ["p.jsonl", "p.jsonl.gz", "p.json", "p.parquet"])
def test_every_kind_of_file_gives_the_same_problems(tmp_path, name):
    rows = [humaneval(0), humaneval(1, CHECKS["an assertion compares no value"])]
    expected = [read(row).problem for row in rows]
    assert load_problems(str(write(tmp_path / name, rows))) == expected
    assert load_problems(str(tmp_path)) == expected  # the whole folder


def test_one_bad_row_is_a_named_skip(tmp_path):
    rows = [humaneval(0), humaneval(0), bigcodebench(test="import torch\n"), mbpp(3), {"task_id": "x"}, mbpp(4, code=3)]
    path = write(tmp_path / "p.jsonl", rows)
    path.write_bytes(path.read_bytes() + b'\n{"task_id": "HumanEval/9", "prom')
    skips: list[Skip] = []
    found = list(iterate_problems(str(path), skips=skips))
    assert [problem.problem_id for problem in found] == ["HumanEval/0", "Mbpp/3"]
    rows = [("p.jsonl", "row", number) for number in ("3", "5", "9", "11", "12")]
    assert [(skip.source, *skip.row.split()[:2]) for skip in skips] == rows
    assert skips[1].row == "row 5 (task_id BigCodeBench/0)"
    for skip, word in zip(
        skips, ("is also at", "needs torch", "unknown format", "field code", "valid JSON"), strict=True
    ):
        assert word in skip.reason
    with pytest.raises(DataError, match=r"p\.jsonl, row 3: .*HumanEval/0' is also at"):
        list(iterate_problems(str(path)))
    with pytest.raises(DataError, match=r"contains no problem; row 1: unknown format"):
        list(iterate_problems(str(write(tmp_path / "q.jsonl", [{"task_id": "x"}])), skips=[]))


def test_a_run_leaves_bad_rows_out_and_names_them(tmp_path, capsys):
    path = write(tmp_path / "p.jsonl", [*map(humaneval, range(6)), bigcodebench(test="import torch\n" + UNITTEST)])
    problems = ProblemsConfig(source="file", path=str(path), train_count=2, meta_count=2, test_count=2)
    config = Config(problems=problems, policy=PolicyConfig(kind="replay"))
    windows, _ = load_windows(config, tmp_path / "tests.parquet", tmp_path)
    assert {name: len(rows) for name, rows in windows.items()} == {"train": 2, "meta": 2, "test": 2}
    assert "needs torch" in (tmp_path / "skipped_problems.csv").read_text()
    assert "1 of 7 problems left out" in capsys.readouterr().out
    offered = dataclasses.replace(config, sandbox=SandboxConfig(packages=("torch",)))
    windows, _ = load_windows(offered, tmp_path / "tests.parquet", tmp_path)
    assert "7 problems; windows drawn" in capsys.readouterr().out
    assert fingerprint(offered, "generate") != fingerprint(config, "generate")
    assert set(read_problems(str(path), "")) == {f"HumanEval/{n}" for n in range(6)} | {"BigCodeBench/0"}
    strict = Config(problems=ProblemsConfig(source="file", path=str(path), strict=True), policy=config.policy)
    with pytest.raises(DataError, match=r"p\.jsonl, row 13 .*needs torch"):
        load_windows(strict, tmp_path / "tests.parquet", tmp_path)


def test_problems_are_converted_verified_and_judged(tmp_path, capsys):
    broken = bigcodebench(1, canonical_solution="    open('/tmp/x', 'w')\n")
    plain = write(tmp_path / "p.jsonl", [humaneval(0), mbpp(2), bigcodebench(0), broken])
    output = tmp_path / "converted.jsonl"
    assert main(["convert", f"--problems={plain}", "--verify", "--workers=1", f"--output={output}"]) == 0
    said = capsys.readouterr().out
    assert "left out: reference, BigCodeBench/1: its reference solution fails here: RE" in said
    assert f"3 problems (tests: 2 functional, 1 code) written to {output}; 1 left out" in said
    problems = load_problems(str(output))
    assert all(0 < problem.reference_seconds < 5 for problem in problems)  # measured
    problems = [dataclasses.replace(problem, reference_seconds=0.0) for problem in problems]
    assert problems == load_problems(str(plain))[:3]
    assert main(["convert", f"--problems={output}", f"--output={tmp_path / 'c.parquet'}"]) == 0
    assert load_problems(str(tmp_path / "c.parquet")) == load_problems(str(output))

    samples = write(tmp_path / "samples.jsonl", [
        {"task_id": "HumanEval/0", "completion": humaneval()["canonical_solution"]},
        {"task_id": 2, "solution": "def add(a, b):\n    return a - b\n"},
        {"task_id": "BigCodeBench/0", "solution": read(bigcodebench()).reference},
    ])  # fmt: skip
    verdict_file = tmp_path / "verdicts.jsonl"
    for problems in (output, tmp_path / "c.parquet"):
        arguments = [f"--problems={problems}", f"--candidates={samples}", f"--output={verdict_file}", "--workers=1"]
        assert main(["judge", *arguments, "--mode=faithful"]) == 0
        rows = [json.loads(line) for line in verdict_file.read_text().splitlines()]
        assert [row["verdict"] for row in rows] == ["AC", "WA", "AC"]
    for name in ("w.jsonl", "w.json", "w.parquet"):
        arguments = [f"--candidates={samples}", f"--problems={plain}", f"--output={tmp_path / name}"]
        assert main(["convert", *arguments]) == 0
        assert main(["judge", f"--problems={plain}", f"--candidates={tmp_path / name}", "--workers=1"]) == 0
        assert "passed 2 of 3" in capsys.readouterr().out


def test_scoring_reads_samples_too(tmp_path):
    plain = write(tmp_path / "p.jsonl", [humaneval(0), humaneval(1, prompt=None), mbpp(2)])
    skips: list[Skip] = []
    problems = read_problems(str(plain), "", skips)
    assert [skip.row for skip in skips] == ["row 3 (task_id HumanEval/1)"]
    body = humaneval()["canonical_solution"]
    samples = write(
        tmp_path / "s.parquet", [{"task_id": "HumanEval/0", "completion": body}, {"task_id": "x", "completion": ""}]
    )
    first, other = read_items(samples, problems, "s", 1000)
    assert isinstance(first, Item)
    assert first.code == problems["HumanEval/0"].starter_code + body
    assert isinstance(other, Skip)
    assert "'x' is not in the problems file" in other.reason


def test_the_installed_humaneval():
    try:
        found = read_humaneval()
    except DataError as error:
        pytest.skip(str(error))
    assert (len(found), sum(not one.code_reason for one in found)) == (164, 139)
    with Judge(workers=2) as judge:
        results = judge.evaluate(
            JudgeTask(one.problem.problem_id, one.reference, one.problem.tests, one.problem.func_name) for one in found
        )
        assert [result.key for result in results if result.verdict is not Verdict.AC] == []
