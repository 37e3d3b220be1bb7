"""The value model: the probability that a completion of a prefix passes, given the counts of all steps of its program.

Let s_j be the probability that the policy writes step j correctly, given that all earlier steps are correct. The value
of a recoverable prefix is V_i = s_{i+1} ... s_{n-1}. It increases along the program and is 1 at the end of a correct
program; from the first fatal step on it is 0. The program is itself a sample of the policy: its step j is correct with
probability s_j. A program is therefore a hidden Markov chain over V, read from its end. Rollouts of a prefix pass with
probability V_i, and the outcome tells whether a fatal step exists. The distribution of the s_j (one histogram each for
the first, the inner and the last steps after ``main``) is fitted to all programs by expectation maximization. The
posterior of every V_i is then exact on a grid. A small fraction of steps may lower V without being fatal.

The change-point EM (``change_point``) estimates whether a prefix is recoverable; the value model also estimates the
probability of a passing completion, which is the meaning of a soft label.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from dreamprm_jax.labeling.correction.change_point import FAILED, PASSED, check_counts
from dreamprm_jax.schema import DataError

SPACING = 0.05  # grid spacing in -log V
LEVELS = 80  # grid points of V, from 1 down to 0.02
RATIOS = 46  # grid points of s, from 1 down to 0.1
PRIOR_RATIO, PRIOR_STRENGTH = 0.16, 10.0  # exponential prior of -log s: its mean, and its weight in steps
CLASSES = 3  # first, inner and last step after main
CHUNK = 64  # programs per chunk; small enough that numpy uses one thread for products, which is faster

_VALUES = np.exp(-SPACING * np.arange(LEVELS))
_RATIOS = np.exp(-SPACING * np.arange(RATIOS))
_SHIFT = np.minimum(np.arange(LEVELS)[:, None] + np.arange(RATIOS), LEVELS - 1)  # level after a ratio: V s
_BASE = np.exp(-SPACING * np.arange(RATIOS) / PRIOR_RATIO)
_BASE /= _BASE.sum()
# A step that lowers V: the level before it is uniform over the levels at or above the level after it.
_FALLS = np.tril(np.ones((LEVELS, LEVELS))) / np.arange(1, LEVELS + 1)[:, None]


@dataclass(frozen=True)
class Values:
    """Result of ``value_em``."""

    value: Float[np.ndarray, " n"]  # posterior mean of V
    deviation: Float[np.ndarray, " n"]  # posterior standard deviation of V
    recoverable: Float[np.ndarray, " n"]  # P(V > 0)
    right: Float[np.ndarray, " 3"]  # mean of s for the first, inner and last steps after main
    log_posterior: tuple[float, ...]  # nats, up to a constant, before each maximization; nondecreasing


@dataclass(frozen=True)
class _Parameters:
    ratios: Float[np.ndarray, "classes ratios"]  # distribution of s
    falls: float  # fraction of the steps after main that lower V without being fatal
    first: float  # P(main is fatal)


_PRIOR = _Parameters(np.tile(_BASE, (CLASSES, 1)), falls=0.02, first=0.1)


@dataclass
class _Expected:
    """Expected counts of an E-step."""

    ratios: Float[np.ndarray, "classes ratios"]
    falls: float = 0.0
    steps: float = 0.0
    first: float = 0.0
    programs: int = 0
    log_likelihood: float = 0.0


def value_em(
    passes: Int[np.ndarray, " n"],
    rollouts: Int[np.ndarray, " n"],
    program: Int[np.ndarray, " n"],
    outcome: Int[np.ndarray, " programs"],
    unjudged: Int[np.ndarray, " n"] | None = None,
    ratio: float = 1.0,
    max_iterations: int = 40,
    tolerance: float = 1e-4,
) -> Values:
    """Fits the model and computes the posterior of every step.

    Args:
      passes: Passing rollouts of each step's prefix. The rows of a program are consecutive and ordered by step; the
        last row is the complete program, whose counts are ignored in favor of the outcome.
      rollouts: Judged rollouts. A rollout that counts at several steps is treated as several rollouts.
      program: The program of each row, 0..programs-1, nondecreasing, without gaps.
      outcome: PASSED, FAILED or UNKNOWN for each program.
      unjudged: Rollouts of each step without a verdict, because no other rollout wrote the same program.
      ratio: P(unique program | passing rollout) / P(unique program | failing rollout), see ``single_ratio``.
      max_iterations: Maximum number of iterations.
      tolerance: Stops when the log-posterior per program increases by less.

    Raises:
      DataError: if the arrays are inconsistent.
    """
    passes, rollouts, program, outcome = (np.asarray(array) for array in (passes, rollouts, program, outcome))
    unjudged = np.zeros_like(rollouts) if unjudged is None else np.asarray(unjudged)
    check_counts(passes, rollouts, program, outcome, complete=True)
    if unjudged.shape != rollouts.shape:
        raise DataError(f"unjudged {unjudged.shape}, rollouts {rollouts.shape}: vectors of one length expected")
    counts = _evidence(passes, rollouts, unjudged, ratio)
    lengths = np.bincount(program, minlength=len(outcome))
    start = np.cumsum(lengths) - lengths
    parameters = _PRIOR
    history: list[float] = []
    while True:
        transitions = _transitions(parameters)
        expected = _Expected(np.zeros((CLASSES, RATIOS)))
        moments = np.zeros((3, len(passes)))
        for low in range(0, len(outcome), CHUNK):
            chunk = slice(low, low + CHUNK)
            programs = _Programs(start[chunk], lengths[chunk], outcome[chunk])
            _expectation(counts, programs, parameters, transitions, expected, moments)
        history.append(expected.log_likelihood + _log_prior(parameters))
        enough = tolerance * max(len(outcome), 1)
        if len(history) == max_iterations or (len(history) > 1 and history[-1] - history[-2] < enough):
            break
        ratios = expected.ratios + PRIOR_STRENGTH * _BASE
        parameters = _Parameters(
            ratios / ratios.sum(axis=1, keepdims=True),
            (expected.falls + 0.5) / (expected.steps + 50.0),
            (expected.first + 1.0) / (expected.programs + 10.0),
        )
    mean, square, recoverable = moments
    deviation = np.sqrt((square - mean**2).clip(0.0))
    return Values(mean, deviation, recoverable.clip(0.0, 1.0), parameters.ratios @ _RATIOS, tuple(history))


def _log_prior(parameters: _Parameters) -> float:
    """Log density of the Dirichlet prior of the ratios and the Beta priors of ``falls`` and ``first``."""
    ratios = float((PRIOR_STRENGTH * _BASE * np.log(parameters.ratios)).sum())
    falls = 0.5 * np.log(parameters.falls) + 49.5 * np.log1p(-parameters.falls)
    return ratios + float(falls + np.log(parameters.first) + 9.0 * np.log1p(-parameters.first))


def deviations(passes: Int[np.ndarray, " n"], rollouts: Int[np.ndarray, " n"], outcome: int) -> Float[np.ndarray, " n"]:
    """Posterior standard deviation of V at each step of one program except the last, with the prior parameters.

    Args:
      passes: Passing rollouts of each step except the last.
      rollouts: Judged rollouts of each step except the last.
      outcome: PASSED, FAILED or UNKNOWN.
    """
    padded = np.append(passes, 0), np.append(rollouts, 0)
    moments = np.zeros((3, len(passes) + 1))
    _expectation(
        _evidence(*padded, np.zeros(len(passes) + 1, int), 1.0),
        _Programs(np.array([0]), np.array([len(passes) + 1]), np.array([outcome])),
        _PRIOR,
        _prior_transitions(),
        _Expected(np.zeros((CLASSES, RATIOS))),
        moments,
    )
    return np.sqrt((moments[1] - moments[0] ** 2).clip(0.0))[:-1]


@dataclass(frozen=True)
class _Programs:
    """Positions of the rows of some programs."""

    start: Int[np.ndarray, " programs"]
    lengths: Int[np.ndarray, " programs"]
    outcome: Int[np.ndarray, " programs"]


def _expectation(
    counts: _Evidence,
    programs: _Programs,
    parameters: _Parameters,
    transitions: tuple[np.ndarray, np.ndarray, np.ndarray],
    expected: _Expected,
    moments: Float[np.ndarray, "3 n"],
) -> None:
    """E-step of one chunk of programs: adds to ``expected`` and sets its rows of ``moments`` (V, V squared, V > 0).

    For the r-th last step, ``alive[r]`` is the likelihood of all data from this step on, for each level of V, if the
    step is recoverable. ``hypothetical[r]`` is the distribution of V if all later steps were correct. ``dead[r]`` is
    the likelihood after an earlier fatal step.
    """
    right, wrong, any_ratio = transitions
    start, lengths, outcome = programs.start, programs.lengths, programs.outcome
    reach = int(lengths.max(initial=1))
    shape = (reach, len(start), LEVELS)
    alive, hypothetical, dead = np.zeros(shape), np.zeros(shape), np.zeros(shape[:2])
    alive[0, :, 0], hypothetical[0, :, 0], dead[0] = outcome != FAILED, 1.0, outcome != PASSED
    evidence, gone, scale = np.ones(shape), np.ones(shape[:2]), np.zeros(shape[:2])
    kinds, active = np.zeros(shape[:2], int), np.zeros(shape[:2], bool)
    for r in range(1, reach):
        active[r] = lengths > r
        rows = (start + lengths - 1 - r)[active[r]]
        # class of the transition to the next step
        kinds[r] = np.where(r == 1, 2, np.where(r == lengths - 1, 0, 1))
        evidence[r, active[r]], scale[r, active[r]] = (
            counts.likelihood[counts.pair[rows]],
            counts.scale[counts.pair[rows]],
        )
        gone[r, active[r]] = counts.none_passed[counts.pair[rows]]
        here = active[r, :, None]
        ended_well = _through(right, alive[r - 1], kinds[r])
        ends_here = _through(wrong, hypothetical[r - 1], kinds[r]) * dead[r - 1, :, None]
        alive[r] = np.where(here, evidence[r] * (ended_well + ends_here), alive[r - 1])
        hypothetical[r] = np.where(here, _through(any_ratio, hypothetical[r - 1], kinds[r]), hypothetical[r - 1])
        dead[r] = np.where(active[r], gone[r] * dead[r - 1], dead[r - 1])
    total = (1.0 - parameters.first) * alive[-1].sum(axis=1) + parameters.first * dead[-1]
    expected.log_likelihood += float((np.log(total) + scale.sum(axis=0)).sum())
    expected.first += float((parameters.first * dead[-1] / total).sum())
    expected.programs += len(start)
    outer = np.repeat((1.0 - parameters.first) / total[:, None], LEVELS, axis=1)  # of alive[r]
    for r in range(reach - 1, -1, -1):
        there = lengths > r
        marginal = (outer * alive[r])[there]
        moments[:, (start + lengths - 1 - r)[there]] = (
            marginal @ _VALUES, marginal @ _VALUES**2, marginal.sum(axis=1)
        )  # fmt: skip
        if r == 0:
            break
        passed_on = np.where(active[r, :, None], outer * evidence[r], 0.0)
        for kind in range(CLASSES):
            chosen = kinds[r] == kind
            to_alive = passed_on[chosen].T @ alive[r - 1][chosen]
            to_fatal = (passed_on * dead[r - 1, :, None])[chosen].T @ hypothetical[r - 1][chosen]
            _count(expected, kind, to_alive, to_fatal, parameters)
        outer = np.where(active[r, :, None], _through(right.transpose(0, 2, 1), passed_on, kinds[r]), outer)


def _transitions(parameters: _Parameters) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Matrices [class, V after, V before] of a step that is correct (or lowers V), of a fatal step, and of any step."""
    after = np.arange(LEVELS)[:, None]
    matrices = np.zeros((3, CLASSES, LEVELS, LEVELS))
    weights = (_RATIOS * (1.0 - parameters.falls), (1.0 - _RATIOS) * (1.0 - parameters.falls), np.ones(RATIOS))
    for matrix, weight in zip(matrices, weights, strict=True):
        for kind in range(CLASSES):
            np.add.at(matrix[kind], (after, _SHIFT), parameters.ratios[kind] * weight)
    matrices[0] += parameters.falls * _FALLS
    return matrices[0], matrices[1], matrices[2]


