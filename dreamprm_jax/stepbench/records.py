"""What a benchmark's folder holds, and its one record beside ``schema``'s: the truth about each program."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dreamprm_jax.schema import DataError, Program, TestedProblem
from dreamprm_jax.storage import read_json, read_records

CLEAN = "clean"  # stands for the operator of a program without a fault


@dataclass(frozen=True)
class Truth:
    """Where one program goes wrong."""

    problem_id: str
    program_hash: str
    split: Literal["dev", "test"]  # by problem; dev is for choosing a threshold
    first_wrong: int  # index of the step that holds the fault, -1 for none
    step_ends: tuple[int, ...]  # string offsets, as ``cof.splitter.split_steps`` cuts
    operator: str  # the kind of fault, ``CLEAN`` for none
    function: str  # the step's function, "" for none
    start: int  # the fault's span in this program's text; -1 for none
    end: int
    before: str  # what stood there
    after: str  # what stands there
    verdict: str  # of the judge on the problem's tests


@dataclass(frozen=True)
class BenchPaths:
    """File names inside a benchmark's folder."""

    root: Path

    @property
    def problems(self) -> Path:
        """``schema.Problem`` rows: statements and tests."""
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
        """The data card, to read."""
        return self.root / "README.md"

    @property
    def scores(self) -> Path:
        """Scores that ``score --prm`` made."""
        return self.root / "scores"

    @property
    def work(self) -> Path:
        """Journals of ``make``: kept to resume and to make another size; the benchmark does not need them."""
        return self.root / "work"


@dataclass(frozen=True)
class Bench:
    """A benchmark, read."""

    problems: dict[str, TestedProblem]
    programs: list[Program]
    truth: dict[str, Truth]  # by program hash


def read_bench(root: Path) -> Bench:
    """Reads a folder that ``make`` wrote.

    Raises:
      DataError: where it is none, or its files do not belong together.
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
