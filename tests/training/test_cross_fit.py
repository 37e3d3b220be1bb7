"""Cross-fitted labels: no program is scored by a model that was trained on it, and good scores mend labels."""

import dataclasses

import numpy as np
import pytest

from dreamprm_jax.config import LabelsConfig
from dreamprm_jax.labeling.labellings import LabelSource, hidden_fault_labels, step_key
from dreamprm_jax.schema import DataError
from dreamprm_jax.study.measures import label_measures
from dreamprm_jax.study.reading import examples, structure_vocabulary
from dreamprm_jax.study.regimes import REGIMES
from dreamprm_jax.study.world import Sizes, draw_labels, make_world
from dreamprm_jax.training.cross_fit import cross_fitted_labels
from dreamprm_jax.training.every_step import every_step
from dreamprm_jax.training.feed import PackedRows


@pytest.fixture(scope="module")
def data():
    """(programs with truth, label source, examples of the windows) at one rollout a step."""
    world = make_world(3, Sizes(train=120, meta=12, test=2, test_programs=1))
    programs = world.programs["train"]
    outcomes = {row.program_hash: row for row in world.outcomes("train")}
    source = LabelSource(draw_labels(world, REGIMES["k1"], "train", programs), outcomes)
    return programs, source, examples("structure", None, world, [step_key(row) for row in source.steps])


def test_every_program_is_scored_by_a_model_that_has_not_seen_it(data, micro_train):
    programs, source, found = data
    truth = {one.program.program_hash: one.recoverable for one in programs}
    by_tokens = {tuple(example.tokens): truth[example.program_hash] for example in found["train"]}
    settings = dataclasses.replace(
        micro_train, row_tokens=64, batch_size=4, accumulation=2, labels=LabelsConfig(folds=3, rounds=2)
    )
    trained, asked = [], []

    def train_model(name, share, rows):
        seen = {example.program_hash for example in rows.examples}
        trained.append((name, share.steps, len(seen), any(example.raw.any() for example in rows.examples)))

        def logits_of(batch):  # an oracle that is right four times in five
            logits = np.zeros(batch.step_index.shape)
            rng = np.random.default_rng(len(asked))
            for row in range(len(batch.tokens)):
                place = 0
                for segment in range(1, batch.segments[row].max() + 1):
                    tokens = tuple(batch.tokens[row][batch.segments[row] == segment])
                    alive = by_tokens[tokens]
                    wrong = rng.random(len(alive)) < 0.2
                    logits[row, place : place + len(alive)] = np.where(alive ^ wrong, 2.0, -2.0)
                    place += len(alive)
                    asked.append((tokens, seen))
            return logits

        return logits_of

    labels = cross_fitted_labels(settings, 0, source, found["train"], found["meta"], train_model)
    assert [name for name, *_ in trained] == [f"fold_{round_}_{fold}" for round_ in (0, 1) for fold in (0, 1, 2)]
    total = settings.warmup_steps + settings.steps
    assert all(steps == total * 2 // 3 and count == 80 + 12 and labelled for _, steps, count, labelled in trained)
    names = {tuple(example.tokens): example.program_hash for example in found["train"]}
    assert len(asked) == 2 * 120
    assert not any(names[tokens] in seen for tokens, seen in asked)
    keys = [(one.program.program_hash, step) for one in programs for step in range(len(one.value) - 1)]
    recoverable = dict(zip(keys, np.concatenate([one.recoverable[:-1] for one in programs]), strict=True))
    right = np.array([recoverable[step.program_hash, step.step_index] for step in source.steps])
    before, after = (label_measures(x, right, right * 1.0) for x in (hidden_fault_labels(source), labels))
    assert after["label_brier"] < before["label_brier"] - 0.005


def test_too_few_problems_are_refused(data, micro_train):
    _, source, found = data
    settings = dataclasses.replace(micro_train, labels=LabelsConfig(folds=2))
    with pytest.raises(DataError, match=r"config\.train\.labels\.folds=2: there are only 1 training problems"):
        cross_fitted_labels(settings, 0, source, found["train"][:1], [], lambda *_: None)


def test_every_step_keeps_the_order_of_the_programs(data):
    _, _, found = data
    assert structure_vocabulary() > max(int(example.tokens.max()) for example in found["train"])
    rows = PackedRows(found["train"], 64, 8, 0)
    read = every_step(lambda batch: np.take_along_axis(batch.tokens, batch.step_index, 1).astype(float), rows)
    for example, logits in zip(found["train"], read, strict=True):
        np.testing.assert_array_equal(logits, example.tokens[example.step_index])
