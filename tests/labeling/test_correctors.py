"""The correctors on synthetic programs with known truth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from dreamprm_jax.labeling.correction.change_point import FAILED, PASSED, UNKNOWN, change_point_em
from dreamprm_jax.labeling.correction.correctors import beta_shrink, closure, scan, smoothing
from dreamprm_jax.schema import DataError, Outcome, StepLabel, Verdict


@dataclass(frozen=True)
class Synthetic:
    """Programs that are drawn from the generative model which the correctors assume."""

    passes: np.ndarray
    rollouts: np.ndarray
    program: np.ndarray
    outcome: np.ndarray
    group: np.ndarray
    recoverable: np.ndarray  # true value
    pass_rate: np.ndarray  # true value for each group


def draw(rollouts: int, programs: int = 900, problems: int = 150, hazard: float = 0.18, seed: int = 0) -> Synthetic:
    """Each problem has its own pass rate. Each step is fatal with probability ``hazard``. The counts are binomial."""
    rng = np.random.default_rng(seed)
    pass_rate = rng.beta(3.0, 3.0, problems)
    group = rng.integers(0, problems, programs)
    rows: list[tuple[int, bool, int]] = []
    outcome = np.zeros(programs, int)
    for index in range(programs):
        alive = True
        for _ in range(rng.integers(3, 8)):
            alive = alive and rng.random() > hazard
            rate = np.clip(rng.beta(12 * pass_rate[group[index]], 12 * (1 - pass_rate[group[index]])), 0, 1)
            rows.append((index, alive, rng.binomial(rollouts, rate) if alive else 0))
        outcome[index] = PASSED if alive else FAILED
    program, recoverable, passes = (np.array(column) for column in zip(*rows, strict=True))
    return Synthetic(passes, np.full(len(rows), rollouts), program, outcome, group, recoverable, pass_rate)


def auroc(score: np.ndarray, truth: np.ndarray) -> float:
    """Area under the ROC curve. Ties count one half."""
    positive, negative = score[truth][:, None], score[~truth][None, :]
    return float(((positive > negative) + 0.5 * (positive == negative)).mean())


def test_em_finds_the_recoverable_steps() -> None:
    data = draw(rollouts=2)
    result = change_point_em(data.passes, data.rollouts, data.program, data.outcome, data.group)
    raw = data.passes / data.rollouts
    assert auroc(raw, data.recoverable) < 0.90
    assert auroc(result.recoverable, data.recoverable) > 0.985
    # The Brier score is far below that of the raw labels.
    assert np.mean((result.recoverable - data.recoverable) ** 2) < 0.35 * np.mean((raw - data.recoverable) ** 2)
    assert np.all(np.diff(result.log_posterior) > -1e-9)


def test_em_is_calibrated_and_recovers_the_parameters() -> None:
    data = draw(rollouts=4, programs=3000)
    result = change_point_em(data.passes, data.rollouts, data.program, data.outcome, data.group)
    # After four failed rollouts, few probabilities exceed one half.
    for low, high in ((0.001, 0.05), (0.05, 0.15), (0.15, 0.5)):
        within = (result.recoverable > low) & (result.recoverable < high)
        assert within.sum() > 300
        assert result.recoverable[within].mean() == pytest.approx(data.recoverable[within].mean(), abs=0.04)
    assert result.hazard[:3] == pytest.approx(0.18, abs=0.03)
    assert np.corrcoef(result.pass_rate, data.pass_rate)[0, 1] > 0.9
    assert 4.0 <= result.concentration <= 32.0


def test_em_respects_what_is_certain() -> None:
    #              passed    failed, a pass at step 1   failed, no rollouts  unknown outcome
    passes = np.array([0, 0, 0, 2, 0, 0, 0, 0, 1])
    program = np.array([0, 0, 1, 1, 1, 2, 2, 3, 3])
    outcome = np.array([PASSED, FAILED, FAILED, UNKNOWN])
    values = change_point_em(passes, np.array([4, 4, 4, 4, 4, 0, 0, 4, 4]), program, outcome).recoverable
    assert values[:2] == pytest.approx(1.0)
    assert values[2:4] == pytest.approx(1.0)
    assert values[4] == pytest.approx(0.0)
    assert 0.0 < values[5] < 1.0  # without rollouts, only the prior counts
    assert values[6] == pytest.approx(0.0)
    assert values[7:] == pytest.approx(1.0)
    for index in range(4):
        assert np.all(np.diff(values[program == index]) <= 1e-12)


def test_em_lets_the_outcome_overrule_the_last_rollouts() -> None:
    values = change_point_em(np.array([1, 1]), np.array([2, 2]), np.array([0, 0]), np.array([FAILED])).recoverable
    assert values == pytest.approx([1.0, 0.0])


def test_beta_shrink_is_the_posterior_mean_of_the_fitted_prior() -> None:
    rng = np.random.default_rng(0)
    rate = rng.beta(2.0, 4.0, 5000)
    rollouts = rng.integers(0, 9, 5000)
    passes = rng.binomial(rollouts, rate)
    values = beta_shrink(passes, rollouts)
    assert values == pytest.approx((2.0 + passes) / (6.0 + rollouts), abs=0.03)
    seen = rollouts > 0
    raw_error = np.mean((passes[seen] / rollouts[seen] - rate[seen]) ** 2)
    assert np.mean((values[seen] - rate[seen]) ** 2) < 0.55 * raw_error
    assert values[rollouts == 0] == pytest.approx(1 / 3, abs=0.02)


def test_smoothing() -> None:
    assert smoothing(np.array([0.0, 0.5, 1.0])) == pytest.approx([0.05, 0.5, 0.95])
    with pytest.raises(DataError, match=r"amount 2: must be in \[0, 1\]"):
        smoothing(np.zeros(1), 2)


def test_closure_hands_a_pass_back_to_earlier_steps() -> None:
    #                  passed   failed, a pass at step 1   nothing known   unknown outcome
    passes = np.array([0, 0, 0, 2, 0, 0, 0, 0, 0, 1, 0])
    rollouts = np.array([4, 1, 4, 4, 4, 1, 0, 0, 4, 4, 0])
    program = np.array([0, 0, 1, 1, 1, 1, 2, 2, 3, 3, 3])
    values = closure(passes, rollouts, program, np.array([PASSED, FAILED, UNKNOWN, UNKNOWN]))
    np.testing.assert_array_equal(values, [1, 1, 1, 1, 0, 0, np.nan, np.nan, 1, 1, np.nan])


def test_a_failed_program_s_own_count_is_no_pass() -> None:
    one = np.array([0, 0])
    np.testing.assert_array_equal(closure(np.array([0, 1]), np.array([2, 1]), one, np.array([FAILED])), [0, 0])


def test_scan_is_soft_next_to_the_predicted_error() -> None:
    passes, rollouts = np.array([2, 4, 1, 1, 0, 3, 0]), np.array([4, 4, 4, 4, 4, 4, 1])
    program = np.zeros(7, int)
    # The predicted error is at step 4. Steps 2 and 3 are soft, relative to the pass rate of one half at step 0.
    assert scan(passes, rollouts, program, np.array([FAILED])) == pytest.approx([1, 1, 0.5, 0.5, 0, 0, 0])
    assert scan(passes, rollouts, program, np.array([PASSED])) == pytest.approx([1] * 7)


def rows(data: Synthetic) -> tuple[list[StepLabel], dict[str, Outcome]]:
    """The synthetic programs as rows of the label stage."""
    start = np.searchsorted(data.program, data.program)
    labels = [
        StepLabel(
            problem_id=f"problem{data.group[program]}",
            program_hash=f"program{program}",
            step_index=int(row - start[row]),
            start=0,
            end=0,
            passes=int(data.passes[row]),
            rollouts=int(data.rollouts[row]),
            infrastructure_errors=0,
            unforced=0,
            posterior_alpha=1.0,
            posterior_beta=1.0,
            policy="synthetic",
            sampling="{}",
            mode="faithful",
            tier="PORTABLE",
            config_hash="",
        )
        for row, program in enumerate(data.program)
    ]
    outcomes = {
        f"program{program}": Outcome(
            f"problem{data.group[program]}",
            f"program{program}",
            Verdict.AC if passed == PASSED else Verdict.WA,
            0,
            1,
            "",
            0.0,
            "faithful",
            "PORTABLE",
        )
        for program, passed in enumerate(data.outcome)
    }
    return labels, outcomes


def test_bad_input_is_named() -> None:
    with pytest.raises(DataError, match="row 1: passes=3 is not between 0 and rollouts=2"):
        change_point_em(np.array([0, 3]), np.array([2, 2]), np.array([0, 0]), np.array([0]))
    with pytest.raises(DataError, match="never falling"):
        change_point_em(np.array([0, 0]), np.array([2, 2]), np.array([1, 0]), np.array([0, 0]))
    with pytest.raises(DataError, match="outcome: 1"):
        change_point_em(np.array([0, 0]), np.array([2, 2]), np.array([0, 0]), np.array([7]))
    with pytest.raises(DataError, match="nothing to fit"):
        beta_shrink(np.zeros(2, int), np.zeros(2, int))
