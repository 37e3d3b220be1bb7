"""The reward head of a checkpoint: which tensors it is, and how one logit follows from its outputs.

Public reward models differ in where they keep the head, in whether a ReLU layer comes before it, in its bias and in how
many labels it has. Of two labels the logit is the positive one less the negative one, whose sigmoid is their softmax:
the difference of two rows is a head with one label. A language model that answers "+" or "-" is the same with two rows
of its vocabulary's output table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dreamprm_jax.schema import DataError

if TYPE_CHECKING:
    from dreamprm_jax.models.hf_import import Checkpoint

# Prefixes of a linear head, and of one behind a ReLU layer: transformers' classifiers, Qwen's reward models; TRL's and
# LLaMA-Factory's value head, which Skywork's models have; OpenRLHF's names.
PLACES = (("", "score"), ("score.0", "score.2"), ("", "v_head.summary"), ("", "value_head"), ("", "reward_head"))
OUTPUT = "lm_head"
POSITIVE = {"positive", "correct", "good", "right", "true", "yes", "+", "1", "label_1", "pass", "passed"}
NEGATIVE = {"negative", "incorrect", "bad", "wrong", "false", "no", "-", "0", "label_0", "fail", "failed"}


@dataclass(frozen=True)
class Head:
    """A head in a checkpoint. Its logit is row ``positive``'s, less row ``negative``'s where there is one."""

    tensor: str  # prefix of the last linear map
    layer: str = ""  # prefix of the linear map before it, with a ReLU between; "": none
    positive: int = 0
    negative: int | None = None
    labels: int = 1

    def names(self, checkpoint: Checkpoint) -> list[str]:
        """The tensors that it is read from."""
        names = [f"{prefix}.{kind}" for prefix in (self.layer, self.tensor) if prefix for kind in ("weight", "bias")]
        return [name for name in names if name in checkpoint]

    def hidden(self, checkpoint: Checkpoint) -> int:
        """Width of the layer before it, 0 where there is none."""
        return int(checkpoint[f"{self.layer}.weight"].get_shape()[0]) if self.layer else 0

    def read(self, checkpoint: Checkpoint, width: int) -> dict[tuple[str, ...], np.ndarray]:
        """The parameters of ``models.reward.RewardHead``, float32.

        Args:
          checkpoint: open.
          width: of the decoder, D.

        Raises:
          DataError: naming the tensor whose shape does not fit.
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
        # A bare value head may be stored as a vector.
        vector = len(checkpoint[f"{self.tensor}.weight"].get_shape()) == 1
        shape: tuple[int | None, ...] = (hidden or width,) if vector else (None, hidden or width)
        kernel = matrix(f"{self.tensor}.weight", shape, None if vector else rows)
        result["head", "kernel"] = kernel if vector else difference(kernel)
        bias = f"{self.tensor}.bias"
        result["head", "bias"] = np.asarray(difference(matrix(bias, (None,), rows)) if bias in checkpoint else 0.0)
        return {path: np.asarray(value, np.float32) for path, value in result.items()}


def find_head(checkpoint: Checkpoint, config: Mapping[str, Any], labels: tuple[str, ...] = ()) -> Head | None:
    """The head that a checkpoint has besides the vocabulary's output table; None where there is none.

    Args:
      checkpoint: open.
      config: the values of its config.json, whose ``id2label`` says which of two labels is which.
      labels: the positive and the negative label, by name or number, where config.json does not say so.

    Raises:
      DataError: naming the tensor and the labels, where no single logit follows from them.
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
