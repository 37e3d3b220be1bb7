"""Compares the random labels of the study with rollouts of the simulated policy, run by the benchmark's code."""

import contextlib
import io
import sys
from unittest import mock

import numpy as np
import pytest

from dreamprm_jax.policy.protocol import CompletionRequest
from dreamprm_jax.policy.simulated import SimulatedPolicy
from dreamprm_jax.problems.procedural.mistakes import HIGHEST_RATE, form_probabilities
from dreamprm_jax.problems.procedural.truth import Valuer
from dreamprm_jax.problems.procedural.writing import read
from dreamprm_jax.sandbox.compare import output_mismatch
from research.study.regimes import REGIMES, Regime
from research.study.world import Sizes, draw_labels, make_world, rollout_chances


@pytest.fixture(scope="module")
def world():
    return make_world(5, Sizes(train=40, meta=5, test=5, test_programs=4))


def test_a_world_is_the_same_for_the_same_seed(world):
    again = make_world(5, Sizes(train=40, meta=5, test=5, test_programs=4))
    assert [one.program for one in again.programs["train"]] == [one.program for one in world.programs["train"]]
    labels = [draw_labels(each, REGIMES["k4"], "train", each.programs["train"]) for each in (world, again)]
    assert labels[0] == labels[1]
    passed = np.mean([one.passed for one in world.programs["train"]])
    assert 0.2 < passed < 0.7


@pytest.mark.parametrize("regime", [Regime("plain"), Regime("weak", judge_tests=1, completer_scale=2.0)])
def test_chances_are_those_of_real_rollouts(world, regime):
    programs = world.programs["train"]
    chances = rollout_chances(world, regime, "train", programs)
    policy = SimulatedPolicy(world.compositions, regime.completer_scale)
    checked = 0
    for one, chance in list(zip(programs, chances, strict=True))[:6]:
        problem = world.problems["train"][one.program.problem_id]
        tests = problem.tests[: regime.judge_tests or None]
        prefix = one.program.code[: one.program.code.index("\n\ndef ", 20) + 1]  # only main
        rollouts = policy.complete(CompletionRequest(problem, prefix.rstrip("\n") + "\n", 300, 0.3, 1))
        verdicts: dict[str, bool] = {}
        for rollout in rollouts:
            if rollout.code not in verdicts:
                verdicts[rollout.code] = all(_passes(rollout.code, test) for test in tests)
        rate = np.mean([verdicts[rollout.code] for rollout in rollouts])
        assert rate == pytest.approx(chance[0], abs=4 * np.sqrt(0.25 / 300))
        checked += 0.02 < chance[0] < 0.98
    assert checked >= 2


def _passes(code: str, test) -> bool:
    """Runs a program of the benchmark (our own forms) in this process."""
    output = io.StringIO()
    try:
        with contextlib.redirect_stdout(output), mock.patch.object(sys, "stdin", io.StringIO(test.input)):
            exec(compile(code, "<rollout>", "exec"), {"__name__": "__main__"})
    except Exception:
        return False
    return output_mismatch(output.getvalue(), test.output) is None


def test_weak_primitives_are_written_wrong_and_lower_the_chances(world):
    biased = REGIMES["family_bias"]
    weak = biased.weak_primitives(world.seed)
    assert weak == biased.weak_primitives(world.seed) != biased.weak_primitives(world.seed + 1)
    programs = world.programs["train"]
    lower = rollout_chances(world, biased, "train", programs)
    for one, chance in zip(programs, lower, strict=True):
        assert (chance <= one.value + 1e-9).all()
        composition = world.compositions[one.program.problem_id]
        for position, name in enumerate(composition.names):
            if name in weak:
                assert form_probabilities(composition, position, 1.0, weak)[0] == pytest.approx(1 - HIGHEST_RATE)
    assert sum(chance.sum() for chance in lower) < 0.8 * sum(one.value.sum() for one in programs)


def test_repair_passes_where_nothing_could(world):
    programs = world.programs["train"]
    for plain, repaired, one in zip(
        rollout_chances(world, Regime("k"), "train", programs),
        rollout_chances(world, Regime("k", repair=0.2), "train", programs),
        programs,
        strict=True,
    ):
        np.testing.assert_array_equal(repaired[one.recoverable], plain[one.recoverable])
        np.testing.assert_allclose(repaired[~one.recoverable], 0.2)


def test_labels_are_counts_of_every_step_and_the_outcome(world):
    programs = world.programs["train"]
    labels = draw_labels(world, Regime("many", rollouts=400), "train", programs)
    by_program: dict[str, list] = {}
    for row in labels:
        by_program.setdefault(row.program_hash, []).append(row)
    for one in programs:
        mine = by_program[one.program.program_hash]
        assert [row.step_index for row in mine] == list(range(len(one.value)))
        assert (mine[-1].passes, mine[-1].rollouts) == (int(one.passed), 1)
        rates = np.array([row.mean for row in mine[:-1]])
        np.testing.assert_allclose(rates, one.value[:-1], atol=0.12)
        composition = world.compositions[one.program.problem_id]
        truth = Valuer(composition, world.problems["train"][one.program.problem_id], 1.0)
        assert truth.value(read(composition, one.program.code)) == (float(one.passed), one.passed)
