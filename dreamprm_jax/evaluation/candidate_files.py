"""Judges candidates from a file on problems from a file: pass@1, and agreement with the file's own verdicts.

The folder ``evaluate_files`` of the workdir receives ``programs.parquet``, ``outcomes.parquet``, ``results.json``,
``table.txt``, ``skipped.csv`` and ``eval_all.json`` (LiveCodeBench's format, with our verdicts). After a kill, only
missing verdicts are judged.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dreamprm_jax.cof.splitter import split_steps
from dreamprm_jax.config import Config, SettingInfo, to_dict
from dreamprm_jax.evaluation.output import eval_all_row, skip_rows, write_eval_all
from dreamprm_jax.evaluation.pass_rates import Judged, summarize, summary_text
from dreamprm_jax.problems.candidates import CandidateFile, read_candidates
from dreamprm_jax.problems.hidden_tests import HiddenTests
from dreamprm_jax.problems.problem_files import read_for_judging
from dreamprm_jax.runs.fingerprint import settings_digest
from dreamprm_jax.runs.input_digests import InputDigests
from dreamprm_jax.runs.journal import Journal
from dreamprm_jax.runs.stage_folder import StageFolder
from dreamprm_jax.sandbox import Judge, JudgeTask
from dreamprm_jax.sandbox.judging import judge_into, outcome_values
from dreamprm_jax.schema import (
    DataError,
    Granularity,
    Outcome,
    Problem,
    Program,
    Skip,
    Verdict,
    canonical_json,
    content_hash,
)
from dreamprm_jax.storage import read_json, write_json, write_records, write_text
from dreamprm_jax.tables import csv_text, finite

FOLDER = "evaluate_files"
_FORMAT = "4"  # increase it when the meaning of the output changes


def evaluate_files(config: Config, problems: Path, candidates: Path, workdir: Path) -> dict[str, Any]:
    """Judges a file of candidates and prints pass@1, verdicts, step counts and agreement.

    Args:
      config: Settings of the run: ``sandbox`` (mode "lcb" gives the official verdicts), ``problems.release`` if
        ``problems`` is a folder in the hub's layout, and ``evaluate.bootstrap_samples``.
      problems: File of problems, in any format of ``problems.problem_files``.
      candidates: File of candidates, in any format of ``problems.candidates``.
      workdir: The run's folder; finished work in it is reused.

    Returns:
      The contents of ``results.json``.

    Raises:
      DataError: names the file, the row and the field; also if no candidate belongs to a known problem.
    """
    started, inputs = time.monotonic(), InputDigests(workdir)
    folder = StageFolder(workdir / FOLDER, _fingerprint(config, inputs, problems, candidates))
    if folder.is_done():
        results = read_json(folder.path / "results.json")
        print(f"{summary_text(results)}\nalready done for these files and settings, reused ({folder.path})")
        return results
    file = read_candidates(candidates, config.problems.strict)
    hidden = workdir / f".hidden_tests_{folder.fingerprint}.parquet"  # kept until the judging is done
    settings = config.problems
    left_out: list[Skip] = []
    rows, tests = read_for_judging(
        str(problems),
        hidden,
        file.problem_ids,
        settings.release,
        settings.max_private_test_bytes,
        None if settings.strict else left_out,
        config.sandbox.packages,
    )
    file = file.completed(rows)
    print(f"read {len(rows)} problems from {problems}" + (f"; {len(left_out)} left out" if left_out else ""))
    print(f"read {len(file.usable) + len(file.unusable)} candidates from {candidates}: {_contents(file)}", flush=True)
    known = [candidate for candidate in file.usable if candidate.program.problem_id in rows]
    if not known:
        raise DataError(f"{candidates}: no candidate belongs to a problem of {problems}; wrong file?")
    everything = [*file.usable, *file.unusable]
    granularity = config.label.granularity
    steps = {one.program.program_hash: _count_steps(one.program, granularity) for one in everything}
    folder.open(to_dict(config), reuse="*.journal")
    inputs.save()
    programs = [candidate.program for candidate in known]
    outcomes = _judge(config, rows, tests, programs, folder.path / "outcomes.journal")
    skips = [*left_out, *file.skips, *_left_out(file, rows, problems, candidates), *_unjudged(outcomes)]
    judged = _judged(file, rows, tests, outcomes, steps)
    results = {
        "problems_file": problems.name,
        "candidates_file": candidates.name,
        "mode": config.sandbox.mode,
        "tier": config.sandbox.tier,
        "duplicates": file.duplicates,
        **summarize(judged, skips, config.evaluate.bootstrap_samples, config.seed),
    }
    results = finite(results)
    text = summary_text(results)
    write_records(folder.path / "programs.parquet", Program, programs)
    write_records(folder.path / "outcomes.parquet", Outcome, outcomes.values())
    skipped = skip_rows(skips)
    write_text(folder.path / "skipped.csv", csv_text(skipped) if skipped else "source,row,reason\n")
    write_eval_all(folder.path / "eval_all.json", _eval_all(file, rows, outcomes))
    write_text(folder.path / "table.txt", text)
    write_json(folder.path / "results.json", results)
    print(f"\n{text}\nwrote {folder.path}", flush=True)
    if not any(outcome.verdict is Verdict.SANDBOX_ERROR for outcome in outcomes.values()):
        counts = {"candidates": len(judged), "programs": len(outcomes), "skipped": len(skips)}
        folder.finish(counts, time.monotonic() - started)
        hidden.unlink(missing_ok=True)
    return results


def _eval_all(
    file: CandidateFile, problems: Mapping[str, Problem], outcomes: Mapping[str, Outcome]
) -> Iterator[dict[str, Any]]:
    """One row per problem. Candidates that were not judged count as failed."""
    programs: dict[str, list[tuple[Program, bool]]] = {}
    for candidate in sorted([*file.usable, *file.unusable], key=lambda one: one.program.sample_index):
        program, outcome = candidate.program, outcomes.get(candidate.program.program_hash)
        if program.problem_id in problems:
            programs.setdefault(program.problem_id, []).append((program, outcome is not None and outcome.passed))
    for problem_id, own in programs.items():
        yield eval_all_row(problems[problem_id], [program.code for program, _ in own], [passed for _, passed in own])


def _contents(file: CandidateFile) -> str:
    parts = [f"{len(file.usable)} to judge"]
    if file.duplicates:
        parts.append(f"of which {file.duplicates} are duplicates and not judged again")
    if file.unusable:
        parts.append(f"{len(file.unusable)} empty or not text, counted as failed")
    return ", ".join(parts)


def _fingerprint(config: Config, inputs: InputDigests, problems: Path, candidates: Path) -> str:
    """Fingerprint of the settings that affect the output and of the contents of both files (or their hub ids)."""
    named = (("problems", problems), ("candidates", candidates))
    files = [inputs.digest_or_value(name, str(path), SettingInfo(reads="path")) for name, path in named]
    others = [config.seed, config.evaluate.bootstrap_samples, config.problems.release, config.label.granularity]
    others += ["strict"] * config.problems.strict  # must fail on rows that an earlier run skipped
    return settings_digest(config, {"sandbox"}, inputs, _FORMAT, canonical_json(others), *files)


def _count_steps(program: Program, granularity: Granularity) -> int:
    """The number of steps of the program. Checks that they concatenate to it."""
    steps = split_steps(program.code, granularity)
    if "".join(program.code[step.start : step.end] for step in steps) != program.code:
        raise AssertionError(f"the steps of program {program.program_hash} do not concatenate to it")
    return len(steps)


def _judge(
    config: Config, problems: Mapping[str, Problem], tests: HiddenTests, programs: Sequence[Program], path: Path
) -> dict[str, Outcome]:
    """The outcome of every distinct program, by hash."""
    sandbox = settings_digest(config, {"sandbox"}, InputDigests(None))
    keys = {
        program.program_hash: content_hash(program.program_hash, tests.digest(problems[program.problem_id]), sandbox)
        for program in programs
    }

    def tasks() -> Iterator[JudgeTask]:
        for program in sorted(distinct.values(), key=lambda one: order[one.problem_id]):
            problem = problems[program.problem_id]
            if (key := keys[program.program_hash]) not in journal:
                yield JudgeTask.of(problem, key, program.code, tests.all_of(problem))

    distinct = {program.program_hash: program for program in programs}
    order = {problem_id: index for index, problem_id in enumerate(problems)}  # so that tests are read once
    with Journal(path) as journal:
        failed = judge_into(
            journal,
            lambda: Judge.from_config(config.sandbox),
            tasks(),
            outcome_values,
            planned=len(distinct),
            done=sum(key in journal for key in keys.values()),
            description="judge",
        )
        return {
            name: _outcome(program, journal.get(keys[name]) or failed[keys[name]]) for name, program in distinct.items()
        }


def _outcome(program: Program, row: Any) -> Outcome:
    verdict, *rest = row
    return Outcome(program.problem_id, program.program_hash, Verdict(verdict), *rest)


def _left_out(file: CandidateFile, rows: Mapping[str, Problem], problems: Path, candidates: Path) -> Iterator[Skip]:
    """Candidates without a problem, and problems without a candidate."""
    everything = [*file.usable, *file.unusable]
    for candidate in everything:
        program = candidate.program
        if program.problem_id not in rows:
            name = f"{program.problem_id}, sample {program.sample_index}"
            yield Skip(candidates.name, name, f"its problem is not in {problems.name}")
    answered = {candidate.program.problem_id for candidate in everything}
    for problem_id in rows:
        if problem_id not in answered:
            yield Skip(problems.name, problem_id, f"no candidate in {candidates.name}")


def _unjudged(outcomes: Mapping[str, Outcome]) -> Iterator[Skip]:
    reasons = {
        Verdict.INVALID_TASK: "invalid task ({error}): neither passed nor failed",
        Verdict.SANDBOX_ERROR: "the sandbox failed: neither passed nor failed; run the same command to judge it again",
    }
    for outcome in outcomes.values():
        if outcome.verdict in reasons:
            name = f"{outcome.problem_id}, program {outcome.program_hash[:12]}"
            yield Skip("judge", name, reasons[outcome.verdict].format(error=outcome.error))


def _judged(
    file: CandidateFile,
    problems: Mapping[str, Problem],
    tests: HiddenTests,
    outcomes: Mapping[str, Outcome],
    steps: Mapping[str, int],
) -> list[Judged]:
    judged = []
    for candidate in sorted([*file.usable, *file.unusable], key=lambda one: one.program.sample_index):
        program = candidate.program
        if program.problem_id in problems:
            outcome = outcomes.get(program.program_hash)
            judged.append(
                Judged(
                    problem=problems[program.problem_id],
                    sample_index=program.sample_index,
                    verdict=outcome.verdict if outcome else None,
                    file_passed=candidate.file_passed,
                    steps=steps[program.program_hash],
                    has_tests=tests.has_tests(problems[program.problem_id]),
                )
            )
    return judged
