"""The undetected-fault EM in training: the reward model in training is its prior, its posterior the labels.

``labeling.correction.fault_model`` defines the likelihood of a program's counts and outcome given the hazards h_i of
its steps, and fits hazards that depend on the step index only. A reward model knows more about a step: its scores f
give h_i = 1 - f_i / min_{j<i} f_j. So every training step uses the posterior P(alive | counts, outcome) under the
current model as targets, and follows the gradient of the cross-entropy with the posterior held fixed, as in online
expectation maximization (Cappe and Moulines 2009, arXiv 0712.4273). This is not an exact M-step, which would fit the
hazards. Instead f_i moves towards the mean of P(alive_i | counts, outcome) over programs with the same prefix, which is
what a score should be.

The inference is a pure function of logits and batch. It has no state to resume, and it treats each program
separately, so micro-batches and devices do not change the result. The batch's ``raw`` slots hold the evidence of the
counts of each step (``fault_model.Faults.evidence``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from dreamprm_jax.training.examples import NO_LABEL
from dreamprm_jax.training.feed import Batch, PackedRows, score_all_steps
from dreamprm_jax.training.losses import Targets

SMALLEST_HAZARD = 1e-3
_UNLIKELY = 1e-30  # the lowest probability of the counts in any state
_NEVER = -1e4  # log of probability 0, for outcomes: lower than any sum of log-likelihoods of a program's counts


class _Steps(NamedTuple):
    """The inputs of the chain for every step slot; axes [S, B]."""

    hazard: Float[Array, "S B"]
    alive: Float[Array, "S B"]  # log-likelihood of the step's observations in the state alive ...
    hidden: Float[Array, "S B"]
    dead: Float[Array, "S B"]
    first: Bool[Array, "S B"]  # of its program
    last: Bool[Array, "S B"]


def alive_posterior(logits: Float[Array, "B S"], batch: Batch, hidden: float | Array) -> Float[Array, "B S"]:
    """P(alive after the step | counts, outcome) with the reward model's hazards as the prior.

    Args:
      logits: Of the reward model.
      batch: Whole programs with known outcomes; ``raw`` holds the evidence of labeled steps.
      hidden: q, the probability that the rollouts' tests miss a fault (``fault_model.Faults.hidden``).

    Returns:
      float32 probabilities. Last steps have the outcome; values in unused slots are meaningless.
    """
    last = batch.outcome_mask.T
    first = jnp.concatenate([jnp.ones_like(last[:1]), last[:-1]])
    evidence = jnp.where(batch.label_mask, batch.raw, 0.5).T
    seen = _log(evidence)
    passed = jnp.where(batch.outcome.T > 0.5, 0.0, _NEVER)
    failed = jnp.where(batch.outcome.T > 0.5, _NEVER, 0.0)
    alive = jnp.where(last, passed, seen)
    concealed = jnp.where(last, failed, seen)
    dead = jnp.where(last, failed, _log(1.0 - evidence))
    return _posterior(_Steps(_hazards(logits.T, first), alive, concealed, dead, first, last), hidden).T


def _hazards(logits: Float[Array, "S B"], first: Bool[Array, "S B"]) -> Float[Array, "S B"]:
    """1 - f_i / min_{j<i} f_j with f = sigmoid(logits)."""

    def step(lowest: Float[Array, " B"], here: Any) -> Any:
        score, begins = here
        lowest = jnp.where(begins, 0.0, lowest)
        hazard = jnp.clip(-jnp.expm1(score - lowest), SMALLEST_HAZARD, 1.0 - SMALLEST_HAZARD)
        return jnp.minimum(lowest, score), hazard

    return jax.lax.scan(step, jnp.zeros_like(logits[0]), (jax.nn.log_sigmoid(logits), first))[1]


def _posterior(steps: _Steps, hidden: float | Array) -> Float[Array, "S B"]:
    """P(alive), by a forward and a backward pass in the log domain over the programs of each row."""
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
        return state, (state[0], scale)

    _, (alive, scales) = jax.lax.scan(forward, (certain, never, never), steps)

    def backward(after: Any, here: tuple[_Steps, Array]) -> Any:
        step, scale = here
        own = jax.tree.map(lambda kept: jnp.where(step.last, 0.0, kept), after)
        stays, hides, dies, rests = moves(step.hazard)
        alive, concealed, dead = own[0] + step.alive, own[1] + step.hidden, own[2] + step.dead
        into = jnp.logaddexp(jnp.logaddexp(stays + alive, hides + concealed), dies + dead)
        into_hidden = jnp.logaddexp(rests + concealed, dies + dead)
        return (into - scale, into_hidden - scale, dead - scale), own[0]

    to_come = jax.lax.scan(backward, (certain, certain, certain), (steps, scales), reverse=True)[1]
    return jnp.exp(jnp.minimum(alive + to_come, 0.0))


def _log(chance: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The logarithm; that of 0 is finite."""
    return jnp.log(jnp.maximum(chance, _UNLIKELY))


def inferred_labels(
    logits_of: Callable[[Batch], Float[Any, "B S"]], infer: Targets, rows: PackedRows, n: int
) -> Float[np.ndarray, " n"]:
    """Labels inferred with a trained reward model, for a label table of n rows; NaN for rows without an example."""

    compiled = jax.jit(infer)

    def posterior_of(batch: Batch) -> Float[np.ndarray, "B S"]:
        return np.asarray(compiled(logits_of(batch), batch))

    labels = np.full(n, np.nan, np.float32)
    for example, values in zip(rows.examples, score_all_steps(posterior_of, rows), strict=True):
        known = example.label_index != NO_LABEL
        labels[example.label_index[known]] = values[known]
    return labels
