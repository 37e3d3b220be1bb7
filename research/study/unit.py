"""One unit of work of a study: trains every arm of one regime and one seed, and writes each result at once.

``study.run`` starts it as a separate process: ``python -m research.study.unit FOLDER REGIME SEED``.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import os
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from dreamprm_jax.bilevel.labels import LabelTable, Parametrisation, WeightTable
from dreamprm_jax.config import LabelsConfig, MetaConfig, ModelConfig
from dreamprm_jax.labeling.correction.methods import (
    ONLINE,
    LabelSource,
    StepKey,
    fault_evidence,
    fixed_labels,
    step_key,
)
from dreamprm_jax.models.decoder import DecoderConfig, decoder_config
from dreamprm_jax.models.reward import Params
from dreamprm_jax.storage import read_json, write_json
from dreamprm_jax.training.arms import make_parametrisation
from dreamprm_jax.training.checkpoint import TrainState
from dreamprm_jax.training.evaluate_during import label_figures
from dreamprm_jax.training.examples import Example
from dreamprm_jax.training.feed import PackedRows, score_all_steps
from dreamprm_jax.training.online_label_inference import alive_posterior, inferred_labels
from dreamprm_jax.training.optimizer import make_optimizer
from dreamprm_jax.training.steps import LabelMove, StepInputs
from research.study.arms import ORM, REFINED, RELEASE, ArmSpec, parse_arm, same_everywhere
from research.study.fit import Extras, Fitter, batches, reader
from research.study.measures import Figures, label_measures, model_measures, program_measures
from research.study.reading import examples, structure_vocabulary
from research.study.regimes import Regime, regime
from research.study.results import Row, file_name, identity, missing, result_path
from research.study.settings import StudySettings, read_settings
from research.study.world import Known, World, draw_labels, make_world

CONFIDENT = 0.8  # NAIT replaces labels by scores that are at least this, or at most 1 - this
ROUNDS = 3  # number of rounds of NAIT, each a third of the steps
WRONG_BY = 0.1  # smallest error of a wrong label; above the floor to which a table clips its initial labels
_LABELS = LabelsConfig(clean_target="recoverable")
# Shared by all arms, so that their step is compiled only once.
_TABLES: dict[str, Parametrisation] = {"label_table": LabelTable(_LABELS.floor), "weight_table": WeightTable()}


def run_unit(settings: StudySettings, folder: Path, regime_name: str, seed: int) -> None:
    """Trains and measures the arms without a result, and writes one file for each."""
    todo = missing(settings, folder, regime_name, seed)
    if not todo:
        return
    unit = make_unit(settings, regime(regime_name), seed)
    for arm in todo:
        begun, spec = time.monotonic(), parse_arm(arm)
        found = _elsewhere(folder, seed, arm) if same_everywhere(spec) else None
        figures = found or unit.run(spec) | {"seconds": time.monotonic() - begun}
        row = {"regime": regime_name, "seed": seed, "arm": arm, "settings": identity(settings)}
        write_json(result_path(folder, regime_name, seed, arm), figures | row)


def _elsewhere(folder: Path, seed: int, arm: str) -> Row | None:
    """The result from another regime of the seed, for an arm that uses no Monte-Carlo labels; None if missing."""
    paths = sorted((folder / "results").glob(f"*/{seed}/{file_name(arm)}"))
    return read_json(paths[0]) if paths else None


@dataclass(frozen=True)
class Unit:
    """Data shared by the arms of a unit. The n rows of the label table: training steps, then the clean meta steps."""

    settings: StudySettings
    model: ModelConfig
    world: World
    source: LabelSource
    examples: dict[str, list[Example]]
    value: Float[np.ndarray, " n"]  # V of the rows
    recoverable: Float[np.ndarray, " n"]  # 0 or 1
    own: Float[np.ndarray, " n"]  # 1 for rows of training steps, 0 for rows of the meta problems
    found: dict[str, Float[np.ndarray, " n"]]  # cache of the labels computed so far

    @property
    def seed(self) -> int:
        """Seed of the world and of all training."""
        return self.world.seed

    @property
    def decoder(self) -> DecoderConfig:
        """The reward model's shape."""
        return decoder_config(self.model)

    def run(self, arm: ArmSpec) -> Figures:
        """Trains one arm and measures it."""
        figures: Figures = {}
        if arm.learned:
            state, labels, figures = self._learn(arm)
            if arm.phase == "retrain":
                state = self._train(self._inner(labels, arm))
        elif arm.labeling in ONLINE:
            state, labels = self._online(arm)
        elif arm.labeling == RELEASE:
            from research.study.faithful import train_release

            labels = self._labels("raw")
            params, figures = train_release(self, labels, arm.frozen)
            state = TrainState(params, (), (), ())
        elif arm.labeling in REFINED:
            state, labels = self._refined(arm)
        else:
            labels = self._labels(arm.labeling, arm.target)
            state = self._train(self._inner(labels, arm, arm.without_meta), arm)
        if arm.labeling != ORM:
            own = self.own > 0
            figures |= label_measures(labels[own], self.recoverable[own] > 0.5, self.value[own])
        test, meta = self.world.programs["test"], self.world.programs["meta"]
        scores = [self.score(state, self.examples[window]) for window in ("test", "meta")]
        return figures | model_measures(scores[0], test, scores[1], meta) | program_measures(test)

    def start_params(self) -> Params:
        """The random parameters that every arm starts from."""
        return self._fitter(None).start(self.seed).params

    def _labels(self, name: str, target: str = "recoverable") -> Float[np.ndarray, " n"]:
        """The fixed labels of every row, for a labeling and a target."""
        key = f"{name}/{target}"
        if key not in self.found:
            if name == ORM:
                self.found[key] = self._labels("raw")
            elif name == "clean":
                self.found[key] = self.value if target == "value" else self.recoverable
            else:
                truth = self.value if target == "value" else self.recoverable
                keys = [step_key(row) for row in self.source.steps]
                clean: dict[StepKey, float] = {
                    key: float(label) for key, label, own in zip(keys, truth, self.own, strict=True) if not own
                }
                source = dataclasses.replace(self.source, clean=clean, clean_problems=len(clean))
                self.found[key] = fixed_labels(name, source, _LABELS)
        return self.found[key]

    def _online(self, arm: ArmSpec) -> tuple[TrainState, Float[np.ndarray, " n"]]:
        """A model trained with the online undetected-fault EM, and its final labels."""
        evidence, hidden = fault_evidence(self.source)
        state = self._train(self._inner(evidence, arm, arm.without_meta), arm, hidden)
        own = self._pack(self.examples["train"]).relabeled(evidence.astype(np.float32))
        infer = functools.partial(alive_posterior, hidden=hidden)
        return state, inferred_labels(reader(self.decoder, state.params), infer, own, len(evidence))

    def _refined(self, arm: ArmSpec) -> tuple[TrainState, Float[np.ndarray, " n"]]:
        """A model trained on labels from its own scores or from those of an earlier model, and these labels.

        self_training: a model is trained on raw labels, and a new model on the scores of the first. nait
        (arXiv 2601.12748): one model, whose confident scores, rounded to 0 or 1, replace labels between the rounds.
        """
        raw, steps = self._labels("raw"), self.settings.recipe.steps
        if arm.labeling == "self_training":
            labels = self._scores(self._train(self._inner(raw, arm, arm.without_meta), arm))
            return self._train(self._inner(labels, arm, arm.without_meta), arm), labels
        fitter = self._fitter(arm)
        state, labels = fitter.start(self.seed), raw
        ends = [steps * done // ROUNDS for done in range(ROUNDS + 1)]
        for first, last in itertools.pairwise(ends):
            rows = self._inner(labels, arm, arm.without_meta)
            state = fitter.fit(state, batches(rows, first, last))
            if last < steps:
                scores = self._scores(state)
                confident = np.maximum(scores, 1.0 - scores) >= CONFIDENT
                labels = np.where(confident, scores > 0.5, labels)
        return state, labels

    def _scores(self, state: TrainState) -> Float[np.ndarray, " n"]:
        """The model's scores of the rows of training steps, and the raw labels of other rows."""
        raw = self._labels("raw")
        rows = self._pack(self.examples["train"]).relabeled(raw.astype(np.float32))
        scores = inferred_labels(
            reader(self.decoder, state.params), lambda logits, _: jax.nn.sigmoid(logits), rows, len(raw)
        )
        return np.where(np.isfinite(scores), scores, raw)

    def _train(self, rows: PackedRows, arm: ArmSpec | None = None, hidden: float | None = None) -> TrainState:
        """Trains a new model on labels, or on evidence if q is given. ``arm`` None: trains as phase=retrain does."""
        fitter, steps = self._fitter(arm), self.settings.recipe.steps
        data, values = batches(rows, 0, steps), None
        if arm is not None and arm.value_head:
            values = batches(self._inner(self._labels("raw"), arm, arm.without_meta), 0, steps).raw
        return fitter.fit(fitter.start(self.seed), data, arm is not None and arm.labeling == ORM, hidden, values)

    def _fitter(self, arm: ArmSpec | None) -> Fitter:
        recipe = self.settings.recipe
        if arm is None:
            return Fitter(self.decoder, recipe.train_config())
        config = dataclasses.replace(recipe, optimizer=arm.inner).train_config(
            outcome_weight=float(arm.outcomes),
            loss="gce" if arm.labeling == "gce" else "bce",
            meta=MetaConfig(learning_rate=arm.rate, unroll=arm.unroll),
        )
        return Fitter(self.decoder, config, Extras(arm.value_head, arm.certainty, arm.mask))

    def score(self, state: TrainState, programs: Sequence[Example]) -> list[Float[np.ndarray, " steps"]]:
        """Logits of every step of every program, in the order of the programs."""
        return score_all_steps(reader(self.decoder, state.params), self._pack(programs))

    def _pack(self, programs: Sequence[Example]) -> PackedRows:
        return PackedRows(programs, self.settings.row_tokens, self.settings.rows, self.seed)

    def _inner(self, labels: Float[np.ndarray, " n"], arm: ArmSpec, held_out: bool = False) -> PackedRows:
        """Training programs with their labels, and the meta programs with their outcomes unless ``held_out``."""
        chosen = np.where(self.own > 0, labels, self.recoverable if arm.clean else np.nan)
        programs = self.examples["train"] + ([] if held_out else self.examples["meta"])
        return self._pack(programs).relabeled(chosen.astype(np.float32))

    def _learn(self, arm: ArmSpec) -> tuple[TrainState, Float[np.ndarray, " n"], Figures]:
        """Warm-up on the initial labels, then bi-level training."""
        fitter, steps = self._fitter(arm), self.settings.recipe.steps
        begin = self._labels(arm.start).astype(np.float32)
        learner = self._parametrisation(arm, begin)
        calls = round((1 - self.settings.warm_share) * steps / arm.unroll)
        warm = steps - calls * arm.unroll
        rows = self._inner(begin, arm, held_out=arm.meta != "same" and not arm.two_stages)
        state = fitter.with_labels(fitter.fit(fitter.start(self.seed), batches(rows, 0, warm)), learner, begin)
        if arm.two_stages:
            fitter = fitter.second_stage(steps - warm)
            state = state._replace(opt_state=make_optimizer(fitter.config).init(state.params))
        before = np.asarray(learner.labels(state.phi, jnp.asarray(begin)))  # clipped to the floor
        looked_at = self._pack(self.examples["train" if arm.meta == "same" else "meta"])
        clean = np.where(self.own > 0, np.nan, self.recoverable) if arm.meta == "clean_steps" else self.own * np.nan
        outer = batches(looked_at.relabeled(clean.astype(np.float32)), 0, calls)
        inputs = StepInputs(batches(rows, warm, steps), outer)
        if arm.frozen:
            return fitter.fit(state, inputs.batch), before, {"label_moved": 0.0}
        state, moves = fitter.fit_bilevel(state, inputs, learner, begin, arm.meta == "clean_steps", arm.outer)
        labels = np.asarray(learner.labels(state.phi, jnp.asarray(begin)))
        figures = {"label_moved": float(np.mean(np.abs(labels - before)[self.own > 0]))}
        label_moves = [LabelMove(*move) for move in zip(*map(np.asarray, moves), strict=True)]
        for name, truth in (("value", self.value), ("recoverable", self.recoverable)):
            known = np.where(self.own > 0, truth, np.nan).astype(np.float32)
            each = (label_figures(move, known, WRONG_BY) for move in label_moves)
            signs = [found["hypergradient_sign_agreement"] for found in each if "hypergradient_sign_agreement" in found]
            if signs:  # a weight table changes no label
                figures[f"sign_agreement_{name}"] = float(np.mean(signs))
        if arm.labeling == "weight_table":
            figures["mean_weight"] = float(np.mean(np.asarray(state.phi)[self.own > 0]))
        return state, labels, figures

    def _parametrisation(self, arm: ArmSpec, begin: Float[np.ndarray, " n"]) -> Parametrisation:
        if arm.labeling in _TABLES:
            return _TABLES[arm.labeling]
        return make_parametrisation(arm.labeling, begin, self.source, _LABELS, self.seed)


def make_unit(settings: StudySettings, here: Regime, seed: int) -> Unit:
    """The unit with the world of the seed and the labels of the regime."""
    world = make_world(seed, settings.sizes)
    meta = world.programs["meta"]
    problems = list(dict.fromkeys(one.program.problem_id for one in meta))[: settings.clean_problems]
    chosen: list[tuple[str, list[Known]]] = [
        ("train", world.programs["train"]),
        ("meta", [one for one in meta if one.program.problem_id in set(problems)]),
    ]
    labels, truth, own = [], {}, set()
    for window, programs in chosen:
        labels += draw_labels(world, here, window, programs)
        for one in programs:
            for step in range(len(one.value)):
                key = (one.program.problem_id, one.program.program_hash, step)
                truth[key] = (one.value[step], one.recoverable[step])
                if window == "train":
                    own.add(key)
    outcomes = {row.program_hash: row for window in ("train", "meta") for row in world.outcomes(window)}
    source = LabelSource(labels, outcomes)
    keys = [step_key(row) for row in source.steps]
    model = settings.model
    if settings.reading == "structure":
        model = dataclasses.replace(model, vocab_size=structure_vocabulary(), max_length=64)
    pairs = np.array([truth[key] for key in keys], float)
    return Unit(
        settings,
        model,
        world,
        source,
        examples(settings.reading, model, world, keys),
        pairs[:, 0],
        pairs[:, 1],
        np.array([float(key in own) for key in keys]),
        {},
    )


def main(arguments: Sequence[str]) -> None:
    """Entry point of a unit's process."""
    folder, regime_name, seed = arguments
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    settings = read_settings(Path(folder) / "settings.json")
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(Path(folder) / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    run_unit(settings, Path(folder), regime_name, int(seed))


def _end_with(parent: int) -> None:
    """Ends this process when its parent is killed, because the next run of the study repeats its work."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
