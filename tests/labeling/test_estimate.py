"""Estimates for one program: exact counts in small cases, unbiased reuse, the strategies, equal programs."""

import dataclasses
import re

import pytest

from dreamprm_jax.cof.splitter import split_steps
from dreamprm_jax.config import LabelConfig
from dreamprm_jax.labeling.rollouts.allocation import deviation
from dreamprm_jax.labeling.rollouts.estimate import ProgramEstimate, StepTally, estimate_program
from dreamprm_jax.labeling.rollouts.identity import identity, prefixes_passed
from dreamprm_jax.policy.protocol import Completion, CompletionRequest, PolicyError
from dreamprm_jax.policy.simulated import SimulatedPolicy
from dreamprm_jax.problems.procedural.truth import Valuer
from dreamprm_jax.problems.procedural.writing import read
from dreamprm_jax.sandbox import Judge, JudgeTask
from dreamprm_jax.schema import DataError, Problem, Program, Verdict

PROBLEM = Problem("p", "", "", "", "", "2024-01-01", "easy")
STEPS = [f"def {name}():\n    return {number}\n" for number, name in enumerate("abcd")]
PROGRAM = Program.make("p", "".join(STEPS), 0, "x", {})
PLAIN = LabelConfig(reuse="none", identical="text")


class Scripted:
    """A policy with fixed continuations for each number of prefix steps, and a judge that reads the last character."""

    def __init__(self, answers):
        self.answers, self.requests, self.judged = answers, [], []

    def complete(self, request: CompletionRequest) -> list[Completion]:
        self.requests.append(request)
        texts = self.answers[len(split_steps(request.prefix))]
        chosen = [texts[i % len(texts)] for i in range(request.n)]
        return [Completion(request.prefix + text.removeprefix("~"), "stop", text[:1] != "~") for text in chosen]

    def judge(self, codes: list[str]) -> list[Verdict]:
        self.judged += codes
        kinds = {"+": Verdict.AC, "!": Verdict.SANDBOX_ERROR, "?": Verdict.INVALID_TASK}
        return [kinds.get(code.rstrip()[-1], Verdict.WA) for code in codes]

    def estimate(self, settings, verdict=Verdict.WA, seed=0, program=PROGRAM):
        return estimate_program(PROBLEM, program, verdict, settings, seed, self.complete, self.judge)


def counts(estimate):
    return [(tally.asked, tally.passes, tally.failures) for tally in estimate.steps]


def test_fixed_counts():
    """Four rollouts per prefix. Errors of the sandbox or task do not count as failures. Equal texts are judged once."""
    policy = Scripted({1: ["x  # +", "x  # -"], 2: ["x  # +", "x  # !", "x  # ?", "~y  # -"], 3: [STEPS[3]]})
    estimate = policy.estimate(dataclasses.replace(PLAIN, rollouts=4))
    seeds = [request.seed for request in policy.requests]
    assert [request.prefix for request in policy.requests] == ["".join(STEPS[:i]) for i in (1, 2, 3)]
    assert len(set(seeds)) == 3
    assert estimate.steps == (
        StepTally(asked=4, passes=2, failures=2, judged=2, seed=seeds[0]),
        StepTally(
            asked=4, passes=1, failures=1, infrastructure_errors=2, sandbox_errors=1, unforced=1, judged=4, singles=2,
            single_passes=1, seed=seeds[1],
        ),
        StepTally(asked=4, failures=4, seed=seeds[2]),  # this is the program itself, whose verdict is known
    )  # fmt: skip
    assert (estimate.asked, estimate.judged, estimate.sandbox_errors, estimate.rounds) == (12, 6, 1, 1)
    assert len(policy.judged) == len(set(policy.judged)) == 6
    assert ProgramEstimate.from_json(estimate.to_json()) == estimate
    assert policy.estimate(dataclasses.replace(PLAIN, rollouts=4)) == estimate
    assert policy.estimate(dataclasses.replace(PLAIN, rollouts=4), seed=1) != estimate  # different seeds


