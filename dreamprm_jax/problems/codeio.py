"""CodeI/O tasks (arXiv 2502.07316) from the package reasoning-gym: statement, reference program, input generator.

The references were written by a language model from real source files; two thirds of them have several functions. They
are untrusted code, which is not run here. ``codeio_tests`` makes tests by running them in the sandbox.
"""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dreamprm_jax.problems.installed import installed_file
from dreamprm_jax.problems.json_rows import read_rows, text_field
from dreamprm_jax.schema import Difficulty, TestCase, TestedProblem, canonical_json, content_hash

DISTRIBUTION, VERSION = "reasoning-gym", "0.1.25"
DATA_FILE = "reasoning_gym/data/codeio.jsonl.gz"
ENTRY_POINT = "main_solution"
GENERATOR = "generate_inputs"
PUBLIC_TESTS = 3
# The rows have no dates. This date only fills the column; windows are drawn by hash.
DATE = "2025-02-11T00:00:00"


@dataclass(frozen=True)
class Task:
    """One row of the package."""

    task_id: str  # codeio/0042, by its position in the file
    description: str
    specification: str  # of input and output
    reference: str  # defines ENTRY_POINT; untrusted
    generator: str  # defines GENERATOR(rng) -> keyword arguments; untrusted
    rating: int  # difficulty from 1 to 10, rated by a model of the package's authors; 0 if missing


def read_tasks(path: Path | None = None) -> list[Task]:
    """All tasks of a data file, by default that of the installed package, in the file's order.

    Raises:
      DataError: if the package or the file is missing, or a row is malformed.
    """
    path = path or installed_file(DISTRIBUTION, VERSION, DATA_FILE)
    return [_task(row, index, where) for index, (where, row) in enumerate(read_rows(path))]


def _task(row: Mapping[str, Any], index: int, where: str) -> Task:
    text = {
        name: text_field(row, name, where)
        for name in ("task_description", "input_output_spec", "code_sample", "input_generator")
    }
    return Task(
        task_id=f"codeio/{index:04d}",
        description=text["task_description"],
        specification=text["input_output_spec"],
        reference=text["code_sample"],
        generator=text["input_generator"],
        rating=_rating(row),
    )


def _rating(row: Mapping[str, Any]) -> int:
    value = row.get("difficulty")
    return value if isinstance(value, int) else 0


def content_identity(tasks: Iterable[Task]) -> str:
    """Order-independent hash of the tasks' texts. It is equal for two installations with the same data."""
    return content_hash(*sorted(canonical_json(dataclasses.asdict(task)) for task in tasks))


@dataclass(frozen=True)
class Signature:
    """The parameters of a reference's entry point."""

    text: str  # as written, without the parentheses
    names: tuple[str, ...]
    required: int  # number of parameters without a default


def signature(task: Task) -> Signature | None:
    """The entry point's parameters; None if it is missing, unparsable or has non-positional parameters."""
    try:
        module = ast.parse(task.reference)
    except (SyntaxError, ValueError, RecursionError):
        return None
    found = [node for node in module.body if isinstance(node, ast.FunctionDef) and node.name == ENTRY_POINT]
    if not found:
        return None
    arguments = found[-1].args
    if arguments.vararg or arguments.kwarg or arguments.kwonlyargs:
        return None
    names = tuple(one.arg for one in arguments.posonlyargs + arguments.args)
    return Signature(ast.unparse(arguments), names, len(names) - len(arguments.defaults))


def problem(task: Task, parameters: Signature, tests: Iterable[TestCase]) -> TestedProblem:
    """The task as a function-call problem, without the reference."""
    cases = tuple(tests)
    return TestedProblem(
        problem_id=task.task_id,
        title="",
        statement=f"{task.description.strip()}\n\n{task.specification.strip()}\n",
        platform="codeio",
        contest_id="codeio",
        contest_date=DATE,
        difficulty=difficulty(task.rating),
        starter_code=f"def {ENTRY_POINT}({parameters.text}):\n",
        func_name=ENTRY_POINT,
        public_tests=cases[:PUBLIC_TESTS],
        private_tests=cases[PUBLIC_TESTS:],
    )


def difficulty(rating: int) -> Difficulty:
    """The package's rating in three levels: up to 6 is easy, from 9 is hard; 7, 8 and a missing rating are medium."""
    if 0 < rating <= 6:
        return "easy"
    return "hard" if rating >= 9 else "medium"
