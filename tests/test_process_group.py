"""Stages of a multi-process run, with threads in place of processes."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from dreamprm_jax.config import Config
from dreamprm_jax.runs.paths import Paths
from dreamprm_jax.runs.process_group import ProcessGroup
from dreamprm_jax.runs.stage_folder import DONE, STARTED
from dreamprm_jax.runs.stage_graph import STAGES, Stage
from dreamprm_jax.schema import DataError
from dreamprm_jax.stages import runner

CALLS = []


def alone_stage(config: Config, paths: Paths) -> dict[str, int]:
    CALLS.append("alone")
    (paths.stage("alone") / "out.txt").write_text("x", encoding="utf-8")
    return {"rows": 1}


def together_stage(config: Config, paths: Paths) -> dict[str, int]:
    assert (paths.stage("together") / STARTED).exists()  # written before any process starts
    assert not (paths.stage("together") / DONE).exists()  # written after all processes have finished
    assert (paths.stage("alone") / "out.txt").exists()
    CALLS.append("together")
    return {"rows": 2}


@pytest.fixture
def stages(monkeypatch):
    CALLS.clear()
    monkeypatch.setitem(STAGES, "alone", Stage("alone", ("seed",), (), "one process"))
    together = Stage("together", ("train",), ("alone",), "all", runs_on_all_processes=True)
    monkeypatch.setitem(STAGES, "together", together)
    functions = {"alone": alone_stage, "together": together_stage}
    monkeypatch.setattr(runner, "stage_function", functions.__getitem__)


def test_two_processes_run_all_stages(stages, tmp_path, capsys):
    barrier = threading.Barrier(2, timeout=60)

    def process(index):
        group = ProcessGroup(index, lambda name: barrier.wait())
        return [runner._run(Config(), tmp_path, STAGES[name], group) for name in ("alone", "together")]

    for expected in ([[True, True], [False, True]], [[False, False], [False, False]]):  # executed, then reused
        with ThreadPoolExecutor(2) as pool:
            assert list(pool.map(process, range(2))) == expected
    assert sorted(CALLS) == ["alone", "together", "together"]
    out = capsys.readouterr().out
    assert out.count("together took") == out.count("alone took") == 1
    assert out.count("already done for these settings") == 2


def test_process_1_names_the_missing_input_stage(stages, tmp_path):
    with pytest.raises(DataError, match=r"stage 'alone' has not finished for these settings"):
        runner._run(Config(), tmp_path, STAGES["together"], ProcessGroup(1))
    assert not (tmp_path / ".lock").exists()
