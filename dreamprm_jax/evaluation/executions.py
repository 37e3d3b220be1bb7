"""Runs the test candidates on inputs without their answers, for the votes: journaled, so that a kill loses nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from tqdm import tqdm

from dreamprm_jax.config import Config
from dreamprm_jax.evaluation.candidates import Candidates, candidate_name
from dreamprm_jax.problems.procedural.compose import Composition
from dreamprm_jax.runs.journal import Journal
from dreamprm_jax.runs.paths import Paths
from dreamprm_jax.sandbox import Judge
from dreamprm_jax.schema import Skip, Verdict
from dreamprm_jax.selection.execution import Execution, ExecutionTask, clusters, run_on_inputs, vote_inputs
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
    inputs = [vote_inputs(one.problem, compositions.get(one.problem.problem_id), count, seed) for one in candidates]
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
    with Journal(paths.results().parent / "executions.journal") as journal:
        todo = [task for key, task in tasks.items() if key not in journal]
        if todo:
            with Judge.from_config(config.sandbox) as judge:
                done = len(tasks) - len(todo)
                for key, execution in tqdm(
                    run_on_inputs(judge, _each(todo)), "run for votes", len(tasks), initial=done, unit="program"
                ):
                    if execution.verdict is not Verdict.SANDBOX_ERROR:  # its own failure: run again next time
                        journal.put(key, [execution.verdict.value, *execution.outputs])
        rows = {key: journal.get(key) for key in tasks}
    return {key: Execution(tuple(row[1:]), Verdict(row[0])) for key, row in rows.items() if row is not None}


def _each(tasks: list[ExecutionTask]) -> Iterator[ExecutionTask]:
    yield from tasks
