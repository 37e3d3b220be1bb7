"""The simulated policy: it continues its own prefixes, rejects others, is deterministic, and reveals no truth."""

import ast
import dataclasses
import json
import math
from collections import Counter

import pytest

from dreamprm_jax.cof.splitter import split_steps
from dreamprm_jax.policy.protocol import CompletionRequest, PolicyError
from dreamprm_jax.policy.simulated import SimulatedPolicy, exact_log_probability
from dreamprm_jax.problems.procedural.compose import PRIMITIVES, Composition
from dreamprm_jax.problems.procedural.writing import read, read_style
from dreamprm_jax.schema import DataError, Problem


@pytest.fixture(scope="module")
def policy(benchmark):
    return SimulatedPolicy({c.problem_id: c for _, _, c in benchmark}, wrong_rate_scale=1.5)


def complete(policy, problem, prefix="", n=3, seed=0):
    return policy.complete(CompletionRequest(problem, prefix, n, 0.3, seed))


def test_programs_are_chain_of_function(benchmark, policy):
    for _, problem, composition in benchmark[::5]:
        for answer in complete(policy, problem):
            assert (answer.finish_reason, answer.forced) == ("stop", True)
            functions = [node for node in ast.parse(answer.code).body if isinstance(node, ast.FunctionDef)]
            assert functions[0].name == "main"
            assert all(ast.get_docstring(function) for function in functions)
            written = read(composition, answer.code)
            assert written is not None
            assert written.closed
            assert len(written.forms) == len(written.plan.calls) == len(functions) - 1
            steps = split_steps(answer.code)
            assert [step.name for step in steps] == [function.name for function in functions]
            assert answer.code[steps[-1].start :].endswith("main()\n")


def test_continues_any_prefix_of_its_own(benchmark, policy):
    for _, problem, composition in benchmark[::10]:
        for program in complete(policy, problem, n=2):
            for step in split_steps(program.code):
                prefix = program.code[: step.end]
                fixed = read(composition, prefix)
                assert fixed is not None
                functions, argument = read_style(composition, prefix)
                for answer in complete(policy, problem, prefix, seed=step.index):
                    assert answer.code.startswith(prefix)
                    assert answer.forced
                    compile(answer.code, "<program>", "exec")
                    written = read(composition, answer.code)
                    assert written.closed
                    assert written.plan == fixed.plan
                    assert written.forms[: len(fixed.forms)] == fixed.forms
                    after_functions, after_argument = read_style(composition, answer.code)
                    assert functions.items() <= after_functions.items()
                    assert argument in (None, after_argument)


@pytest.mark.parametrize("prefix", ["", "import sys\n", "import sys\n\n\n"])
def test_prefix_before_main_decides_nothing(benchmark, policy, prefix):
    answers = complete(policy, benchmark[0][1], prefix, n=5)
    assert all(answer.code.startswith("import sys\n\n\ndef main():") for answer in answers)


def test_the_same_request_has_the_same_answer(benchmark, policy):
    _, problem, _ = benchmark[7]
    first = complete(policy, problem, n=8, seed=3)
    assert complete(policy, problem, n=8, seed=3) == first
    assert complete(policy, problem, n=3, seed=3) == first[:3]
    assert complete(policy, problem, n=8, seed=4) != first
    assert len({answer.code for answer in first}) > 3


def test_prefix_of_nobody_is_refused(benchmark, policy):
    _, problem, _ = benchmark[2]
    (program,) = complete(policy, problem, n=1)
    steps = split_steps(program.code)
    one_helper = program.code[: steps[1].end]
    foreign = {
        "another program": "import math\n",
        "white space before it": "\n" + program.code[: steps[0].end],
        "main without a line": program.code[: program.code.index("    print(")],
        "main cut in a line": program.code[: program.code.index("(answer)")],
        "helper cut after its docstring": one_helper[: one_helper.rindex('"""') + 4],
        "helper of another body": one_helper.rstrip("\n") + " or None\n",
        "called before its helpers are there": one_helper + "\n\nmain()\n",
        "a function too many": program.code + "\n\ndef more():\n    pass\n",
    }
    for prefix in foreign.values():
        with pytest.raises(PolicyError, match=f"{problem.problem_id}: the prefix is not one"):
            complete(policy, problem, prefix)


