"""The label stage's output is identical, byte for byte, for any executor and number of workers."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest

from dreamprm_jax.config import Config, EngineConfig
from dreamprm_jax.labeling.rollouts.work import shares
from dreamprm_jax.runs.paths import Paths
from dreamprm_jax.runs.status import run_status
from dreamprm_jax.stages.runner import run_stage


def label(config: Config, generated: Path, folder: Path, **engine: Any) -> bytes:
    """The bytes of the step labels file written with these engine settings."""
    shutil.copytree(generated, folder)
    run_stage(dataclasses.replace(config, engine=EngineConfig(**engine)), folder, "label")
    return Paths(folder).step_labels().read_bytes()


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory, tiny_config: Config) -> Path:
    folder = tmp_path_factory.mktemp("generated")
    run_stage(tiny_config, folder, "generate")
    return folder


@pytest.fixture(scope="module")
def with_one_worker(tmp_path_factory: pytest.TempPathFactory, tiny_config: Config, generated: Path) -> bytes:
    return label(tiny_config, generated, tmp_path_factory.mktemp("one") / "run", workers=1)


@pytest.mark.parametrize("engine", [{"workers": 2, "threads": 2}, {"workers": 3}])
def test_rows_do_not_depend_on_the_workers(
    tmp_path: Path, tiny_config: Config, generated: Path, with_one_worker: bytes, engine: dict[str, int]
) -> None:
    assert label(tiny_config, generated, tmp_path / "run", **engine) == with_one_worker
    stages = {stage.name: stage for stage in run_status(tmp_path / "run")}
    assert (stages["generate"].state, stages["label"].state, stages["train"].state) == ("done", "done", "pending")
    units = {record.description: (record.done, record.planned) for record in stages["label"].work}
    assert units == {f"judge {w}": (6, 6) for w in ("train", "meta", "test")} | {"roll out prefixes": (6, 6)}


@pytest.mark.slow
def test_rows_on_ray_are_the_same(tmp_path: Path, tiny_config: Config, generated: Path, with_one_worker: bytes) -> None:
    pytest.importorskip("ray", reason="the extra [ray] is not installed")
    assert label(tiny_config, generated, tmp_path / "run", executor="ray", workers=2) == with_one_worker


@pytest.mark.parametrize(
    ("engine", "cores", "kind", "expected"),
    [
        ({}, 8, "simulated", (8, 1, 1)),  # one worker for each core, with one sandbox process each
        ({"workers": 2}, 8, "simulated", (2, 4, 1)),
        ({"workers": 16}, 8, "simulated", (16, 1, 1)),
        ({"workers": 4}, 8, "server", (4, 2, 4)),  # 16 concurrent requests in total
        ({"executor": "ray", "workers": 4}, 8, "server", (4, 1, 4)),
    ],
)
def test_cores_are_divided_among_workers(
    tiny_config: Config, engine: dict[str, Any], cores: int, kind: Any, expected: tuple[int, int, int]
) -> None:
    config = dataclasses.replace(
        tiny_config,
        engine=EngineConfig(**engine),
        sandbox=dataclasses.replace(tiny_config.sandbox, workers=cores),
        policy=dataclasses.replace(tiny_config.policy, kind=kind, concurrency=16),
    )
    settings, children, threads = shares(config)
    assert (settings.workers, children, threads) == expected
