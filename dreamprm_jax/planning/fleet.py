"""Chips of one kind, divided into domains."""

from __future__ import annotations

from dataclasses import dataclass

from dreamprm_jax.schema import DataError
from dreamprm_jax.training.chips import Chip


@dataclass(frozen=True)
class Fleet:
    """A number of chips of one kind, in domains of equal size."""

    chip: Chip
    count: int
    domains: int

    @property
    def domain(self) -> int:
        """Chips of one domain."""
        return self.count // self.domains


def make_fleet(chip: Chip, count: int, slices: int = 0) -> Fleet:
    """Divides the chips into domains.

    Args:
      chip: kind of the chips.
      count: number of chips.
      slices: number of TPU slices; 0: as few as possible. It must be 0 for GPUs, whose domains are nodes.

    Raises:
      DataError: if the chips cannot be divided into equal domains.
    """
    if count < 1:
        raise DataError(f"--chips={count}: must be at least 1")
    if chip.is_gpu:
        if slices:
            raise DataError(f"--slices={slices}: GPUs come in nodes of {chip.domain}; leave the option out")
        if count > chip.domain and count % chip.domain:
            raise DataError(f"--chips={count}: GPUs come in nodes of {chip.domain}; take a multiple of it")
        return Fleet(chip, count, max(1, count // chip.domain))
    domains = slices or -(-count // chip.domain)
    if domains < 1 or count % domains or count // domains > chip.domain:
        raise DataError(
            f"--chips={count} --slices={domains}: must divide into slices of equal size, of at most {chip.domain} "
            f"{chip.name} chips"
        )
    return Fleet(chip, count, domains)
