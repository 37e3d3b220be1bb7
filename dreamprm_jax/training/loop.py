"""The training loop of one arm: resume, step, measure, log, save, stop cleanly."""

from __future__ import annotations

import functools
import signal
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Bool

from dreamprm_jax.bilevel.labels import Parametrisation
from dreamprm_jax.bilevel.partition import merge
from dreamprm_jax.config import TrainConfig
from dreamprm_jax.models.decoder import DecoderConfig
from dreamprm_jax.runs.progress import Progress
from dreamprm_jax.runs.stop_signals import stops_by_itself
from dreamprm_jax.schema import DataError
from dreamprm_jax.training import distributed
from dreamprm_jax.training.checkpoint import Checkpoints, TrainState
from dreamprm_jax.training.evaluate_during import EvaluationSet, Figures, label_figures, meta_figures
from dreamprm_jax.training.examples import NO_LABEL
from dreamprm_jax.training.feed import Batch, PackedRows
from dreamprm_jax.training.global_batch import flag_per_device, from_every_process, step_batch, whole_batches
from dreamprm_jax.training.guard import FiniteGuard, all_finite
from dreamprm_jax.training.losses import Loss, batch_logits
from dreamprm_jax.training.master_weights import check_needed
from dreamprm_jax.training.mesh import activate, check_divisible, replicated
from dreamprm_jax.training.metrics import MetricsWriter
from dreamprm_jax.training.profiling import ProfilerWindow
from dreamprm_jax.training.steps import (
    META_FIGURES,
    StepFunction,
    StepInputs,
    StepResult,
    draws_dropout,
    make_bilevel_step,
    make_optimizer,
    make_plain_step,
)


@dataclass(frozen=True)
class Arm:
    """What one arm trains on, and over which steps of the common learning-rate schedule."""

    name: str
    inner_loss: Loss
    first_step: int
    last_step: int
    labels: Parametrisation | None = None  # set: bi-level training of phi
    tangent_loss: Loss | None = None  # the inner loss of its forward-mode passes; None: the same function
    outer_loss: Loss | None = None  # of bi-level training; None: the cross-entropy of the outcomes


@dataclass(frozen=True)
class ArmData:
    """The inner and outer problem's rows, the label table's labels at the start, and the seed of LoRA's dropout."""

    inner: PackedRows
    outer: PackedRows
    raw: np.ndarray  # float32[n]
    seed: int = 0
    evaluation: EvaluationSet | None = None  # what to measure on during training


class CheckedStep(NamedTuple):
    """A step's result with the flags that the loop reads one step later."""

    result: StepResult
    finite: Bool[Array, ""]
    stop: Bool[Array, ""]  # whether any process was asked to stop before the step


def train_arm(
    config: TrainConfig,
    model: DecoderConfig,
    mesh: Mesh,
    arm: Arm,
    data: ArmData,
    start: TrainState,
    folder: Path,
    frozen: Any = None,
) -> TrainState:
    """Trains one arm from ``start`` (the state at ``arm.first_step``), or from its newest checkpoint.

    ``frozen`` holds the parameters that ``start.params`` lacks; they are neither changed nor saved.

    Returns:
      The state after ``arm.last_step`` steps, which is also checkpointed.

    Raises:
      DataError: on settings and data that do not go together; when a step's values are not finite (its batch is kept
        in the folder).
      SystemExit: after SIGTERM (143) or Ctrl-C (130) on any process, once the state is saved.
    """
    _check(config, mesh, arm, data, start)
    with Checkpoints(folder / "checkpoints", config.checkpoint_every, config.keep_checkpoints) as checkpoints:
        done = checkpoints.latest_step()
        # A copy: the step's buffers are donated, and other arms go on from ``start`` too.
        state = jax.tree.map(jnp.copy, start) if done is None else checkpoints.restore(done, start)
        first = arm.first_step if done is None else done
        if first >= arm.last_step:
            return state
        state = jax.tree.map(lambda leaf: _on_mesh(leaf, mesh), state)
        return _Loop(config, model, mesh, arm, data, folder, frozen, checkpoints).run(state, first)