def test_a_rollout_counts_at_every_prefix_that_it_passes_through():
    through_two = STEPS[1] + STEPS[2] + "# +"
    answers = {1: [through_two, STEPS[1] + "# -", "# +", "~" + through_two], 2: ["# -"], 3: ["# +"]}
    estimate = Scripted(answers).estimate(LabelConfig(rollouts=4, reuse="text", identical="text"))
    first, second, third = estimate.steps
    assert (first.passes, first.failures, first.borrowed, first.unforced) == (3, 1, 0, 1)
    # The rollout whose prefix was shown but not forced counts only at its own step.
    assert (second.passes, second.failures, second.borrowed, second.borrowed_passes) == (1, 5, 2, 1)
    assert (third.passes, third.failures, third.borrowed, third.borrowed_passes) == (5, 0, 1, 1)
    without = Scripted(answers).estimate(LabelConfig(rollouts=4, reuse="none", identical="text"))
    assert counts(without) == [(4, 3, 1), (4, 0, 4), (4, 4, 0)]


def test_the_program_as_a_rollout():
    settings = dataclasses.replace(PLAIN, rollouts=2, count_program=True)
    policy = Scripted({step: ["# +"] for step in (1, 2, 3)})
    assert counts(policy.estimate(settings, Verdict.WA)) == [(2, 2, 1)] * 3
    assert counts(policy.estimate(settings, Verdict.AC)) == [(2, 3, 0)] * 3
    assert counts(policy.estimate(settings, Verdict.SANDBOX_ERROR)) == [(2, 2, 0)] * 3
    assert policy.estimate(settings, Verdict.AC).steps[0].borrowed_passes == 1


def test_failing_policy_passes_through():
    def down(request):
        raise PolicyError("down")

    with pytest.raises(PolicyError, match="down"):
        estimate_program(PROBLEM, PROGRAM, Verdict.WA, PLAIN, 0, down, lambda codes: [])


def test_program_of_one_step_needs_nothing():
    estimate = Scripted({}).estimate(PLAIN, program=Program.make("p", "print(1)\n", 0, "x", {}))
    assert (estimate.steps, estimate.rounds) == ((), 0)


@pytest.mark.parametrize("fatal", [0, 1, 2, 3])
def test_binary_search_finds_the_first_fatal_step(fatal):
    """Prefixes before step ``fatal`` pass once in four. Two probes find the step; the other prefix gets no rollouts."""
    passing = {i + 1: ["# -", "# -", "# +", "# -"] if i < fatal else ["# -"] for i in range(3)}
    settings = dataclasses.replace(PLAIN, strategy="binary_search", rollouts=4)
    estimate = Scripted(passing).estimate(settings)
    asked = [tally.asked for tally in estimate.steps]
    assert sorted(asked) == [0, 4, 4]
    assert asked[1] == 4
    passed = [i for i, tally in enumerate(estimate.steps) if tally.passes]
    failed = [i for i, tally in enumerate(estimate.steps) if tally.asked and not tally.passes]
    assert max(passed, default=-1) + 1 == fatal == min(failed, default=3)
    assert Scripted(passing).estimate(settings, Verdict.AC).asked == 0


def test_adaptive_spends_where_nothing_is_decided():
    """One prefix always passes, one never, one half of the time. The last gets the most rollouts, within the budget."""
    answers = {1: ["# +"], 2: ["# +", "# -"], 3: ["# -"]}
    settings = dataclasses.replace(
        PLAIN, strategy="adaptive", posterior="beta", rollouts=16, min_rollouts=2, max_rollouts=24, decided=0.12
    )
    first, second, third = Scripted(answers).estimate(settings).steps
    assert first.asked == third.asked < second.asked <= 24
    for tally in (first, second, third):
        assert deviation(tally.passes, tally.failures, 1.0, 1.0) <= 0.12
        fewer = deviation(max(tally.passes - 2, 0), max(tally.failures - 2, 0), 1.0, 1.0)
        assert fewer > 0.12
    poor = Scripted(answers).estimate(dataclasses.replace(settings, rollouts=3, decided=0.01))
    assert poor.asked == 9
    assert max(tally.asked for tally in poor.steps) - min(tally.asked for tally in poor.steps) <= 2
    capped = Scripted(answers).estimate(dataclasses.replace(settings, decided=0.0, max_rollouts=5))
    assert [tally.asked for tally in capped.steps] == [5, 5, 5]


