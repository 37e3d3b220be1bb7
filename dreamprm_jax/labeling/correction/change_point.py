"""Change-point EM: infers the first fatal step of each failed program.

Three facts constrain the steps of a program. All prefixes after an unrecoverable prefix are unrecoverable. A prefix
with a passing rollout is certainly recoverable. The program's outcome is known. One latent variable per program, its
first fatal step, expresses all of this.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from dreamprm_jax.schema import DataError, Verdict

PASSED, FAILED, UNKNOWN = 1, 0, -1  # outcome of a program; UNKNOWN without a verdict


def outcome_code(verdict: Verdict | None) -> int:
    """PASSED, FAILED or UNKNOWN; ``verdict`` is None for a program that was not judged."""
    if verdict is None or not verdict.is_label:
        return UNKNOWN
    return PASSED if verdict is Verdict.AC else FAILED


# The maximization over pass rates uses a grid, which is exact; all iterations share one table of likelihoods.
RATES = np.linspace(0.02, 0.98, 49)
CONCENTRATIONS = np.array([0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0])
GROUP_STRENGTH = 8.0  # prior weight of the overall pass rate in each group, in rollouts


@dataclass(frozen=True)
class ChangePoint:
    """Result of ``change_point_em``."""

    recoverable: Float[np.ndarray, " n"]  # P(some completion of the prefix still passes | counts, outcome)
    hazard: Float[np.ndarray, " positions"]  # P(step i is fatal | no earlier step is), by step index
    pass_rate: Float[np.ndarray, " groups"]  # mean pass rate of a rollout from a recoverable prefix
    concentration: float  # a + b of the Beta distribution of a prefix's pass rate around its group's
    log_posterior: tuple[float, ...]  # nats, up to a constant, before each maximization; nondecreasing


def change_point_em(
    passes: Int[np.ndarray, " n"],
    rollouts: Int[np.ndarray, " n"],
    program: Int[np.ndarray, " n"],
    outcome: Int[np.ndarray, " programs"],
    group: Int[np.ndarray, " programs"] | None = None,
    max_iterations: int = 100,
    tolerance: float = 1e-6,
) -> ChangePoint:
    """Expectation maximization over the first fatal step T of each program.

    Given T, the passes of steps before T are beta-binomial, and the passes of all other steps are 0. The prior is
    P(T = i) = h_i prod_{j<i} (1 - h_j). The outcome constrains T: a passed program has no fatal step; a failed program
    has one, because its last prefix is the program itself. The EM fits the hazards h_i (prior Beta(2, 2)), the mean
    pass rate of each group, and the concentration.

    Args:
      passes: Passing rollouts of each step's prefix; the rows of a program are consecutive and ordered by step.
      rollouts: Judged rollouts; 0 means no evidence.
      program: The program of each row, 0..programs-1, nondecreasing.
      outcome: PASSED, FAILED or UNKNOWN for each program.
      group: Group of programs with similar pass rates (those of one problem), 0..groups-1; None is one group for all.
      max_iterations: Maximum number of iterations.
      tolerance: Stops when the log-posterior per program increases by less.

    Raises:
      DataError: if the arrays are inconsistent.
    """
    passes, rollouts, program, outcome = (np.asarray(array) for array in (passes, rollouts, program, outcome))
    group = np.zeros(len(outcome), int) if group is None else np.asarray(group)
    check_counts(passes, rollouts, program, outcome, group)
    lengths = np.bincount(program, minlength=len(outcome))
    column = np.arange(len(program)) - (np.cumsum(lengths) - lengths)[program]
    shape = (len(outcome), int(lengths.max(initial=0)))
    mask = np.zeros(shape, bool)
    mask[program, column] = True

    # There are few distinct (passes, rollouts) pairs, so all likelihoods come from one table.
    pairs, pair = np.unique(np.stack([passes, rollouts], axis=1), axis=0, return_inverse=True)
    pair = pair.reshape(-1)
    table = log_beta_binomial(pairs)  # [pairs, RATES, CONCENTRATIONS]
    allowed = _allowed(pad(passes, program, column, shape), mask, lengths, outcome)

    hazard = np.full(shape[1], 0.2)
    rate = np.full(int(group.max(initial=0)) + 1, len(RATES) // 2)  # grid index by group
    overall, concentration = len(RATES) // 2, 2  # grid indices
    history: list[float] = []
    alive = np.zeros(len(program))
    for _ in range(max_iterations):
        evidence = pad(table[pair, rate[group[program]], concentration], program, column, shape)
        log_joint = np.where(allowed, _log_prior(hazard, mask) + _before(evidence), -np.inf)
        top = log_joint.max(axis=1, keepdims=True)
        weight = np.exp(log_joint - top)
        total = weight.sum(axis=1, keepdims=True)
        posterior = weight / total  # P(T = i), the last column for "none"
        alive = (1.0 - np.cumsum(posterior, axis=1)).clip(0.0, 1.0)[program, column]
        prior = float((np.log(hazard) + np.log1p(-hazard)).sum() + _group_prior()[overall][rate].sum())
        history.append(float((top + np.log(total)).sum()) + prior)
        if len(history) > 1 and history[-1] - history[-2] < tolerance * max(len(outcome), 1):
            break
        hazard = _fit_hazard(posterior, mask)
        rate, overall, concentration = _fit_rates(table, pair, alive, group[program], len(rate))
    return ChangePoint(alive, hazard, RATES[rate], float(CONCENTRATIONS[concentration]), tuple(history))


def _allowed(
    passes: Int[np.ndarray, "programs steps"],
    mask: Bool[np.ndarray, "programs steps"],
    lengths: Int[np.ndarray, " programs"],
    outcome: Int[np.ndarray, " programs"],
) -> Bool[np.ndarray, "programs steps+1"]:
    """Whether each T is possible; the last column means no fatal step."""
    steps = np.arange(mask.shape[1])
    # The last prefix of a failed program is the program itself. If a rollout of it passes, the judge has contradicted
    # itself, and the outcome is trusted.
    final = steps[None, :] == lengths[:, None] - 1
    passes = np.where(final & (outcome == FAILED)[:, None], 0, passes)
    passes_from_here = np.cumsum(passes[:, ::-1], axis=1)[:, ::-1]
    fatal = mask & (passes_from_here == 0) & (outcome != PASSED)[:, None]
    none = (outcome != FAILED) | (lengths == 0)
    return np.concatenate([fatal, none[:, None]], axis=1)


def _log_prior(
    hazard: Float[np.ndarray, " steps"], mask: Bool[np.ndarray, "programs steps"]
) -> Float[np.ndarray, "programs steps+1"]:
    """log P(T) of each program."""
    survive = _before(np.where(mask, np.log1p(-hazard), 0.0))
    survive[:, :-1] += np.log(hazard)
    return survive


def _before(values: Float[np.ndarray, "programs steps"]) -> Float[np.ndarray, "programs steps+1"]:
    """Sums over all earlier steps."""
    return np.concatenate([np.zeros((len(values), 1)), np.cumsum(values, axis=1)], axis=1)


def _fit_hazard(
    posterior: Float[np.ndarray, "programs steps+1"], mask: Bool[np.ndarray, "programs steps"]
) -> Float[np.ndarray, " steps"]:
    fatal = posterior[:, :-1]
    reached = np.where(mask, 1.0 - _before(fatal)[:, :-1], 0.0)
    return (fatal.sum(axis=0) + 1.0) / (reached.sum(axis=0) + 2.0)


def _fit_rates(
    table: Float[np.ndarray, "pairs rates concentrations"],
    pair: Int[np.ndarray, " n"],
    alive: Float[np.ndarray, " n"],
    group: Int[np.ndarray, " n"],
    groups: int,
) -> tuple[Int[np.ndarray, " groups"], int, int]:
    """The best (rate of each group, overall rate, concentration) on the grid."""
    counts = np.zeros((groups, len(table)))
    np.add.at(counts, (group, pair), alive)
    score = np.einsum("gp,prc->cgr", counts, table)
    prior = _group_prior()  # [overall, rate]
    best: tuple[float, Int[np.ndarray, " groups"], int, int] | None = None
    for concentration in range(len(CONCENTRATIONS)):
        for overall in range(len(RATES)):
            value = score[concentration] + prior[overall]
            total = float(value.max(axis=1).sum())
            if best is None or total > best[0]:
                best = (total, value.argmax(axis=1), overall, concentration)
    assert best is not None
    return best[1:]


def _group_prior() -> Float[np.ndarray, "overall rates"]:
    """Log density of a group's rate given the overall rate m: Beta(1 + s m, 1 + s (1 - m)) with s = GROUP_STRENGTH."""
    a, b = 1.0 + GROUP_STRENGTH * RATES[:, None], 1.0 + GROUP_STRENGTH * (1.0 - RATES[:, None])
    return (a - 1.0) * np.log(RATES) + (b - 1.0) * np.log1p(-RATES) - _log_beta(a, b)


