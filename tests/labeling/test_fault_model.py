"""Compares the undetected-fault EM with brute force, and tests it on programs drawn from its own model."""

import numpy as np
import pytest
from state_sequences import brute_force

from dreamprm_jax.labeling.correction.change_point import FAILED, PASSED, UNKNOWN, change_point_em
from dreamprm_jax.labeling.correction.fault_model import _Chain, fault_em
from dreamprm_jax.metrics.step_metrics import auroc
from dreamprm_jax.schema import DataError


@pytest.mark.parametrize("outcome", [PASSED, FAILED, UNKNOWN])
def test_posterior_is_that_of_all_state_sequences(outcome):
    rng = np.random.default_rng(3)
    steps = 4
    hazard, alive = rng.uniform(0.05, 0.5, steps), rng.uniform(0.1, 1.0, steps)
    dead = np.array([1.0, 0.0, 0.3, 1.0])
    inside = np.ones((1, steps), bool)
    chain = _Chain(hazard[None], 0.3, alive[None], dead[None], inside, np.array([outcome]))
    posterior, *_, log_likelihood = chain.posterior()
    expected, log_total = brute_force(hazard, 0.3, alive, dead, outcome)
    np.testing.assert_allclose(posterior[0], expected, atol=1e-12)
    assert log_likelihood[0] == pytest.approx(log_total)


def drawn(
    hidden: float, repair: float = 0.0, spread: float = 0.0, seed: int = 0, programs: int = 600, rollouts: int = 4
):
    """Draws programs of 4 to 6 steps from the model. Returns passes, rollouts, program numbers, outcomes and truth."""
    rng = np.random.default_rng(seed)
    rows, outcomes, truth = [], [], []
    for number in range(programs):
        state, steps, ability = "A", rng.integers(4, 7), rng.normal() * spread
        for step in range(steps):
            if state != "D" and rng.random() < 0.15:
                state = "D" if rng.random() > hidden else ("H" if state == "A" else state)
            rate = 0.9 ** (steps - step)
            rate = repair if state == "D" else 1 / (1 + (1 / rate - 1) * np.exp(-ability))
            rows.append((rng.binomial(rollouts, rate), rollouts, number))
            truth.append(state == "A")
        outcomes.append(PASSED if state == "A" else FAILED)
    passes, counts, program = (np.array(column) for column in zip(*rows, strict=True))
    return passes, counts, program, np.array(outcomes), np.array(truth)


def test_faults_that_the_rollouts_do_not_show_are_found():
    passes, rollouts, program, outcome, truth = drawn(hidden=0.5)
    found = fault_em(passes, rollouts, program, outcome)
    assert (np.diff(found.log_posterior) > -1e-6).all()
    assert found.hidden == pytest.approx(0.5, abs=0.12)
    inner = np.r_[program[1:] == program[:-1], False]  # the truth of a last step is the outcome
    plain = change_point_em(passes, rollouts, program, outcome).recoverable
    assert auroc(found.recoverable[inner], truth[inner]) > auroc(plain[inner], truth[inner]) + 0.05


def test_without_hidden_faults_it_finds_none_and_learns_rates_by_steps_to_come():
    passes, rollouts, program, outcome, truth = drawn(hidden=0.0)
    found = fault_em(passes, rollouts, program, outcome)
    assert found.hidden < 0.02
    assert found.pass_rate[1] == pytest.approx(0.81, abs=0.06)
    assert found.pass_rate[3] == pytest.approx(0.66, abs=0.08)
    inner = np.r_[program[1:] == program[:-1], False]
    assert auroc(found.recoverable[inner], truth[inner]) > 0.985
    passed = np.isin(program, np.flatnonzero(outcome == PASSED))
    np.testing.assert_allclose(found.recoverable[passed], 1.0, atol=1e-9)


@pytest.mark.parametrize("rollouts", [1, 4, 16])
@pytest.mark.parametrize("repair", [0.05, 0.2])
def test_completers_that_repair_are_found_out(repair, rollouts):
    passes, counts, program, outcome, truth = drawn(0.0, repair, programs=1200, rollouts=rollouts)
    found = fault_em(passes, counts, program, outcome)
    assert (np.diff(found.log_posterior) > -1e-6).all()
    assert found.repair == pytest.approx(repair, abs=0.06)
    assert found.hidden < 0.05
    inner = np.r_[program[1:] == program[:-1], False]
    plain = change_point_em(passes, counts, program, outcome).recoverable  # this EM treats a pass as proof
    assert auroc(found.recoverable[inner], truth[inner]) > auroc(plain[inner], truth[inner]) + 0.01
    if rollouts == 16:
        assert auroc(found.recoverable[inner], truth[inner]) > 0.99


def test_no_repair_is_found_where_there_is_none():
    passes, rollouts, program, outcome, _ = drawn(0.0, programs=1200)
    assert fault_em(passes, rollouts, program, outcome).repair == 0.0


def test_pass_rates_are_shared_within_a_problem():
    passes, rollouts, program, outcome, truth = drawn(0.0, spread=2.0, programs=1200)
    found = fault_em(passes, rollouts, program, outcome)
    assert found.shifts[2] < 0.6  # the rates of most problems differ from the common rates
    inner = np.r_[program[1:] == program[:-1], False]
    passed = outcome[program] == PASSED
    odd = inner & ~passed
    alone = auroc(found.recoverable[odd], truth[odd])
    together = fault_em(passes, rollouts, program, outcome, np.zeros(len(outcome), int))
    assert alone > auroc(together.recoverable[odd], truth[odd])


def test_arrays_that_do_not_fit_are_refused():
    one = np.array([1])
    with pytest.raises(DataError, match="row 0: passes=2 is not between 0 and rollouts=1"):
        fault_em(one * 2, one, one * 0, one)


def test_data_that_say_little_or_contradict_themselves():
    none = np.zeros(0, int)
    assert fault_em(none, none, none, none).recoverable.shape == (0,)
    zero, two = np.array([0, 0]), np.array([4, 4, 0])
    silent = fault_em(zero, zero, zero, np.array([UNKNOWN]))
    assert ((silent.recoverable > 0) & (silent.recoverable < 1)).all()
    np.testing.assert_allclose(silent.evidence, 0.5)
    failed = fault_em(two, np.array([4, 4, 1]), np.zeros(3, int), np.array([FAILED]))  # all rollouts pass
    assert np.isfinite(failed.recoverable).all()
    assert failed.recoverable[-1] == pytest.approx(0.0)
    assert failed.recoverable[0] > 0.5
