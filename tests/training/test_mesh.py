"""Mesh shapes, the table of sharding rules, and sharded runs compared with one device."""

import dataclasses
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from dreamprm_jax.config import MeshConfig
from dreamprm_jax.models import decoder
from dreamprm_jax.models.decoder import DecoderConfig
from dreamprm_jax.models.reward import RewardModel, abstract_params
from dreamprm_jax.schema import DataError
from dreamprm_jax.training.mesh import (
    RULES,
    abstract_mesh,
    activate,
    check_divisible,
    device_grid,
    logical_rules,
    mesh_shape,
    mesh_spec,
    parameter_shardings,
)

TINY = DecoderConfig(
    vocab_size=64, hidden_size=32, intermediate_size=48, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8
)


@pytest.mark.parametrize(
    ("axes", "devices", "expected"),
    [((-1, 1, 1), 8, (8, 1, 1)), ((1, -1, 2), 8, (1, 4, 2)), ((2, 2, 2), 8, (2, 2, 2)), ((-1, 1, 1), 1, (1, 1, 1))],
)
def test_minus_one_takes_what_is_left(axes, devices, expected):
    assert mesh_shape(MeshConfig(*axes), devices) == expected


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ((-1, 3, 1), "data=-1 x fsdp=3 x tensor=1 does not fit 8 devices"),
        ((1, 1, 1), "does not fit 8 devices"),
        ((-1, -1, 1), "at most one may be -1"),
        ((0, 1, 1), "must be at least 1"),
    ],
)
def test_mesh_that_does_not_fit_is_refused(axes, message):
    with pytest.raises(DataError, match=message):
        mesh_shape(MeshConfig(*axes), 8)


@dataclasses.dataclass(frozen=True)
class FakeDevice:
    """The attributes of a device that the mesh reads."""

    id: int
    slice_index: int
    coords: tuple[int, int, int]
    platform: str
    device_kind: str = "TPU v5 lite"
    core_on_chip: int = 0
    process_index: int = 0


