"""The training loop of one arm: resume, step, measure, log, save, stop cleanly."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float

from dreamprm_jax.bilevel.labels import Parametrisation
from dreamprm_jax.bilevel.partition import merge
from dreamprm_jax.bilevel.problem import mean_over_microbatches, tree_norm
from dreamprm_jax.models.decoder import DecoderConfig
from dreamprm_jax.models.fused import taking
from dreamprm_jax.runs.progress import Progress
from dreamprm_jax.runs.stop_signals import stops_by_itself
from dreamprm_jax.schema import DataError
from dreamprm_jax.training import distributed
from dreamprm_jax.training.checkpoint import Checkpoints, TrainState
from dreamprm_jax.training.evaluate_during import EvaluationSet, label_figures, meta_figures
from dreamprm_jax.training.examples import NO_LABEL
from dreamprm_jax.training.feed import Batch, PackedRows, check_batch
from dreamprm_jax.training.flops import useful_flops
from dreamprm_jax.training.global_batch import flag_per_device, from_every_process, step_batch, whole_batches
from dreamprm_jax.training.guard import FiniteGuard, all_finite
from dreamprm_jax.training.label_table import label_start
from dreamprm_jax.training.losses import Loss, batch_logits
from dreamprm_jax.training.master_weights import check_needed
from dreamprm_jax.training.mesh import activate, check_divisible, replicated
from dreamprm_jax.training.metrics import MetricsWriter
from dreamprm_jax.training.optimizer import learning_rate, make_optimizer
from dreamprm_jax.training.profiling import ProfilerWindow
from dreamprm_jax.training.state import Setup, abstract_state, with_labels
from dreamprm_jax.training.steps import (
    META_FIGURES,
    StepFunction,
    StepInputs,
    StepResult,
    draws_dropout,
    make_bilevel_step,
    with_axes,
)
from dreamprm_jax.training.throughput import Throughput, short


@dataclass(frozen=True)
class Arm:
    """The losses of one arm, and its range of steps in the common learning-rate schedule."""

    name: str
    inner_loss: Loss
    first_step: int
    last_step: int
    labels: Parametrisation | None = None  # set: bi-level training of phi
    tangent_loss: Loss | None = None  # the inner loss for forward-mode passes; None: the same function
    outer_loss: Loss | None = None  # for bi-level training; None: the cross-entropy of the outcomes


@dataclass(frozen=True)
class ArmData:
    """Rows of the inner and outer problem, initial labels of the label table, and the seed of LoRA's dropout."""

    inner: PackedRows
    outer: PackedRows
    raw: np.ndarray  # float32[n]
    seed: int = 0
    evaluation: EvaluationSet | None = None  # what to measure on during training


class CheckedStep(NamedTuple):
    """The result of a step, with flags that the loop reads one step later."""

    result: StepResult
    finite: Bool[Array, ""]
    stop: Bool[Array, ""]  # whether any process was asked to stop before the step


