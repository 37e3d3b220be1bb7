"""``dreamprm stepbench score --prm``: evaluates the folder of a reward model on a benchmark, in a separate process."""

from __future__ import annotations

import json

import pytest

from dreamprm_jax.cli import main as cli
from dreamprm_jax.cof.splitter import split_steps
from dreamprm_jax.schema import Program, Score
from dreamprm_jax.stepbench.records import BenchPaths, Truth
from dreamprm_jax.storage import read_records, write_json, write_records


@pytest.mark.slow
def test_a_reward_models_folder(prm_folder, written, tmp_path, capsys):
    paths = BenchPaths(tmp_path / "bench")
    programs = [Program.make(problem.problem_id, codes[0], 0, "stepbench", {}) for problem, codes in written]
    programs.sort(key=lambda program: program.program_hash)
    truth = []
    for index, program in enumerate(programs):
        ends = tuple(step.end for step in split_steps(program.code))
        split, first = ("dev" if index < 4 else "test"), index % 2 - 1
        truth.append(Truth(program.problem_id, program.program_hash, split, first, ends, "x", "", -1, -1, "", "", "WA"))
    write_records(paths.problems, type(written[0][0]), [problem for problem, _ in written])
    write_records(paths.programs, Program, programs)
    write_records(paths.truth, Truth, truth)
    write_json(paths.card, {})
    figures = tmp_path / "figures.json"
    command = ["stepbench", "score", f"--bench={paths.root}", f"--prm={prm_folder}", f"--output={figures}"]
    assert cli.main([*command, "--samples=20"]) == 0
    name = f"{prm_folder.parent.name}-{prm_folder.name}"
    scores = {score.program_hash: score for score in read_records(paths.scores / f"{name}.parquet", Score)}
    assert {key: len(score.step_scores) for key, score in scores.items()} == {
        row.program_hash: len(row.step_ends) for row in truth
    }
    result = json.loads(figures.read_text())[name]
    assert result["missing"] == 0
    assert result["threshold"] in {value for score in scores.values() for value in score.step_scores}
    assert cli.main([*command, "--samples=20", "--form=native", "--separator=#"]) == 0
    assert f"{name}-native-_" in json.loads(figures.read_text())
    assert cli.main(["stepbench", "score", f"--bench={paths.root}", f"--prm={tmp_path / 'nowhere'}"]) == 2
    assert "`dreamprm score` failed; its message is above" in capsys.readouterr().err
