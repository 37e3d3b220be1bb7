"""The label stage: the outcome of every program, Monte-Carlo labels for the steps of the train window's programs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from dreamprm_jax.cof.splitter import split_steps
from dreamprm_jax.config import Config, LabelConfig
from dreamprm_jax.engine.run import check_settings, make_executor, run_units
from dreamprm_jax.labeling.rollouts.estimate import ProgramEstimate, StepTally
from dreamprm_jax.labeling.rollouts.work import EstimateFactory, shares
from dreamprm_jax.policy.factory import make_policy
from dreamprm_jax.problems.source import WINDOWS
from dreamprm_jax.runs.journal import Journal
from dreamprm_jax.runs.paths import Paths
from dreamprm_jax.runs.progress import Account
from dreamprm_jax.runs.server_usage import spent
from dreamprm_jax.sandbox import Judge, JudgeTask
from dreamprm_jax.schema import DataError, Outcome, Problem, Program, StepLabel, Verdict, canonical_json
from dreamprm_jax.stages.generate import MEAN_LOG_PROBABILITY
from dreamprm_jax.stages.runner import fingerprint
from dreamprm_jax.storage import iterate_records, read_column, write_records

ATTEMPTS = 3  # at a program whose rollouts the sandbox fails on


def label(config: Config, paths: Paths) -> dict[str, int]:
    """Judges all programs, rolls out the train window's prefixes, writes outcomes and step labels.

    Returns:
      Counts: programs by verdict, steps, rollouts, programs run, infrastructure errors, tokens.

    Raises:
      DataError: where the policy or the sandbox failed on some programs; run again to do those alone.
    """
    check_settings(config.engine)
    counts: Counter[str] = Counter()
    with Judge.from_config(config.sandbox) as judge:
        for window in WINDOWS:
            counts.update(_judge_window(paths, window, judge))

    with Journal(paths.stage("label") / "rollouts.journal") as journal:
        _roll_out(config, paths, journal)

        def counted(rows: Iterable[StepLabel]) -> Iterator[StepLabel]:
            for row in rows:
                counts["steps without rollouts"] += not row.rollouts
                counts["rollouts"] += row.asked
                counts["borrowed"] += row.borrowed
                counts["distinct programs among the rollouts"] += row.judged
                counts["left unjudged"] += row.unjudged
                counts["infrastructure errors"] += row.infrastructure_errors
                yield row

        written = write_records(paths.step_labels(), StepLabel, counted(_labels(config, paths, journal)))
    return {**counts, "step labels": written, **spent(paths.stage("label"))}


def _judge_window(paths: Paths, window: str, judge: Judge) -> Counter[str]:
    """Judges a window's programs and writes their outcomes. Returns how many got which verdict."""
    problems = {problem.problem_id: problem for problem in iterate_records(paths.problems(window), Problem)}
    unjudged: dict[str, list[Any]] = {}
    counts: Counter[str] = Counter()

    with Journal(paths.stage("label") / f"outcomes_{window}.journal") as journal:
        tasks = (
            JudgeTask(program.program_hash, program.code, problem.tests, problem.func_name)
            for program in _unique_programs(paths, window)
            for problem in (problems[program.problem_id],)
            if program.program_hash not in journal
        )
        with Account(journal, _count_unique(paths, window), f"judge {window}", "program") as account:
            for result in judge.evaluate(tasks):
                row = [result.verdict.value, result.tests_passed, result.tests_total, result.error, result.cpu_seconds]
                row += [result.mode, result.tier]
                if result.verdict is Verdict.SANDBOX_ERROR:
                    unjudged[result.key] = row  # not committed: running the stage again judges it again
                    account.add(result.key, failure=result.error)
                else:
                    journal.put(result.key, row)
                    account.add(result.key)

        def outcomes() -> Iterator[Outcome]:
            for program in _unique_programs(paths, window):
                verdict, *rest = journal.get(program.program_hash) or unjudged[program.program_hash]
                counts[f"{window} {verdict}"] += 1
                yield Outcome(program.problem_id, program.program_hash, Verdict(verdict), *rest)

        write_records(paths.outcomes(window), Outcome, outcomes())
    return counts


