"""Scores all steps of programs in packed rows."""

import numpy as np

from dreamprm_jax.labeling.correction.methods import LabelSource, step_key
from dreamprm_jax.training.feed import PackedRows, score_all_steps
from research.study.reading import examples, structure_vocabulary
from research.study.regimes import REGIMES
from research.study.world import Sizes, draw_labels, make_world


def test_every_step_keeps_the_order_of_the_programs():
    world = make_world(3, Sizes(train=120, meta=12, test=2, test_programs=1))
    outcomes = {row.program_hash: row for row in world.outcomes("train")}
    source = LabelSource(draw_labels(world, REGIMES["k1"], "train", world.programs["train"]), outcomes)
    found = examples("structure", None, world, [step_key(row) for row in source.steps])
    assert structure_vocabulary() > max(int(example.tokens.max()) for example in found["train"])
    rows = PackedRows(found["train"], 64, 8, 0)
    read = score_all_steps(lambda batch: np.take_along_axis(batch.tokens, batch.step_index, 1).astype(float), rows)
    for example, logits in zip(found["train"], read, strict=True):
        np.testing.assert_array_equal(logits, example.tokens[example.step_index])
