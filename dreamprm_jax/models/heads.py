"""The reward head of a checkpoint: its tensors, and how its outputs are reduced to one logit.

Public reward models differ in the names of the head's tensors, in whether a ReLU layer comes before the head, in its
bias and in its number of labels. With two labels, the logit is the positive label's output minus the negative label's;
its sigmoid equals their softmax. So a head with two labels is converted to a head with one label, whose row is the
difference of the two rows. The same holds for a language model that answers "+" or "-": its head consists of two rows
of the output embedding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dreamprm_jax.schema import DataError

if TYPE_CHECKING:
    from dreamprm_jax.models.hf_import import Checkpoint

# (prefix of a layer with a ReLU, or "", and prefix of the head) in: transformers' classifiers; Qwen's reward models;
# the value head of TRL and LLaMA-Factory, which Skywork's models use; OpenRLHF, under two names.
PLACES = (("", "score"), ("score.0", "score.2"), ("", "v_head.summary"), ("", "value_head"), ("", "reward_head"))
OUTPUT = "lm_head"
POSITIVE = {"positive", "correct", "good", "right", "true", "yes", "+", "1", "label_1", "pass", "passed"}
NEGATIVE = {"negative", "incorrect", "bad", "wrong", "false", "no", "-", "0", "label_0", "fail", "failed"}


@dataclass(frozen=True)
class Head:
    """A head in a checkpoint. Its logit is the output of row ``positive``, minus that of row ``negative`` if set."""

    tensor: str  # prefix of the last linear map
    layer: str = ""  # prefix of the linear map before it, with a ReLU in between; "": none
    positive: int = 0
    negative: int | None = None
    labels: int = 1

    def names(self, checkpoint: Checkpoint) -> list[str]:
        """The names of the head's tensors in the checkpoint."""
        names = [f"{prefix}.{kind}" for prefix in (self.layer, self.tensor) if prefix for kind in ("weight", "bias")]
        return [name for name in names if name in checkpoint]

    def hidden(self, checkpoint: Checkpoint) -> int:
        """Width of the hidden layer before the head, 0 if there is none."""
        return int(checkpoint[f"{self.layer}.weight"].get_shape()[0]) if self.layer else 0

    def read(self, checkpoint: Checkpoint, width: int) -> dict[tuple[str, ...], np.ndarray]:
        """Reads the parameters of ``models.reward.RewardHead``, float32, by their path in the parameter pytree.

        Args:
          checkpoint: an open checkpoint.
          width: hidden size of the decoder, D.

        Raises:
          DataError: if a tensor has the wrong shape; names the tensor.
        """
        hidden = self.hidden(checkpoint)
        rows = [self.positive, *([] if self.negative is None else [self.negative])]

        def matrix(name: str, shape: tuple[int | None, ...], chosen: list[int] | None = None) -> np.ndarray:
            stored = checkpoint[name]
            found = tuple(stored.get_shape())
            if len(found) != len(shape) or any(want not in (None, got) for want, got in zip(shape, found, strict=True)):
                wanted = tuple("any" if size is None else size for size in shape)
                raise DataError(f"{checkpoint.folder}: tensor '{name}' has shape {found}; the head needs {wanted}")
            if chosen is None:
                return stored[:].astype(np.float32)
            return np.concatenate([stored[row : row + 1] for row in chosen]).astype(np.float32)

        def difference(values: np.ndarray) -> np.ndarray:
            return values[0] - values[1] if len(values) > 1 else values[0]

        result: dict[tuple[str, ...], np.ndarray] = {}
        if self.layer:
            result["head", "hidden_kernel"] = matrix(f"{self.layer}.weight", (hidden, width)).T
            bias = f"{self.layer}.bias"
            result["head", "hidden_bias"] = matrix(bias, (hidden,)) if bias in checkpoint else np.zeros(hidden)
        # A value head may be stored as a vector, without an output axis.
        vector = len(checkpoint[f"{self.tensor}.weight"].get_shape()) == 1
        shape: tuple[int | None, ...] = (hidden or width,) if vector else (None, hidden or width)
        kernel = matrix(f"{self.tensor}.weight", shape, None if vector else rows)
        result["head", "kernel"] = kernel if vector else difference(kernel)
        bias = f"{self.tensor}.bias"
        result["head", "bias"] = np.asarray(difference(matrix(bias, (None,), rows)) if bias in checkpoint else 0.0)
        return {path: np.asarray(value, np.float32) for path, value in result.items()}


def find_head(checkpoint: Checkpoint, config: Mapping[str, Any], labels: tuple[str, ...] = ()) -> Head | None:
    """The reward head of a checkpoint; None if it has none. The output embedding does not count as a head.

    Args:
      checkpoint: an open checkpoint.
      config: the values of its config.json, whose ``id2label`` names the labels.
      labels: the positive and the negative label, by name or number, if the names in config.json do not identify them.

    Raises:
      DataError: if the labels cannot be reduced to one logit (names the tensor and its labels), or there are several
        heads.
    """
    found = [place for place in PLACES if f"{place[1]}.weight" in checkpoint]
    if not found:
        return None
    if len(found) > 1:
        raise DataError(f"{checkpoint.folder}: has several heads: {', '.join(tensor for _, tensor in found)}")
    layer, tensor = found[0]
    name = f"{tensor}.weight"
    shape = checkpoint[name].get_shape()
    count = 1 if len(shape) == 1 else int(shape[0])
    if count == 1:
        return Head(tensor, layer)
    stored = config.get("id2label")
    names = {int(n): str(text) for n, text in stored.items() if str(n).isdecimal()} if isinstance(stored, dict) else {}
    names = {number: names.get(number, f"LABEL_{number}") for number in range(count)}

    def number(label: str) -> int:
        matching = [n for n, text in names.items() if label in (text, str(n))]
        if len(matching) != 1:
            raise DataError(f"--labels: {label!r} is none of the labels of {checkpoint.folder}: {names}")
        return matching[0]

    if labels:
        return Head(tensor, layer, number(labels[0]), number(labels[1]), count)
    positive = [n for n, text in names.items() if text.lower() in POSITIVE]
    negative = [n for n, text in names.items() if text.lower() in NEGATIVE]
    if count == 2 and len(positive) == len(negative) == 1:
        return Head(tensor, layer, positive[0], negative[0], count)
    raise DataError(
        f"{checkpoint.folder}: the head '{name}' has {count} labels ({', '.join(names.values())}); which of them is "
        "right and which wrong is not known; name both with --labels=POSITIVE,NEGATIVE"
    )
