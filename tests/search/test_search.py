"""Search with the simulated policy, and a scorer that knows the exact value of every prefix."""

import dataclasses
from collections import Counter

import numpy as np
import pytest

from dreamprm_jax.cof.splitter import split_steps
from dreamprm_jax.policy.protocol import Completion
from dreamprm_jax.policy.simulated import SimulatedPolicy
from dreamprm_jax.problems.procedural.truth import Valuer
from dreamprm_jax.problems.procedural.writing import read
from dreamprm_jax.schema import Problem
from dreamprm_jax.search.algorithms import METHODS, SearchCandidate, SearchSettings, ranked, search
from dreamprm_jax.search.driver import run_searches

BUDGET = 12000  # characters: about ten programs
MISTAKES = 1.5  # factor on the benchmark's rates: one program in four passes
SETTINGS = SearchSettings(width=1, expansions=3, tokens=BUDGET)


class ExactScorer:
    """A scorer that returns the logit of the true value of every prefix. Counts what it reads."""

    def __init__(self, compositions):
        self.compositions = compositions
        self.valuers: dict[str, Valuer] = {}
        self.read: list[tuple[str, str]] = []

    def __call__(self, items):
        results = []
        for problem, code in items:
            self.read.append((problem.problem_id, code))
            composition = self.compositions[problem.problem_id]
            valuer = self.valuers.setdefault(problem.problem_id, Valuer(composition, problem, MISTAKES))
            values = [valuer.value(read(composition, code[: step.end]))[0] for step in split_steps(code)]
            clipped = np.clip(values, 0.001, 0.999)
            results.append(np.log(clipped / (1 - clipped)))
        return results


@pytest.fixture(scope="module")
def world(benchmark):
    compositions = {composition.problem_id: composition for _, _, composition in benchmark}
    problems = [problem for window, problem, _ in benchmark if window == "test" and problem.difficulty != "easy"]
    return compositions, problems[:24]


def lengths(texts):
    return [len(text) for text in texts]


def solve(world, settings, count=None, scorer=None):
    compositions, problems = world
    scorer = scorer or ExactScorer(compositions)
    policy = SimulatedPolicy(compositions, MISTAKES)
    found = run_searches(problems[:count], settings, policy, scorer, lengths, seed=0, threads=2, together=5)
    return {problem.problem_id: result for problem, result in found}, scorer


@pytest.fixture(scope="module")
def results(world):
    return {method: solve(world, dataclasses.replace(SETTINGS, method=method)) for method in METHODS}


def solved(result) -> float:
    return float(ranked(result.candidates)[0].number > 0)


def test_with_exact_values_search_beats_best_of_n_on_the_same_budget(results):
    accuracy = {method: np.mean([solved(one) for one in found.values()]) for method, (found, _) in results.items()}
    random = np.mean([np.mean([c.number > 0 for c in one.candidates]) for one in results["best_of_n"][0].values()])
    assert random < 0.4
    assert accuracy["best_of_n"] < 0.95  # even with the truth, it can only pick a drawn program
    for method in ("beam", "lookahead", "diverse_beam"):
        assert accuracy[method] >= max(random + 0.55, accuracy["best_of_n"] + 0.05)


def test_no_search_exceeds_its_budget_and_every_program_is_read_once(results):
    for method, (found, scorer) in results.items():
        assert len(found) == 24
        for one in found.values():
            assert 0.6 * BUDGET < one.tokens <= BUDGET, method
            assert len({c.code for c in one.candidates}) == len(one.candidates)
        assert max(Counter(scorer.read).values()) == 1


def test_methods_begin_with_the_same_programs(results):
    for problem in results["beam"][0]:
        first = [results[method][0][problem].candidates[0].code for method in METHODS]
        assert len(set(first)) == 1


def test_the_same_seed_gives_the_same_search_however_many_run_together(world, results):
    compositions, problems = world
    settings = dataclasses.replace(SETTINGS, method="beam")
    alone = run_searches(
        problems[:3], settings, SimulatedPolicy(compositions, MISTAKES), ExactScorer(compositions), lengths, 0, 1, 1
    )
    for problem, result in alone:
        assert result == results["beam"][0][problem.problem_id]
    other = {
        problem.problem_id: result
        for problem, result in run_searches(
            problems[:1], settings, SimulatedPolicy(compositions, MISTAKES), ExactScorer(compositions), lengths, 1
        )
    }
    assert other[problems[0].problem_id].candidates != results["beam"][0][problems[0].problem_id].candidates