def _unique_programs(paths: Paths, window: str) -> Iterator[Program]:
    """A window's programs, read a few at a time. Of equal texts, the first."""
    seen: set[str] = set()
    for program in iterate_records(paths.programs(window), Program):
        if program.program_hash not in seen:
            seen.add(program.program_hash)
            yield program


def _count_unique(paths: Paths, window: str) -> int:
    return len(set(read_column(paths.programs(window), "program_hash")))


def _unit(program: Program, verdict: Verdict) -> str:
    """The key of a program's estimate. One made without the program's own verdict is not that made with it."""
    return program.program_hash + ("" if verdict.is_label else "/unjudged")


def _roll_out(config: Config, paths: Paths, journal: Journal) -> None:
    """Estimates the train window's programs in the engine's workers."""
    verdicts = {row.program_hash: row.verdict for row in iterate_records(paths.outcomes("train"), Outcome)}
    problems = {problem.problem_id: problem for problem in iterate_records(paths.problems("train"), Problem)}
    units = (
        (_unit(program, verdict), (problems[program.problem_id], program, verdict))
        for program in _unique_programs(paths, "train")
        for verdict in (verdicts[program.program_hash],)
    )
    if config.label.count_program:
        _check_counts_as_rollouts(config, paths)
    settings, children, threads = shares(config)
    folder = paths.stage("label")
    executor = make_executor(settings, EstimateFactory(config, paths.compositions(), folder, children), threads)
    with Journal(folder / "attempts.journal") as attempts:

        def objection(key: str, value: Any) -> str | None:
            """Rollouts without a verdict from the sandbox are done again by the next run, ``ATTEMPTS`` times in all."""
            errors = ProgramEstimate.from_json(value).sandbox_errors
            attempt = next(n for n in range(1, ATTEMPTS + 1) if f"{key}/{n}" not in attempts)
            if not errors or attempt == ATTEMPTS:
                return None  # as it is, the missing ones counted
            attempts.put(f"{key}/{attempt}", value)
            return f"the sandbox failed on {errors} rollouts (attempt {attempt} of {ATTEMPTS})"

        run_units(
            units,
            executor,
            journal,
            planned=len(verdicts),
            description="roll out prefixes",
            unit="program",
            grace_seconds=config.engine.grace_seconds,
            objection=objection,
        )


def _labels(config: Config, paths: Paths, journal: Journal) -> Iterator[StepLabel]:
    """The rows of all programs, in the programs' order."""
    outcomes = {row.program_hash: row for row in iterate_records(paths.outcomes("train"), Outcome)}
    policy = make_policy(config.policy, compositions=paths.compositions(), folder=paths.stage("label"))
    name, sampling = policy.name, canonical_json(policy.sampling(config.label.temperature))
    policy.close()
    digest = fingerprint(config, "label", paths.root)
    for program in _unique_programs(paths, "train"):
        outcome = outcomes[program.program_hash]
        estimate = ProgramEstimate.from_json(journal.get(_unit(program, outcome.verdict)) or [])
        yield from step_labels(config.label, program, outcome, estimate, name, sampling, digest)


def _check_counts_as_rollouts(config: Config, paths: Paths) -> None:
    """Whether every program is a sample of the very distribution that its rollouts have."""
    policy = make_policy(config.policy, compositions=paths.compositions(), folder=paths.stage("label"))
    wanted = canonical_json(policy.sampling(config.label.temperature))
    policy.close()
    for program in _unique_programs(paths, "train"):
        drawn = {k: v for k, v in json.loads(program.sampling).items() if k != MEAN_LOG_PROBABILITY}  # of the answer
        if (program.policy, canonical_json(drawn)) != (policy.name, wanted):
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
            unjudged=tally.unjudged,
            singles=tally.singles,
            single_passes=tally.single_passes,
            seed=tally.seed,
        )
        for step, tally in zip(split_steps(program.code, settings.granularity), (*estimate.steps, last), strict=True)
    ]
