"""The total cycles of a compiled module, and the tables of device figures."""

import gzip
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dreamprm_jax.planning.cost_model import CLOCK, CORES, ICI, causal_pairs, kernel_seconds, module_cost

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "benchmarks"))
kernel_bundles = importlib.import_module("tpu_cost_model").kernel_bundles
MODULE = """HloModule jit_step
%body (p: f32[]) -> f32[] {
  %f.1 = bf16[8]{0} fusion(%p), metadata={op_name="layers/gate/dot"}, backend_config={"estimated_cycles":"1750"}
  %splash_mqa_fwd.1 = (f32[2,4,8,8]{1,0}, bf16[2,4,8,8]{1,0}) custom-call(%f.1), custom_call_target="tpu_custom_call"
  %ag.1 = bf16[1000,900]{1,0} all-gather(%f.1), replica_groups=mesh['x'=8] {'x'}, dimensions={0}
}
%condition (p: f32[]) -> pred[] {
  %c = s32[] constant(28)
}
%none (p: f32[]) -> f32[] {
  %z = f32[] constant(0)
}
%outer (p: f32[]) -> f32[] {
  %o = f32[8]{0} fusion(%p), metadata={op_name="transpose(jvp(M))/decoder/"}, backend_config={"estimated_cycles":"7000"}
}
%tangent (p: f32[]) -> f32[] {
  %s = f32[8]{0} fusion(%p), metadata={op_name="jvp(jvp(M))/decoder/"}, backend_config={"estimated_cycles":"5250"}
}
ENTRY %main (p: f32[]) -> f32[] {
  %w = f32[] while(%p), condition=%condition, body=%body, metadata={op_name="jit(step)/decoder/while"}
  %c = f32[] conditional(%i, %w, %w), branch_computations={%none, %outer}
  %t = f32[] conditional(%i, %w, %w), branch_computations={%none, %tangent}
  %g = f32[8]{0} fusion(%w), metadata={op_name="jit(step)/add"}, backend_config={"estimated_cycles":"3500"}
}
"""


def test_loops_count_as_often_as_they_run():
    cost = module_cost(MODULE, {"splash_mqa_fwd": 1e-3})
    assert cost.parts["projections"] == pytest.approx(28 * 1750 / CLOCK)
    assert cost.parts["attention"] == pytest.approx(28 * 2e-3)  # two rows
    assert cost.phases["outer"] == pytest.approx(7000 / CLOCK)
    assert cost.phases["tangent"] == pytest.approx(5250 / CLOCK)
    assert sum(cost.phases.values()) == pytest.approx(cost.seconds)
    assert cost.parts["collectives"] == pytest.approx(28 * 1000 * 900 * 2 * 7 / 8 / ICI)
    assert cost.parts["optimizer"] == pytest.approx(3500 / CLOCK)
    assert cost.unknown_loops == 0
    one = module_cost(MODULE.replace("[2,4,8,8]", "[4,8,8]"), {"splash_mqa_fwd": 1e-3})
    assert one.parts["attention"] == pytest.approx(28e-3)  # the device has only one row


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")
def test_compiled_programs_are_kept_and_read_again(tmp_path):
    """Tests the benchmark's worker, ``dreamprm inspect``, on a CPU device. A second call compiles nothing."""
    job = [sys.executable, "benchmarks/tpu_cost_model.py", f"--output={tmp_path}", "--worker=job", "--steps=1", "--"]
    job += ["--config=configs/embedded.py", "--config.inspect.devices=1", "--config.train.arms=('raw',)"]
    environment = os.environ | {"LIBTPU_INIT_ARGS": "", "JAX_TRACEBACK_IN_LOCATIONS_LIMIT": "0"}
    written = []
    for _ in range(2):
        subprocess.run(job, cwd=REPOSITORY, env=environment, check=True)
        [key] = json.loads((tmp_path / "job.json").read_text())
        written.append((key, (tmp_path / f"{key}.json").stat().st_mtime_ns))
        assert json.loads((tmp_path / f"{key}.json").read_text())["bytes"] > 1e6
        assert b"ENTRY" in gzip.decompress((tmp_path / f"{key}.hlo.gz").read_bytes())
    assert written[0] == written[1]


def test_bundles_by_depth(tmp_path):
    text = "     0   :  { x }\n   0x1   :  { x }\n  0x2 LB: > { x }\n  0x3   : > { x }\n  0x4 LB: >> { x }\n"
    (tmp_path / "1-kernel.1-72-final_bundles.txt").write_text(text)
    assert kernel_bundles(tmp_path, "kernel") == {0: 1, 1: 2, 2: 1}
    assert causal_pairs(4096, 512, 1024) == 20


def test_kernels_count_by_blocks_and_heads():
    cycles = {"dual_attention": (100, 1000), "splash_mqa_fwd": (0, 2000)}
    found = kernel_seconds(16, 128, 2048, cycles)
    assert found["dual_attention"] == pytest.approx(16 * (4 * 100 + 10 * 1000) / CORES / CLOCK)
    assert found["splash_mqa_fwd"] == pytest.approx(16 * 3 * 2000 / CORES / CLOCK)
    assert kernel_seconds(16, 128, 256, cycles)["splash_mqa_fwd"] == pytest.approx(16 * 125 / CORES / CLOCK)
    assert set(kernel_seconds(16, 80, 2048)) > set(cycles)


@pytest.mark.slow
def test_a_part_on_this_machine_and_its_table(tmp_path):
    command = [
        sys.executable,
        "benchmarks/on_device.py",
        "--toy",
        "--count=1",
        "--minutes=4",
        "--only=attention,scoring",
    ]
    subprocess.run([*command, f"--output={tmp_path}"], cwd=REPOSITORY, check=True)
    assert all(json.loads((tmp_path / f"{name}.json").read_text())["complete"] for name in ("attention", "scoring"))
    table = [sys.executable, "benchmarks/device_figures.py", str(tmp_path)]
    text = subprocess.run(table, cwd=REPOSITORY, check=True, capture_output=True, text=True).stdout
    assert "| packed |" in text
    assert "| 2 x 128, 4 / 2 heads | chunked |" in text
