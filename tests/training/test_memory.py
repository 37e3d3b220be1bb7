"""Device memory of the train stage: one train state and one frozen tree, for any number of arms."""

import dataclasses
import gc

import jax
import pytest

from dreamprm_jax.config import LoraConfig
from dreamprm_jax.models.decoder import decoder_config
from dreamprm_jax.models.lora import split_trainable
from dreamprm_jax.models.reward import abstract_params
from dreamprm_jax.runs.paths import Paths
from dreamprm_jax.stages.runner import run_stage
from dreamprm_jax.training import loop
from dreamprm_jax.training.checkpoint import Checkpoints
from dreamprm_jax.training.metrics import MetricsWriter


@pytest.fixture(scope="module")
def root(tiny_config, tmp_path_factory):
    """The folder of a run that is finished up to its labels."""
    root = tmp_path_factory.mktemp("run")
    for stage in ("generate", "label"):
        run_stage(tiny_config, root, stage)
    return root


@pytest.mark.parametrize("rank", [0, 2], ids=["all parameters", "LoRA"])
def test_one_train_state_is_alive_in_every_arm(rank, tiny_config, root, tmp_path, monkeypatch):
    arms = ("orm", "raw", "em", "table_on_em")
    train = dataclasses.replace(tiny_config.train, arms=arms, warmup_steps=1, steps=1, evaluate_every=1)
    model = dataclasses.replace(tiny_config.model, hidden_size=64, vocab_size=900, lora=LoraConfig(rank=rank))
    config = dataclasses.replace(tiny_config, train=train, model=model)
    held: dict[str, list[int]] = {}

    class Watched(MetricsWriter):
        def __init__(self, folder, *arguments):
            super().__init__(folder, *arguments)
            self.folder = folder

        def write(self, step, values, speed=None):
            gc.collect()
            # Batches and label tables are integers, or have no axis of the model's width.
            live = [a.nbytes for a in jax.live_arrays() if a.dtype == "float32" and 64 in a.shape]
            held.setdefault(self.folder.name, []).append(sum(live))
            super().write(step, values, speed)

    gc.collect()
    before = sum(a.nbytes for a in jax.live_arrays() if a.dtype == "float32" and 64 in a.shape)
    monkeypatch.setattr(loop, "MetricsWriter", Watched)
    save = Checkpoints.save

    def save_and_wait(checkpoints, *arguments, **options):
        """Waits until the checkpoint is written, because on the CPU it shares memory with the state until then."""
        save(checkpoints, *arguments, **options)
        checkpoints._manager.wait_until_finished()

    monkeypatch.setattr(Checkpoints, "save", save_and_wait)
    paths = Paths(tmp_path)
    for stage in ("generate", "label"):
        paths.stage(stage).symlink_to(Paths(root).stage(stage))
    run_stage(config, tmp_path, "train")
    shapes = abstract_params(decoder_config(model))
    trainable, frozen = split_trainable(decoder_config(model), shapes)

    def size(tree):
        return sum(leaf.size * 4 for leaf in jax.tree.leaves(tree) if 64 in leaf.shape)

    expected = 3 * size(trainable) + size(frozen)  # the parameters and Adam's two moments
    assert set(held) == {"orm", "warmup", "raw", "warmup_em", "em", "table_on_em"}
    found = {arm: [count - before for count in counts] for arm, counts in held.items()}
    assert found == {arm: [expected] * len(counts) for arm, counts in held.items()}
