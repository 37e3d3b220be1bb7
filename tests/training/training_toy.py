"""A micro model, examples with random tokens, and the data and settings of a bi-level run on them."""

import jax
import jax.numpy as jnp
import numpy as np

from dreamprm_jax.models.decoder import DecoderConfig
from dreamprm_jax.training.evaluate_during import evaluation_set
from dreamprm_jax.training.examples import NO_LABEL, Example
from dreamprm_jax.training.feed import PackedRows
from dreamprm_jax.training.loop import ArmData

MICRO = DecoderConfig(
    vocab_size=32, hidden_size=16, intermediate_size=24, num_layers=1, num_heads=2, num_kv_heads=1, head_dim=8
)


def make_examples(count: int, seed: int = 0, labeled: bool = True) -> list[Example]:
    """Programs with 6 to 14 random tokens and 1 to 3 steps. The last step has no noisy label."""
    rng = np.random.default_rng(seed)
    examples, rows = [], 0
    for index in range(count):
        length, steps = int(rng.integers(6, 15)), int(rng.integers(1, 4))
        ends = [*np.sort(rng.choice(np.arange(2, length - 1), steps - 1, replace=False)).tolist(), length - 1]
        labels = np.full(steps, NO_LABEL, np.int32)
        if labeled:
            labels[:-1] = rows + np.arange(steps - 1)
            rows += steps - 1
        examples.append(
            Example(
                f"p{index % 4}",
                f"h{seed}-{index}",
                rng.integers(1, 32, length).astype(np.int32),
                np.asarray(ends, np.int32),
                labels,
                np.where(labels == NO_LABEL, 0.0, rng.integers(0, 5, steps) / 4).astype(np.float32),
                float(rng.integers(0, 2)),
            )
        )
    return examples


class Events(PackedRows):
    """Rows that call ``event`` when the batch of step ``at`` is requested."""

    def __init__(self, *arguments, at=None, event=None):
        super().__init__(*arguments)
        self.at, self.event = at, event

    def batch(self, step, places=None):
        if step == self.at:
            self.event()
        return super().batch(step, places)


def copied(tree):
    """A copy of a state, which a step may donate."""
    return jax.tree.map(jnp.copy, tree)


def label_table(examples: list[Example]) -> np.ndarray:
    """The noisy labels of all steps, by row."""
    raw = np.zeros(sum(int((e.label_index != NO_LABEL).sum()) for e in examples), np.float32)
    for example in examples:
        noisy = example.label_index != NO_LABEL
        raw[example.label_index[noisy]] = example.raw[noisy]
    return raw


def make_data(examples, config, at=None, event=None, truth_seed=None) -> ArmData:
    """Labeled programs and meta programs for the inner problem, and five meta programs for the outer problem.

    ``truth_seed``: also measure the meta programs, against a random truth.
    """
    meta = make_examples(5, seed=1, labeled=False)
    raw, evaluation = label_table(examples), None
    if truth_seed is not None:
        rng = np.random.default_rng(truth_seed)
        recoverable = {(e.program_hash, i): bool(rng.integers(0, 2)) for e in meta for i in range(len(e.step_index))}
        truth = rng.uniform(size=len(raw)).astype(np.float32)
        evaluation = evaluation_set(meta, config.row_tokens, config.batch_size, recoverable)
        evaluation = evaluation._replace(label_truth=truth, dropped_tokens=7)
    inner = Events(examples + meta, config.row_tokens, config.batch_size, 0, at=at, event=event)
    return ArmData(inner, PackedRows(meta, config.row_tokens, config.meta.batch_size, 1), raw, evaluation=evaluation)
