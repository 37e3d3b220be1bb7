"""Compares the value model with enumeration, on synthetic programs with known values, and with partial verdicts."""

import dataclasses

import numpy as np
import pytest

from dreamprm_jax.labeling.correction import value_model
from dreamprm_jax.labeling.correction.change_point import FAILED, PASSED, UNKNOWN
from dreamprm_jax.labeling.correction.methods import LabelSource, step_key, value_labels
from dreamprm_jax.labeling.correction.value_model import deviations, single_ratio, value_em
from dreamprm_jax.metrics.step_metrics import auroc, brier
from dreamprm_jax.schema import DataError, Outcome, StepLabel, Verdict


@dataclasses.dataclass(frozen=True)
class Data:
    """Synthetic programs. The last row of each program is the program itself."""

    value: np.ndarray
    passes: np.ndarray
    rollouts: np.ndarray
    program: np.ndarray
    outcome: np.ndarray
    inner: np.ndarray  # False for the last row of each program


def simulate(programs, rollouts, seed):
    """Programs of 3 to 7 steps. Each step after main is correct with its own probability, drawn from Beta(8, 2)."""
    rng = np.random.default_rng(seed)
    value, program, outcome, inner = [], [], [], []
    for index in range(programs):
        length = rng.integers(3, 8)
        chance = np.r_[0.9, rng.beta(8, 2, length - 1)]
        right = rng.random(length) < chance
        fatal = int(np.argmin(right)) if not right.all() else length
        value += [float(np.prod(chance[i + 1 :])) if i < fatal else 0.0 for i in range(length)]
        program += [index] * length
        outcome.append(PASSED if fatal == length else FAILED)
        inner += [True] * (length - 1) + [False]
    values, inside = np.array(value), np.array(inner)
    tried = np.where(inside, rollouts, 1)
    return Data(values, rng.binomial(tried, values), tried, np.array(program), np.array(outcome), inside)


@pytest.fixture(scope="module")
def data():
    return simulate(300, 4, 0)


@pytest.fixture(scope="module")
def fitted(data):
    return value_em(data.passes, data.rollouts, data.program, data.outcome)


@pytest.mark.parametrize(
    ("passes", "outcome"), [((2, 1), PASSED), ((1, 0), FAILED), ((0, 0), UNKNOWN), ((3, 1), FAILED)]
)
def test_posterior_equals_enumeration(passes, outcome):
    """Enumerates each fatal step, ratio and fall of a three-step program, with the initial parameters."""
    rollouts, spacing, levels = (3, 2), value_model.SPACING, value_model.LEVELS
    chance = value_model._BASE
    falls, first = 0.02, 0.1

    def likelihood(step, level):
        v = min(np.exp(-spacing * level), 1 - 1e-3)
        return np.exp(-spacing * level) ** passes[step] * (1 - v) ** (rollouts[step] - passes[step])

    def none_pass(step):
        return float(passes[step] == 0)

    ratios = [(k, p, np.exp(-spacing * k)) for k, p in enumerate(chance)]
    mass = np.zeros(4)  # indexed by the first fatal step: 0, 1, 2 or none
    value = np.zeros(2)
    well, badly = outcome != FAILED, outcome != PASSED
    mass[0] = first * none_pass(0) * none_pass(1) * badly

    def add(fatal, weight, levels_of_saved):
        for step, level in enumerate(levels_of_saved):
            weight *= likelihood(step, level)
        mass[fatal] += weight
        for step, level in enumerate(levels_of_saved):
            value[step] += weight * np.exp(-spacing * level)

    for j, p, s in ratios:  # ratio at step 2, the last step: the value V of step 1 is s
        ends = {3: p * s * (1 - falls) * well, 2: p * (1 - s) * (1 - falls) * badly}
        if j == 0:  # the only level that is not below the level at the end
            ends[3] += falls * well
        for k, q, r in ratios:  # ratio at step 1
            level = min(j + k, levels - 1)
            for fatal, weight in ends.items():
                add(fatal, (1 - first) * weight * q * r * (1 - falls), (level, j))
            add(1, (1 - first) * p * q * (1 - r) * (1 - falls) * none_pass(1) * badly, (level,))
        for above in range(j + 1):
            for fatal, weight in ends.items():
                add(fatal, (1 - first) * weight * falls / (j + 1), (above, j))
    found = value_em(
        np.array([*passes, 0]), np.array([*rollouts, 0]), np.zeros(3, int), np.array([outcome]), max_iterations=1
    )
    assert deviations(np.array(passes), np.array(rollouts), outcome) == pytest.approx(found.deviation[:2], abs=1e-9)
    total = mass.sum()
    assert found.value[:2] == pytest.approx(value / total, rel=1e-6)
    assert found.recoverable == pytest.approx(
        [mass[1:].sum() / total, mass[2:].sum() / total, mass[3] / total], rel=1e-6
    )


def test_fit(data, fitted):
    """The posterior never falls, the mean probability is recovered, and the errors are small and match the model."""
    assert (np.diff(fitted.log_posterior) > -1e-6).all()
    assert 3 <= len(fitted.log_posterior) <= 40
    assert fitted.right == pytest.approx([0.8] * 3, abs=0.04)
    error = (fitted.value - data.value)[data.inner]
    assert np.mean(error**2) == pytest.approx(np.mean(fitted.deviation[data.inner] ** 2), rel=0.2)
    assert abs(error.mean()) < 0.01
    raw = (data.passes / data.rollouts)[data.inner]
    value, saved = data.value[data.inner], data.value[data.inner] > 0
    assert brier(fitted.value[data.inner], value) < 0.4 * brier(raw, value)
    assert auroc(fitted.recoverable[data.inner], saved) > auroc(raw, saved) + 0.02