@dataclass(frozen=True)
class _Loop:
    """The steps of ``train_arm`` from one on, with everything that they share."""

    config: TrainConfig
    model: DecoderConfig
    mesh: Mesh
    arm: Arm
    data: ArmData
    folder: Path
    frozen: Any
    checkpoints: Checkpoints

    @property
    def stride(self) -> int:
        """Steps of theta in one call: K of the unroll."""
        return 1 if self.arm.labels is None else self.config.meta.unroll

    def run(self, state: TrainState, first: int) -> TrainState:
        """Steps ``first`` to ``arm.last_step``."""
        config, arm, stride, main = self.config, self.arm, self.stride, distributed.is_main()
        compiled, guard = self._compile(state), FiniteGuard(self.folder, self._host_batches, main)
        length, done = arm.last_step - arm.first_step, first - arm.first_step
        stop_agreed: Any = False  # whether any process was asked to stop before the last step
        with (
            activate(self.model, self.mesh),
            distributed.stop_requests() as requests,
            ExitStack() as after_compilation,
            MetricsWriter(self.folder, first, main, config.wandb_project) as writer,
            ProfilerWindow(self.folder / "profile", config.profile_from, config.profile_steps * main) as profiler,
            Progress(f"train {arm.name}", length, "step", done, self.folder / "train", visible=main) as progress,
        ):
            for step in range(first, arm.last_step, stride):
                profiler.before(step, stride)
                inputs = self._inputs(step)
                asked = flag_per_device(bool(requests), self.mesh)
                (state, metrics, move), finite, stop = compiled(state, inputs, asked)
                if step == first:  # from here on there is a state to save before a signal ends the process
                    after_compilation.enter_context(stops_by_itself())
                guard.watch(step, finite, metrics)  # waits for the step before, while this one runs
                following, last = step + stride, step + stride >= arm.last_step
                # One process stops at once; several after the step at which all of them have read the flag.
                stopping = bool(requests) if jax.process_count() == 1 else bool(stop_agreed)
                stop_agreed = stop
                logging = last or step % config.log_every < stride
                measuring = bool(config.evaluate_every) and (last or following % config.evaluate_every < stride)
                saving = last or stopping or self.checkpoints.due(following, stride)
                if logging or measuring or saving:
                    guard.settle()  # nothing that is not finite is written
                if logging or measuring:
                    values = {name: float(value) for name, value in metrics.items()}
                    if arm.labels is not None and not self._does_meta(step):
                        values = {name: value for name, value in values.items() if name not in META_FIGURES}
                    if self.data.evaluation is not None:
                        if move is not None and self.data.evaluation.label_truth is not None:
                            values |= label_figures(move, self.data.evaluation.label_truth)
                        if measuring:
                            values |= self._measure(state, self.data.evaluation)
                    writer.write(step, values)
                    progress.note(loss=f"{values['inner_loss']:.3f}")
                progress.add(units=stride)
                profiler.after(following, state)
                if saving:
                    self.checkpoints.save(following, state, force=True)
                if stopping:
                    raise SystemExit(128 + (requests[0] if requests else signal.SIGTERM))
        return state

    def _compile(self, state: TrainState) -> Any:
        """The step with its flags. The state comes out as it went in, so that the second step does not compile anew."""
        config, arm, optimizer = self.config, self.arm, make_optimizer(self.config)
        if arm.labels is None:
            step: StepFunction = make_plain_step(arm.inner_loss, optimizer, config.accumulation)
        else:
            step = make_bilevel_step(
                self.model,
                arm.inner_loss,
                arm.labels,
                optimizer,
                config,
                self.data.raw,
                arm.outer_loss,
                arm.tangent_loss,
            )

        def checked_step(state: TrainState, inputs: StepInputs, asked: Bool[Array, " devices"]) -> CheckedStep:
            result = step(state, inputs)
            return CheckedStep(result, all_finite(result), jnp.any(asked))

        everywhere = replicated(self.mesh)
        shardings = StepResult(jax.tree.map(lambda leaf: leaf.sharding, state), everywhere, everywhere)  # type: ignore[arg-type]
        return jax.jit(checked_step, donate_argnums=0, out_shardings=CheckedStep(shardings, everywhere, everywhere))  # type: ignore[arg-type]

    def _inputs(self, step: int) -> StepInputs:
        """What the call of one step, or of K from it on, reads."""
        config, steps = self.config, range(step, step + self.stride)
        batch = step_batch(self.data.inner, steps, config.accumulation, self.mesh)
        key = jax.random.fold_in(jax.random.key(self.data.seed), step) if draws_dropout(self.model) else None
        if self.arm.labels is None:
            return StepInputs(batch, None, False, self.frozen, key)
        outer = step_batch(self.data.outer, [step], config.meta.accumulation, self.mesh)
        return StepInputs(batch, outer, jnp.asarray(self._does_meta(step)), self.frozen, key)

    def _does_meta(self, step: int) -> bool:
        return (step // self.stride) % self.config.meta.every == 0

    def _host_batches(self, step: int) -> dict[str, Batch]:
        """The same batches for the file that is kept of a bad step: whole, the outer one's fields named ``outer_``."""
        batches = {"": whole_batches(self.data.inner, range(step, step + self.stride))}
        return batches if self.arm.labels is None else batches | {"outer_": whole_batches(self.data.outer, [step])}

    def _measure(self, state: TrainState, chosen: EvaluationSet) -> Figures:
        """The reward model as it is now, on the evaluation set."""

        return meta_figures(functools.partial(host_logits, self.model, self.mesh, state.params, self.frozen), chosen)


def host_logits(model: DecoderConfig, mesh: Mesh, params: Any, frozen: Any, batch: Batch) -> np.ndarray:
    """Logits of a batch on the host, by all devices; to be called within ``activate``."""
    return np.asarray(_forward(mesh)(model, params, frozen, from_every_process(batch, mesh)))


@functools.cache
def _forward(mesh: Mesh) -> Any:
    """(model, trainable, frozen, batch) -> logits, whole on every device; compiled once for all arms."""
    return jax.jit(_logits, static_argnums=0, out_shardings=replicated(mesh))


def _logits(model: DecoderConfig, params: Any, frozen: Any, batch: Batch) -> Array:
    return batch_logits(model, params if frozen is None else merge(params, frozen), batch)


def check_settings(config: TrainConfig) -> None:
    """Checks the numbers that the loop counts by.

    Raises:
      DataError: naming the field.
    """
    least = dict.fromkeys(("steps", "batch_size", "log_every", "checkpoint_every", "keep_checkpoints"), 1)
    least |= dict.fromkeys(("warmup_steps", "evaluate_every", "evaluate_programs", "profile_from", "profile_steps"), 0)
    for section, prefix, names in (
        (config, "", least),
        (config.meta, "meta.", dict.fromkeys(("batch_size", "unroll", "every"), 1)),
    ):
        for name, smallest in names.items():
            if (value := getattr(section, name)) < smallest:
                raise DataError(f"config.train.{prefix}{name}={value}: must be at least {smallest}")
        count, micro = section.batch_size, section.accumulation
        if micro < 1 or count % micro:
            raise DataError(f"config.train.{prefix}accumulation={micro}: must divide {prefix}batch_size={count}")
    labels = config.labels
    for name, good, wanted in (
        ("floor", 0.0 < labels.floor < 0.5, "above 0 and below 0.5"),
        ("smoothing", 0.0 <= labels.smoothing <= 1.0, "from 0 to 1"),
        ("gce_q", 0.0 < labels.gce_q <= 1.0, "above 0 and at most 1"),
    ):
        if not good:
            raise DataError(f"config.train.labels.{name}={getattr(labels, name)}: must be {wanted}")


def _check(config: TrainConfig, mesh: Mesh, arm: Arm, data: ArmData, start: TrainState) -> None:
    """Raises DataError on what would fail, or mean nothing, later."""
    check_settings(config)
    batches = [("", config.batch_size, config.accumulation)]
    if arm.labels is not None:
        batches.append(("meta.", config.meta.batch_size, config.meta.accumulation))
    for name, count, micro in batches:
        check_divisible(mesh, count // micro, f"config.train.{name}batch_size / {name}accumulation")
    if data.evaluation is not None and data.evaluation.batches:
        check_divisible(mesh, len(data.evaluation.batches[0].tokens), "rows of an evaluation batch")
    if config.master_weights:
        check_needed(start.params)
    if arm.labels is not None:
        rows = max((int(e.label_index.max(initial=NO_LABEL)) for e in data.inner.examples), default=NO_LABEL)
        if rows >= len(data.raw):
            raise DataError(f"arm {arm.name}: a step asks for row {rows} of a label table of {len(data.raw)}")
        truth = None if data.evaluation is None else data.evaluation.label_truth
        if truth is not None and len(truth) != len(data.raw):
            raise DataError(f"arm {arm.name}: truth of {len(truth)} labels for a table of {len(data.raw)}")


def _on_mesh(leaf: Array, mesh: Mesh) -> Array:
    """The leaf as it is where it was placed on the mesh, else (counters) on every device."""
    return leaf if isinstance(leaf.sharding, NamedSharding) else jax.device_put(leaf, replicated(mesh))
