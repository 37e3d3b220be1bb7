"""Run by test_processes.py: trains the bi-level arm of the micro model in separate processes.

``python train_process.py FOLDER,... MESH [PORT PROCESS COUNT]`` trains one arm per folder, one after the other, on a
mesh DATAxFSDPxTENSOR, alone or as one of COUNT processes. Process 0 writes FOLDER/table.json, the final labels, and
FOLDER/compiled.json: the numbers of programs found and not found in the compile cache.
"""

import collections
import dataclasses
import json
import sys
from pathlib import Path

import jax
import numpy as np
from training_toy import MICRO, make_data, make_examples

from dreamprm_jax.bilevel.labels import LabelTable
from dreamprm_jax.config import DistributedConfig, MeshConfig, MetaConfig, ModelConfig, TrainConfig
from dreamprm_jax.models.pretrained import make_params
from dreamprm_jax.training import distributed
from dreamprm_jax.training.loop import Arm, train_arm
from dreamprm_jax.training.losses import make_inner_loss
from dreamprm_jax.training.mesh import activate, make_mesh, parameter_shardings
from dreamprm_jax.training.state import Setup, state_from_params

MODEL = dataclasses.replace(MICRO, num_kv_heads=2)
LABELS = LabelTable(0.02)
SETTINGS = TrainConfig(
    warmup_steps=2, steps=24, batch_size=8, row_tokens=32, learning_rate=3e-3, log_every=1, checkpoint_every=5,
    evaluate_every=6, meta=MetaConfig(batch_size=8, learning_rate=0.05, every=2),
)  # fmt: skip


def train(folder: Path, mesh) -> list[float]:
    """Trains, and returns the labels after all steps."""
    data, setup = make_data(make_examples(40), SETTINGS, truth_seed=0), Setup(SETTINGS, MODEL, mesh, None)

    def start():
        with activate(MODEL, mesh):
            params = make_params(ModelConfig(), MODEL, jax.random.key(0), parameter_shardings(MODEL, mesh))
        return state_from_params(setup, params)

    first = SETTINGS.warmup_steps
    arm = Arm("corrected", make_inner_loss(MODEL, LABELS, 1.0), first, first + SETTINGS.steps, LABELS)
    state = train_arm(setup, arm, data, start, folder)
    return np.asarray(LABELS.labels(distributed.to_host(state.phi), data.raw))[: len(data.raw)].tolist()


def main(folders: str, shape: str, port: str = "", process: str = "0", count: str = "1") -> None:
    compiled = collections.Counter()
    jax.monitoring.register_event_listener(lambda event, **_: compiled.update([event.rsplit("/")[-1]]))
    if port:
        cache = str(Path(folders).parent / "compiled")
        distributed.initialize(DistributedConfig("explicit", f"127.0.0.1:{port}", int(count), int(process), cache))
    mesh = make_mesh(MeshConfig(*map(int, shape.split("x"))))
    for folder in map(Path, folders.split(",")):
        table = train(folder, mesh)
        if distributed.is_main():
            (folder / "table.json").write_text(json.dumps(table), encoding="utf-8")
            counts = [compiled["cache_hits"], compiled["cache_misses"]]
            (folder / "compiled.json").write_text(json.dumps(counts), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
