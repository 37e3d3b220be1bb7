"""The hidden-fault EM inside training: the reward model that is being trained is its prior, its posterior the labels.

``labeling.fault_model`` says what a program's counts and outcome mean, given the hazards h_i of its steps, and fits the
hazards by step index alone. A reward model knows more of a step: its scores f give h_i = 1 - f_i / min_{j<i} f_j. So
every training step takes the posterior P(alive | counts, outcome) under the model as it is now (the E-step) for its
targets, and follows the gradient of their cross-entropy with the posterior held fixed (the M-step): expectation
maximisation by steps of stochastic gradients (Neal and Hinton 1998; Cappe and Moulines 2009, arXiv 0712.4273). At a
fixed point f_i is the mean of P(alive_i | counts, outcome) over programs with the same prefix, as it should be.

All of it is a pure function of logits and batch: no state, nothing to resume, rows apart from each other. The batch's
``raw`` slots hold the evidence of the counts of each step (``fault_model.Faults.evidence``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dreamprm_jax.labeling.fault_model import FaultPrior
from dreamprm_jax.training.every_step import every_step
from dreamprm_jax.training.examples import NO_LABEL
from dreamprm_jax.training.feed import Batch, PackedRows
from dreamprm_jax.training.losses import Targets

SMALLEST_HAZARD = 1e-3
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)  # of the reward model's hazards beside the fitted ones
_NEVER = -1e30  # log of a chance of 0; finite, so that no difference of two is nan


class _Steps(NamedTuple):
    """What the chain reads of every step slot; axes [S, B]."""

    hazard: Float[Array, "S B"]
    alive: Float[Array, "S B"]  # log-likelihood of what was seen there, in states alive ...
    hidden: Float[Array, "S B"]
    dead: Float[Array, "S B"]
    first: Array  # of its program
    last: Array


def alive_posterior(logits: Float[Array, "B S"], batch: Batch, prior: FaultPrior) -> Float[Array, "B S"]:
    """P(alive after the step | counts, outcome) with the reward model's hazards in the prior.

    The hazards are a mixture of the reward model's and of those fitted by step index. The shares are weighed by how
    likely they make the batch's counts and outcomes: a model that knows nothing yet is not listened to.

    Args:
      logits: of the reward model.
      batch: whole programs; ``raw`` holds the evidence of labelled steps, 0 elsewhere.
      prior: hazards by step index and the chance that a fault is hidden.

    Returns:
      float32; the outcome at last steps, without meaning in unused slots.
    """
    last = batch.outcome_mask.T
    first = jnp.concatenate([jnp.ones_like(last[:1]), last[:-1]])
    used = jnp.cumsum(batch.outcome_mask[:, ::-1], axis=1)[:, ::-1].T > 0
    evidence = jnp.where(batch.label_mask, batch.raw, 0.5).T
    passed = jnp.where(last, batch.outcome.T, evidence)
    alive, dead = _log(passed), _log(1.0 - passed)
    hidden = jnp.where(last, dead, alive)
    theirs, column = _hazards(jax.nn.sigmoid(logits).T, first)
    fitted = jnp.asarray(prior.hazard, jnp.float32)[jnp.minimum(column, len(prior.hazard) - 1)]

    def with_share(share: Float[Array, ""]) -> tuple[Float[Array, "S B"], Float[Array, ""]]:
        mixed = share * theirs + (1.0 - share) * fitted
        return _posterior(_Steps(mixed, alive, hidden, dead, first, last), used, prior.hidden)

    posteriors, log_likelihoods = jax.vmap(with_share)(jnp.asarray(SHARES, jnp.float32))
    weights = jax.nn.softmax(log_likelihoods)
    return jnp.tensordot(weights, posteriors, axes=1).T


def _hazards(scores: Float[Array, "S B"], first: Array) -> tuple[Float[Array, "S B"], Array]:
    """(1 - f_i / min_{j<i} f_j, position of the step in its program)."""

    def step(carry: Any, here: Any) -> Any:
        (lowest, column), (score, begins) = carry, here
        lowest, column = jnp.where(begins, 1.0, lowest), jnp.where(begins, 0, column)
        hazard = jnp.clip(1.0 - score / jnp.maximum(lowest, 1e-9), SMALLEST_HAZARD, 1.0 - SMALLEST_HAZARD)
        return (jnp.minimum(lowest, score), column + 1), (hazard, column)

    start = jnp.ones_like(scores[0]), jnp.zeros(scores.shape[1], jnp.int32)
    return jax.lax.scan(step, start, (scores, first))[1]


def _posterior(steps: _Steps, used: Array, hidden: float) -> tuple[Float[Array, "S B"], Float[Array, ""]]:
    """(P(alive), log-likelihood) by forward and backward passes in the log domain over the programs of each row."""
    certain, never = jnp.zeros_like(steps.alive[0]), jnp.full_like(steps.alive[0], _NEVER)

    def moves(hazard: Float[Array, " B"]) -> tuple[Array, ...]:
        """Logs of alive -> alive, alive -> hidden, alive or hidden -> dead, hidden -> hidden."""
        seen = hazard * (1.0 - hidden)
        return jnp.log1p(-hazard), _log(hazard * hidden), _log(seen), jnp.log1p(-seen)

    def forward(before: Any, here: _Steps) -> Any:
        old = jax.tree.map(lambda new, kept: jnp.where(here.first, new, kept), (certain, never, never), before)
        stays, hides, dies, rests = moves(here.hazard)
        alive = old[0] + stays + here.alive
        concealed = jnp.logaddexp(old[0] + hides, old[1] + rests) + here.hidden
        dead = jnp.logaddexp(jnp.logaddexp(old[0], old[1]) + dies, old[2]) + here.dead
        scale = jnp.logaddexp(jnp.logaddexp(alive, concealed), dead)
        state = (alive - scale, concealed - scale, dead - scale)
        return state, (state, scale)

    _, (states, scales) = jax.lax.scan(forward, (certain, never, never), steps)

    def backward(after: Any, here: tuple[_Steps, Array]) -> Any:
        step, scale = here
        own = jax.tree.map(lambda kept: jnp.where(step.last, 0.0, kept), after)
        stays, hides, dies, rests = moves(step.hazard)
        alive, concealed, dead = own[0] + step.alive, own[1] + step.hidden, own[2] + step.dead
        into = jnp.logaddexp(jnp.logaddexp(stays + alive, hides + concealed), dies + dead)
        into_hidden = jnp.logaddexp(rests + concealed, dies + dead)
        return (into - scale, into_hidden - scale, dead - scale), own

    _, to_come = jax.lax.scan(backward, (certain, certain, certain), (steps, scales), reverse=True)
    joint = [state + rest for state, rest in zip(states, to_come, strict=True)]
    alive = jnp.exp(joint[0] - jnp.logaddexp(jnp.logaddexp(joint[0], joint[1]), joint[2]))
    return alive, jnp.sum(jnp.where(used, scales, 0.0))


def _log(chance: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Logarithm, with a finite one of 0."""
    return jnp.where(chance > 0.0, jnp.log(jnp.maximum(chance, 1e-30)), _NEVER)


def inferred_labels(
    logits_of: Callable[[Batch], Float[Any, "B S"]], infer: Targets, rows: PackedRows, n: int
) -> Float[np.ndarray, " n"]:
    """The labels of a label table of n rows as a finished reward model gives them; nan where no example has the row."""

    def posterior_of(batch: Batch) -> Float[np.ndarray, "B S"]:
        return np.asarray(infer(jnp.asarray(logits_of(batch)), jax.tree.map(jnp.asarray, batch)))

    labels = np.full(n, np.nan, np.float32)
    for example, values in zip(rows.examples, every_step(posterior_of, rows), strict=True):
        known = example.label_index != NO_LABEL
        labels[example.label_index[known]] = values[known]
    return labels
