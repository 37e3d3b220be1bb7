"""The train stage fails before training: no label to correct, no meta program, or test problems in the meta set."""

import pytest

from dreamprm_jax.runs.paths import Paths
from dreamprm_jax.schema import DataError, Outcome, Problem, Program, StepLabel, Verdict
from dreamprm_jax.stages.train import train
from dreamprm_jax.storage import write_records

CODE = "def main():\n    print(1)\n\nmain()\n"


@pytest.fixture
def run(tmp_path, benchmark, tiny_config):
    """Trains on one program per window, with the given meta problem and the verdict on its program."""
    problems = {w: next(p for window, p, _ in benchmark if window == w) for w in ("train", "meta", "test")}
    paths = Paths(tmp_path)

    def call(meta="meta", verdict=Verdict.AC):
        for window, problem in (problems | {"meta": problems[meta]}).items():
            program = Program.make(problem.problem_id, CODE, 0, "x", {})
            judged = verdict if window == "meta" else Verdict.AC
            row = Outcome(problem.problem_id, program.program_hash, judged, 1, 1, "", 0.1, "faithful", "PORTABLE")
            write_records(paths.problems(window), Problem, [problem])
            write_records(paths.programs(window), Program, [program])
            write_records(paths.outcomes(window), Outcome, [row])
        write_records(paths.step_labels(), StepLabel, [])
        train(tiny_config, paths)

    yield call
    assert not list(tmp_path.rglob("checkpoints"))


def test_meta_problems_that_are_test_problems(run):
    with pytest.raises(DataError, match=r"1 meta problem\(s\) are also in the test window, first "):
        run(meta="test")


def test_labels_to_learn_without_a_noisy_step(run):
    with pytest.raises(DataError, match=r"step_labels\.parquet: arm corrected has no step to correct"):
        run()


def test_an_empty_meta_set(run):
    with pytest.raises(
        DataError, match=r"outcomes_meta\.parquet: no meta program with a verdict to train on; .*1 left out: no verdict"
    ):
        run(verdict=Verdict.SANDBOX_ERROR)
