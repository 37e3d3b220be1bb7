"""Runs the test candidates on inputs without their answers, for the votes: journaled, so that a kill loses nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from dreamprm_jax.config import Config
from dreamprm_jax.evaluation.candidates import Candidates, candidate_name
from dreamprm_jax.problems.hidden_tests import HiddenTests, tests_digest
from dreamprm_jax.problems.procedural.compose import Composition
from dreamprm_jax.runs.fingerprint import settings_digest
from dreamprm_jax.runs.input_digests import InputDigests
from dreamprm_jax.runs.journal import Journal
from dreamprm_jax.runs.paths import Paths
from dreamprm_jax.sandbox import Judge
from dreamprm_jax.sandbox.judging import judge_into
from dreamprm_jax.schema import Skip, Verdict, content_hash
from dreamprm_jax.selection.execution import Execution, ExecutionTask, clusters, recording_tasks, vote_inputs
from dreamprm_jax.storage import read_json


def execution_clusters(
    config: Config, paths: Paths, candidates: Sequence[Candidates], skips: list[Skip], notes: list[str]
) -> tuple[np.ndarray, ...] | None:
    """The clusters of each problem's candidates (``selection.execution.clusters``), or None with a note.

    Every distinct program of a problem that has inputs is run once; a candidate on which the sandbox itself failed is
    named in ``skips`` and joins no cluster.
    """
    if not config.evaluate.execute:
        notes.append("no votes: evaluate.execute is false")
        return None
    compositions: dict[str, Composition] = {}
    if config.problems.source == "procedural" and paths.compositions().exists():
        rows = (Composition.from_json(row) for row in read_json(paths.compositions()))
        compositions = {composition.problem_id: composition for composition in rows}
    count, seed = config.evaluate.vote_inputs, config.seed
    hidden = HiddenTests(paths.hidden_tests()) if compositions else None
    inputs = [
        vote_inputs(
            one.problem,
            {test.input for test in hidden.of(one.problem.problem_id)} if hidden is not None else set(),
            compositions.get(one.problem.problem_id),
            count,
            seed,
        )
        for one in candidates
    ]
    without = sum(not own for own in inputs)
    if without:
        notes.append(f"{without} problems have no input to run candidates on: a vote there is a random choice")
    if without == len(candidates):
        return None
    tasks = {
        program.program_hash: ExecutionTask(program.program_hash, program.code, own, one.problem.func_name)
        for one, own in zip(candidates, inputs, strict=True)
        if own
        for program in one.programs
    }
    known = _run(config, paths, tasks)
    for one, own in zip(candidates, inputs, strict=True):
        for program in one.programs:
            if own and program.program_hash not in known:
                skips.append(Skip("executions", candidate_name(program), "the sandbox failed: has no vote"))
    return tuple(clusters([known.get(program.program_hash) for program in one.programs]) for one in candidates)


def _run(config: Config, paths: Paths, tasks: dict[str, ExecutionTask]) -> dict[str, Execution]:
    """Executions by program hash, without those on which the sandbox failed."""
    sandbox = settings_digest(config, {"sandbox"}, InputDigests(paths.root))
    keys = {name: content_hash(name, tests_digest(task.inputs), sandbox) for name, task in tasks.items()}
    with Journal(paths.results().parent / "executions.journal") as journal:
        missing = (
            dataclasses.replace(task, key=keys[name]) for name, task in tasks.items() if keys[name] not in journal
        )
        judge_tasks, execution = recording_tasks(missing)
        judge_into(
            journal,
            lambda: Judge.from_config(config.sandbox),
            judge_tasks,
            execution,
            planned=len(tasks),
            done=sum(key in journal for key in keys.values()),
            description="run for votes",
        )
        rows = {name: journal.get(key) for name, key in keys.items()}
    return {name: Execution(tuple(row[1:]), Verdict(row[0])) for name, row in rows.items() if row is not None}
