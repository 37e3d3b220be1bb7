"""dreamprm inspect: figures that were calculated by hand, for devices that are not attached."""

import dataclasses
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType
from safetensors.numpy import load_file, save_file

from dreamprm_jax.config import (
    Config,
    InspectConfig,
    LabelsConfig,
    LoraConfig,
    MeshConfig,
    ModelConfig,
    TrainConfig,
    freeze,
    to_dict,
)
from dreamprm_jax.models.decoder import decoder_config
from dreamprm_jax.planning import inspect
from dreamprm_jax.schema import DataError
from dreamprm_jax.training.flops import matrix_flops

SMALL = ModelConfig(vocab_size=512, hidden_size=64, intermediate_size=128, num_layers=3, num_heads=4, num_kv_heads=2)
CONFIG = Config(model=SMALL, train=TrainConfig(batch_size=8, row_tokens=64, labels=LabelsConfig("label_table")))


def test_matrix_flops_count_loops_as_often_as_they_run():
    x, w = jnp.zeros((8, 16)), jnp.zeros((5, 16, 16))

    def layers(x, w):
        return jax.lax.scan(lambda x, w: (jax.checkpoint(jnp.matmul)(x, w), None), x, w)[0]

    forward = 5 * 2 * 8 * 16 * 16
    assert matrix_flops(layers, x, w) == forward
    # the backward pass computes two products, one per operand's gradient; a single product is not recomputed
    assert matrix_flops(jax.grad(lambda x, w: layers(x, w).sum(), argnums=(0, 1)), x, w) == pytest.approx(3 * forward)
    dear = matrix_flops(lambda p, x, w: jax.lax.cond(p, lambda: layers(x, w), lambda: x), True, x, w)
    assert dear == forward


def test_plain_step_costs_three_forward_passes():
    model = decoder_config(SMALL)
    mesh = jax.make_mesh((1, 1, 1), ("data", "fsdp", "tensor"), (AxisType.Auto,) * 3, devices=jax.devices()[:1])
    step = inspect.training_steps(CONFIG, model, mesh)[0]
    with inspect.activate(model, mesh):
        flops = matrix_flops(step.function, *step.arguments)
    length, d, f = 128, 64, 128  # rows are multiples of 128 tokens
    tokens = 8 * length
    projections = 3 * 2 * tokens * (d * d * 2 + 2 * d * 32 + 3 * d * f)
    attention = 3 * 2 * 2 * 8 * length * length * d
    head = 2 * 8 * CONFIG.inspect.steps_per_row * d
    assert 3 * (projections + attention) <= flops <= 3 * (projections + attention + head)


SCRIPT = """
import json, sys
from dreamprm_jax.config import freeze
from dreamprm_jax.planning.inspect import main
sys.exit([main(freeze(config)) for config in json.loads(sys.argv[1])][-1])
"""


def run(*configs):
    """Runs inspect in a separate process, as jax fixes its devices at startup. The exit status is the last call's."""
    command = [sys.executable, "-c", SCRIPT, json.dumps([to_dict(config) for config in configs])]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)


@pytest.mark.slow
def test_report_of_a_mesh_that_is_not_here():
    config = dataclasses.replace(
        CONFIG,
        model=dataclasses.replace(SMALL, lora=LoraConfig(rank=2)),
        train=dataclasses.replace(CONFIG.train, mesh=MeshConfig(1, 2, 4)),
        inspect=InspectConfig(devices=8, memory_gb=1.0, labels=1000),
    )
    tight = dataclasses.replace(
        config,
        train=dataclasses.replace(config.train, arms=("raw",)),
        inspect=InspectConfig(devices=8, memory_gb=1e-4, labels=1000),
    )
    done = run(config, tight)
    assert done.returncode == 1, done.stderr[-2000:]
    text = done.stdout
    layer = 64 * 64 * 2 + 2 * 64 * 32 + 64 + 2 * 32 + 3 * 64 * 128 + 2 * 64
    adapters = 2 * (64 + 64) * 2 + 2 * (64 + 32) * 2
    assert f"{512 * 64 + 64 + 3 * (layer + adapters) + 65:,} parameters, {3 * adapters + 65:,} trainable" in text
    assert "data=1 x fsdp=2 x tensor=4 on cpu x 8" in text
    assert re.search(r"decoder/layers/up/kernel +3x64x128 +float32 +\(-, fsdp, tensor\) +0\.01", text)
    assert re.search(r"decoder/layers/k/kernel +3x64x2x16 +float32 +\(-, fsdp, -, -\)", text)
    assert "kept whole, as the mesh does not divide them: kv_heads" in text
    assert len(re.findall(r"^(?:plain|bi-level) step .* fits 1 GB", text, re.MULTILINE)) == 2
    assert "nvoluntary full rematerialization" not in done.stderr
    assert "DOES NOT FIT 0.0001 GB" in text


def shipped(name):
    """A configuration from configs/, compiled for the CPU without fused attention."""
    path = Path(__file__).parents[2] / "configs" / f"qwen2_5_coder_{name}.py"
    specification = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    config = freeze(module.get_config())
    return dataclasses.replace(config, model=dataclasses.replace(config.model, remat="full"))


@pytest.mark.slow
def test_a_shipped_configuration_fits_its_devices():
    config = shipped("7b")
    done = run(dataclasses.replace(config, inspect=dataclasses.replace(config.inspect, topology="", devices=8)))
    assert done.returncode == 0, done.stdout[-500:] + done.stderr[-2000:]
    assert "7,070,622,721 parameters" in done.stdout
    assert len(re.findall(r"^(?:plain|bi-level) step .* fits \d+ GB", done.stdout, re.MULTILINE)) == 2
    assert "nvoluntary full rematerialization" not in done.stderr


def test_adapters_are_a_small_part_of_a_shipped_configuration():
    model = inspect.target_model(shipped("3b"))[0]
    mesh = jax.make_mesh((1, 1, 1), ("data", "fsdp", "tensor"), (AxisType.Auto,) * 3, devices=jax.devices()[:1])
    params = inspect.placed_params(model, mesh)
    trainable, _ = inspect.split_trainable(model, params)
    assert inspect.total(params)[0] == 3_089_627_137
    assert inspect.total(trainable)[0] < 3_089_627_137 / 500


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")
def test_report_of_a_tpu_topology():
    mesh = dataclasses.replace(CONFIG.train, mesh=MeshConfig(1, 8, 1))
    done = run(dataclasses.replace(CONFIG, train=mesh, inspect=InspectConfig(topology="v5p:2x2x2")))
    assert done.returncode == 0, done.stderr[-2000:]
    assert "x 8 (v5p:2x2x2)" in done.stdout


def test_weights_that_do_not_fit_are_found_before_training(tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(Path(__file__).parents[1] / "models" / "golden" / "qwen2", folder)
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.norm.weight"]
    save_file(tensors, folder / "model.safetensors")
    config = dataclasses.replace(CONFIG, model=ModelConfig(weights=str(folder), max_length=64))
    with pytest.raises(DataError, match=r"tensor 'model\.norm\.weight' is missing"):
        inspect.main(config)


def test_settings_that_do_not_go_together():
    with pytest.raises(DataError, match=r"inspect\.topology='v9:1x1': no such TPU topology"):
        inspect.main(dataclasses.replace(CONFIG, inspect=InspectConfig(topology="v9:1x1")))
    with pytest.raises(DataError, match=r"inspect\.devices=64: jax has started already"):
        inspect.main(dataclasses.replace(CONFIG, inspect=InspectConfig(devices=64)))
