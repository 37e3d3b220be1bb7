"""Judges programs that were written elsewhere: problems and candidates from files, pass@1 and agreement out.

The folder ``evaluate_files`` of the workdir receives ``programs.parquet``, ``outcomes.parquet``, ``results.json``,
``table.txt``, ``skipped.csv`` and ``eval_all.json`` (LiveCodeBench's format, with our verdicts). Killed and started
again, it judges only what is missing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from dreamprm_jax.cof.splitter import split_steps
from dreamprm_jax.config import Config, to_dict
from dreamprm_jax.evaluation.eval_all import eval_all_row, write_eval_all
from dreamprm_jax.evaluation.files_summary import Judged, summarise, summary_text
from dreamprm_jax.evaluation.text_table import csv_text, finite
from dreamprm_jax.problems.candidates import Candidate, CandidateFile, read_candidates
from dreamprm_jax.problems.livecodebench import load_problems
from dreamprm_jax.runs.journal import Journal
from dreamprm_jax.runs.paths import StageFolder
from dreamprm_jax.sandbox import Judge, JudgeTask
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
from dreamprm_jax.storage import file_hash, read_json, write_json, write_records, write_text

FOLDER = "evaluate_files"
_FORMAT = "2"  # raise when the meaning of the output changes
_SPEED_ONLY = ("workers",)  # sandbox settings without effect on verdicts


def evaluate_files(config: Config, problems: Path, candidates: Path, workdir: Path) -> dict[str, Any]:
    """Judges a file of candidates and prints pass@1, verdicts, step counts and agreement.

    Args:
      config: ``sandbox`` (the official verdicts are those of mode "lcb"), ``problems.release`` where ``problems`` is
        a folder in the hub's layout, and ``evaluate.bootstrap_samples``.
      problems: Problems in the official LiveCodeBench row format.
      candidates: ``eval_all`` JSON, JSONL or our Parquet (``problems.candidates``).
      workdir: The run's folder; finished work in it is reused.

    Returns:
      The figures, as in ``results.json``.

    Raises:
      DataError: naming the file, the row and the field; or when no candidate belongs to a known problem.
    """
    rows = {
        problem.problem_id: problem
        for problem in load_problems(str(problems), config.problems.release, config.problems.max_private_test_bytes)
    }
    file = read_candidates(candidates)
    print(f"read {len(rows)} problems from {problems}")
    print(f"read {len(file.usable) + len(file.unusable)} candidates from {candidates}: {_contents(file)}", flush=True)
    known = [candidate for candidate in file.usable if candidate.program.problem_id in rows]
    if not known:
        raise DataError(f"{candidates}: no candidate belongs to a problem of {problems}; are the two for each other?")
    everything = [*file.usable, *file.unusable]
    granularity = config.label.granularity
    steps = {one.program.program_hash: _count_steps(one.program, granularity) for one in everything}
    folder = StageFolder(workdir / FOLDER, _fingerprint(config, problems, candidates))
    if folder.is_done():
        results = read_json(folder.path / "results.json")
        print(f"\n{summary_text(results)}\nalready done for these files and settings, reused ({folder.path})")
        return results
    moved = folder.open()
    if moved is not None:
        print(f"earlier output was made with other files or settings; kept in {moved}")
    outcomes = _judge(config, rows, known, folder.path / "outcomes.journal")
    skips = [*file.skips, *_left_out(file, rows, problems, candidates), *_unjudged(outcomes)]
    judged = _judged(file, rows, outcomes, steps)
    results = {
        "problems_file": problems.name,
        "candidates_file": candidates.name,
        "mode": config.sandbox.mode,
        "tier": config.sandbox.tier,
        "duplicates": file.duplicates,
        **summarise(judged, skips, config.evaluate.bootstrap_samples, config.seed),
    }
    results = finite(results)
    text = summary_text(results)
    write_records(folder.path / "programs.parquet", Program, [candidate.program for candidate in known])
    write_records(folder.path / "outcomes.parquet", Outcome, outcomes.values())
    skipped = [{"source": skip.source, "row": skip.row, "reason": skip.reason} for skip in skips]
    write_text(folder.path / "skipped.csv", csv_text(skipped) if skipped else "source,row,reason\n")
    write_eval_all(folder.path / "eval_all.json", _eval_all(file, rows, outcomes))
    write_text(folder.path / "table.txt", text)
    write_json(folder.path / "results.json", results)
    print(f"\n{text}\nwrote {folder.path}", flush=True)
    if not any(outcome.verdict is Verdict.SANDBOX_ERROR for outcome in outcomes.values()):
        folder.finish({"candidates": len(judged), "programs": len(outcomes), "skipped": len(skips)})
    return results


def _eval_all(
    file: CandidateFile, problems: Mapping[str, Problem], outcomes: Mapping[str, Outcome]
) -> Iterator[dict[str, Any]]:
    """A row a problem, of the candidates that have a verdict of ours or no text to judge, which is a failure."""
    programs: dict[str, list[tuple[Program, bool]]] = {}
    for candidate in sorted([*file.usable, *file.unusable], key=lambda one: one.program.sample_index):
        program, outcome = candidate.program, outcomes.get(candidate.program.program_hash)
        if program.problem_id in problems and (outcome is None or outcome.verdict.is_label):
            programs.setdefault(program.problem_id, []).append((program, outcome is not None and outcome.passed))
    for problem_id, own in programs.items():
        yield eval_all_row(problems[problem_id], [program.code for program, _ in own], [passed for _, passed in own])


def _contents(file: CandidateFile) -> str:
    parts = [f"{len(file.usable)} to judge"]
    if file.duplicates:
        parts.append(f"of which {file.duplicates} repeat another text and are judged once")
    if file.unusable:
        parts.append(f"{len(file.unusable)} empty or not text, counted as failed")
    return ", ".join(parts)


def _fingerprint(config: Config, problems: Path, candidates: Path) -> str:
    """Of the settings and of both files' contents (of a folder: names, sizes and times; of the hub: its id)."""
    sandbox = {name: value for name, value in to_dict(config.sandbox).items() if name not in _SPEED_ONLY}
    settings = [_FORMAT, sandbox, config.evaluate.bootstrap_samples, config.seed, config.problems.release]
    settings.append(config.label.granularity)
    return content_hash(canonical_json(settings), _digest(problems), _digest(candidates), digits=16)