@functools.cache
def _prior_transitions() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return _transitions(_PRIOR)


def _through(
    matrices: Float[np.ndarray, "classes after before"],
    values: Float[np.ndarray, "programs after"],
    kinds: Int[np.ndarray, " programs"],
) -> Float[np.ndarray, "programs before"]:
    out = np.empty((len(values), matrices.shape[2]))
    for kind, matrix in enumerate(matrices):
        out[kinds == kind] = values[kinds == kind] @ matrix
    return out


@dataclass(frozen=True)
class _Evidence:
    """Likelihoods of the distinct counts; ``pair`` is the index into them for each row."""

    pair: Int[np.ndarray, " n"]
    likelihood: Float[np.ndarray, "pairs levels"]  # at each level of V, divided by exp(``scale``)
    scale: Float[np.ndarray, " pairs"]
    none_passed: Float[np.ndarray, " pairs"]  # likelihood at V = 0


def _evidence(
    passes: Int[np.ndarray, " n"], rollouts: Int[np.ndarray, " n"], unjudged: Int[np.ndarray, " n"], ratio: float
) -> _Evidence:
    """Likelihoods of passes, failures and unjudged rollouts, whose odds of passing are ``ratio`` V : 1 - V."""
    pairs, pair = np.unique(np.stack([passes, rollouts, unjudged], axis=1), axis=0, return_inverse=True)
    k, n, u = pairs[:, 0, None], pairs[:, 1, None], pairs[:, 2, None]
    below_one = _VALUES.clip(0.0, 1.0 - 1e-3)
    logs = k * np.log(_VALUES) + (n - k) * np.log1p(-below_one) + u * np.log1p(below_one * (ratio - 1.0))
    scale = np.where(pairs[:, 0] > 0, logs.max(axis=1), 0.0)  # no scaling without a pass, to compare with V = 0
    return _Evidence(pair.reshape(-1), np.exp(logs - scale[:, None]), scale, (pairs[:, 0] == 0).astype(float))


