"""The processes that work on one run, and the settings that name them, without jax."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dreamprm_jax.config import DistributedConfig
from dreamprm_jax.schema import DataError


@dataclass(frozen=True)
class ProcessGroup:
    """This process's rank, and a barrier. ``training/distributed.py`` creates the group of a multi-process run.

    Attributes:
      index: Rank of this process. Process 0 owns the run's folder.
      barrier: Waits until all processes have called it with the same name.
    """

    index: int = 0
    barrier: Callable[[str], None] = lambda name: None


def check_processes(config: DistributedConfig) -> None:
    """Checks the address and the ranks of explicitly named processes.

    Raises:
      DataError: if they are missing or wrong, naming the field.
    """
    if config.mode != "explicit":
        return
    if ":" not in config.coordinator_address:
        raise DataError(
            f"config.distributed.coordinator_address={config.coordinator_address!r}: must be host:port of process 0"
        )
    if not 0 <= config.process_id < config.num_processes:
        raise DataError(
            f"config.distributed.process_id={config.process_id}: must be from 0 to num_processes - 1, and "
            f"num_processes is {config.num_processes}"
        )