def _digest(path: Path) -> str:
    if path.is_dir():
        files = sorted((item, item.stat()) for item in path.glob("*.jsonl"))
        return canonical_json([[item.name, stat.st_size, stat.st_mtime_ns] for item, stat in files])
    if not path.exists():  # a dataset of the hub
        return str(path)
    return file_hash(path)


def _count_steps(program: Program, granularity: Granularity) -> int:
    """How many steps the program has, once it is sure that they make it up."""
    steps = split_steps(program.code, granularity)
    if "".join(program.code[step.start : step.end] for step in steps) != program.code:
        raise AssertionError(f"the steps of program {program.program_hash} do not concatenate to it")
    return len(steps)


def _judge(
    config: Config, problems: Mapping[str, Problem], candidates: Sequence[Candidate], journal_path: Path
) -> dict[str, Outcome]:
    """The outcome of every distinct program, by hash. The judge's own faults are not journalled: they are redone."""
    programs = {candidate.program.program_hash: candidate.program for candidate in candidates}
    outcomes: dict[str, Outcome] = {}

    def tasks() -> Iterator[JudgeTask]:
        for key, program in programs.items():
            if key not in journal:
                problem = problems[program.problem_id]
                yield JudgeTask(key, program.code, problem.tests, problem.func_name)

    with Journal(journal_path) as journal:
        done = sum(key in journal for key in programs)
        if done < len(programs):
            with Judge.from_config(config.sandbox) as judge:
                bar = tqdm(judge.evaluate(tasks()), "judge", len(programs), initial=done, unit="program")
                for result in bar:
                    row = [result.tests_passed, result.tests_total, result.error, result.cpu_seconds]
                    row = [result.verdict.value, *row, result.mode, result.tier]
                    if result.verdict is Verdict.SANDBOX_ERROR:
                        outcomes[result.key] = _outcome(programs[result.key], row)
                    else:
                        journal.put(result.key, row)
        for key, program in programs.items():
            if key in journal:
                outcomes[key] = _outcome(program, journal.get(key))
    return {key: outcomes[key] for key in programs}


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
    file: CandidateFile, problems: Mapping[str, Problem], outcomes: Mapping[str, Outcome], steps: Mapping[str, int]
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
                )
            )
    return judged
