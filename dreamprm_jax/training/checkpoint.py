"""Checkpoints: everything that the next step depends on, written so that a kill at any moment loses little.

Frozen parameters are not in them: they are made again from the settings (``training/parameters.py``), so a checkpoint
of a LoRA run holds the adapters and the head alone.
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
    """The state between two steps. The data cursor is the step itself (``feed.PackedRows``)."""

    params: Any  # the trainable part, None where a parameter is frozen
    opt_state: Any
    phi: Any  # label-side parameters, () without
    meta_opt_state: Any


class Checkpoints:
    """The checkpoints of one arm, newest ones kept."""

    def __init__(self, folder: Path, every: int, keep: int):
        self._every = every
        options = ocp.CheckpointManagerOptions(save_interval_steps=every, max_to_keep=keep)
        self._manager = ocp.CheckpointManager(folder.resolve(), options=options)

    def due(self, step: int, stride: int = 1) -> bool:
        """Whether the state after ``step`` steps, the last ``stride`` of them taken at once, is to be saved."""
        return step % self._every < stride or bool(self._manager.should_save(step))

    def save(self, step: int, state: TrainState, force: bool = False) -> None:
        """Saves the state after ``step`` steps, if it is due or forced."""
        if step not in self._manager.all_steps():
            self._manager.save(step, args=ocp.args.StandardSave(state._asdict()), force=force)

    def latest_step(self) -> int | None:
        """Steps done at the newest whole checkpoint."""
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
    """Options of a reader; one that reads onto its own devices waits for no other process."""
    options = ocp.CheckpointManagerOptions(read_only=True)
    here = jax.process_index()
    if jax.process_count() > 1 and all(leaf.is_fully_addressable for leaf in jax.tree.leaves(shardings)):
        options.multiprocessing_options = ocp.options.MultiprocessingOptions(
            primary_host=here, active_processes={here}, barrier_sync_key_prefix=f"process_{here}"
        )
    return options


def restore_params(folder: Path, abstract: Any, shardings: Any) -> tuple[int, Any]:
    """(steps trained, parameters) of the newest checkpoint in ``folder``, straight into shards.

    Raises:
      DataError: where there is no checkpoint.
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
