"""The training loop of one arm: resume, step, log, save, stop cleanly."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array
from tqdm import tqdm

from dreamprm_jax.bilevel import optimizers
from dreamprm_jax.bilevel.hypergradient import make_meta_gradient
from dreamprm_jax.bilevel.labels import Parametrisation
from dreamprm_jax.bilevel.partition import merge
from dreamprm_jax.config import TrainConfig
from dreamprm_jax.models.decoder import DecoderConfig
from dreamprm_jax.schema import DataError
from dreamprm_jax.training.checkpoint import Checkpoints, TrainState
from dreamprm_jax.training.feed import Batch, PackedRows
from dreamprm_jax.training.losses import Loss, make_outer_loss
from dreamprm_jax.training.mesh import activate, batch_sharding, replicated
from dreamprm_jax.training.metrics import MetricsWriter
from dreamprm_jax.training.table import pad_labels

Metrics = dict[str, Array]


class Step(Protocol):
    """One call of the loop. ``frozen`` is the other part of ``state.params`` (``bilevel.partition``), if there is one.

    It is an argument, so that the compiled program holds no copy of the weights. ``key`` draws LoRA's dropout.
    """

    def __call__(
        self,
        state: TrainState,
        batch: Batch,
        outer: Batch | None,
        do_meta: Array,
        frozen: Any = None,
        key: Array | None = None,
    ) -> tuple[TrainState, Metrics]:
        """Returns the state after the step, and figures of it."""
        ...


@dataclass(frozen=True)
class Arm:
    """What one arm trains on, and over which steps of the common learning-rate schedule."""

    name: str
    inner_loss: Loss
    first_step: int
    last_step: int
    labels: Parametrisation | None = None  # set: bi-level training of phi


@dataclass(frozen=True)
class Data:
    """The inner and outer problem's rows, the label table's raw labels, and the seed of LoRA's dropout."""

    inner: PackedRows
    outer: PackedRows
    raw: np.ndarray  # float32[n]
    seed: int = 0


