"""Loads a reward model from an arm of a run, and checks the errors if there is none."""

import dataclasses
import shutil
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import pytest

from dreamprm_jax.api import RewardModel
from dreamprm_jax.config import LabelConfig, to_dict
from dreamprm_jax.models.pretrained import model_config
from dreamprm_jax.models.reward import abstract_params
from dreamprm_jax.models.tokenizer import save_tokenizer, train_tokenizer
from dreamprm_jax.runs.fingerprint import fingerprint
from dreamprm_jax.runs.paths import Paths
from dreamprm_jax.runs.stage_folder import StageFolder
from dreamprm_jax.runs.trained import trained_arm
from dreamprm_jax.schema import DataError
from dreamprm_jax.scoring.prm import PrmOptions, load_prm
from dreamprm_jax.scoring.scorer import Scorer
from dreamprm_jax.stages.runner import record_run
from dreamprm_jax.training.checkpoint import Checkpoints, TrainState
from dreamprm_jax.training.export import export


@pytest.fixture(scope="module")
def run(tiny_config, tmp_path_factory):
    """(folder, config, parameters) of a run whose arm 'raw' has a checkpoint after step 3; training itself is faked."""
    config = dataclasses.replace(tiny_config, label=LabelConfig(granularity="class"))
    root = tmp_path_factory.mktemp("run")
    paths = Paths(root)
    record_run(config, root)
    folder = StageFolder(paths.stage("train"), fingerprint(config, "train"))
    folder.open(to_dict(config))
    params = jax.tree.map(
        lambda leaf: jnp.full(leaf.shape, 0.5, leaf.dtype), abstract_params(model_config(config.model))
    )
    with Checkpoints(paths.arm("raw") / "checkpoints", every=1, keep=1) as checkpoints:
        checkpoints.save(3, TrainState(params, (), (), ()))
    save_tokenizer(train_tokenizer(["def main():"], 300), paths.tokenizer())
    folder.finish({}, 1.0)
    return root, config, params


@pytest.mark.parametrize("place", ["raw", "train/raw"])
def test_an_arm_of_a_run(run, place):
    root, config, params = run
    prm = load_prm(root / place, PrmOptions(max_length=100, overlong="drop"))
    chex.assert_trees_all_equal(prm.params, params)
    assert prm.name == "raw"
    assert prm.checkpoint == f"raw/3@{fingerprint(config, 'train')}"
    assert (prm.limits.max_length, prm.limits.overlong, prm.granularity) == (100, "drop", "class")
    assert load_prm(root / place, PrmOptions(granularity="line")).granularity == "line"


def test_what_is_no_model_is_told(run, tmp_path):
    root, _, _ = run
    with pytest.raises(DataError, match=r"is a run with several models; name one of them: .*orm, .*raw, .*corrected"):
        load_prm(root, PrmOptions())
    with pytest.raises(DataError, match=r"the models trained there are orm, raw, corrected"):
        load_prm(root / "other", PrmOptions())
    with pytest.raises(DataError, match=r"orm.checkpoints: no checkpoint"):
        load_prm(root / "orm", PrmOptions())
    with pytest.raises(DataError, match=r"no trained model there; give RUN/ARM.*or a Hugging Face folder"):
        load_prm(tmp_path, PrmOptions())
    (root / "train" / "DONE.json").rename(root / "train" / "later.json")
    with pytest.raises(DataError, match=r"training has not finished"):
        load_prm(root / "raw", PrmOptions())
    (root / "train" / "later.json").rename(root / "train" / "DONE.json")


def test_a_folder_without_a_head_is_refused(prm_folder, tmp_path):
    from safetensors.numpy import load_file, save_file

    tensors = load_file(prm_folder / "model.safetensors")
    save_file({name: t for name, t in tensors.items() if not name.startswith("score.")}, tmp_path / "model.safetensors")
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).write_bytes((prm_folder / name).read_bytes())
    with pytest.raises(DataError, match=r"has no reward head .*scored with --form=rlhflow"):
        load_prm(tmp_path, PrmOptions())


def test_no_later_edit_takes_a_model_out_of_service(run, tmp_path):
    """The finished model can be loaded after edits of problems and settings, and after the start of a new training."""
    root, config, params = run
    copy = tmp_path / "run"
    shutil.copytree(root, copy)
    record_run(dataclasses.replace(config, seed=5, problems=dataclasses.replace(config.problems, test_count=9)), copy)
    chex.assert_trees_all_equal(load_prm(copy / "raw", PrmOptions()).params, params)
    other = dataclasses.replace(config, train=dataclasses.replace(config.train, steps=99))
    StageFolder(Paths(copy).stage("train"), fingerprint(other, "train")).open(to_dict(other))
    with pytest.raises(DataError, match=r"training has not finished.* an earlier one is .*old/train-1/raw"):
        load_prm(copy / "raw", PrmOptions())
    chex.assert_trees_all_equal(load_prm(copy / "old" / "train-1" / "raw", PrmOptions()).params, params)


def test_an_exported_folder_says_how_it_is_asked_and_its_example_runs(run, tmp_path):
    """The Python code of the model card, run unchanged in the folder, gives the scores of the package."""
    root, _, _ = run
    folder = export(trained_arm(root / "raw"), tmp_path / "hf")
    card = (folder / "README.md").read_text()
    assert "A step is a **class**" in card
    assert "Platform: {platform}\\nTitle: {title}\\n\\n{statement}\\n\\n" in card
    loaded = load_prm(folder, PrmOptions())
    assert loaded.granularity == "class"
    code = card.partition("```python\n")[2].partition("```")[0]
    assert len(code.splitlines()) <= 10
    shown = subprocess.run(
        [sys.executable, "-c", code + "print(*scores.tolist(), flush=True)"],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if "No module named 'torch'" in shown.stderr:
        pytest.skip("torch is not installed")
    assert shown.returncode == 0, shown.stderr
    scores = [float(text) for text in shown.stdout.split()]
    statement = "Print twice the number."
    whole = RewardModel(loaded, Scorer(loaded.model, loaded.mesh, loaded.params)).score(
        statement, "def read():\n    return int(input())\n\nprint(2 * read())\n"
    )
    assert len(scores) == 2
    assert scores[-1] == pytest.approx(whole.steps[-1].score, abs=1e-3)