def test_the_model_knows_more_than_a_prefixs_own_counts():
    """Cases: a passed program whose rollouts all pass, and a failed one that is lost from its second step on."""
    settings = dataclasses.replace(PLAIN, strategy="adaptive", rollouts=16, max_rollouts=24)
    beta = dataclasses.replace(settings, posterior="beta")
    sure = {step: ["# +"] for step in (1, 2, 3)}
    lost = {1: ["# +", "# -"], 2: ["# -"], 3: ["# -"]}
    for answers, verdict in ((sure, Verdict.AC), (lost, Verdict.WA)):
        assert Scripted(answers).estimate(settings, verdict).asked < 0.7 * Scripted(answers).estimate(beta).asked
    first, second, third = Scripted(lost).estimate(settings).steps
    assert first.asked > second.asked >= third.asked
    assert Scripted(lost).estimate(settings, Verdict.SANDBOX_ERROR).asked >= first.asked + second.asked + third.asked


def test_a_share_of_one_off_programs_is_judged():
    """Repeated programs and a text-dependent share of the others are judged. Unjudged programs are not failures."""
    texts = ["# same +"] * 10 + [f"# {i} -" for i in range(90)]
    policy = Scripted(dict.fromkeys((1, 2, 3), texts))
    settings = dataclasses.replace(PLAIN, rollouts=100, judge_share=0.3)
    estimate = policy.estimate(settings)
    for tally in estimate.steps:
        assert tally.passes == 10
        assert (tally.singles, tally.single_passes) == (tally.failures, 0)
        assert tally.failures + tally.unjudged == 90
        assert tally.judged == 1 + tally.failures
        assert 12 <= tally.failures <= 44  # the expected number is 27
    assert policy.estimate(settings) == estimate
    assert policy.estimate(dataclasses.replace(settings, judge_share=1.0)).judged == 3 * 91


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rollouts": 0}, "config.label.rollouts=0: must be at least 1"),
        ({"strategy": "adaptive", "min_rollouts": 0}, "config.label.min_rollouts=0: must be at least 1"),
        ({"judge_share": 0.0}, "config.label.judge_share=0.0: must be above 0"),
        ({"strategy": "adaptive", "min_rollouts": 5}, "min_rollouts=5: must be at most rollouts=4 and max_rollouts="),
        ({"judge_share": 0.5, "strategy": "adaptive"}, "judge_share=0.5: must be 1 with label.strategy='adaptive'"),
        ({"judge_share": 0.5, "strategy": "binary_search"}, "only 'fixed' can leave some out"),
    ],
)
def test_settings_that_contradict_each_other(changes, message):
    with pytest.raises(DataError, match=message):
        Scripted({}).estimate(dataclasses.replace(PLAIN, **changes))


def test_equal_programs():
    code = 'import sys\ndef f(x):\n    """One."""\n    return x + 1\nprint(f(1))\n'
    same = "import sys\n\n\ndef f(x):  # two\n    return (x + 1)\nprint(f(1))\n"
    assert identity(code, "code") == identity(same, "code")
    assert identity(code, "text") == code
    for other in (
        code.replace("x + 1", "x + 2"),
        code.replace("f(x)", "f(y)"),
        code.replace("f(1)", "f.__doc__"),
        same.replace("f(1)", "f.__doc__"),
        code + "print(help)",
        code + "(",
        "",
    ):
        assert identity(other, "code") != identity(code, "code")
        assert identity(other, "text") == other
    assert identity('def f():\n    "a"\n', "code") == identity("def f(): pass", "code")
    assert identity("(" * 5000, "code") == "(" * 5000


