"""The label stage with the real judge and the simulated policy, on three small problems."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from dreamprm_jax.cof.splitter import split_steps
from dreamprm_jax.config import to_dict
from dreamprm_jax.policy.simulated import SimulatedPolicy
from dreamprm_jax.problems.hidden_tests import HiddenTests
from dreamprm_jax.problems.procedural.truth import Valuer
from dreamprm_jax.problems.procedural.writing import read
from dreamprm_jax.problems.source import WINDOWS
from dreamprm_jax.runs.fingerprint import fingerprint
from dreamprm_jax.runs.paths import Paths
from dreamprm_jax.sandbox import Judge, JudgeResult
from dreamprm_jax.schema import DataError, Outcome, Problem, Program, StepLabel, TestedProblem, Verdict
from dreamprm_jax.stages import label as label_stage
from dreamprm_jax.stages.runner import run_stage
from dreamprm_jax.storage import read_records


@pytest.fixture
def generated(tmp_path, tiny_config):
    """A fresh run folder after the generate stage."""
    run_stage(tiny_config, tmp_path, "generate")
    return Paths(tmp_path)


def labeled(paths):
    """Everything that the label stage wrote, with the CPU times set to 0."""
    outcomes = [
        dataclasses.replace(row, cpu_seconds=0.0)
        for window in ("train", "meta", "test")
        for row in read_records(paths.outcomes(window), Outcome)
    ]
    return outcomes, read_records(paths.step_labels(), StepLabel)


@pytest.fixture(scope="session")
def reference(tmp_path_factory, tiny_config):
    """An uninterrupted run with two workers."""
    paths = Paths(tmp_path_factory.mktemp("reference"))
    for name in ("generate", "label"):
        run_stage(tiny_config, paths.root, name)
    return paths


def test_labels_describe_the_programs(reference, tiny_config):
    outcomes, labels = labeled(reference)
    programs = {p.program_hash: p for p in read_records(reference.programs("train"), Program)}
    passed = {row.program_hash: row.passed for row in outcomes}
    assert set(programs) <= set(passed)
    assert {row.verdict for row in outcomes} <= {Verdict.AC, Verdict.WA, Verdict.RE}
    assert {(row.mode, row.tier) for row in outcomes} == {("faithful", "PORTABLE")}
    steps = [(p.program_hash, s.index, s.start, s.end) for p in programs.values() for s in split_steps(p.code)]
    assert [(row.program_hash, row.step_index, row.start, row.end) for row in labels] == steps
    for row in labels:
        last = row.end == len(programs[row.program_hash].code)
        assert row.asked == (0 if last else tiny_config.label.rollouts)
        assert row.rollouts == (1 if last else row.asked + row.borrowed)
        assert 0 <= row.borrowed_passes <= min(row.borrowed, row.passes)
        assert (row.seed > 0, row.strategy, row.unjudged) == (not last, "fixed", 0)
        assert row.hard == float(row.passes > 0)
        assert (row.posterior_alpha, row.posterior_beta) == (1 + row.passes, 1 + row.rollouts - row.passes)
        assert (row.infrastructure_errors, row.unforced) == (0, 0)
        assert row.config_hash == fingerprint(tiny_config, "label")
        if last:
            assert row.passes == passed[row.program_hash]
    assert 0 < sum(row.passes for row in labels) < sum(row.rollouts for row in labels)
    assert sum(row.borrowed for row in labels) > 0


def test_labels_do_not_depend_on_the_number_of_workers(generated, reference, tiny_config):
    sandbox = dataclasses.replace(tiny_config.sandbox, workers=1)
    policy = dataclasses.replace(tiny_config.policy, concurrency=1)
    run_stage(dataclasses.replace(tiny_config, sandbox=sandbox, policy=policy), generated.root, "label")
    assert labeled(generated) == labeled(reference)


def test_killed_and_resumed_labels_are_the_same(generated, reference, tiny_config):
    """Sends SIGKILL twice: while programs are judged, and while prefixes are rolled out."""
    script = (
        "import json, sys; from pathlib import Path; from dreamprm_jax.config import freeze\n"
        "from dreamprm_jax.stages.runner import run_stage\n"
        "tuples = lambda d: {k: tuple(v) if isinstance(v, list) else v for k, v in d.items()}\n"
        "run_stage(freeze(json.loads(sys.argv[1], object_hook=tuples)), Path(sys.argv[2]), 'label')\n"
        "assert not {'jax', 'jaxlib', 'flax', 'optax', 'orbax'} & set(sys.modules)\n"
    )
    command = [sys.executable, "-c", script, json.dumps(to_dict(tiny_config)), str(generated.root)]
    killed = 0
    for journal in ("outcomes_train.journal", "rollouts.journal"):
        path = generated.stage("label") / journal
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while not (path.exists() and path.stat().st_size) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
        assert b"\n" in path.read_bytes()
    assert killed  # on a busy machine, the second process may finish before the signal
    resumed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert resumed.returncode == 0, resumed.stderr
    assert labeled(generated) == labeled(reference)


def test_finished_work_is_not_done_again(generated, tiny_config, monkeypatch):
    run_stage(tiny_config, generated.root, "label")
    before = labeled(generated)
    (generated.stage("label") / "DONE.json").unlink()
    asked = []
    monkeypatch.setattr(SimulatedPolicy, "complete", lambda self, request: asked.append(request))
    run_stage(tiny_config, generated.root, "label")
    assert asked == []
    assert labeled(generated) == before


def test_a_policy_that_fails_keeps_other_work(generated, tmp_path, tiny_config):
    """The answers of one program are missing. The others are committed, and the second run does only that program."""
    programs = [row for window in WINDOWS for row in read_records(generated.programs(window), Program)]
    file, run = tmp_path / "answers.jsonl", Paths(tmp_path / "replay")
    first = programs[0]

    def save(rows):
        lines = (json.dumps({"problem_id": row.problem_id, "code": row.code}) + "\n" for row in rows)
        file.write_text("".join(lines), encoding="utf-8")

    again = [dataclasses.replace(row, code=row.code + "# again\n") for row in programs]
    save(programs + again[1:])
    config = dataclasses.replace(
        tiny_config,
        policy=dataclasses.replace(tiny_config.policy, kind="replay", path=str(file)),
        label=dataclasses.replace(tiny_config.label, rollouts=2),
    )
    run_stage(config, run.root, "generate")
    with pytest.raises(DataError, match=rf"1 program\(s\).*{first.program_hash}.*that begin with the prefix, 2 wanted"):
        run_stage(config, run.root, "label")
    assert not run.step_labels().exists()
    journal = run.stage("label") / "rollouts.journal"
    before = journal.read_bytes()
    assert before
    assert first.program_hash.encode() not in before
    save(programs + again)  # the content changes, so both stages run again; entries in their journals are not repeated
    with pytest.raises(DataError, match="stage 'generate' has not finished"):
        run_stage(config, run.root, "label")
    run_stage(config, run.root, "generate")
    run_stage(config, run.root, "label")
    added = journal.read_bytes().removeprefix(before)
    changed = {row.program_hash for row in programs if row.problem_id == first.problem_id}
    assert {line.split(b'"')[1].split(b"/")[0].decode() for line in added.splitlines()} == changed
    # The second answer differs from the program only by a comment, so nothing has to be judged.
    labels = read_records(run.step_labels(), StepLabel)
    assert {row.asked for row in labels} == {0, 2}
    assert any(row.borrowed for row in labels)


def test_sandbox_error_of_a_program_is_not_committed(generated, reference, tiny_config, monkeypatch):
    """A program without a verdict is reported and gets no label. It is judged again when the stage runs again."""
    programs = read_records(generated.programs("train"), Program)
    lost = programs[0].program_hash
    evaluate = Judge.evaluate

    def losing(self, tasks):
        for result in evaluate(self, tasks):
            broken: JudgeResult = dataclasses.replace(result, verdict=Verdict.SANDBOX_ERROR, error="worker ended")
            yield broken if result.key.startswith(lost) else result

    monkeypatch.setattr(Judge, "evaluate", losing)
    counts = label_stage.label(tiny_config, generated)
    assert counts["train SANDBOX_ERROR"] == 1
    outcomes, labels = labeled(generated)
    assert next(row for row in outcomes if row.program_hash == lost).verdict is Verdict.SANDBOX_ERROR
    last = [row for row in labels if row.program_hash == lost][-1]
    assert (last.passes, last.rollouts, last.infrastructure_errors) == (0, 0, 1)
    monkeypatch.undo()
    counts = label_stage.label(tiny_config, generated)
    assert "train SANDBOX_ERROR" not in counts
    # The prefixes of the program are also estimated again, with its verdict known.
    assert labeled(generated) == labeled(reference)


def test_labels_estimate_the_true_values(reference, tiny_config):
    """Compares the passes, summed over all prefixes, with the exact values, within five standard errors."""
    compositions = SimulatedPolicy.from_file(reference.compositions()).compositions
    tests = HiddenTests(reference.hidden_tests())
    problems = {
        p.problem_id: TestedProblem(**vars(p), private_tests=tests.of(p.problem_id))
        for p in read_records(reference.problems("train"), Problem)
    }
    programs = {p.program_hash: p for p in read_records(reference.programs("train"), Program)}
    expected = variance = passes = 0.0
    for row in read_records(reference.step_labels(), StepLabel):
        program = programs[row.program_hash]
        composition = compositions[row.problem_id]
        value, _ = Valuer(composition, problems[row.problem_id], 1.0).value(read(composition, program.code[: row.end]))
        passes += row.passes
        expected += row.rollouts * value
        variance += row.rollouts * value * (1 - value)
    assert variance > 1
    assert abs(passes - expected) < 5 * variance**0.5
