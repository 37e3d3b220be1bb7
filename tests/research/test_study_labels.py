"""The grid of labels gives the same tables after it is killed between cells and run again."""

import dataclasses

import pytest

from dreamprm_jax.schema import DataError
from dreamprm_jax.storage import read_json
from research.study import label_grid
from research.study.label_grid import LabelGridSettings
from research.study.world import Sizes


def test_a_grid_goes_on_where_it_was(tmp_path):
    settings = LabelGridSettings(
        regimes=("k4",),
        rollouts=(1, 16),
        repairs=(0, 20),
        seeds=(3,),
        labelings=("raw", "closure", "undetected_fault"),
        sizes=Sizes(train=200, meta=1, test=1, test_programs=1),
    )
    assert settings.cells == ["k4_k1", "k4_k1_repair20", "k4_k16", "k4_k16_repair20"]
    tables, csv = label_grid.run(settings, tmp_path)
    before = tables.read_text(), csv.read_text()
    figures = {row["labeling"]: row for row in read_json(tmp_path / "results" / "3" / "k4_k16_repair20.json")}
    assert (
        figures["undetected_fault"]["label_auroc"] > figures["raw"]["label_auroc"] > figures["closure"]["label_auroc"]
    )
    (tmp_path / "results" / "3" / "k4_k1.json").unlink()
    label_grid.run(settings, tmp_path)
    assert (tables.read_text(), csv.read_text()) == before
    assert before[0].count("| k4_k") == 8
    assert "**" in before[0]
    for wrong in ({"labelings": ("clean",)}, {"regimes": ("k3",)}):
        with pytest.raises(DataError):
            dataclasses.replace(settings, **wrong)
