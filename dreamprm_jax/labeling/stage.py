"""The label stage: the outcome of every program, Monte-Carlo labels for the steps of the train window's programs."""

from __future__ import annotations

from collections import Counter
from typing import Any

from tqdm import tqdm

from dreamprm_jax.cof.splitter import split_steps
from dreamprm_jax.config import Config, LabelConfig
from dreamprm_jax.engine.journal import Journal
from dreamprm_jax.labeling.estimate import ProgramEstimate, StepTally
from dreamprm_jax.labeling.rollouts import ProgramUnit, judge_task, roll_out
from dreamprm_jax.pipeline import fingerprint
from dreamprm_jax.policy.factory import make_policy
from dreamprm_jax.policy.protocol import Policy, PolicyError
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

ATTEMPTS = 3  # at a program whose rollouts the sandbox fails on


def label(config: Config, paths: Paths) -> dict[str, int]:
    """Judges all programs, rolls out the train window's prefixes, writes outcomes and step labels.

    Returns:
      Counts: programs by verdict, steps, rollouts, programs run, infrastructure errors.

    Raises:
      DataError: where the policy or the sandbox failed on some programs; run again to do those alone.
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
    counts["steps without rollouts"] = sum(not row.rollouts for row in labels)
    counts["rollouts"] = sum(row.asked for row in labels)
    counts["borrowed"] = sum(row.borrowed for row in labels)
    counts["distinct programs among the rollouts"] = sum(row.judged for row in labels)
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
    if config.label.count_program:
        _check_counts_as_rollouts(config, policy, unique)
    units = [ProgramUnit(problems[p.problem_id], p, outcomes[p.program_hash].verdict) for p in unique]
    try:
        for _ in range(2):  # the second time: programs that the sandbox failed on, when little else runs
            failures = _estimate(config, policy, judge, journal, [unit for unit in units if unit.key not in journal])
    finally:
        policy.close()
    if failures:
        raise DataError(
            f"{len(failures)} program(s) could not be estimated, first {failures[0]}; "
            "what else was done is kept: run the same command again to do the rest"
        )
    sampling = canonical_json(policy.sampling(config.label.temperature))
    digest = fingerprint(config, "label")
    rows: list[StepLabel] = []
    for unit in units:
        estimate = ProgramEstimate.from_json(journal.get(unit.key) or [])
        rows += step_labels(config.label, unit.program, outcomes[unit.key], estimate, policy.name, sampling, digest)
    return rows


def _estimate(config: Config, policy: Policy, judge: Judge, journal: Journal, todo: list[ProgramUnit]) -> list[str]:
    """Estimates and commits units. Returns what could not be committed, and why.

    A unit with rollouts that the sandbox gave no verdict on is noted and left to be done again; after ``ATTEMPTS`` it
    is committed as it is, the missing ones counted.
    """
    failures = []
    bar = tqdm(total=len(todo), desc="roll out prefixes", unit="program", disable=None if todo else True)
    for unit, estimate in roll_out(config, todo, policy, judge):
        if isinstance(estimate, PolicyError):
            failures.append(f"{unit.key}: {estimate}")
        else:
            attempt = next(n for n in range(1, ATTEMPTS + 1) if f"{unit.key}/attempt/{n}" not in journal)
            if estimate.sandbox_errors and attempt < ATTEMPTS:
                journal.put(f"{unit.key}/attempt/{attempt}", estimate.to_json())
                failures.append(
                    f"{unit.key}: the sandbox failed on {estimate.sandbox_errors} of {estimate.asked} rollouts "
                    f"(attempt {attempt} of {ATTEMPTS})"
                )
            else:
                journal.put(unit.key, estimate.to_json())
        bar.update()
    bar.close()
    return failures


def _check_counts_as_rollouts(config: Config, policy: Policy, programs: list[Program]) -> None:
    """Whether every program is a sample of the very distribution that its rollouts have."""
    wanted = canonical_json(policy.sampling(config.label.temperature))
    for program in programs:
        if (program.policy, program.sampling) != (policy.name, wanted):
            raise DataError(
                f"config.label.count_program: program {program.program_hash} is by {program.policy} with "
                f"{program.sampling}, rollouts are by {policy.name} with {wanted}; they must be the same: "
                "set config.generate.temperature and config.label.temperature alike, or count_program=False"
            )


def step_labels(
    settings: LabelConfig,
    program: Program,
    outcome: Outcome,
    estimate: ProgramEstimate,
    policy: str,
    sampling: str,
    digest: str,
) -> list[StepLabel]:
    """The rows of one program. The last step's label is the program's outcome, as one rollout."""
    known = outcome.verdict.is_label
    last = StepTally(
        passes=int(outcome.passed), failures=int(known and not outcome.passed), infrastructure_errors=int(not known)
    )
    return [
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
            posterior_alpha=settings.prior_alpha + tally.passes,
            posterior_beta=settings.prior_beta + tally.failures,
            policy=policy,
            sampling=sampling,
            mode=outcome.mode,
            tier=outcome.tier,
            config_hash=digest,
            strategy=settings.strategy + ("+program" if settings.count_program else ""),
            asked=tally.asked,
            borrowed=tally.borrowed,
            borrowed_passes=tally.borrowed_passes,
            judged=tally.judged,
            seed=tally.seed,
        )
        for step, tally in zip(split_steps(program.code, settings.granularity), (*estimate.steps, last), strict=True)
    ]
