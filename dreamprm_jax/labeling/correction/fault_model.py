"""Undetected-fault EM: the change-point model for judges and completers that err.

The change-point EM (``change_point``) takes a passing rollout for proof that its prefix can be saved. That is wrong in
two ways. Where the tests that judge rollouts are weak, a fault may be hidden from them, and yet the program fails. And
a language model may repair: it completes a wrong prefix to a right program (in Python a later ``def`` overrides an
earlier one). Here a program is a hidden Markov chain with three states, from its first step on:

    alive    the prefix can be saved; rollouts pass at a rate that depends on the steps still to come and the problem
    hidden   a fatal step was written that the rollouts' tests do not see: the same rate, and yet the program fails
    dead     a fatal step that they see: rollouts pass at the repair rate, which may be 0

    alive -> hidden with chance h_i q, alive -> dead with h_i (1 - q), hidden -> dead with h_i (1 - q)

The outcome binds the end: a passed program was alive all along, a failed one ends hidden or dead. Fitted by expectation
maximization: the hazards h_i by step index, q, the pass rates (beta-binomial) by the number of steps to come, how they
differ between problems (a mixture of shifts of their log-odds, one a problem), and the repair rate. A repair rate of 0
is a fixed point of the EM, so it is fitted from two starts, 0 and above; the latter must explain the counts better by
REPAIR_GAIN nats. ``training.online_label_inference`` starts there: a reward model in training knows the hazards better
than the step index.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from dreamprm_jax.labeling.correction.change_point import FAILED, PASSED, RATES, check_counts, log_beta_binomial, pad

REMAINING = 8  # pass rates are told apart up to so many steps to come
HIDDEN_PRIOR = (1.0, 19.0)  # Beta prior of q: faults are seen unless the counts say otherwise
SHIFTS = np.array([-3.0, -1.5, 0.0, 1.5, 3.0])  # of a problem's pass rates, in log-odds
SHIFT_PRIOR = np.array([0.1, 0.2, 0.4, 0.2, 0.1])
SHIFT_STRENGTH = 10.0  # the prior of the shifts counts as this many problems
REPAIR_START = 0.1
REPAIR_PRIOR = (1.0, 5.0)  # Beta prior of the repair rate
MOST_REPAIR = 0.5
REPAIR_GAIN = 3.0


@dataclass(frozen=True)
class Faults:
    """What ``fault_em`` found."""

    recoverable: Float[np.ndarray, " n"]  # P(alive after the step | counts, outcome)
    hazard: Float[np.ndarray, " steps"]  # h by step index
    hidden: float  # q
    repair: float  # pass rate of dead prefixes
    # a / (a + d) with the likelihoods a and d of the step's own counts in states alive and dead: one half where there
    # was no rollout; all that a reward model's own chain needs to know of them
    evidence: Float[np.ndarray, " n"]
    pass_rate: Float[np.ndarray, " remaining"]  # mean pass rate of a rollout with 0, 1, ... steps to come; 0: no counts
    shifts: Float[np.ndarray, " shifts"]  # share of the problems with each of SHIFTS
    # Nats, up to a constant, before each maximization. It rises; as the rates' own weak prior is not in it and a hidden
    # fault's successors do not count for the hazards, not by necessity: where it does not, the fit stops.
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
    """Fits the chain and gives the posterior of every step.

    Args:
      passes: passing rollouts of each step's prefix; the rows of one program consecutive and in order, the last row the
        complete program (its counts are not read: the outcome says it all).
      rollouts: judged rollouts, 0 where there were none.
      program: the program of each row, 0..programs-1, not falling, none left out.
      outcome: PASSED, FAILED or UNKNOWN for each program.
      group: the problem of each program, 0..problems-1; None: each program has its own.
      max_iterations: bound of the loop.
      tolerance: stop when the log-posterior per program rises by less.

    Returns:
      Faults.

    Raises:
      DataError: on arrays that do not fit together.
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
    """The counts, padded to [programs, steps]; few pairs (passes, rollouts) occur, so likelihoods are tables."""

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
        """Whether a rollout of a program that failed passed: without one there is nothing to repair."""
        failed = self.outcome[self.program] != PASSED
        return bool((failed & (self.pairs[self.pair, 0] > 0)).any())

    def fit(self, repair: float, max_iterations: int, tolerance: float) -> Faults:
        """Expectation maximization from one start of the repair rate; from 0 it stays there."""
        shape = self.inside.shape
        problems = int(self.group.max(initial=-1)) + 1
        table = log_beta_binomial(self.pairs)  # [pairs, RATES, CONCENTRATIONS]
        logits = np.log(RATES / (1.0 - RATES))
        # where on the grid of RATES a rate falls when it is shifted: [shifts, RATES]
        shifted = np.abs(logits[None, :] + SHIFTS[:, None] - logits[:, None, None]).argmin(axis=0)
        rate = np.full((REMAINING + 1, 2), (len(RATES) // 2, 2))  # grid indices by steps to come
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
    """Likelihood of the counts of dead prefixes, without the binomial coefficient; 0 ** 0 is 1."""
    passes, rollouts = pairs.T
    return np.power(repair, passes) * np.power(1.0 - repair, rollouts - passes)


@dataclass(frozen=True)
class _Chain:
    """Forward and backward passes over all programs at once; axes [programs, steps]."""

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
        hides, dies = hazard * self.hidden, hazard * (1.0 - self.hidden)  # a step's chances, of an alive prefix
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
    """The grid's best (rate, concentration) for each number of steps to come."""
    score = np.zeros((REMAINING + 1, *table.shape[1:]))
    for one, at in zip(weight, shifted, strict=True):
        counts = np.zeros((REMAINING + 1, len(table)))
        np.add.at(counts, (remaining, pair), one)
        score += np.tensordot(counts, table[:, at], axes=1)
    score += (np.log(RATES) + np.log1p(-RATES))[None, :, None]
    best = score.reshape(REMAINING + 1, -1).argmax(axis=1)
    return np.stack(np.unravel_index(best, score.shape[1:]), axis=1)