def make_optimizer(config: TrainConfig) -> optax.GradientTransformation:
    """AdamW with clipping and a linear warm-up to a cosine decay over all steps, differentiable at zero gradients."""
    total = config.warmup_steps + config.steps
    ramp = min(max(1, total // 20), total)
    schedule = optax.warmup_cosine_decay_schedule(0.0, config.learning_rate, ramp, total, 0.1 * config.learning_rate)
    return optax.chain(
        optimizers.clip_by_global_norm(config.clip_norm),
        optimizers.adamw(schedule, b2=config.adam_b2, weight_decay=config.weight_decay),
    )


def make_plain_step(inner_loss: Loss, optimizer: optax.GradientTransformation) -> Step:
    """One first-order step on the inner loss."""

    def step(
        state: TrainState,
        batch: Batch,
        outer: Batch | None,
        do_meta: Array,
        frozen: Any = None,
        key: Array | None = None,
    ) -> tuple[TrainState, Metrics]:
        keys = () if key is None else (key,)

        def loss_of(params: Any) -> Array:
            return inner_loss(params if frozen is None else merge(params, frozen), state.phi, batch, *keys)

        loss, gradient = jax.value_and_grad(loss_of)(state.params)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = {"inner_loss": loss, "gradient_norm": optax.global_norm(gradient)}
        return state._replace(params=params, opt_state=opt_state), metrics

    return step


def _drops(model: DecoderConfig) -> bool:
    """Whether the training losses need a key."""
    return model.lora is not None and model.lora.dropout > 0


def make_meta_optimizer(config: TrainConfig, labels: Parametrisation) -> optax.GradientTransformationExtraArgs:
    """Adam on phi; of a table only the rows of the batch move."""
    meta = config.meta
    if labels.is_table:
        return optimizers.lazy_adam(meta.learning_rate, weight_decay=meta.weight_decay)
    return optax.with_extra_args_support(optimizers.adamw(meta.learning_rate, weight_decay=meta.weight_decay))


def make_bilevel_step(
    model: DecoderConfig,
    inner_loss: Loss,
    labels: Parametrisation,
    optimizer: optax.GradientTransformation,
    config: TrainConfig,
    raw: np.ndarray,
) -> Step:
    """K inner steps on theta, and one outer step on phi with the exact hypergradient through them."""
    meta_gradient = make_meta_gradient(
        inner_loss,
        make_outer_loss(model),
        optimizer,
        method=config.meta.method,
        unroll=config.meta.unroll,
        has_rng=_drops(model),
    )
    meta_optimizer = make_meta_optimizer(config, labels)

    def step(
        state: TrainState,
        batch: Batch,
        outer: Batch | None,
        do_meta: Array,
        frozen: Any = None,
        key: Array | None = None,
    ) -> tuple[TrainState, Metrics]:
        padded = pad_labels(raw, len(jax.tree.leaves(state.phi)[0])) if labels.is_table else raw
        point = (state.params, state.opt_state, state.phi)
        result = meta_gradient(*point, batch, outer, do_meta=do_meta, rng=key, frozen=frozen)
        touched = optimizers.touched_rows(batch.label_index, len(padded), batch.label_mask) & do_meta
        updates, meta_state = meta_optimizer.update(
            result.hypergradient, state.meta_opt_state, state.phi, touched=touched
        )
        if not labels.is_table:  # a network's moments must rest, too, where there is no outer step
            updates = jax.tree.map(lambda leaf: leaf * do_meta, updates)
            meta_state = jax.tree.map(lambda new, old: jnp.where(do_meta, new, old), meta_state, state.meta_opt_state)
        phi = labels.project(optax.apply_updates(state.phi, updates))
        metrics = {
            "inner_loss": result.inner_loss,
            "outer_loss": result.outer_loss,
            "gradient_norm": result.norms.inner_gradient,
            "hypergradient_norm": result.norms.hypergradient,
            "label_drift": jnp.mean(jnp.abs(labels.labels(phi, jnp.asarray(padded)) - padded)[: len(raw)]),
        }
        return TrainState(result.params, result.opt_state, phi, meta_state), metrics

    return step


def train_arm(
    config: TrainConfig,
    model: DecoderConfig,
    mesh: Mesh,
    arm: Arm,
    data: Data,
    start: TrainState,
    folder: Path,
    frozen: Any = None,
) -> TrainState:
    """Trains one arm from ``start`` (the state at ``arm.first_step``), or from its newest checkpoint.

    ``frozen`` holds the parameters that ``start.params`` lacks; they are neither changed nor saved.

    Returns:
      The state after ``arm.last_step`` steps, which is also checkpointed.

    Raises:
      DataError: when the loss is no longer finite; the batch is kept in the folder.
      SystemExit: with status 143 after SIGTERM, once the state is saved.
    """
    optimizer = make_optimizer(config)
    if arm.labels is None:
        stride, step_function = 1, make_plain_step(arm.inner_loss, optimizer)
    else:
        stride = config.meta.unroll
        step_function = make_bilevel_step(model, arm.inner_loss, arm.labels, optimizer, config, data.raw)
    with Checkpoints(folder / "checkpoints", config.checkpoint_every, config.keep_checkpoints) as checkpoints:
        done = checkpoints.latest_step()
        # A copy: the step's buffers are donated, and other arms go on from ``start`` too.
        state = jax.tree.map(jnp.copy, start) if done is None else checkpoints.restore(done, start)
        first = arm.first_step if done is None else done
        if first >= arm.last_step:
            return state
        state = jax.tree.map(lambda leaf: _on_mesh(leaf, mesh), state)
        # The state comes out as it went in, so that the second step does not compile anew.
        shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
        compiled = jax.jit(step_function, donate_argnums=0, out_shardings=(shardings, None))
        with (
            activate(model, mesh),
            _stop_requests() as stop,
            MetricsWriter(folder, first) as writer,
            tqdm(total=arm.last_step - arm.first_step, initial=first - arm.first_step, desc=f"train {arm.name}") as bar,
        ):
            for step in range(first, arm.last_step, stride):
                batch = _device_batch([data.inner.batch(step + k) for k in range(stride)], mesh)
                meta_batch = None if arm.labels is None else _device_batch([data.outer.batch(step)], mesh)
                do_meta = (step // stride) % config.meta.every == 0
                key = jax.random.fold_in(jax.random.key(data.seed), step) if _drops(model) else None
                state, metrics = compiled(state, batch, meta_batch, jnp.asarray(do_meta), frozen=frozen, key=key)
                stopping, last = bool(stop), step + stride >= arm.last_step
                logging, saving = last or step % config.log_every < stride, last or checkpoints.due(step + stride)
                if logging or saving or stopping:
                    values = {name: float(value) for name, value in metrics.items()}
                    if logging:
                        writer.write(step, values)
                        bar.set_postfix(loss=f"{values['inner_loss']:.3f}")
                    _check_finite(values, batch, step, folder)  # before the save: checkpoints are always finite
                bar.update(stride)
                if saving or stopping:
                    checkpoints.save(step + stride, state, force=stopping or last)
                if stopping:
                    raise SystemExit(143)
    return state


def _on_mesh(leaf: Array, mesh: Mesh) -> Array:
    """The leaf as it is where it was placed on the mesh, else (counters) on every device."""
    return leaf if isinstance(leaf.sharding, NamedSharding) else jax.device_put(leaf, replicated(mesh))


def _device_batch(batches: list[Batch], mesh: Mesh) -> Batch:
    """The batch on the mesh; several get a leading axis of unrolled steps."""
    if len(batches) == 1:
        return jax.device_put(batches[0], batch_sharding(mesh))
    stacked = Batch(*(np.stack(leaves) for leaves in zip(*batches, strict=True)))
    return jax.device_put(stacked, NamedSharding(mesh, PartitionSpec(None, *batch_sharding(mesh).spec)))


def _check_finite(values: dict[str, float], batch: Batch, step: int, folder: Path) -> None:
    if all(np.isfinite(value) for value in values.values()):
        return
    path = folder / f"not_finite_{step}.npz"
    np.savez(path, **{name: np.asarray(leaf) for name, leaf in batch._asdict().items()})  # type: ignore[arg-type]
    bad = ", ".join(name for name, value in values.items() if not np.isfinite(value))
    raise DataError(f"{folder.name}, step {step}: {bad} not finite; the batch is in {path}; lower the learning rate")


@contextmanager
def _stop_requests() -> Iterator[list[int]]:
    """A list that gets an entry when SIGTERM arrives, so that the loop can save before it stops."""
    requests: list[int] = []
    previous: Any = signal.signal(signal.SIGTERM, lambda number, frame: requests.append(number))
    try:
        yield requests
    finally:
        signal.signal(signal.SIGTERM, previous)
