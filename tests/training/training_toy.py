"""A micro model and examples of random tokens."""

import numpy as np

from dreamprm_jax.models.decoder import DecoderConfig
from dreamprm_jax.training.examples import NO_LABEL, Example

MICRO = DecoderConfig(
    vocab_size=32, hidden_size=16, intermediate_size=24, num_layers=1, num_heads=2, num_kv_heads=1, head_dim=8
)


def make_examples(count: int, seed: int = 0, labelled: bool = True) -> list[Example]:
    """Programs of 6 to 14 random tokens and 1 to 3 steps; the last step has no noisy label."""
    rng = np.random.default_rng(seed)
    examples, rows = [], 0
    for index in range(count):
        length, steps = int(rng.integers(6, 15)), int(rng.integers(1, 4))
        ends = [*np.sort(rng.choice(np.arange(2, length - 1), steps - 1, replace=False)).tolist(), length - 1]
        labels = np.full(steps, NO_LABEL, np.int32)
        if labelled:
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