def fake_devices(*sizes, platform="tpu"):
    """Devices in slices of these sizes, two wide, in reverse order, because no order of devices is guaranteed."""
    places = [(index, (n % 2, n // 2, 0)) for index, size in enumerate(sizes) for n in range(size)]
    return [FakeDevice(number, *place, platform) for number, place in enumerate(places)][::-1]


def slices_of(grid):
    """The slice index of every position of a mesh."""
    return np.reshape([device.slice_index for device in grid.flat], grid.shape)


@pytest.mark.parametrize("shape", [(2, 4, 1), (4, 2, 1), (4, 1, 2), (8, 1, 1), (2, 2, 2)])
def test_only_data_crosses_slices(shape):
    grid = device_grid(shape, fake_devices(4, 4))
    assert grid.shape == shape
    assert len({device.id for device in grid.flat}) == 8
    slices = slices_of(grid)
    assert (slices == slices[:, :1, :1]).all()  # one slice along fsdp and tensor
    assert slices[:, 0, 0].tolist() == [0] * (shape[0] // 2) + [1] * (shape[0] // 2)


@pytest.mark.parametrize(
    ("shape", "devices", "message"),
    [
        ((1, 8, 1), fake_devices(4, 4), r"data=1 x fsdp=8 .*: data must be a multiple of the 2 slices \(of 4 devices"),
        ((3, 2, 1), fake_devices(3, 3), r"data must be a multiple of the 2 slices \(of 3 devices each\)"),
        ((2, 3, 1), fake_devices(4, 2), r"the 2 slices have 2 or 4 devices; all must be equal"),
        ((1, 1, 8), fake_devices(4, 4, platform="gpu"), r"data must be a multiple of the 2 slices"),
    ],
)
def test_mesh_that_does_not_fit_the_slices_is_refused(shape, devices, message):
    with pytest.raises(DataError, match=message):
        device_grid(shape, devices)


def test_fsdp_may_cross_nodes_of_gpus_and_tensor_may_not():
    slices = slices_of(device_grid((1, 4, 2), fake_devices(4, 4, platform="gpu")))
    assert slices[0].tolist() == [[0, 0], [0, 0], [1, 1], [1, 1]]
    slices = slices_of(device_grid((2, 2, 2), fake_devices(4, 4, platform="gpu")))
    assert slices[:, 0, 0].tolist() == [0, 1]


def test_axes_that_do_not_divide_are_replicated():
    rules = dict(logical_rules(TINY, abstract_mesh(MeshConfig(1, 2, 4), 8)))
    assert rules["heads"] == "tensor"
    assert rules["kv_heads"] is None
    assert rules["mlp"] == "tensor"
    shardings = parameter_shardings(TINY, abstract_mesh(MeshConfig(1, 2, 4), 8))
    layers = shardings["decoder"]["layers"]
    assert layers["k"]["kernel"].spec == PartitionSpec(None, "fsdp", None, None)
    assert layers["down"]["kernel"].spec == PartitionSpec(None, "tensor", "fsdp")


@pytest.mark.parametrize(
    ("dtype", "precision"), [("float32", "highest"), ("float32", "default"), ("bfloat16", "highest")]
)
def test_float32_products_are_exact_on_any_device(dtype, precision):
    model = dataclasses.replace(TINY, dtype=dtype, matmul_precision=precision)
    inputs = ({"params": abstract_params(model)}, *[jax.ShapeDtypeStruct((1, 8), np.int32)] * 3)
    with activate(model, abstract_mesh(MeshConfig(1, 1, 1), 1)):
        traced = str(jax.make_jaxpr(RewardModel(model).apply)(*inputs))
    assert "dot_general" in traced
    assert ("Precision.HIGHEST" in traced) == ((dtype, precision) == ("float32", "highest"))


def test_collisions_and_unknown_names_are_refused():
    with pytest.raises(ValueError, match="a mesh axis is used twice"):
        mesh_spec(("heads", "mlp"), RULES)
    with pytest.raises(ValueError, match=r"no sharding rule for the logical axes \['mystery'\]"):
        mesh_spec(("embed", "mystery"), RULES)


def test_every_parameter_of_every_variant_has_a_sharding():
    mesh = abstract_mesh(MeshConfig(2, 2, 2), 8)
    for changes in ({"qkv_bias": True, "output_bias": True}, {"qk_norm": True}, {"head_hidden": 8}):
        shardings = parameter_shardings(dataclasses.replace(TINY, **changes), mesh)
        assert len(jax.tree.leaves(shardings)) >= 12


def test_batch_that_does_not_divide_is_refused():
    with pytest.raises(DataError, match=r"train\.batch_size=6 must be a multiple of data x fsdp = 4"):
        check_divisible(abstract_mesh(MeshConfig(2, 2, 2), 8), 6, "train.batch_size")


def _sharded_check(shapes, processes):
    """The reports of ``sharded_check.py``, one per process, with 8 devices in total."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={8 // processes}"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, str(Path(__file__).with_name("sharded_check.py")), json.dumps(shapes)]
    shared = [[str(port), str(i), str(processes)] if processes > 1 else [] for i in range(processes)]
    runs = [
        subprocess.Popen(command + more, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for more in shared
    ]
    try:
        outputs = [run.communicate(timeout=600) for run in runs]
    finally:
        for run in runs:
            run.kill()
    for run, (_, errors) in zip(runs, outputs, strict=True):
        assert run.returncode == 0, errors[-2000:]
        assert "nvoluntary full rematerialization" not in errors
    return [json.loads(output.splitlines()[-1]) for output, _ in outputs]


@pytest.mark.slow
@pytest.mark.parametrize(("shapes", "processes"), [([[1, 2, 4], [1, 8, 1]], 1), ([[2, 2, 2]], 2)])
def test_sharded_equals_one_device(shapes, processes):
    reports = _sharded_check(shapes, processes)
    for report in reports:
        for shape in shapes:
            row = report["x".join(map(str, shape))]
            assert max(row["difference"].values()) < 1e-5, (shape, row)
        # No read of the import is larger than a device's shard (on 1x2x4, k and v are replicated over tensor).
        assert [report["x".join(map(str, shape))]["read"] for shape in shapes] == (
            [1 / 4] if processes == 2 else [1 / 2, 1 / 8]
        )
    last = "x".join(map(str, shapes[-1]))
    assert reports[0][last]["fraction"] == (1 / 4 if processes == 2 else 1 / 8)


def test_layouts_are_set_on_tpus_where_a_device_has_several_rows(monkeypatch):
    """With one row per device, the 70B step would not fit (docs/device_figures.md)."""
    monkeypatch.setattr(decoder, "platform", lambda: "tpu")
    with activate(TINY, abstract_mesh(MeshConfig(1, 8, 1), 8)):
        found = [
            "layout_constraint"
            in str(jax.make_jaxpr(lambda x: decoder._constrain(x, "batch", "length", "mlp"))(np.zeros((rows, 4, 48))))
            for rows in (8, 16)
        ]
    assert found == [False, True]
