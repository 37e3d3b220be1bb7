"""Outcomes of whole programs, which are the clean labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from dreamprm_jax.config import Config
from dreamprm_jax.labeling.window import problems_by_id, unique_programs
from dreamprm_jax.problems.hidden_tests import HiddenTests
from dreamprm_jax.runs.fingerprint import settings_digest
from dreamprm_jax.runs.input_digests import InputDigests
from dreamprm_jax.runs.journal import Journal
from dreamprm_jax.runs.paths import Paths
from dreamprm_jax.sandbox import Judge, JudgeTask
from dreamprm_jax.sandbox.judging import judge_into, outcome_values
from dreamprm_jax.schema import Outcome, Verdict, content_hash
from dreamprm_jax.storage import write_records


def judge_window(config: Config, paths: Paths, window: str, tests: HiddenTests, judge: Judge) -> Counter[str]:
    """Judges a window's distinct programs and writes their outcomes.

    If the sandbox fails on a program, that verdict is written, and the next run judges the program again.

    Returns:
      The number of programs for each key "WINDOW VERDICT".
    """
    problems = problems_by_id(paths, window)
    sandbox = settings_digest(config, {"sandbox"}, InputDigests(paths.root))
    digests = {problem_id: tests.digest(problem) for problem_id, problem in problems.items()}
    programs = list(unique_programs(paths, window))
    keys = {
        one.program_hash: f"{one.program_hash}/{content_hash(digests[one.problem_id], sandbox, digits=16)}"
        for one in programs
    }
    counts: Counter[str] = Counter()

    def tasks() -> Iterator[JudgeTask]:
        for program in programs:
            problem = problems[program.problem_id]
            if (key := keys[program.program_hash]) not in journal:
                yield JudgeTask.of(problem, key, program.code, tests.all_of(problem))

    with Journal(paths.stage("label") / f"outcomes_{window}.journal") as journal:
        done = sum(key in journal for key in keys.values())
        failed = judge_into(
            journal, judge, tasks(), outcome_values, planned=len(programs), done=done, description=f"judge {window}"
        )

        def outcomes() -> Iterator[Outcome]:
            for program in programs:
                key = keys[program.program_hash]
                verdict, *rest = journal.get(key) or failed[key]
                counts[f"{window} {verdict}"] += 1
                yield Outcome(program.problem_id, program.program_hash, Verdict(verdict), *rest)

        write_records(paths.outcomes(window), Outcome, outcomes())
    return counts