def log_beta_binomial(pairs: Int[np.ndarray, "pairs 2"]) -> Float[np.ndarray, "pairs rates concentrations"]:
    """log P(passes | rollouts) without the binomial coefficient, which does not depend on T."""
    passes, failures = pairs[:, 0, None, None], (pairs[:, 1] - pairs[:, 0])[:, None, None]
    a = RATES[None, :, None] * CONCENTRATIONS[None, None, :]
    b = (1.0 - RATES[None, :, None]) * CONCENTRATIONS[None, None, :]
    return _log_beta(a + passes, b + failures) - _log_beta(a, b)


_log_gamma = np.vectorize(math.lgamma, otypes=[float])


def _log_beta(a: Float[np.ndarray, " *shape"], b: Float[np.ndarray, " *shape"]) -> Float[np.ndarray, " *shape"]:
    return _log_gamma(a) + _log_gamma(b) - _log_gamma(a + b)


def pad(
    values: np.ndarray, program: Int[np.ndarray, " n"], column: Int[np.ndarray, " n"], shape: tuple[int, int]
) -> np.ndarray:
    """Values as [programs, steps], padded with zeros."""
    padded = np.zeros(shape, values.dtype)
    padded[program, column] = values
    return padded


def check_counts(
    passes: np.ndarray,
    rollouts: np.ndarray,
    program: np.ndarray,
    outcome: np.ndarray,
    group: np.ndarray | None = None,
    complete: bool = False,
) -> None:
    """Raises DataError, naming the first row, if counts, programs and outcomes are inconsistent.

    If ``complete``, every program must also have rows.
    """
    if not passes.shape == rollouts.shape == program.shape or passes.ndim != 1:
        raise DataError(
            f"passes {passes.shape}, rollouts {rollouts.shape}, program {program.shape}: vectors of one length expected"
        )
    if ((passes < 0) | (passes > rollouts)).any():
        row = int(np.argmax((passes < 0) | (passes > rollouts)))
        raise DataError(f"row {row}: passes={passes[row]} is not between 0 and rollouts={rollouts[row]}")
    rising = not len(program) or (
        program[0] >= 0 and program[-1] < len(outcome) and bool((np.diff(program) >= 0).all())
    )
    if not rising or (complete and len(np.unique(program)) != len(outcome)):
        numbers = "every number" if complete else "numbers"
        raise DataError(f"program: {numbers} from 0 to {len(outcome) - 1}, never falling, expected; sort the rows")
    if not np.isin(outcome, (PASSED, FAILED, UNKNOWN)).all():
        raise DataError("outcome: 1 (passed), 0 (failed) or -1 (unknown) expected for each program")
    if group is not None and (group.shape != outcome.shape or (len(group) and group.min() < 0)):
        raise DataError(f"group: {group.shape}; one number >= 0 for each of the {len(outcome)} programs expected")
