"""Undetected-fault EM: the change-point model for imperfect tests and completers.

The change-point EM (``change_point``) assumes that a passing rollout proves its prefix to be recoverable. This is wrong
in two cases. The weak tests used for rollouts may miss a fault that makes the program fail. And a language model may
repair a fault: it completes a wrong prefix to a correct program (in Python a later ``def`` overrides an earlier one).
Here a program is a hidden Markov chain with three states, starting at its first step:

    alive    the prefix is recoverable; rollouts pass at a rate that depends on the remaining steps and the problem
    hidden   the rollouts' tests miss the fatal step; rollouts pass at the same rate, but the program fails
    dead     the rollouts' tests detect the fatal step; rollouts pass at the repair rate, which may be 0

    alive -> hidden with probability h_i q, alive -> dead with h_i (1 - q), hidden -> dead with h_i (1 - q)

The outcome constrains the final state: alive for a passed program, hidden or dead for a failed one. Expectation
maximization fits the hazards h_i by step index, q, the pass rates (beta-binomial) by the number of remaining steps,
their variation between problems (a mixture of shifts of the log-odds, one shift per problem), and the repair rate. A
repair rate of 0 is a fixed point of the EM, so it is fitted from 0 and from a positive value; the latter fit is used if
its log-posterior is higher by REPAIR_GAIN nats. ``training.online_label_inference`` uses the hazards of the reward
model in training instead.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from dreamprm_jax.labeling.correction.change_point import FAILED, PASSED, RATES, check_counts, log_beta_binomial, pad

REMAINING = 8  # larger numbers of remaining steps share one pass rate
HIDDEN_PRIOR = (1.0, 19.0)  # Beta prior of q: faults are usually detected
SHIFTS = np.array([-3.0, -1.5, 0.0, 1.5, 3.0])  # shifts of a problem's pass rates, in log-odds
SHIFT_PRIOR = np.array([0.1, 0.2, 0.4, 0.2, 0.1])
SHIFT_STRENGTH = 10.0  # weight of the prior of the shifts, in problems
REPAIR_START = 0.1
REPAIR_PRIOR = (1.0, 5.0)  # Beta prior of the repair rate
MOST_REPAIR = 0.5
REPAIR_GAIN = 3.0


@dataclass(frozen=True)
class Faults:
    """Result of ``fault_em``."""

    recoverable: Float[np.ndarray, " n"]  # P(alive after the step | counts, outcome)
    hazard: Float[np.ndarray, " steps"]  # h by step index
    hidden: float  # q
    repair: float  # pass rate of dead prefixes
    # a / (a + d) with the likelihoods a and d of the step's counts in states alive and dead; one half without rollouts.
    # Online label inference needs no other information about the counts.
    evidence: Float[np.ndarray, " n"]
    pass_rate: Float[np.ndarray, " remaining"]  # mean pass rate of a rollout with 0, 1, ... remaining steps
    shifts: Float[np.ndarray, " shifts"]  # fraction of the problems with each of SHIFTS
    # Nats, up to a constant, before each maximization. An increase is usual but not guaranteed, because the rates' weak
    # prior is not included and steps after a hidden fault do not count for the hazards; the fit stops at a decrease.
    log_posterior: tuple[float, ...]


def fault_em(
    passes: Int[np.ndarray, " n"],
    rollouts: Int[np.ndarray, " n"],
    program: Int[np.ndarray, " n"],
    outcome: Int[np.ndarray, " programs"],
    group: Int[np.ndarray, " programs"] | None = None,
    max_iterations: int = 100,
    tolerance: float = 1e-5,
) -> Faults:
    """Fits the chain and computes the posterior of every step.

    Args:
      passes: Passing rollouts of each step's prefix. The rows of a program are consecutive and ordered by step; the
        last row is the complete program, whose counts are ignored in favor of the outcome.
      rollouts: Judged rollouts.
      program: The program of each row, 0..programs-1, nondecreasing, without gaps.
      outcome: PASSED, FAILED or UNKNOWN for each program.
      group: The problem of each program, 0..problems-1; None: a separate problem for each.
      max_iterations: Maximum number of iterations.
      tolerance: Stops when the log-posterior per program increases by less.

    Raises:
      DataError: if the arrays are inconsistent.
    """
    passes, rollouts, program, outcome = (np.asarray(array) for array in (passes, rollouts, program, outcome))
    group = np.arange(len(outcome)) if group is None else np.asarray(group)
    check_counts(passes, rollouts, program, outcome, group, complete=True)
    data = _Data.make(passes, rollouts, program, outcome, group)
    without = data.fit(0.0, max_iterations, tolerance)
    if not data.contradictions:
        return without
    repaired = data.fit(REPAIR_START, max_iterations, tolerance)
    better = repaired.log_posterior[-1] > without.log_posterior[-1] + REPAIR_GAIN
    return repaired if better else without


@dataclass(frozen=True)
class _Data:
    """The counts of all rows. There are few distinct pairs (passes, rollouts), so likelihoods are tables."""

    program: Int[np.ndarray, " n"]
    column: Int[np.ndarray, " n"]
    remaining: Int[np.ndarray, " n"]
    pair: Int[np.ndarray, " n"]
    pairs: Int[np.ndarray, "pairs 2"]
    outcome: Int[np.ndarray, " programs"]
    group: Int[np.ndarray, " programs"]
    inside: np.ndarray

    @classmethod
    def make(
        cls, passes: np.ndarray, rollouts: np.ndarray, program: np.ndarray, outcome: np.ndarray, group: np.ndarray
    ) -> _Data:
        lengths = np.bincount(program, minlength=len(outcome))
        start = np.cumsum(lengths) - lengths
        column = np.arange(len(program)) - start[program]
        remaining = np.minimum(lengths[program] - 1 - column, REMAINING)
        ends = start + lengths - 1
        passes, rollouts = passes.copy(), rollouts.copy()
        passes[ends], rollouts[ends] = 0, 0
        pairs, pair = np.unique(np.stack([passes, rollouts], axis=1), axis=0, return_inverse=True)
        inside = np.arange(int(lengths.max(initial=0))) < lengths[:, None]
        return cls(program, column, remaining, pair.reshape(-1), pairs, outcome, group, inside)

    @property
    def contradictions(self) -> bool:
        """Whether a rollout of a failed program passed; otherwise the repair rate is 0."""
        failed = self.outcome[self.program] != PASSED
        return bool((failed & (self.pairs[self.pair, 0] > 0)).any())

    def fit(self, repair: float, max_iterations: int, tolerance: float) -> Faults:
        """Expectation maximization from an initial repair rate; 0 stays 0."""
        shape = self.inside.shape
        problems = int(self.group.max(initial=-1)) + 1
        table = log_beta_binomial(self.pairs)  # [pairs, RATES, CONCENTRATIONS]
        logits = np.log(RATES / (1.0 - RATES))
        # Grid index of each rate after each shift: [shifts, RATES].
        shifted = np.abs(logits[None, :] + SHIFTS[:, None] - logits[:, None, None]).argmin(axis=0)
        rate = np.full((REMAINING + 1, 2), (len(RATES) // 2, 2))  # grid indices by number of remaining steps
        hazard, hidden, shares = np.full(shape[1], 0.2), 0.05, SHIFT_PRIOR
        many = (len(SHIFTS), *shape)
        history: list[float] = []
        while True:
            at = shifted[:, rate[self.remaining, 0]]  # [shifts, n]
            log_alive = table[self.pair, at, rate[self.remaining, 1]]
            dead = _dead(self.pairs, repair)[self.pair]
            chain = _Chain(
                np.tile(hazard, (len(SHIFTS) * shape[0], 1)),
                hidden,
                np.concatenate([pad(np.exp(row), self.program, self.column, shape) for row in log_alive]),
                np.tile(pad(dead, self.program, self.column, shape), (len(SHIFTS), 1)),
                np.tile(self.inside, (len(SHIFTS), 1)),
                np.tile(self.outcome, len(SHIFTS)),
            )
            *states, log_likelihood = chain.posterior()
            of_problem = np.zeros((len(SHIFTS), problems))
            np.add.at(of_problem.T, self.group, log_likelihood.reshape(len(SHIFTS), -1).T)
            joint = of_problem + np.log(shares)[:, None]
            top = joint.max(axis=0)
            total = top + np.log(np.exp(joint - top).sum(axis=0))
            share = np.exp(joint - total)  # [shifts, problems]
            weight = share[:, self.group, None]  # [shifts, programs, 1]
            alive, hidden_state, faults, hidden_faults = (state.reshape(many) for state in states)
            prior = (HIDDEN_PRIOR[0] - 1) * np.log(hidden) + (HIDDEN_PRIOR[1] - 1) * np.log1p(-hidden)
            prior += float(np.sum(np.log(hazard) + np.log1p(-hazard)))
            prior += float(SHIFT_STRENGTH * SHIFT_PRIOR @ np.log(shares))
            prior += (REPAIR_PRIOR[1] - 1) * np.log1p(-repair)
            history.append(float(total.sum()) + prior)
            enough = tolerance * max(len(self.outcome), 1)
            if len(history) == max_iterations or (len(history) > 1 and history[-1] - history[-2] < enough):
                break
            lives = (weight * (alive + hidden_state))[:, self.program, self.column]  # [shifts, n]
            shares = (share.sum(axis=1) + SHIFT_STRENGTH * SHIFT_PRIOR) / (problems + SHIFT_STRENGTH)
            alive, faults, hidden_faults = ((weight * one).sum(axis=0) for one in (alive, faults, hidden_faults))
            reached = np.concatenate([np.ones((shape[0], 1)), alive[:, :-1]], axis=1)
            reached, fatal = (np.where(self.inside, one, 0.0).sum(axis=0) for one in (reached, faults))
            hazard = (fatal + 1.0) / (reached + 2.0)
            hidden = (hidden_faults.sum() + HIDDEN_PRIOR[0] - 1 + 1e-3) / (faults.sum() + sum(HIDDEN_PRIOR) - 2 + 2e-3)
            hidden = float(hidden)
            rate = _fit_rates(table, self.pair, lives, self.remaining, shifted)
            if repair > 0.0:
                dies = 1.0 - lives.sum(axis=0)
                passes, rollouts = self.pairs[self.pair].T
                repair = (dies @ passes + REPAIR_PRIOR[0] - 1) / (dies @ rollouts + sum(REPAIR_PRIOR) - 2)
                repair = float(np.clip(repair, 1e-4, MOST_REPAIR))
        weight = share[:, self.group]
        recoverable = (weight[..., None] * alive).sum(axis=0)[self.program, self.column]
        likelihood = (weight[:, self.program] * np.exp(log_alive)).sum(axis=0)
        evidence = likelihood / (likelihood + dead)
        return Faults(
            recoverable.clip(0, 1), hazard, hidden, repair, evidence, RATES[rate[:, 0]], shares, tuple(history)
        )


def _dead(pairs: Int[np.ndarray, "pairs 2"], repair: float) -> Float[np.ndarray, " pairs"]:
    """Likelihood of the counts of dead prefixes, without the binomial coefficient (0 ** 0 is 1)."""
    passes, rollouts = pairs.T
    return np.power(repair, passes) * np.power(1.0 - repair, rollouts - passes)


@dataclass(frozen=True)
class _Chain:
    """Forward and backward passes over all programs; axes [programs, steps]."""

    hazard: Float[np.ndarray, "programs steps"]
    hidden: float
    alive: Float[np.ndarray, "programs steps"]  # likelihood of the counts in states alive and hidden
    dead: Float[np.ndarray, "programs steps"]
    inside: np.ndarray
    outcome: np.ndarray

    def posterior(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, Float[np.ndarray, " programs"]]:
        """(P(alive), P(hidden), P(a new fault), P(a new hidden fault)) of every step, and the log-likelihoods."""
        programs, steps = self.hazard.shape
        alive, dead = np.where(self.inside, self.alive, 1.0), np.where(self.inside, self.dead, 1.0)
        hazard = np.where(self.inside, self.hazard, 0.0)
        hides, dies = hazard * self.hidden, hazard * (1.0 - self.hidden)  # transition probabilities from alive
        forward = np.empty((steps + 1, 3, programs))
        forward[0] = np.array([1.0, 0.0, 0.0])[:, None]
        scale = np.empty((steps, programs))
        for step in range(steps):
            a, u, d = forward[step]
            h, k = hides[:, step], dies[:, step]
            new = forward[step + 1]
            new[0] = a * (1.0 - h - k) * alive[:, step]
            new[1] = (a * h + u * (1.0 - k)) * alive[:, step]
            new[2] = ((a + u) * k + d) * dead[:, step]
            scale[step] = np.maximum(new.sum(axis=0), 1e-300)
            new /= scale[step]
        end = np.ones((3, programs))
        end[:, self.outcome == PASSED] = np.array([1.0, 0.0, 0.0])[:, None]
        end[:, self.outcome == FAILED] = np.array([0.0, 1.0, 1.0])[:, None]
        closing = np.maximum((forward[-1] * end).sum(axis=0), 1e-300)
        log_likelihood = np.log(scale).sum(axis=0) + np.log(closing)
        back = end / closing
        states = np.zeros((4, programs, steps))
        for step in range(steps - 1, -1, -1):
            states[0, :, step], states[1, :, step] = (forward[step + 1] * back)[:2]
            a, u, d = back * np.stack([alive[:, step], alive[:, step], dead[:, step]]) / scale[step]
            h, k = hides[:, step], dies[:, step]
            states[3, :, step] = forward[step, 0] * h * u
            states[2, :, step] = states[3, :, step] + forward[step, 0] * k * d
            back = np.stack([(1.0 - h - k) * a + h * u + k * d, (1.0 - k) * u + k * d, d])
        return states[0].clip(0, 1), states[1], states[2], states[3], log_likelihood


def _fit_rates(
    table: Float[np.ndarray, "pairs rates concentrations"],
    pair: Int[np.ndarray, " n"],
    weight: Float[np.ndarray, "shifts n"],
    remaining: Int[np.ndarray, " n"],
    shifted: Int[np.ndarray, "shifts rates"],
) -> Int[np.ndarray, "remaining 2"]:
    """The best (rate, concentration) on the grid for each number of remaining steps."""
    score = np.zeros((REMAINING + 1, *table.shape[1:]))
    for one, at in zip(weight, shifted, strict=True):
        counts = np.zeros((REMAINING + 1, len(table)))
        np.add.at(counts, (remaining, pair), one)
        score += np.tensordot(counts, table[:, at], axes=1)
    score += (np.log(RATES) + np.log1p(-RATES))[None, :, None]
    best = score.reshape(REMAINING + 1, -1).argmax(axis=1)
    return np.stack(np.unravel_index(best, score.shape[1:]), axis=1)
