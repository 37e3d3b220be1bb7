"""The label stage: the outcome of every program, Monte-Carlo labels for the steps of the train window's programs."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

from tqdm import tqdm

from dreamprm_jax.cof.splitter import split_steps
from dreamprm_jax.config import Config
from dreamprm_jax.engine.journal import Journal
from dreamprm_jax.labeling.rollouts import Tally, judge_task, prefix_units, roll_out
from dreamprm_jax.pipeline import fingerprint
from dreamprm_jax.policy.factory import make_policy
from dreamprm_jax.policy.protocol import PolicyError
from dreamprm_jax.problems.source import WINDOWS
from dreamprm_jax.sandbox import Judge
from dreamprm_jax.schema import (
    DataError,
    Outcome,
    Problem,
    Program,
    StepLabel,
    Verdict,
    canonical_json,
)
from dreamprm_jax.storage import read_records, write_records
from dreamprm_jax.workdir import Paths


def label(config: Config, paths: Paths) -> dict[str, int]:
    """Judges all programs, rolls out the train window's prefixes, writes outcomes and step labels.

    Returns:
      Counts: programs by verdict, steps, rollouts, programs run, infrastructure errors.

    Raises:
      DataError: where the policy failed on some prefixes; run again to ask it for those alone.
    """
    problems = {w: {p.problem_id: p for p in read_records(paths.problems(w), Problem)} for w in WINDOWS}
    programs = {w: read_records(paths.programs(w), Program) for w in WINDOWS}
    folder = paths.stage("label")
    counts: Counter[str] = Counter()
    with Judge.from_config(config.sandbox) as judge:
        for window in WINDOWS:
            with Journal(folder / f"outcomes_{window}.journal") as journal:
                outcomes = _judge_programs(judge, journal, problems[window], programs[window], window)
            write_records(paths.outcomes(window), Outcome, outcomes)
            for outcome in outcomes:
                counts[f"{window} {outcome.verdict.value}"] += 1
            if window == "train":
                train_outcomes = {outcome.program_hash: outcome for outcome in outcomes}
        with Journal(folder / "rollouts.journal") as journal:
            labels = _label_steps(config, paths, judge, journal, problems["train"], programs["train"], train_outcomes)
    counts["step labels"] = write_records(paths.step_labels(), StepLabel, labels)
    counts["rollouts"] = sum(row.rollouts for row in labels)
    counts["infrastructure errors"] = sum(row.infrastructure_errors for row in labels)
    return dict(counts)


def _judge_programs(
    judge: Judge, journal: Journal, problems: dict[str, Problem], programs: list[Program], window: str
) -> list[Outcome]:
    todo = {p.program_hash: p for p in programs if p.program_hash not in journal}  # equal texts are run once
    tasks = (judge_task(problems[p.problem_id], p.code) for p in todo.values())
    done = len(programs) - len(todo)
    unjudged: dict[str, list[Any]] = {}
    for result in tqdm(judge.evaluate(tasks), f"judge {window}", len(programs), initial=done, unit="program"):
        row = [result.verdict.value, result.tests_passed, result.tests_total, result.error, result.cpu_seconds]
        row += [result.mode, result.tier]
        if result.verdict is Verdict.SANDBOX_ERROR:
            unjudged[result.key] = row  # not committed: running the stage again judges it again
        else:
            journal.put(result.key, row)
    rows = []
    for program in {p.program_hash: p for p in programs}.values():
        verdict, *rest = journal.get(program.program_hash) or unjudged[program.program_hash]
        rows.append(Outcome(program.problem_id, program.program_hash, Verdict(verdict), *rest))
    return rows


def _label_steps(
    config: Config,
    paths: Paths,
    judge: Judge,
    journal: Journal,
    problems: dict[str, Problem],
    programs: list[Program],
    outcomes: dict[str, Outcome],
) -> list[StepLabel]:
    policy = make_policy(config.policy, compositions=paths.compositions())
    unique = list({p.program_hash: p for p in programs}.values())
    units = list(prefix_units(problems, unique, config.label.granularity))
    todo = [unit for unit in units if unit.key not in journal]
    verdicts = {key: outcome.verdict for key, outcome in outcomes.items()}
    failures: list[str] = []
    bar = tqdm(total=len(units), initial=len(units) - len(todo), desc="roll out prefixes", unit="step")
    try:
        for unit, tally in roll_out(config, todo, policy, judge, verdicts):
            if isinstance(tally, PolicyError):
                failures.append(f"{unit.key}: {tally}")
            else:
                journal.put(unit.key, dataclasses.astuple(tally))
            bar.update()
    finally:
        bar.close()
        policy.close()
    if failures:
        raise DataError(
            f"the policy failed on {len(failures)} prefix(es), first {failures[0]}; "
            "what it answered is kept: run the same command again to ask for the rest"
        )
    sampling = canonical_json(policy.sampling(config.label.temperature))
    digest = fingerprint(config, "label")
    rows = []
    for program in unique:
        outcome = outcomes[program.program_hash]
        steps = split_steps(program.code, config.label.granularity)
        for step in steps:
            if step.index == len(steps) - 1:
                known = outcome.verdict.is_label
                tally = Tally(int(outcome.passed), int(known and not outcome.passed), int(not known), 0, 0)
            else:
                tally = Tally(*(journal.get(f"{program.program_hash}/{step.index}") or []))
            rows.append(
                StepLabel(
                    problem_id=program.problem_id,
                    program_hash=program.program_hash,
                    step_index=step.index,
                    start=step.start,
                    end=step.end,
                    passes=tally.passes,
                    rollouts=tally.passes + tally.failures,
                    infrastructure_errors=tally.infrastructure_errors,
                    unforced=tally.unforced,
                    posterior_alpha=config.label.prior_alpha + tally.passes,
                    posterior_beta=config.label.prior_beta + tally.failures,
                    policy=policy.name,
                    sampling=sampling,
                    mode=outcome.mode,
                    tier=outcome.tier,
                    config_hash=digest,
                )
            )
    return rows
