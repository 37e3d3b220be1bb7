"""Run by test_mesh.py in separate processes with 8 CPU devices in total. Prints, as JSON, the differences of sharded
runs from one device: loss, gradient, Hessian-vector product, hypergradient, and imported and exported parameters.

``python sharded_check.py SHAPES [PORT PROCESS COUNT]``: with the optional arguments, it is one of COUNT processes that
share the mesh.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dreamprm_jax.config import LoraConfig, MeshConfig, ModelConfig
from dreamprm_jax.models import hf_import
from dreamprm_jax.models.decoder import DecoderConfig
from dreamprm_jax.models.hf_config import read_config
from dreamprm_jax.models.hf_export import export_model
from dreamprm_jax.models.hf_import import Checkpoint, load_params
from dreamprm_jax.models.pretrained import make_params
from dreamprm_jax.models.reward import init_params, step_logits
from dreamprm_jax.training.mesh import activate, batch_sharding, make_mesh, parameter_shardings, replicated

CONFIG = DecoderConfig(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=48,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    qkv_bias=True,
    remat="full",
    attention="chunked",
    attention_chunk=16,
    lora=LoraConfig(rank=2),
)
ROWS, LENGTH, STEPS = 8, 32, 4
GOLDEN = Path(__file__).parents[1] / "models" / "golden" / "qwen2"


def quantities(params, phi, tokens, positions, segments, index):
    """Loss, gradient, Hessian-vector product, and the phi-gradient of the loss's derivative along the gradient."""

    def loss(p, phi):
        logits = step_logits(CONFIG, p, tokens, positions, segments, index)
        return optax.sigmoid_binary_cross_entropy(logits, jax.nn.sigmoid(phi)).mean()

    value, gradient = jax.value_and_grad(loss)(params, phi)
    hvp = jax.jvp(lambda p: jax.grad(loss)(p, phi), (params,), (gradient,))[1]
    hyper = jax.grad(lambda phi: jax.jvp(lambda p: loss(p, phi), (params,), (gradient,))[1])(phi)
    return {"loss": value, "gradient": gradient, "hvp": hvp, "hypergradient": hyper}


def largest_difference(expected, got) -> float:
    """The largest absolute difference over all leaves, in the shards that this process holds."""

    def one(want, have) -> float:
        want = np.asarray(want)
        return max(float(np.abs(want[part.index] - np.asarray(part.data)).max()) for part in have.addressable_shards)

    return max(one(*pair) for pair in zip(jax.tree.leaves(expected), jax.tree.leaves(got), strict=True))


class Recorded:
    """A stored tensor that records the largest slice read from it, as a fraction of the whole."""

    def __init__(self, stored, name: str, largest: dict[str, float]) -> None:
        self.stored, self.name, self.largest = stored, name, largest

    def get_shape(self) -> list[int]:
        return self.stored.get_shape()

    def __getitem__(self, cut) -> np.ndarray:
        part = self.stored[cut]
        self.largest[self.name] = max(self.largest.get(self.name, 0.0), part.size / np.prod(self.get_shape()))
        return part


class RecordingCheckpoint(Checkpoint):
    """A checkpoint whose tensors are ``Recorded``."""

    largest: ClassVar[dict[str, float]] = {}

    def __getitem__(self, name: str) -> Recorded:
        return Recorded(super().__getitem__(name), name, self.largest)


def imported_and_exported(mesh) -> tuple[float, float]:
    """Differences between sharded and whole parameters, read from a folder, and read again after an export."""
    config, key = read_config(GOLDEN), jax.random.key(0)
    whole = jax.tree.map(np.asarray, load_params(config, GOLDEN, key))
    RecordingCheckpoint.largest.clear()
    hf_import.Checkpoint = RecordingCheckpoint
    sharded = load_params(config, GOLDEN, key, parameter_shardings(config, mesh))
    hf_import.Checkpoint = Checkpoint
    with tempfile.TemporaryDirectory() as folder:
        export_model(config, sharded, Path(folder), file_bytes=10_000)
        again = whole if jax.process_index() else jax.tree.map(np.asarray, load_params(config, Path(folder), key))
    return largest_difference(whole, sharded), largest_difference(again, sharded)


def main(shapes: list[list[int]]) -> None:
    rng = np.random.default_rng(0)
    tokens = rng.integers(1, 64, (ROWS, LENGTH)).astype(np.int32)
    positions = np.tile(np.arange(LENGTH, dtype=np.int32), (ROWS, 1))
    index = np.tile(np.asarray([3, 10, 17, 31], np.int32), (ROWS, 1))
    inputs = (np.full((ROWS, STEPS), 0.3, np.float32), tokens, positions, np.ones_like(tokens), index)
    with jax.default_device(jax.local_devices()[0]):
        params = jax.jit(init_params, static_argnums=0)(CONFIG, jax.random.key(0))
        expected = jax.tree.map(np.asarray, jax.jit(quantities)(params, *map(jnp.asarray, inputs)))
    report = {}
    for shape in shapes:
        mesh = make_mesh(MeshConfig(*shape))
        shardings, batch = parameter_shardings(CONFIG, mesh), batch_sharding(mesh)
        sharded = make_params(ModelConfig(), CONFIG, jax.random.key(0), shardings)
        out = {"loss": replicated(mesh), "gradient": shardings, "hvp": shardings, "hypergradient": batch}
        with activate(CONFIG, mesh):
            got = jax.jit(quantities, out_shardings=out)(sharded, *jax.device_put(inputs, batch))
        differences = {name: largest_difference(expected[name], got[name]) for name in expected}
        differences["parameters"] = largest_difference(params, sharded)
        differences["import"], differences["export"] = imported_and_exported(mesh)
        kernel = sharded["decoder"]["layers"]["q"]["kernel"]
        fraction = kernel.addressable_shards[0].data.size / kernel.size
        read = max(part for name, part in RecordingCheckpoint.largest.items() if name.endswith("proj.weight"))
        report["x".join(map(str, shape))] = {"difference": differences, "fraction": fraction, "read": read}
    print(json.dumps(report))


if __name__ == "__main__":
    if len(sys.argv) > 2:
        port, process, count = map(int, sys.argv[2:])
        jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=count, process_id=process)
    main(json.loads(sys.argv[1]))
