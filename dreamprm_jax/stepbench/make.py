"""Creates a benchmark: references -> tests -> mutants -> verdicts -> selection of programs -> files.

The result is deterministic: the same package, seed and size give the same bytes, for any number of workers and after
any interruption.
"""

from __future__ import annotations

import ast
import itertools
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from dreamprm_jax.cof.splitter import split_steps
from dreamprm_jax.config import SandboxConfig
from dreamprm_jax.problems import codeio
from dreamprm_jax.problems.codeio_tests import make_tests
from dreamprm_jax.runs.journal import Journal
from dreamprm_jax.runs.progress import Progress
from dreamprm_jax.schema import DataError, Program, TestedProblem, Verdict, content_hash, program_hash
from dreamprm_jax.stepbench import trial
from dreamprm_jax.stepbench.card import card, card_text
from dreamprm_jax.stepbench.mutate import Mutant
from dreamprm_jax.stepbench.records import CLEAN, BenchPaths, Truth
from dreamprm_jax.stepbench.source_map import SourceMap
from dreamprm_jax.stepbench.trial import Tried, new_judge, try_mutants
from dreamprm_jax.storage import write_json, write_records, write_text

DEV_SHARE = 5  # one of this many problems is in the dev split, on which thresholds are chosen
MAX_MUTANTS = 4  # maximum number of mutants per problem; above 1 only if size / 2 exceeds the number of problems
_CHUNK = 64  # references that are judged together


@dataclass
class Tally:
    """Counts of the outcomes of all tasks and mutants."""

    tasks: int
    source: str  # hash of the tasks' texts
    dropped: Counter[str] = field(default_factory=Counter)  # number of tasks left out, by reason
    drawn: dict[str, Counter[Verdict]] = field(default_factory=dict)  # number of mutants, by operator and verdict

    def drop(self, reason: str) -> bool:
        """Counts a task that is left out for ``reason``. Returns False if the reason is empty."""
        if reason:
            self.dropped[reason] += 1
        return bool(reason)


def make_bench(
    root: Path, seed: int, size: int, sandbox: SandboxConfig, tasks: list[codeio.Task] | None = None
) -> dict[str, object]:
    """Writes a benchmark of ``size`` programs into ``root``. Resumes an interrupted call.

    Half of the programs are erroneous and half are clean, one pair for each of size / 2 problems. If there are fewer
    usable problems, every clean program occurs once, and problems have up to ``MAX_MUTANTS`` erroneous programs.

    Args:
      root: the folder to write.
      seed: seed of the test inputs, the mutants and the selection of mutants.
      size: number of programs.
      sandbox: isolation tier and number of workers.
      tasks: source tasks; None uses those of the installed package.

    Returns:
      The data card.

    Raises:
      DataError: if the package is missing, or if the size is too small or too large.
    """
    if size < 2:
        raise DataError(f"--size {size}: at least 2, one erroneous program and one clean")
    paths = BenchPaths(root)
    everything = codeio.read_tasks() if tasks is None else tasks
    tally = Tally(len(everything), codeio.content_identity(everything))
    pairs = size // 2
    usable: list[Tried] = []
    with (
        Journal(paths.work / "tests.journal") as tests,
        Journal(paths.work / "verdicts.journal") as verdicts,
        Progress("stepbench make", pairs, "problem") as progress,
    ):
        for tried in usable_references(everything, seed, sandbox, tests, verdicts, tally):
            usable.append(tried)
            progress.add()
            if len(usable) == pairs:
                break
    chosen = choose(usable, size - min(pairs, len(usable)))
    clean = len(usable)
    if len(chosen) + clean < size:
        raise DataError(
            f"--size {size}: {clean} problems give {clean} clean programs and {len(chosen)} erroneous ones; "
            f"the largest size is {clean + len(chosen)}"
        )
    return _write(paths, usable, chosen, seed, tally)


def usable_references(
    everything: list[codeio.Task],
    seed: int,
    sandbox: SandboxConfig,
    tests: Journal,
    verdicts: Journal,
    tally: Tally,
    functions: int = 2,
) -> Iterator[Tried]:
    """Yields, in random order, references of at least ``functions`` functions that pass and have a failing mutant."""

    def suitable() -> Iterator[codeio.Task]:
        for task in sorted(everything, key=lambda task: content_hash("stepbench", str(seed), task.task_id)):
            if not tally.drop(unsuitable(task.reference, functions)):
                yield task

    made = make_tests(suitable(), trial.TESTS, seed, sandbox, tests)
    with new_judge(sandbox) as judge:
        while chunk := list(itertools.islice(made, _CHUNK)):
            ready = [
                (task, result.tests)
                for task, result in chunk
                if not tally.drop(result.reason and f"no tests: {result.reason}")
            ]
            for tried in try_mutants(ready, seed, judge, verdicts):
                for mutant, verdict in tried.mutants:
                    tally.drawn.setdefault(mutant.edit.operator, Counter())[verdict] += 1
                if not tally.drop(tried.reason or ("" if tried.failing() else "no drawn fault shows in a test")):
                    yield tried