class Scripted:
    """A policy with fixed answers for each prefix. It records the requests."""

    name = "scripted"

    def __init__(self, answers):
        self.answers = answers
        self.asked: list[tuple[str, int]] = []

    def complete(self, request):
        self.asked.append((request.prefix, request.n))
        codes = self.answers.get(request.prefix, [request.prefix])
        return [Completion(codes[i % len(codes)], "stop", True) for i in range(request.n)]


F = [f"def f{i}():\n    return {i}\n" for i in range(6)]
PROBLEM = Problem("p", "", "", "x", "c", "2025-01-01", "easy")


def run_scripted(policy, settings, logits):
    def scorer(items):
        return [np.array(logits(code)) for _, code in items]

    ((_, result),) = run_searches([PROBLEM], settings, policy, scorer, lengths, 0, 1, 1)
    return result


def test_a_beam_by_hand():
    """Two beams remain after the first step. At width 1, only the one with the better second step continues."""
    policy = Scripted({"": [F[0] + F[1], F[2] + F[3]], F[2]: [F[2] + F[4], F[2] + F[5]]})
    values = {F[0]: -1.0, F[2]: 1.0, F[4]: 2.0}

    def logits(code):
        return [values.get(code[step.start : step.end], 0.0) for step in split_steps(code)]

    settings = SearchSettings("beam", width=1, expansions=2, tokens=20 * len(F[0]))
    result = run_scripted(policy, settings, logits)
    assert policy.asked[:2] == [("", 2), (F[2], 2)]
    assert ranked(result.candidates)[0].code == F[2] + F[4]
    assert result.candidates[0] == SearchCandidate(F[0] + F[1], 0.0)


def test_lookahead_reads_further_than_the_prefix():
    """The first step of the worse program looks better, but its end does not."""
    policy = Scripted({"": [F[0] + F[1] + F[5], F[2] + F[3] + F[5]]})
    values = {F[0]: 1.0, F[1]: -3.0, F[2]: 0.0, F[3]: 2.0}

    def logits(code):
        return [values.get(code[step.start : step.end], 0.0) for step in split_steps(code)]

    for method, expected in (("beam", F[0]), ("lookahead", F[2])):
        policy.asked.clear()
        run_scripted(policy, SearchSettings(method, width=1, expansions=2, lookahead=1, tokens=200), logits)
        assert policy.asked[1][0] == expected


def test_diverse_subtrees_never_share_a_prefix():
    policy = Scripted({"": [F[0] + F[1], F[0] + F[2], F[3] + F[4], F[3] + F[5]]})
    settings = SearchSettings("diverse_beam", width=2, expansions=2, tokens=16 * len(F[0]))
    run_scripted(policy, settings, lambda code: [float(F[0] in code)] * len(split_steps(code)))
    # Both subtrees prefer F[0], so the second one takes its other child.
    assert [prefix for prefix, _ in policy.asked[1:3]] == [F[0], F[3]]


def test_a_policy_with_nothing_to_write_and_programs_that_cannot_be_read_end_the_search():
    silent = Scripted({"": [""]})
    result = run_scripted(silent, SearchSettings("best_of_n", tokens=100), lambda code: [])
    assert result.tokens == 0
    assert np.isnan(result.candidates[0].number)
    unread = Scripted({"": [F[0] + F[1]]})
    result = run_scripted(unread, SearchSettings("beam", tokens=100), lambda code: [])
    assert result.tokens <= 100
    assert all(prefix == "" for prefix, _ in unread.asked)


def test_a_budget_below_one_program_finds_nothing(world):
    found, _ = solve(world, SearchSettings("beam", tokens=5), count=1)
    (result,) = found.values()
    assert (result.candidates, result.tokens) == ((), 0)


def test_an_unknown_method_is_an_error(world):
    with pytest.raises(ValueError, match="unknown search method 'mcts'"):
        next(search(world[1][0], dataclasses.replace(SearchSettings(), method="mcts"), lambda *parts: 0))


def test_candidates_without_a_number_rank_last():
    order = ranked([SearchCandidate("a", float("nan")), SearchCandidate("b", -2.0), SearchCandidate("c", 3.0)])
    assert [one.code for one in order] == ["c", "b", "a"]