def train_arm(setup: Setup, arm: Arm, data: ArmData, start: Callable[[], TrainState], folder: Path) -> TrainState:
    """Trains one arm from its newest checkpoint, or from ``start()`` if it has none.

    Args:
      setup: settings, model, devices, and the frozen parameters.
      arm: losses and steps.
      data: rows, labels, and what to measure on.
      start: makes the state at ``arm.first_step``. The buffers of this state are donated. Label-side parameters are
        added here.
      folder: folder for the arm's checkpoints and metrics.

    Returns:
      The state after ``arm.last_step`` steps, which is also checkpointed.

    Raises:
      DataError: if the data do not fit the settings, or values of a step are not finite (its batch is then written to
        the folder).
      SystemExit: after SIGTERM (143) or Ctrl-C (130) on any process, once the state is saved.
    """
    config, model, mesh, main = setup.config, setup.model, setup.mesh, distributed.is_main()
    check_arm(setup, arm, data)

    # ---------------------------------------------------------------- labels
    phi, labels = (), None
    if arm.labels is not None:
        labels = label_start(arm.labels, data.raw, mesh)
        phi = arm.labels.init(labels.values)

    # ---------------------------------------------------------------- state
    shapes = abstract_state(config, model, mesh, arm.labels, phi)
    with Checkpoints(folder / "checkpoints", config.checkpoint_every, config.keep_checkpoints) as checkpoints:
        first = checkpoints.latest_step()
        if first is not None:
            state = checkpoints.restore(first, shapes)
        else:
            first, state = arm.first_step, start()
            if arm.labels is not None:
                state = with_labels(state, setup, arm.labels, phi)
        if first >= arm.last_step:
            return state

        # ---------------------------------------------------------------- step
        compiled = compile_step(setup, arm, shapes)
        stride = 1 if arm.labels is None else config.meta.unroll  # steps of theta in one call: K of the unroll
        outer: Batch | None = None

        def does_meta(step: int) -> bool:
            return arm.labels is not None and (step // stride) % config.meta.every == 0

        def host_batches(step: int) -> dict[str, Batch]:
            """The batches of one call, to be saved if it fails; names of outer fields begin with ``outer_``."""
            batches = {"": whole_batches(data.inner, range(step, step + stride))}
            return batches | ({"outer_": whole_batches(data.outer, [step])} if does_meta(step) else {})

        # ---------------------------------------------------------------- loop
        guard = FiniteGuard(folder, host_batches, main)
        meta_rows = (0.0, 0.0) if arm.labels is None else (config.meta.batch_size / stride, config.batch_size)
        means = [rows / config.meta.every for rows in meta_rows]
        work = useful_flops(model, data.inner.shape.tokens, config.batch_size, *means)
        clock = Throughput(list(mesh.devices.flat), config.batch_size * data.inner.shape.tokens, work)
        length, done = arm.last_step - arm.first_step, first - arm.first_step
        stop_agreed: Any = False  # whether any process was asked to stop before the last step
        with (
            activate(model, mesh),
            distributed.keep_stop_signals() as stop_request,
            ExitStack() as after_compilation,
            MetricsWriter(folder, first, main, config.wandb_project) as writer,
            ProfilerWindow(folder / "profile", config.profile_from, config.profile_steps * main) as profiler,
            Progress(f"train {arm.name}", length, "step", done, folder / "train", visible=main) as progress,
        ):
            for step in range(first, arm.last_step, stride):
                profiler.before(step, stride)
                batch = step_batch(data.inner, range(step, step + stride), config.accumulation, mesh)
                if does_meta(step) or (
                    arm.labels is not None and outer is None
                ):  # otherwise the previous batch is passed, which the step does not read
                    outer = step_batch(data.outer, [step], config.meta.accumulation, mesh)
                key = jax.random.fold_in(jax.random.key(data.seed), step) if draws_dropout(model) else None
                inputs = StepInputs(batch, outer, jnp.asarray(does_meta(step)), setup.frozen, key, labels)
                asked = flag_per_device(stop_request.requested, mesh)
                (state, metrics, move), finite, stop = compiled(state, inputs, asked)
                if step == first:  # from now on, a stop signal is held until the state is saved
                    after_compilation.enter_context(stops_by_itself())
                guard.watch(step, finite, metrics)  # waits for the previous step while this one runs
                clock.dispatched(stride, metrics)
                following, last = step + stride, step + stride >= arm.last_step
                # A single process stops at once; several stop after the step at which all of them have read the flag.
                stopping = stop_request.requested if jax.process_count() == 1 else bool(stop_agreed)
                stop_agreed = stop

                logging = last or step % config.log_every < stride
                measuring = bool(config.evaluate_every) and (last or following % config.evaluate_every < stride)
                saving = last or stopping or checkpoints.due(following, stride)
                if logging or measuring or saving:
                    guard.settle()  # so that only finite values are written
                if logging or measuring:
                    values = {name: float(value) for name, value in metrics.items()}
                    if arm.labels is not None and not does_meta(step):
                        values = {name: value for name, value in values.items() if name not in META_FIGURES}
                    if (rate := learning_rate(config, state.opt_state, step)) is not None:
                        values["learning_rate"] = rate
                    speed = clock.read()
                    if data.evaluation is not None:
                        if move is not None and data.evaluation.label_truth is not None:
                            values |= label_figures(move, data.evaluation.label_truth)
                        if measuring:
                            logits_of = functools.partial(host_logits, setup, state.params)
                            values |= meta_figures(logits_of, data.evaluation)
                    writer.write(step, values, speed)
                    progress.note(loss=f"{values['inner_loss']:.3f}", **short(speed))
                progress.add(units=stride)
                profiler.after(following, state)
                if saving:
                    checkpoints.save(following, state, force=True)
                if measuring or saving:
                    clock.restart()
                if stopping:
                    raise SystemExit(stop_request.exit_status)
    return state


def make_plain_step(inner_loss: Loss, optimizer: optax.GradientTransformation, accumulation: int = 1) -> StepFunction:
    """One first-order step on the inner loss, over ``accumulation`` micro-batches.

    Optimizers with extra arguments receive ``value``, ``grad`` and ``value_fn`` (the loss as a function of the
    parameters).
    """
    optimizer = optax.with_extra_args_support(optimizer)

    def step(state: TrainState, inputs: StepInputs) -> StepResult:
        check_batch(inputs.batch, leading=int(accumulation > 1))
        batch = with_axes(inputs.batch, accumulation)

        def loss_of(params: Any, batch: Batch, key: Array | None) -> Float[Array, ""]:
            whole = params if inputs.frozen is None else merge(params, inputs.frozen)
            return inner_loss(whole, state.phi, batch, *(() if key is None else (key,)))

        def mean_loss(params: Any) -> Float[Array, ""]:
            return mean_over_microbatches(lambda *micro: (loss_of(params, *micro), None), batch, inputs.key)[0]

        (loss, gradient), _ = mean_over_microbatches(
            lambda *micro: (jax.value_and_grad(loss_of)(state.params, *micro), None), batch, inputs.key
        )
        updates, opt_state = optimizer.update(
            gradient, state.opt_state, state.params, value=loss, grad=gradient, value_fn=mean_loss
        )
        params = optax.apply_updates(state.params, updates)
        metrics = {"inner_loss": loss, "gradient_norm": tree_norm(gradient)}
        return StepResult(state._replace(params=params, opt_state=opt_state), metrics, None)

    return step


def compile_step(setup: Setup, arm: Arm, shapes: TrainState) -> Any:
    """The jitted step with its flags. The output state is sharded like ``shapes``, so later steps do not recompile."""
    config, optimizer = setup.config, make_optimizer(setup.config)
    if arm.labels is None:
        step: StepFunction = make_plain_step(arm.inner_loss, optimizer, config.accumulation)
    else:
        losses = arm.outer_loss, arm.tangent_loss
        step = make_bilevel_step(setup.model, arm.inner_loss, arm.labels, optimizer, config, *losses)

    def checked_step(state: TrainState, inputs: StepInputs, asked: Bool[Array, " devices"]) -> CheckedStep:
        result = step(state, inputs)
        return CheckedStep(result, all_finite(result), jnp.any(asked))

    everywhere = replicated(setup.mesh)
    shardings = StepResult(jax.tree.map(lambda leaf: leaf.sharding, shapes), everywhere, everywhere)  # type: ignore[arg-type]
    return jax.jit(checked_step, donate_argnums=0, out_shardings=CheckedStep(shardings, everywhere, everywhere))  # type: ignore[arg-type]


def host_logits(setup: Setup, params: Any, batch: Batch) -> np.ndarray:
    """Logits of a batch on the host, computed on all devices. Call it within ``activate``."""
    mesh = setup.mesh
    return np.asarray(
        _forward(mesh)(taking(setup.model, "none"), params, setup.frozen, from_every_process(batch, mesh))
    )


@functools.cache
def _forward(mesh: Mesh) -> Any:
    """(model, trainable, frozen, batch) -> logits, replicated on every device; compiled once for all arms."""
    return jax.jit(_logits, static_argnums=0, out_shardings=replicated(mesh))


def _logits(model: DecoderConfig, params: Any, frozen: Any, batch: Batch) -> Array:
    return batch_logits(model, params if frozen is None else merge(params, frozen), batch)


def check_arm(setup: Setup, arm: Arm, data: ArmData) -> None:
    """Checks that the data fit the settings and the mesh (``stages.validation`` checks the settings themselves).

    Raises:
      DataError: if they do not; names the field or the arm.
    """
    config, mesh = setup.config, setup.mesh
    batches: list[tuple[str, Any]] = [("", config)] if arm.labels is None else [("", config), ("meta.", config.meta)]
    for prefix, part in batches:
        rows = part.batch_size // part.accumulation
        check_divisible(mesh, rows, f"config.train.{prefix}batch_size / {prefix}accumulation")
    if data.evaluation is not None and data.evaluation.batches:
        check_divisible(mesh, len(data.evaluation.batches[0].tokens), "rows of an evaluation batch")
    if config.master_weights:
        check_needed(abstract_state(config, setup.model, mesh).params)
    if arm.labels is not None:
        largest = max((int(e.label_index.max(initial=NO_LABEL)) for e in data.inner.examples), default=NO_LABEL)
        if largest >= len(data.raw):
            raise DataError(f"arm {arm.name}: a step asks for row {largest} of a label table of {len(data.raw)}")
        truth = None if data.evaluation is None else data.evaluation.label_truth
        if truth is not None and len(truth) != len(data.raw):
            raise DataError(f"arm {arm.name}: truth of {len(truth)} labels for a table of {len(data.raw)}")
