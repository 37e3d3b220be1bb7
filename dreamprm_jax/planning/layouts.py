"""The meshes that a fleet allows, and the choice among them: the fastest one that is expected to fit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dreamprm_jax.config import TrainConfig
from dreamprm_jax.models.decoder import DecoderConfig
from dreamprm_jax.planning.fleet import Fleet
from dreamprm_jax.planning.roofline import Layout, Work, step_time
from dreamprm_jax.schema import DataError

MOST_SHARDS = 1024  # fsdp x tensor, a limit for the CPU compiler; the state of a 70B model is then 1 GB per device
MOST_TENSOR = 8


@dataclass(frozen=True)
class Batches:
    """Rows of the micro-batches that the mesh must divide, with the field that sets each."""

    rows: tuple[tuple[str, int], ...]

    @classmethod
    def of(cls, settings: TrainConfig, bilevel: bool) -> Batches:
        """The micro-batches of a run, including those of the outer problem if labels are learned."""
        meta = settings.meta
        rows = [("train.batch_size / train.accumulation", settings.batch_size // settings.accumulation)]
        if bilevel:
            rows.append(("train.meta.batch_size / train.meta.accumulation", meta.batch_size // meta.accumulation))
        return cls(tuple(rows))


def parse_layout(text: str) -> Layout | None:
    """The mesh of ``--mesh=DATAxFSDPxTENSOR``; None for ``auto``.

    Raises:
      DataError: if the text is neither.
    """
    if text == "auto":
        return None
    parts = text.split("x")
    if len(parts) != 3 or not all(part.isdigit() and int(part) for part in parts):
        raise DataError(f"--mesh={text}: must be auto, or DATAxFSDPxTENSOR as in 2x16x4")
    return Layout(*map(int, parts))


def objection(layout: Layout, fleet: Fleet, model: DecoderConfig, batches: Batches) -> str | None:
    """The reason why a mesh is impossible or not considered; None if there is no objection."""
    shards = layout.fsdp * layout.tensor
    if layout.data * shards != fleet.count:
        return f"{layout} is not {fleet.count} chips"
    if shards > MOST_SHARDS:
        return f"fsdp x tensor above {MOST_SHARDS}"
    if layout.tensor > fleet.domain or fleet.domain % layout.tensor:
        return f"tensor={layout.tensor} must divide the {fleet.domain} chips that the fast network joins"
    if model.num_heads % layout.tensor or model.intermediate_size % layout.tensor:
        return f"tensor={layout.tensor} must divide the model's {model.num_heads} heads"
    if model.hidden_size % layout.fsdp:
        return f"fsdp={layout.fsdp} must divide the model's width {model.hidden_size}"
    if fleet.chip.is_gpu:
        if fleet.domain % shards and shards % fleet.domain:
            return f"fsdp x tensor = {shards} must divide the nodes of {fleet.domain}, or be a multiple of them"
    elif layout.data % fleet.domains:
        return f"data={layout.data} must be a multiple of the {fleet.domains} slices: fsdp and tensor stay inside one"
    ways = layout.data * layout.fsdp
    for field, rows in batches.rows:
        if rows % ways:
            return f"{field} = {rows} rows must be a multiple of data x fsdp = {ways}"
    return None


def layouts(fleet: Fleet) -> Iterator[Layout]:
    """All meshes of the fleet whose tensor axis is a power of two."""
    tensor = 1
    while tensor <= MOST_TENSOR:
        if fleet.count % tensor == 0:
            rest = fleet.count // tensor
            yield from (Layout(rest // fsdp, fsdp, tensor) for fsdp in range(1, rest + 1) if rest % fsdp == 0)
        tensor *= 2


def kept_elements(model: DecoderConfig) -> tuple[int, int]:
    """Elements per token that a layer keeps for the backward pass: on the device, and in host memory."""
    stream, attended = model.hidden_size, model.num_heads * model.head_dim
    inputs, mlp = attended + 2 * model.num_kv_heads * model.head_dim, 2 * model.intermediate_size
    device = {
        "full": 0,
        "attention": attended,
        "offload": attended + stream,
        "dots": attended + stream + inputs + mlp,
        "none": 4 * stream + 3 * (attended + inputs) + 3 * mlp,
    }[model.remat]
    return stream + device, inputs + mlp if model.remat == "offload" else 0


def rough_bytes(model: DecoderConfig, layout: Layout, work: Work) -> float:
    """Approximate bytes per device, used to order meshes before any is compiled.

    Counts the state (16 bytes per trained parameter, 4 per frozen one), the gradients, the activations that every layer
    keeps, twice the gathered weights and activations of one layer, and the gathered embedding, all in float32.
    """
    shards, trees = layout.fsdp * layout.tensor, 3 if work.bilevel else 1
    ways = layout.data * layout.fsdp
    tokens = max(
        stream / model.hidden_size / micro / ways for stream, micro in zip(work.stream, work.micro, strict=True)
    )
    per_layer = (work.parameters - model.vocab_size * model.hidden_size) / model.num_layers
    state = (12 * work.trainable + 4 * work.parameters) / shards
    gradients = 4 * trees * work.trainable / shards
    kept = 4 * tokens * model.num_layers * kept_elements(model)[0] / layout.tensor
    working = 4 * (
        2 * per_layer / layout.tensor
        + model.vocab_size * model.hidden_size / layout.tensor
        + tokens * (6 * model.intermediate_size / layout.tensor + 8 * model.hidden_size)
    )
    return state + gradients + kept + (2 if work.bilevel else 1) * working


@dataclass(frozen=True)
class Candidate:
    """A mesh, with a rematerialization policy (in ``model``)."""

    layout: Layout
    model: DecoderConfig
    work: Work  # of the most expensive step

    @property
    def size(self) -> float:
        """Bytes per device, by ``rough_bytes``."""
        return rough_bytes(self.model, self.layout, self.work)


def ranked(
    fleet: Fleet,
    models: Sequence[tuple[DecoderConfig, Work]],
    batches: Batches,
    memory: float,
    efficiency: float,
    wanted: Layout | None = None,
) -> list[Candidate]:
    """All possible candidates. Those that are expected to fit come first, the fastest first; then the rest, by size.

    Args:
      fleet: the chips.
      models: the decoder with each rematerialization policy, and the work of its most expensive step.
      batches: batches that the mesh must divide.
      memory: bytes per device.
      efficiency: share of the peak that matrix products reach.
      wanted: the only mesh to consider; None: all.

    Raises:
      DataError: if there is none; says which batch sizes would work.
    """
    model = models[0][0]
    possible = [layout for layout in layouts(fleet) if objection(layout, fleet, model, batches) is None]
    possible = [wanted] if wanted else possible
    if not possible:
        raise DataError(_no_layout(fleet, model, batches))

    def order(candidate: Candidate) -> tuple[bool, float]:
        size = candidate.size
        fits = size <= memory
        time = step_time(candidate.work, candidate.layout, fleet, efficiency).serial
        return (not fits, time if fits else size)

    return sorted((Candidate(layout, *each) for layout in possible for each in models), key=order)


def _no_layout(fleet: Fleet, model: DecoderConfig, batches: Batches) -> str:
    anything = Batches(())
    possible = [layout for layout in layouts(fleet) if objection(layout, fleet, model, anything) is None]
    name = f"{fleet.count} {fleet.chip.name} chips"
    if not possible:
        return (
            f"--chips={fleet.count}: no mesh of {name} divides the model (heads {model.num_heads}, width "
            f"{model.hidden_size}); take a power of two"
        )
    ways = min(layout.data * layout.fsdp for layout in possible)
    wrong = [f"config.{field} = {rows}" for field, rows in batches.rows if rows % ways]
    return (
        f"{name} need a batch that divides by {ways} (data x fsdp, with tensor at most {fleet.count // ways}), and "
        f"{' and '.join(wrong)}: take fewer chips, or set train.batch_size and train.meta.batch_size to a multiple of "
        f"{ways}"
    )