def unsuitable(reference: str, functions: int = 2) -> str:
    """The reason why a reference is not used; "" if it has enough functions and imports only the standard library."""
    try:
        tree = SourceMap(reference).tree
    except ValueError as error:
        return f"cannot be mapped: {error}"
    if len(split_steps(reference)) < functions:
        return f"fewer than {'two' if functions == 2 else functions} functions"
    imported = {
        name.split(".")[0]
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    foreign = sorted(imported - sys.stdlib_module_names)
    return f"imports beyond the standard library: {foreign[0] or 'relative'}" if foreign else ""


def choose(usable: list[Tried], wanted: int) -> list[tuple[Tried, Mutant, Verdict]]:
    """Selects one failing mutant of each problem, then a second one of each, and so on.

    Each selection takes an operator that has been selected least so far. Among mutants of such operators, one with a
    wrong answer is preferred to one that fails with an error or a timeout, which is easier to detect.

    Args:
      usable: problems, in the order of selection.
      wanted: number of mutants. Fewer are returned if there are not enough.
    """
    chosen: list[tuple[Tried, Mutant, Verdict]] = []
    left = {tried.task.task_id: tried.failing() for tried in usable}
    kinds: Counter[str] = Counter()
    for _ in range(MAX_MUTANTS):
        for tried in usable:
            rest = left[tried.task.task_id]
            if rest and len(chosen) < wanted:
                rarest = min(kinds[mutant.edit.operator] for mutant, _ in rest)
                ranked = [
                    (verdict is not Verdict.WA, place)
                    for place, (mutant, verdict) in enumerate(rest)
                    if kinds[mutant.edit.operator] == rarest
                ]
                mutant, verdict = rest.pop(min(ranked)[1])
                kinds[mutant.edit.operator] += 1
                chosen.append((tried, mutant, verdict))
    return chosen


def split_of(problem_id: str) -> str:
    """The split of a problem. It depends only on the id, so that benchmarks of all seeds and sizes agree."""
    return "dev" if int(content_hash("stepbench split", problem_id, digits=8), 16) % DEV_SHARE == 0 else "test"


def _write(
    paths: BenchPaths, usable: list[Tried], chosen: list[tuple[Tried, Mutant, Verdict]], seed: int, tally: Tally
) -> dict[str, object]:
    rows = [_row(tried, tried.task.reference, None, Verdict.AC) for tried in usable]
    rows += [_row(tried, mutant.code, mutant, verdict) for tried, mutant, verdict in chosen]
    rows.sort(key=lambda row: row[0].program_hash)
    samples: Counter[str] = Counter()
    programs = []
    for truth, code in rows:
        index = samples[truth.problem_id]
        samples[truth.problem_id] += 1
        programs.append(Program.make(truth.problem_id, code, index, "stepbench", {"seed": seed}))
    problems = []
    for tried in sorted(usable, key=lambda tried: tried.task.task_id):
        parameters = codeio.signature(tried.task)
        assert parameters is not None  # it has tests
        problems.append(codeio.problem(tried.task, parameters, tried.tests))
    write_records(paths.problems, TestedProblem, problems)
    write_records(paths.programs, Program, programs)
    write_records(paths.truth, Truth, [truth for truth, _ in rows])
    value = card([truth for truth, _ in rows], seed, tally.tasks, tally.source, tally.dropped, tally.drawn)
    write_text(paths.readme, card_text(value))
    write_json(paths.card, value)  # last: its presence means that the benchmark is complete
    return value


def _row(tried: Tried, code: str, mutant: Mutant | None, verdict: Verdict) -> tuple[Truth, str]:
    task_id = tried.task.task_id
    edit = mutant.edit if mutant else None
    truth = Truth(
        problem_id=task_id,
        program_hash=program_hash(task_id, code),
        split="dev" if split_of(task_id) == "dev" else "test",
        first_wrong=mutant.step if mutant else -1,
        step_ends=tuple(step.end for step in split_steps(code)),
        operator=edit.operator if edit else CLEAN,
        function=mutant.function if mutant else "",
        start=edit.start if edit else -1,
        end=edit.start + len(edit.text) if edit else -1,
        before=tried.task.reference[edit.start : edit.end] if edit else "",
        after=edit.text if edit else "",
        verdict=verdict.value,
    )
    return truth, code
