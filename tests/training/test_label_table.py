"""The label table's shards: as many rows on every device, none of them lost, none of the padding moved."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from dreamprm_jax.training.label_table import MULTIPLE, PADDING, pad_labels, padded_rows

PROGRAM = """
import json
import jax, jax.numpy as jnp, numpy as np
from dreamprm_jax.bilevel.labels import LabelTable
from dreamprm_jax.bilevel.optimizers import lazy_adam, touched_rows
from dreamprm_jax.config import MeshConfig
from dreamprm_jax.training.mesh import make_mesh
from dreamprm_jax.training.label_table import pad_labels, padded_rows, place_table

raw = np.linspace(0, 1, 10, dtype=np.float32)
mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
optimizer = lazy_adam(0.5)
phi = place_table(LabelTable().init(jnp.asarray(pad_labels(raw, padded_rows(10)))), mesh)
state = place_table(optimizer.init(phi), mesh)
touched = touched_rows(jnp.arange(3), len(phi))
step = jax.jit(lambda phi, state: optimizer.update(jnp.ones_like(phi), state, phi, touched=touched))
updates, state = step(phi, state)
print(json.dumps({
    "shards": sorted({shard.data.shape[0] for shard in phi.addressable_shards}),
    "moved": np.flatnonzero(np.asarray(updates)).tolist(),
    "kept": state.mu.sharding == phi.sharding,
    "places": len({shard.index[0].start for shard in state.mu.addressable_shards}),
}))
"""


@pytest.mark.parametrize("count", [0, 1, MULTIPLE, MULTIPLE + 1])
def test_padding(count: int) -> None:
    rows = padded_rows(count)
    assert rows % MULTIPLE == 0
    assert 0 <= rows - count < MULTIPLE
    padded = pad_labels(np.ones(count, np.float32), rows)
    assert (padded[:count] == 1).all()
    assert (padded[count:] == PADDING).all()


def test_table_and_its_optimizer_state_lie_over_data_and_fsdp() -> None:
    environment = {
        **os.environ,
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8",
        "JAX_PLATFORMS": "cpu",
    }
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert found == {"shards": [MULTIPLE // 4], "moved": [0, 1, 2], "kept": True, "places": 4}
