"""The time of a step by a roofline model: arithmetic, memory traffic and collectives at the chip's peak rates.

The volumes are those that the partitioner emits for the steps of ``training`` (``tests/planning`` compares
them with compiled programs), in units of one pass over parameters or activations:

- fsdp: the parameters are gathered twice per micro-batch (forward, and backward, which recomputes the layer), and the
  gradient of the trained parameters is reduced and scattered once. A bi-level step does this for the inner and for the
  outer batch, and gathers the parameters and the tangent of the trained ones once more for its forward-mode pass.
- offload: activations in host memory are written and read once; the time is part of the memory traffic.
- tensor: the residual stream is reduced 7 times per layer in a plain step (8 if attention's output is recomputed), and
  6 times in the forward-mode pass.
- data: the shards of the gradient are reduced once per micro-batch, first inside each domain.
"""

from __future__ import annotations

from dataclasses import dataclass

from dreamprm_jax.planning.fleet import Fleet

STREAM_REDUCTIONS = {"none": 7, "dots": 7, "offload": 7, "attention": 8, "full": 8}
TANGENT_REDUCTIONS = 6


@dataclass(frozen=True)
class Layout:
    """Sizes of the mesh axes."""

    data: int
    fsdp: int
    tensor: int

    def __str__(self) -> str:
        return f"data={self.data} x fsdp={self.fsdp} x tensor={self.tensor}"


@dataclass(frozen=True)
class Work:
    """The computation and data movement of one step, on all chips together.

    Attributes:
      flops: FLOPs of matrix products, recomputation included.
      bilevel: whether the step includes the outer problem and the forward-mode pass.
      parameters: number of elements.
      trainable: number of elements that have a gradient.
      width: bytes per element in matrix products and on the network.
      layers: layers of the decoder.
      stream: elements of the residual stream of the inner and of the outer batch (rows x tokens x model width).
      micro: micro-batches of the inner and of the outer batch.
      remat: ``model.remat``.
      offloaded: elements that a layer writes to host memory and reads back.
    """

    flops: float
    bilevel: bool
    parameters: int
    trainable: int
    width: int
    layers: int
    stream: tuple[int, int]
    micro: tuple[int, int]
    remat: str
    offloaded: int = 0


@dataclass(frozen=True)
class StepTime:
    """Seconds of each part, as if the others took no time."""

    compute: float
    memory: float
    fsdp: float
    tensor: float
    data_fast: float
    data_slow: float

    @property
    def network(self) -> float:
        """All collectives, one after the other."""
        return self.fsdp + self.tensor + self.data_fast + self.data_slow

    @property
    def overlapped(self) -> float:
        """The time if everything overlaps: that of the slowest part."""
        return max(self.compute, self.memory, self.network)

    @property
    def serial(self) -> float:
        """The time if collectives do not overlap with anything; arithmetic and memory traffic overlap."""
        return max(self.compute, self.memory) + self.network


@dataclass(frozen=True)
class Volume:
    """Bytes per chip, including the share that does not leave the chip."""

    gathered: float  # parameters over fsdp
    reduced: float  # gradients over fsdp
    stream: float  # activations over tensor
    shards: float  # gradient shards over data


def volume(work: Work, layout: Layout) -> Volume:
    """The bytes that each chip sends and receives in one step."""
    inner, outer = work.micro
    frozen = work.parameters - work.trainable
    rows = layout.data * layout.fsdp
    if work.bilevel:
        # Forward mode reads the parameters and the direction, which only trained parameters have.
        passes = 2 * inner + 2 * outer + inner
        gathered = passes * work.parameters + inner * work.trainable
        reductions = inner + outer
        reduced_stream = STREAM_REDUCTIONS[work.remat] * sum(work.stream) + TANGENT_REDUCTIONS * work.stream[0]
    else:
        gathered, reductions = 2 * inner * (work.trainable + frozen), inner
        reduced_stream = STREAM_REDUCTIONS[work.remat] * work.stream[0]
    return Volume(
        gathered=gathered * work.width / layout.tensor,
        reduced=reductions * work.trainable * work.width / layout.tensor,
        stream=reduced_stream * work.layers * work.width / rows,
        shards=reductions * work.trainable * work.width / (layout.fsdp * layout.tensor),
    )


def step_time(work: Work, layout: Layout, fleet: Fleet, efficiency: float) -> StepTime:
    """The roofline of one step.

    Args:
      work: the work of the step.
      layout: the mesh; ``tensor`` stays inside a domain, and on TPUs ``fsdp`` does too.
      fleet: the chips.
      efficiency: share of the peak that matrix products reach.
    """
    chip, moved = fleet.chip, volume(work, layout)
    shards = layout.fsdp * layout.tensor
    # Gathered parameters are written and read; AdamW reads and writes 7 float32 values per parameter.
    traffic = 2 * moved.gathered + 7 * 4 * work.trainable / shards
    to_host = 2 * work.offloaded * work.layers * work.width / fleet.count
    inside = max(1, fleet.domain // shards)  # replicas of a shard in one domain; they share its outgoing traffic
    across = layout.data // inside
    return StepTime(
        compute=work.flops / (fleet.count * chip.peak_flops * efficiency),
        memory=traffic / chip.memory_bandwidth + to_host / chip.host_bandwidth,
        fsdp=(moved.gathered + moved.reduced) * _away(layout.fsdp) / _fsdp_bandwidth(layout, fleet),
        tensor=2 * moved.stream * _away(layout.tensor) / chip.fast_bandwidth,
        data_fast=2 * moved.shards * _away(min(inside, layout.data)) / chip.fast_bandwidth,
        data_slow=2 * moved.shards / inside * _away(across) / chip.slow_bandwidth,
    )


def _away(count: int) -> float:
    """The share of a ring collective's bytes that crosses the network."""
    return (count - 1) / count


def _fsdp_bandwidth(layout: Layout, fleet: Fleet) -> float:
    """Across nodes, each node receives a layer once, through all its ports, and distributes it inside."""
    chip = fleet.chip
    if layout.fsdp * layout.tensor <= fleet.domain:
        return chip.fast_bandwidth
    return min(chip.fast_bandwidth, chip.slow_bandwidth * fleet.domain / layout.tensor)
