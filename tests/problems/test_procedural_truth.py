"""Compares the exact truth with brute force, with the real judge, and with frequencies of the simulated policy."""

import contextlib
import io
import itertools
import math
import sys

import pytest

from dreamprm_jax.cof.splitter import split_steps
from dreamprm_jax.policy.protocol import CompletionRequest
from dreamprm_jax.policy.simulated import SimulatedPolicy
from dreamprm_jax.problems.procedural.mistakes import form_probabilities, plan_probabilities, plans
from dreamprm_jax.problems.procedural.truth import Valuer, program_truth, step_truth
from dreamprm_jax.problems.procedural.writing import CALL, Style, Written, read, write_helper, write_main
from dreamprm_jax.sandbox import Judge, JudgeTask
from dreamprm_jax.schema import DataError, Program, Verdict


def text_of(composition, plan, forms):
    """The program with this plan and these forms of its functions."""
    style = Style((0,) * composition.length, (0,) * composition.length, 0)
    text = write_main(composition, plan, style)
    for position, form in zip(plan.calls, forms, strict=True):
        text += write_helper(composition, position, form, style)
    return text + CALL


def passes(problem, code):
    """Whether a program of the benchmark passes. Runs its text in this process."""
    compiled = compile(code, "<program>", "exec")
    for test in problem.tests:
        output, stdin = io.StringIO(), sys.stdin
        sys.stdin = io.StringIO(test.input)
        try:
            with contextlib.redirect_stdout(output):
                exec(compiled, {"__name__": "__main__"})
        except Exception:
            return False
        finally:
            sys.stdin = stdin
        if output.getvalue().strip() != test.output.strip():
            return False
    return True


@pytest.mark.parametrize("index", [0, 3, 51, 100])
def test_value_equals_enumeration_of_all_programs(benchmark, index):
    """Every plan with every combination of forms is written and run. A prefix's value sums over its completions."""
    _, problem, composition = benchmark[index]
    valuer, scale = Valuer(composition, problem, 1.0), 1.0
    total, recoverable = 0.0, False
    for plan, chance in zip(plans(composition), plan_probabilities(composition, scale), strict=True):
        chances = [form_probabilities(composition, position, scale) for position in plan.calls]
        passed = {
            forms: passes(problem, text_of(composition, plan, forms))
            for forms in itertools.product(*(range(len(row)) for row in chances))
        }
        for length in range(len(plan.calls) + 1):
            sums, possible = {}, {}
            for forms, passing in passed.items():
                weight = math.prod(chances[i][forms[i]] for i in range(length, len(forms)))
                sums[forms[:length]] = sums.get(forms[:length], 0.0) + weight * passing
                possible[forms[:length]] = possible.get(forms[:length], False) or passing
            for prefix, expected in sums.items():
                value, reachable = valuer.value(Written(plan, prefix, False))
                assert value == pytest.approx(expected, abs=1e-12), (plan, prefix)
                assert reachable == possible[prefix]
        total += chance * sums_of_all(passed, chances)
        recoverable = recoverable or any(passed.values())
    assert valuer.value(Written(None, (), False)) == (pytest.approx(total, abs=1e-12), recoverable)


def sums_of_all(passed, chances):
    return sum(math.prod(row[f] for row, f in zip(chances, forms, strict=True)) for forms, ok in passed.items() if ok)


def test_truth_equals_the_judge(benchmark):
    """Compares verdicts of the simulated policy's programs with the truth of the last step and of the completion."""
    policy = SimulatedPolicy({c.problem_id: c for _, _, c in benchmark})
    rows = [
        (problem, composition, completion.code)
        for _, problem, composition in benchmark[::3] + benchmark[2::6]
        for completion in policy.complete(CompletionRequest(problem, "", 2, 0.2, 5))
    ]
    with Judge(workers=2) as judge:
        tasks = (JudgeTask(str(i), code, problem.tests) for i, (problem, _, code) in enumerate(rows))
        verdicts = [result.verdict for result in judge.evaluate(tasks)]
    assert len(rows) >= 100
    assert 20 < verdicts.count(Verdict.AC) < len(rows) - 20
    for (problem, composition, code), verdict in zip(rows, verdicts, strict=True):
        value, recoverable = Valuer(composition, problem, 1.0).value(read(composition, code))
        assert value == float(verdict is Verdict.AC), (composition.names, verdict, code)
        assert recoverable == (verdict is Verdict.AC)


def test_values_equal_the_policys_frequencies(benchmark):
    """400 completions for each prefix of a few programs: passes are within five standard errors of the exact value."""
    policy = SimulatedPolicy({c.problem_id: c for _, _, c in benchmark}, wrong_rate_scale=1.3)
    checked = 0
    for _, problem, composition in (benchmark[1], benchmark[2]):
        valuer = Valuer(composition, problem, 1.3)
        (program,) = policy.complete(CompletionRequest(problem, "", 1, 0.2, 11))
        for prefix in ["", *(program.code[: step.end] for step in split_steps(program.code)[:-1])]:
            value, _ = valuer.value(read(composition, prefix))
            answers = policy.complete(CompletionRequest(problem, prefix, 400, 0.3, 3))
            passed = sum(valuer.value(read(composition, answer.code))[0] for answer in answers)
            assert abs(passed / 400 - value) <= 5 * math.sqrt(value * (1 - value) / 400) + 1e-9, (prefix, value)
            checked += 0 < value < 1
    assert checked >= 4


def test_rows_of_a_program_follow_its_steps(benchmark):
    compositions = {c.problem_id: c for _, _, c in benchmark}
    policy = SimulatedPolicy(compositions)
    problems = [problem for _, problem, _ in benchmark[:12]]
    programs = [
        Program.make(problem.problem_id, completion.code, i, policy.name, {})
        for problem in problems
        for i, completion in enumerate(policy.complete(CompletionRequest(problem, "", 6, 0.2, 2)))
    ]
    rows = step_truth(problems, compositions, programs, 1.0)
    assert len(rows) == sum(len(split_steps(program.code)) for program in programs)
    by_program = {}
    for row in rows:
        by_program.setdefault(row.program_hash, []).append(row)
    wrong_programs = 0
    for program in programs:
        steps = by_program[program.program_hash][: len(split_steps(program.code))]
        assert [row.step_index for row in steps] == list(range(len(steps)))
        wrong = [row.step_index for row in steps if row.wrong]
        assert {row.first_wrong for row in steps} == {wrong[0] if wrong else -1}
        assert steps[-1].value in (0.0, 1.0)
        assert steps[-1].value == 1.0 or wrong  # a program without a wrong step passes
        recoverable = [row.recoverable for row in steps]
        assert recoverable == sorted(recoverable, reverse=True)  # a lost program stays lost
        assert all((row.value > 0) == row.recoverable for row in steps)
        wrong_programs += bool(wrong)
    assert 0 < wrong_programs < len(programs)


def test_foreign_program_is_refused(benchmark):
    _, problem, composition = benchmark[0]
    program = Program.make(problem.problem_id, "print(1)\n", 0, "someone", {})
    with pytest.raises(DataError, match=f"program {program.program_hash} of {problem.problem_id}: not written by"):
        program_truth(Valuer(composition, problem, 1.0), program)