def test_what_is_known_stays_known(data, fitted):
    last = ~data.inner
    assert fitted.value[last] == pytest.approx((data.outcome == PASSED).astype(float), abs=1e-9)
    passed = (data.outcome == PASSED)[data.program]
    assert fitted.recoverable[passed] == pytest.approx(1.0)
    assert fitted.recoverable[data.inner & (data.passes > 0)] == pytest.approx(1.0)
    one_program = np.diff(data.program) == 0
    assert (np.diff(fitted.recoverable)[one_program] < 1e-9).all()  # a program that is lost stays lost


def test_programs_without_verdict_or_rollouts(data, fitted):
    hidden = data.outcome.copy()
    hidden[::4] = UNKNOWN
    rollouts, passes = data.rollouts.copy(), data.passes.copy()
    rollouts[data.program % 4 == 0], passes[data.program % 4 == 0] = 0, 0
    found = value_em(passes, rollouts, data.program, hidden)
    blind = data.program % 4 == 0
    # Nothing is known about these programs, so all programs of the same length get the same value.
    lengths = np.bincount(data.program)[data.program]
    starts = np.r_[True, np.diff(data.program) > 0]
    alike = found.value[blind & starts & (lengths == 5)]
    assert len(alike) > 5
    assert alike == pytest.approx(alike[0])
    assert found.value[blind & starts].mean() == pytest.approx(data.value[starts].mean(), abs=0.06)
    assert found.value[~blind] == pytest.approx(fitted.value[~blind], abs=0.1)


def test_chunks_change_nothing(data, fitted, monkeypatch):
    monkeypatch.setattr(value_model, "CHUNK", 37)
    again = value_em(data.passes, data.rollouts, data.program, data.outcome)
    assert again.value == pytest.approx(fitted.value, abs=1e-9)
    assert len(again.log_posterior) == len(fitted.log_posterior)


def test_unjudged_rollouts(data):
    """Eight rollouts. Most failures and a few passes are unique programs, and 90% of these are left unjudged."""
    full = simulate(300, 8, 1)
    rng = np.random.default_rng(2)
    single_pass = rng.binomial(full.passes * full.inner, 0.1)
    single_fail = rng.binomial((full.rollouts - full.passes) * full.inner, 0.8)
    kept_pass, kept_fail = rng.binomial(single_pass, 0.1), rng.binomial(single_fail, 0.1)
    unjudged = single_pass + single_fail - kept_pass - kept_fail
    passes = full.passes - single_pass + kept_pass
    rollouts = full.rollouts - unjudged
    sums = (int(a[full.inner].sum()) for a in (passes, rollouts, kept_pass + kept_fail, kept_pass, unjudged))
    ratio = single_ratio(*sums)
    assert ratio == pytest.approx(0.1 / 0.8, rel=0.4)
    whole = value_em(full.passes, full.rollouts, full.program, full.outcome)
    thin = value_em(passes, rollouts, full.program, full.outcome, unjudged, ratio)
    ignored = value_em(passes, rollouts, full.program, full.outcome)
    value = full.value[full.inner]
    assert abs((thin.value[full.inner] - value).mean()) < 0.015
    assert brier(thin.value[full.inner], value) < 1.4 * brier(whole.value[full.inner], value)
    assert brier(thin.value[full.inner], value) < 0.8 * brier(ignored.value[full.inner], value)


def test_rows_of_the_label_stage(data):
    """The order of the rows has no effect, and the program's own verdict is not counted twice."""
    few = data.program < 60
    outcomes = {
        f"h{i:03d}": Outcome(
            "p", f"h{i:03d}", Verdict.AC if o == PASSED else Verdict.WA, 0, 1, "", 0.0, "faithful", "T"
        )
        for i, o in enumerate(data.outcome[:60])
    }
    index = np.concatenate([np.arange(n) for n in np.bincount(data.program[few])])

    def rows(strategy, extra):
        return [
            StepLabel(
                "p", f"h{program:03d}", int(step), 0, 0, int(k + extra * inner * (data.outcome[program] == PASSED)),
                int(n + extra * inner), 0, 0, 1.0, 1.0, "x", "{}", "faithful", "T", "c", strategy, int(4 * inner),
            )
            for program, step, k, n, inner in zip(
                data.program[few], index, data.passes[few], data.rollouts[few], data.inner[few], strict=True
            )
        ]  # fmt: skip

    plain = rows("fixed", 0)
    expected = value_em(data.passes[few], data.rollouts[few], data.program[few], data.outcome[:60]).value
    noisy = np.diff(data.program[few], append=-1) == 0  # all steps, except the last step of each program
    labels = value_labels(LabelSource(plain, outcomes))
    assert labels == pytest.approx(expected[noisy])
    mixed = np.random.default_rng(0).permutation(len(plain))
    shuffled = LabelSource([plain[i] for i in mixed], outcomes)
    by_key = dict(zip(map(step_key, LabelSource(plain, outcomes).steps), labels, strict=True))
    assert value_labels(shuffled) == pytest.approx([by_key[step_key(row)] for row in shuffled.steps])
    with_program = value_labels(LabelSource(rows("fixed+program", 1), outcomes))
    assert with_program == pytest.approx(expected[noisy])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"passes": [1]}, "vectors of one length"),
        ({"passes": [3, 0]}, "row 0: passes=3 is not between 0 and rollouts=2"),
        ({"program": [1, 1]}, "every number from 0 to 0"),
        ({"outcome": [5]}, r"1 \(passed\), 0 \(failed\) or -1"),
    ],
)
def test_bad_arrays(changes, message):
    good = {"passes": [1, 0], "rollouts": [2, 1], "program": [0, 0], "outcome": [0]}
    with pytest.raises(DataError, match=message):
        value_em(**{name: np.array(array) for name, array in (good | changes).items()})