def single_ratio(passes: int, rollouts: int, singles: int, single_passes: int, unjudged: int) -> float:
    """P(unique | passes) / P(unique | fails) of a rollout's program, from sums of ``StepTally`` fields over all steps.

    The judged unique programs represent the unjudged ones, because the choice does not depend on the verdict.
    """
    if not unjudged:
        return 1.0
    weight = (singles + unjudged) / max(singles, 1)
    passing, failing = weight * (single_passes + 0.5), weight * (singles - single_passes + 0.5)
    often_passing, often_failing = passes - single_passes, rollouts - passes - (singles - single_passes)
    return float((passing / (passing + often_passing + 0.5)) / (failing / (failing + often_failing + 0.5)))


def _count(
    expected: _Expected,
    kind: int,
    to_alive: Float[np.ndarray, "before after"],
    to_fatal: Float[np.ndarray, "before after"],
    parameters: _Parameters,
) -> None:
    """Adds the expected counts of each ratio at the steps of one class to ``expected``."""
    after = np.arange(LEVELS)[:, None]
    per_ratio = parameters.ratios[kind] * (1.0 - parameters.falls)
    found = per_ratio * (_RATIOS * to_alive[_SHIFT, after] + (1.0 - _RATIOS) * to_fatal[_SHIFT, after]).sum(axis=0)
    fell = parameters.falls * float((_FALLS.T * to_alive).sum())
    expected.ratios[kind] += found
    expected.falls += fell
    expected.steps += float(found.sum()) + fell