def test_unknown_problem_is_refused(benchmark, policy):
    stranger = dataclasses.replace(benchmark[0][1], problem_id="atcoder-1")
    with pytest.raises(PolicyError, match="does not know problem 'atcoder-1'"):
        complete(policy, stranger)


def test_mistakes_follow_the_scale(benchmark):
    compositions = {c.problem_id: c for _, _, c in benchmark}
    wrong = {}
    for scale in (0.0, 1.0, 2.0):
        policy = SimulatedPolicy(compositions, scale)
        written = [read(c, a.code) for _, p, c in benchmark[:40] for a in complete(policy, p, n=5)]
        wrong[scale] = sum(form != 0 for w in written for form in w.forms) / sum(len(w.forms) for w in written)
    assert wrong[0.0] == 0.0
    assert 0.1 < wrong[1.0] < wrong[2.0] < 0.45


def test_what_training_sees_holds_no_composition(benchmark):
    """Neither the rows nor the statement name the primitives or the policy's ability on the problem."""
    columns = {field.name for field in dataclasses.fields(Problem)}
    assert not columns & {field.name for field in dataclasses.fields(Composition)} - {"problem_id"}
    for _, problem, composition in benchmark:
        text = json.dumps(dataclasses.asdict(problem))
        assert not [name for name in PRIMITIVES if "_" in name and name in text]
        assert not [name for p in composition.primitives for name in p.functions if "_" in name and name in text]
        assert problem.title == "Composed task"
        assert str(composition.ability) not in problem.problem_id + problem.contest_id


def test_compositions_come_from_the_file(benchmark, tmp_path):
    path = tmp_path / "compositions.json"
    path.write_text(json.dumps([c.to_json() for _, _, c in benchmark]), encoding="utf-8")
    policy = SimulatedPolicy.from_file(path)
    assert policy.compositions == {c.problem_id: c for _, _, c in benchmark}
    assert policy.sampling(0.3) == {"temperature": 0.3, "wrong_rate_scale": 1.0}
    with pytest.raises(DataError, match=r"none\.json: no such file; the simulated policy knows only the procedural"):
        SimulatedPolicy.from_file(tmp_path / "none.json")


def test_exact_log_probabilities_are_those_of_the_distribution(benchmark):
    """The probabilities of all programs of a problem sum to one. Sample frequencies agree with the probabilities."""
    _, problem, composition = benchmark[0]
    policy = SimulatedPolicy({composition.problem_id: composition})
    answers = policy.complete(CompletionRequest(problem, "", 2000, 0.2, 0))
    choices = [read(composition, answer.code) for answer in answers]
    chance: dict[tuple, float] = {}
    for answer, written in zip(answers, choices, strict=True):
        mean = exact_log_probability(composition, answer.code)
        chance[written.plan.calls, written.forms] = math.exp(mean * (len(written.forms) + 1))
    counts = Counter((written.plan.calls, written.forms) for written in choices)
    assert 0.8 < sum(chance.values()) <= 1.0 + 1e-9  # programs that were never drawn are missing
    for one, count in counts.most_common(3):
        assert count / 2000 == pytest.approx(chance[one], abs=0.04)
    assert math.isnan(exact_log_probability(composition, "print(1)\n"))
    (rest,) = policy.complete(CompletionRequest(problem, answers[0].code, 1, 0.2, 0))
    assert rest.log_probability is None  # no choice was left


def test_reported_log_probabilities_tell_mistakes_apart_as_badly_as_a_language_model_s(benchmark, policy):
    """Correct programs (all forms right) against others of the same problem: AUROC of reported and exact values."""
    found: dict[str, list[bool]] = {"reported": [], "exact": []}
    for _, problem, composition in benchmark:
        answers = complete(policy, problem, n=12)
        written = [read(composition, answer.code) for answer in answers]
        right = [not any(one.forms) and one.plan.is_right(composition) for one in written]
        exact = [exact_log_probability(composition, answer.code, 1.5) for answer in answers]
        for name, values in (("reported", [a.log_probability for a in answers]), ("exact", exact)):
            pairs = [(i, j) for i in range(12) for j in range(12) if right[i] and not right[j]]
            found[name] += [values[i] > values[j] for i, j in pairs]
    assert len(found["exact"]) > 500
    assert 0.6 < sum(found["reported"]) / len(found["reported"]) < 0.75
    assert sum(found["exact"]) / len(found["exact"]) > 0.95
