"""Stages of a run of several processes: who owns the folder, who takes part, who waits. Threads stand for processes."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from dreamprm_jax.config import Config
from dreamprm_jax.runs.paths import DONE, STARTED, Paths
from dreamprm_jax.runs.stage_graph import Stage
from dreamprm_jax.schema import DataError
from dreamprm_jax.stages import runner as pipeline
from dreamprm_jax.stages.runner import Crew, _run_stage

CALLS = []


def alone_stage(config: Config, paths: Paths) -> dict[str, int]:
    CALLS.append("alone")
    (paths.stage("alone") / "out.txt").write_text("x", encoding="utf-8")
    return {"rows": 1}


def together_stage(config: Config, paths: Paths) -> dict[str, int]:
    assert (paths.stage("together") / STARTED).exists()  # before any of them begins
    assert not (paths.stage("together") / DONE).exists()  # until all of them have ended
    assert (paths.stage("alone") / "out.txt").exists()
    CALLS.append("together")
    return {"rows": 2}


@pytest.fixture
def stages(monkeypatch):
    CALLS.clear()
    table = {
        "alone": Stage("alone", f"{__name__}:alone_stage", ("seed",), (), "one process"),
        "together": Stage("together", f"{__name__}:together_stage", ("train",), ("alone",), "all", together=True),
    }
    monkeypatch.setattr(pipeline, "STAGES", table)


def test_two_members_run_all_stages(stages, tmp_path, capsys):
    meeting = threading.Barrier(2, timeout=60)

    def member(index):
        crew = Crew(index, lambda name: meeting.wait())
        return [_run_stage(Config(), tmp_path, name, crew) for name in ("alone", "together")]

    for expected in ([[True, True], [False, True]], [[False, False], [False, False]]):  # worked on, then reused
        with ThreadPoolExecutor(2) as pool:
            assert list(pool.map(member, range(2))) == expected
    assert sorted(CALLS) == ["alone", "together", "together"]
    out = capsys.readouterr().out
    assert out.count("together wrote") == out.count("alone wrote") == 1
    assert out.count("already done for these settings") == 2


def test_a_member_names_the_missing_input_of_a_stage_that_it_takes_part_in(stages, tmp_path):
    with pytest.raises(DataError, match=r"stage 'alone' has not finished for these settings"):
        _run_stage(Config(), tmp_path, "together", Crew(1))
    assert not (tmp_path / ".lock").exists()
