"""The known accelerators, with figures from their makers' data sheets."""

from __future__ import annotations

from dataclasses import dataclass

from dreamprm_jax.schema import DataError


@dataclass(frozen=True)
class Chip:
    """One accelerator and its networks.

    A *domain* is the set of chips that the fast network connects: a TPU slice (ICI), or the GPUs of one node (NVLink).
    """

    name: str
    peak_flops: float  # dense bfloat16, FLOP/s
    memory_gb: float  # 10^9 bytes
    memory_bandwidth: float  # bytes/s
    fast_bandwidth: float  # bytes/s per chip for one collective: both directions of one ICI axis, one of NVLink
    slow_bandwidth: float  # bytes/s per chip between domains: the data-center network, InfiniBand
    host_bandwidth: float  # bytes/s per chip, to and from the memory of its host: PCIe
    domain: int  # chips in the largest domain
    price: float  # US dollars per chip-hour, about the list price on demand in 2025; --price overrides it

    @property
    def is_gpu(self) -> bool:
        """Whether it is a GPU. The network between GPU nodes is fast enough to shard parameters across them."""
        return self.domain == 8


# From the makers' data sheets. The interconnects of TPUs are from "How to Scale Your Model"
# (jax-ml.github.io/scaling-book): ICI is twice its figure for one link and direction; the data-center network and PCIe
# are per chip. Each GPU has a 400 Gb/s port (A100: 200).
_ALL = (
    Chip("v5e", 197e12, 16, 0.82e12, 90e9, 3.125e9, 16e9, 256, 1.20),
    Chip("v5p", 459e12, 95, 2.77e12, 180e9, 6.25e9, 16e9, 8960, 4.20),
    Chip("v6e", 918e12, 32, 1.64e12, 180e9, 12.5e9, 32e9, 256, 2.70),
    Chip("a100", 312e12, 80, 2.04e12, 300e9, 25e9, 32e9, 8, 2.00),
    Chip("h100", 989e12, 80, 3.35e12, 450e9, 50e9, 64e9, 8, 3.00),
    Chip("h200", 989e12, 141, 4.80e12, 450e9, 50e9, 64e9, 8, 3.50),
)
CHIPS = {chip.name: chip for chip in _ALL}
_KINDS = {"v5 lite": "v5e", "v5e": "v5e", "v5": "v5p", "v6": "v6e", "a100": "a100", "h100": "h100", "h200": "h200"}


def chip_of(device_kind: str) -> Chip | None:
    """The chip with this ``device_kind`` of jax ("TPU v5 lite"); None if it is unknown."""
    return next((CHIPS[name] for part, name in _KINDS.items() if part in device_kind.lower()), None)


def find_chip(name: str) -> Chip:
    """The chip with this name.

    Raises:
      DataError: if the name is unknown; lists the known ones.
    """
    if name not in CHIPS:
        raise DataError(f"--chip={name}: unknown; choose among {', '.join(CHIPS)}")
    return CHIPS[name]
