import pytest

from dreamprm_jax.evaluation.vote_clusters import (
    Execution,
    ExecutionTask,
    clusters,
    normalized,
    recording_tasks,
    vote_inputs,
)
from dreamprm_jax.sandbox import Judge, Limits
from dreamprm_jax.schema import Problem, TestCase, Verdict

PROGRAMS = {
    "double": "print(2 * int(input()))",
    "sum": "n = int(input())\nprint(n + n, end='  \\n\\n')",  # the same output except for spaces
    "square": "print(int(input()) ** 2)",  # the same output only for 2
    "crash": "n = int(input())\nprint(1 // (n - 3))",
    "echo of the environment": "print(input())",
}


@pytest.fixture(scope="module")
def executions():
    inputs = tuple(TestCase(text, "") for text in ("2\n", "3\n", "5\n"))
    tasks = [ExecutionTask(name, code, inputs) for name, code in PROGRAMS.items()]
    tasks.append(
        ExecutionTask("function", "def f(n):\n    return n * 2", (TestCase("2", "", "functional"),), func_name="f")
    )
    with Judge(workers=1, limits=Limits(2.0, 4.0)) as judge:
        judge_tasks, execution = recording_tasks(tasks)
        rows = {result.key: execution(result) for result in judge.evaluate(judge_tasks)}
    return {key: Execution(tuple(row[1:]), Verdict(row[0])) for key, row in rows.items()}


def test_programs_are_equal_where_they_print_the_same(executions):
    groups = clusters([executions[name] for name in PROGRAMS])
    assert groups.tolist() == [0, 0, 1, -1, 2]
    assert executions["double"].outputs[0] == executions["square"].outputs[0]
    assert executions["crash"].verdict is Verdict.RE
    assert len(executions["crash"].outputs) == 1  # ran on 2, failed on 3
    assert executions["function"].ran
    assert len(executions["function"].outputs) == 1


def test_a_program_that_was_not_run_has_no_cluster(executions):
    assert clusters([None, executions["double"], None]).tolist() == [-1, 0, -1]


def test_inputs_are_the_public_ones_and_more_of_their_kind_but_no_hidden_one(benchmark):
    _, problem, composition = benchmark[0]
    hidden = {test.input for test in problem.private_tests}
    inputs = vote_inputs(problem, hidden, composition, 6, seed=0)
    assert [test.input for test in inputs[: len(problem.public_tests)]] == [t.input for t in problem.public_tests]
    assert len(inputs) == len({test.input for test in inputs}) == len(problem.public_tests) + 6
    assert not {test.input for test in inputs} & hidden
    assert all(test.output == "" for test in inputs)
    assert vote_inputs(problem, hidden, composition, 6, seed=0) == inputs
    assert vote_inputs(problem, hidden, None, 6, seed=0) == inputs[: len(problem.public_tests)]
    bare = Problem("p", "", "", "x", "c", "2025-01-01", "easy")
    assert vote_inputs(bare, set(), None, 6, seed=0) == ()


def test_normalized_output():
    assert normalized("\n a \nb\t\n\n") == "a\nb"
    assert normalized("a b") != normalized("ab")
