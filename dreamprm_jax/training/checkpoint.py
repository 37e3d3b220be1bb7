"""Checkpoints of everything that the next step depends on. A kill loses only the steps since the last checkpoint.

Checkpoints contain no frozen parameters: these are restored from the settings (``training/parameters.py``), so a
checkpoint of a LoRA run holds only the adapters and the head.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from absl import logging

from dreamprm_jax.schema import DataError

logging.set_verbosity(logging.ERROR)  # orbax logs warnings in normal operation


class TrainState(NamedTuple):
    """The state between two steps. The step number is the data cursor (``feed.PackedRows``)."""

    params: Any  # the trainable part; None in place of frozen parameters
    opt_state: Any
    phi: Any  # label-side parameters; () if labels are not learned
    meta_opt_state: Any


class Checkpoints:
    """The checkpoints of one arm. Only the newest ``keep`` are kept."""

    def __init__(self, folder: Path, every: int, keep: int):
        self._every = every
        options = ocp.CheckpointManagerOptions(save_interval_steps=every, max_to_keep=keep)
        self._manager = ocp.CheckpointManager(folder.resolve(), options=options)

    def due(self, step: int, stride: int = 1) -> bool:
        """Whether to save the state after ``step`` steps, of which one call took the last ``stride``."""
        return step % self._every < stride or bool(self._manager.should_save(step))

    def save(self, step: int, state: TrainState, force: bool = False) -> None:
        """Saves the state after ``step`` steps, if it is due or forced."""
        if step not in self._manager.all_steps():
            self._manager.save(step, args=ocp.args.StandardSave(state._asdict()), force=force)

    def latest_step(self) -> int | None:
        """The number of steps at the newest complete checkpoint; None if there is none."""
        return self._manager.latest_step()

    def restore(self, step: int, like: TrainState) -> TrainState:
        """The state after ``step`` steps, with the shapes, dtypes and shardings of ``like``."""
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like._asdict())
        return TrainState(**self._manager.restore(step, args=ocp.args.StandardRestore(abstract)))

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._manager.wait_until_finished()
        self._manager.close()


def _reading(shardings: Any) -> ocp.CheckpointManagerOptions:
    """Options for reading. A process that reads onto its own devices does not wait for the others."""
    options = ocp.CheckpointManagerOptions(read_only=True)
    here = jax.process_index()
    if jax.process_count() > 1 and all(leaf.is_fully_addressable for leaf in jax.tree.leaves(shardings)):
        options.multiprocessing_options = ocp.options.MultiprocessingOptions(
            primary_host=here, active_processes={here}, barrier_sync_key_prefix=f"process_{here}"
        )
    return options


def restore_params(folder: Path, abstract: Any, shardings: Any) -> tuple[int, Any]:
    """(steps trained, parameters) of the newest checkpoint in ``folder``, read directly into shards.

    Raises:
      DataError: if there is no checkpoint.
    """
    with ocp.CheckpointManager(folder.resolve(), options=_reading(shardings)) as manager:
        step = manager.latest_step()
        if step is None:
            raise DataError(f"{folder}: no checkpoint; run the train stage first")
        target = jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), abstract, shardings
        )
        restored = manager.restore(
            step,
            args=ocp.args.PyTreeRestore(
                item={"params": target},
                restore_args=ocp.checkpoint_utils.construct_restore_args({"params": target}),
                partial_restore=True,
            ),
        )
        return step, restored["params"]
