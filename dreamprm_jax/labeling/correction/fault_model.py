"""Hidden-fault EM: the change-point model for judges and completers that err.

The change-point EM (``change_point``) takes a passing rollout for proof that its prefix can be saved. Where the tests
that judge rollouts are weak that is wrong: a fault may be hidden from them, and yet the program fails. And it gives all
prefixes of a problem one pass rate, although rollouts from late prefixes pass more often. Here a program is a hidden
Markov chain with three states, from its first step on:

    alive    the prefix can be saved; rollouts pass at a rate that depends on the steps still to come
    hidden   a fatal step was written that the rollouts' tests do not see: the same rate, and yet the program fails
    dead     a fatal step that they see: no rollout passes

    alive -> hidden with chance h_i q, alive -> dead with h_i (1 - q), hidden -> dead with h_i (1 - q)

The outcome binds the end: a passed program was alive all along, a failed one ends hidden or dead. Fitted by expectation
maximization: the hazards h_i by step index, q, and the pass rates (beta-binomial) by the number of steps to come.
``training.online_label_inference`` starts there: a reward model in training knows the hazards better than the step
index.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from dreamprm_jax.labeling.correction.change_point import FAILED, PASSED, RATES, check_counts, log_beta_binomial, pad

REMAINING = 8  # pass rates are told apart up to so many steps to come
HIDDEN_PRIOR = (1.0, 19.0)  # Beta prior of q: faults are seen unless the counts say otherwise


@dataclass(frozen=True)
class Faults:
    """What ``fault_em`` found."""

    recoverable: Float[np.ndarray, " n"]  # P(alive after the step | counts, outcome)
    hazard: Float[np.ndarray, " steps"]  # h by step index
    hidden: float  # q
    # a / (a + d) with the likelihoods a and d of the step's own counts in states alive and dead: 1 where a rollout
    # passed, one half where there was none; all that a reward model's own chain needs to know of them
    evidence: Float[np.ndarray, " n"]
    pass_rate: Float[np.ndarray, " remaining"]  # mean pass rate of a rollout with 0, 1, ... steps to come; 0: no counts
    # Nats, up to a constant, before each maximization. It rises; as the rates' own weak prior is not in it and a hidden
    # fault's successors do not count for the hazards, not by necessity: where it does not, the fit stops.
    log_posterior: tuple[float, ...]


def fault_em(
    passes: Int[np.ndarray, " n"],
    rollouts: Int[np.ndarray, " n"],
    program: Int[np.ndarray, " n"],
    outcome: Int[np.ndarray, " programs"],
    max_iterations: int = 100,
    tolerance: float = 1e-6,
) -> Faults:
    """Fits the chain and gives the posterior of every step.

    Args:
      passes: passing rollouts of each step's prefix; the rows of one program consecutive and in order, the last row the
        complete program (its counts are not read: the outcome says it all).
      rollouts: judged rollouts, 0 where there were none.
      program: the program of each row, 0..programs-1, not falling, none left out.
      outcome: PASSED, FAILED or UNKNOWN for each program.
      max_iterations: bound of the loop.
      tolerance: stop when the log-posterior per program rises by less.

    Returns:
      Faults.

    Raises:
      DataError: on arrays that do not fit together.
    """
    passes, rollouts, program, outcome = (np.asarray(array) for array in (passes, rollouts, program, outcome))
    check_counts(passes, rollouts, program, outcome, np.zeros(len(outcome), int))
    lengths = np.bincount(program, minlength=len(outcome))
    start = np.cumsum(lengths) - lengths
    column = np.arange(len(program)) - start[program]
    remaining = np.minimum(lengths[program] - 1 - column, REMAINING)
    ends = start + lengths - 1
    passes, rollouts = passes.copy(), rollouts.copy()
    passes[ends], rollouts[ends] = 0, 0
    steps = int(lengths.max(initial=0))
    shape = (len(outcome), steps)
    inside = np.arange(steps) < lengths[:, None]

    pairs, pair = np.unique(np.stack([passes, rollouts], axis=1), axis=0, return_inverse=True)
    pair = pair.reshape(-1)
    table = log_beta_binomial(pairs)  # [pairs, RATES, CONCENTRATIONS]
    seen = pad(passes > 0, program, column, shape)
    rate = np.full((REMAINING + 1, 2), (len(RATES) // 2, 2))  # grid indices by steps to come
    hazard = np.full(steps, 0.2)
    hidden = 0.05
    history: list[float] = []
    while True:
        log_alive = table[pair, rate[remaining, 0], rate[remaining, 1]]
        chain = _Chain(
            np.broadcast_to(hazard, shape),
            hidden,
            np.exp(pad(log_alive, program, column, shape)),
            np.where(seen, 0.0, 1.0),
            inside,
            outcome,
        )
        alive, hidden_state, faults, hidden_faults, log_likelihood = chain.posterior()
        prior = (HIDDEN_PRIOR[0] - 1) * np.log(hidden) + (HIDDEN_PRIOR[1] - 1) * np.log1p(-hidden)
        prior += float(np.sum(np.log(hazard) + np.log1p(-hazard)))
        history.append(log_likelihood + prior)
        enough = tolerance * max(len(outcome), 1)
        if len(history) == max_iterations or (len(history) > 1 and history[-1] - history[-2] < enough):
            break
        reached = np.concatenate([np.ones((shape[0], 1)), alive[:, :-1]], axis=1)
        reached, fatal = (np.where(inside, weight, 0.0).sum(axis=0) for weight in (reached, faults))
        hazard = (fatal + 1.0) / (reached + 2.0)
        total = faults.sum()
        hidden = float((hidden_faults.sum() + HIDDEN_PRIOR[0] - 1 + 1e-3) / (total + sum(HIDDEN_PRIOR) - 2 + 2e-3))
        rate = _fit_rates(table, pair, (alive + hidden_state)[program, column], remaining)
    likelihood = np.exp(log_alive)
    evidence = np.where(passes > 0, 1.0, likelihood / (likelihood + 1.0))
    return Faults(alive[program, column], hazard, hidden, evidence, RATES[rate[:, 0]], tuple(history))


@dataclass(frozen=True)
class _Chain:
    """Forward and backward passes over all programs at once; axes [programs, steps, states]."""

    hazard: Float[np.ndarray, "programs steps"]
    hidden: float
    alive: Float[np.ndarray, "programs steps"]  # likelihood of the counts in states alive and hidden
    dead: Float[np.ndarray, "programs steps"]  # 1 where no rollout passed
    inside: np.ndarray
    outcome: np.ndarray

    def posterior(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, float]:
        """(P(alive), P(hidden), P(a new fault), P(a new hidden fault)) of every step, and the log-likelihood."""
        programs, steps = self.hazard.shape
        emission = np.stack([self.alive, self.alive, self.dead], axis=-1)
        emission = np.where(self.inside[..., None], emission, 1.0)
        end = np.ones((programs, 3))
        end[self.outcome == PASSED] = (1.0, 0.0, 0.0)
        end[self.outcome == FAILED] = (0.0, 1.0, 1.0)
        transition = self._transitions()
        forward = np.empty((programs, steps, 3))
        scale = np.empty((programs, steps))
        state = np.tile([1.0, 0.0, 0.0], (programs, 1))
        for step in range(steps):
            state = np.einsum("ps,pst->pt", state, transition[:, step]) * emission[:, step]
            scale[:, step] = np.maximum(state.sum(axis=1), 1e-300)
            state = state / scale[:, step, None]
            forward[:, step] = state
        closing = np.maximum((state * end).sum(axis=1), 1e-300)
        log_likelihood = float(np.log(scale).sum() + np.log(closing).sum())
        backward = np.empty((programs, steps, 3))
        back = end / closing[:, None]
        faults, hidden_faults = np.zeros((programs, steps)), np.zeros((programs, steps))
        for step in range(steps - 1, -1, -1):
            backward[:, step] = back
            into = emission[:, step] * back / scale[:, step, None]
            before = forward[:, step - 1] if step else np.tile([1.0, 0.0, 0.0], (programs, 1))
            hidden_faults[:, step] = before[:, 0] * transition[:, step, 0, 1] * into[:, 1]
            faults[:, step] = hidden_faults[:, step] + before[:, 0] * transition[:, step, 0, 2] * into[:, 2]
            back = np.einsum("pst,pt->ps", transition[:, step], into)
        posterior = forward * backward
        return posterior[..., 0].clip(0, 1), posterior[..., 1], faults, hidden_faults, log_likelihood

    def _transitions(self) -> Float[np.ndarray, "programs steps 3 3"]:
        h, q = np.where(self.inside, self.hazard, 0.0), self.hidden
        matrix = np.zeros((*h.shape, 3, 3))
        matrix[..., 0, 0] = 1.0 - h
        matrix[..., 0, 1] = h * q
        matrix[..., 0, 2] = h * (1.0 - q)
        matrix[..., 1, 2] = h * (1.0 - q)
        matrix[..., 1, 1] = 1.0 - matrix[..., 1, 2]
        matrix[..., 2, 2] = 1.0
        return matrix


def _fit_rates(
    table: Float[np.ndarray, "pairs rates concentrations"],
    pair: Int[np.ndarray, " n"],
    weight: Float[np.ndarray, " n"],
    remaining: Int[np.ndarray, " n"],
) -> Int[np.ndarray, "remaining 2"]:
    """The grid's best (rate, concentration) for each number of steps to come."""
    counts = np.zeros((REMAINING + 1, len(table)))
    np.add.at(counts, (remaining, pair), weight)
    score = np.tensordot(counts, table, axes=1)  # [remaining, rates, concentrations]
    score += (np.log(RATES) + np.log1p(-RATES))[None, :, None]
    best = score.reshape(REMAINING + 1, -1).argmax(axis=1)
    return np.stack(np.unravel_index(best, score.shape[1:]), axis=1)