def test_prefixes_that_a_program_passes_through():
    prefixes = ["".join(STEPS[:i]) for i in (1, 2, 3)]
    reworded = STEPS[0] + STEPS[1].replace(":\n", ':\n    "so"\n', 1) + STEPS[2]
    assert prefixes_passed(PROGRAM.code, prefixes, "text") == 3
    assert prefixes_passed(reworded, prefixes, "text") == 1
    assert prefixes_passed(reworded, prefixes, "code") == 3
    assert prefixes_passed(reworded.replace("return 1", "return 9"), prefixes, "code") == 1
    assert prefixes_passed("def a(:\n", prefixes, "code") == 0
    assert prefixes_passed("", prefixes, "code") == 0
    method = "class A:\n    def f(self):\n        return 1\n"  # cut inside a class, so only the text is compared
    assert prefixes_passed(method + "    def g(self):\n        return 2\n", [method], "code") == 1
    assert prefixes_passed(method.replace("return 1", "return (1)") + "    x = 1\n", [method], "code") == 0


@pytest.fixture(scope="module")
def simulated(benchmark):
    """A policy, and (problem, program, valuer) for 20 problems."""
    policy = SimulatedPolicy({c.problem_id: c for _, _, c in benchmark})
    rows = []
    for _, problem, composition in benchmark[:20]:
        (answer,) = policy.complete(CompletionRequest(problem, "", 1, 0.2, 7))
        program = Program.make(problem.problem_id, answer.code, 0, policy.name, {})
        rows.append((problem, program, Valuer(composition, problem, 1.0)))
    return policy, rows


def exact_judge(valuer):
    """A judge that uses the exact truth, which agrees with the real judge (see test_procedural_truth)."""

    def judge(codes):
        found = [valuer.value(read(valuer.composition, code))[1] for code in codes]
        return [Verdict.AC if passes else Verdict.WA for passes in found]

    return judge


@pytest.mark.parametrize("reuse", ["text", "code"])
def test_borrowed_rollouts_are_unbiased(simulated, reuse):
    """Compares the passes of borrowed rollouts with the exact prefix values, within four standard errors."""
    policy, rows = simulated
    passes = expected = variance = 0.0
    borrowed = 0
    for seed in range(3):
        for problem, program, valuer in rows:
            judge = exact_judge(valuer)
            (verdict,) = judge([program.code])
            estimate = estimate_program(
                problem, program, verdict, LabelConfig(rollouts=8, reuse=reuse), seed, policy.complete, judge
            )
            for step, tally in zip(split_steps(program.code), estimate.steps, strict=False):
                value, _ = valuer.value(read(valuer.composition, program.code[: step.end]))
                borrowed += tally.borrowed
                passes += tally.borrowed_passes
                expected += tally.borrowed * value
                # A rollout may count at several steps of its program. Their number bounds the variance of such a sum.
                variance += len(estimate.steps) * tally.borrowed * value * (1 - value)
    assert borrowed > 500
    assert 0.2 < expected / borrowed < 0.95
    assert abs(passes - expected) < 4 * variance**0.5


def test_equal_programs_have_one_verdict(simulated):
    """The real judge gives the same verdicts to programs and to copies that differ only in wording."""
    _, rows = simulated
    twins = [(row[1].code, re.sub(r'"""[^"]*"""', '"""In other words."""  # so', row[1].code)) for row in rows]
    for code, twin in twins:
        assert code != twin
        assert identity(code, "code") == identity(twin, "code")
    tasks = (
        JudgeTask(f"{i}/{j}", twins[i][j], problem.tests) for i, (problem, *_) in enumerate(rows) for j in range(2)
    )
    with Judge(workers=2) as judge:
        verdicts = {result.key: result.verdict for result in judge.evaluate(tasks)}
    assert len(set(verdicts.values())) >= 2
    for i in range(len(twins)):
        assert verdicts[f"{i}/0"] == verdicts[f"{i}/1"]
