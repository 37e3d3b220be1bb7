"""The files of a benchmark's folder, and the record of the true first wrong step of each program."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dreamprm_jax.schema import DataError, Program, TestedProblem
from dreamprm_jax.storage import read_json, read_records

CLEAN = "clean"  # ``operator`` of a program without a fault


@dataclass(frozen=True)
class Truth:
    """The fault of one program."""

    problem_id: str
    program_hash: str
    split: Literal["dev", "test"]  # split of the problem; thresholds are chosen on dev
    first_wrong: int  # index of the step that contains the fault, -1 for none
    step_ends: tuple[int, ...]  # string offsets of the ends of the steps (``cof.splitter.split_steps``)
    operator: str  # the kind of fault, ``CLEAN`` for none
    function: str  # name of the step's function, "" for none
    start: int  # start of the fault in this program's text; -1 for none
    end: int  # end of the fault; -1 for none
    before: str  # text of the reference that the fault replaced
    after: str  # text of the fault
    verdict: str  # verdict of the judge on the problem's tests


@dataclass(frozen=True)
class BenchPaths:
    """File names inside a benchmark's folder."""

    root: Path

    @property
    def problems(self) -> Path:
        """``schema.TestedProblem`` rows: statements and tests."""
        return self.root / "problems.parquet"

    @property
    def programs(self) -> Path:
        """``schema.Program`` rows, in the order of their hashes."""
        return self.root / "programs.parquet"

    @property
    def truth(self) -> Path:
        """``Truth`` rows, in the same order."""
        return self.root / "truth.parquet"

    @property
    def card(self) -> Path:
        """The data card, as JSON."""
        return self.root / "card.json"

    @property
    def readme(self) -> Path:
        """The data card, as Markdown."""
        return self.root / "README.md"

    @property
    def scores(self) -> Path:
        """Folder of the scores that ``score --prm`` computed."""
        return self.root / "scores"

    @property
    def work(self) -> Path:
        """Folder of the journals of ``make``, for resuming or another size. The benchmark does not need them."""
        return self.root / "work"


@dataclass(frozen=True)
class Bench:
    """A benchmark in memory."""

    problems: dict[str, TestedProblem]
    programs: list[Program]
    truth: dict[str, Truth]  # by program hash


def read_bench(root: Path) -> Bench:
    """Reads a folder that ``make`` wrote.

    Raises:
      DataError: if the folder has no benchmark, or its files do not belong together.
    """
    paths = BenchPaths(root)
    if not paths.card.exists():
        raise DataError(
            f"{root}: no StepBench here (no {paths.card.name}); make one: dreamprm stepbench make --output DIR"
        )
    read_json(paths.card)
    problems = {problem.problem_id: problem for problem in read_records(paths.problems, TestedProblem)}
    programs = read_records(paths.programs, Program)
    truth = {row.program_hash: row for row in read_records(paths.truth, Truth)}
    if [program.program_hash for program in programs] != list(truth):
        raise DataError(f"{root}: {paths.programs.name} and {paths.truth.name} do not belong together; make it again")
    return Bench(problems, programs, truth)
