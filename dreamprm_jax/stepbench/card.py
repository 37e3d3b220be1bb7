"""The data card of a benchmark: its contents and source, and the tasks that were left out with the reasons."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from dreamprm_jax.problems import codeio
from dreamprm_jax.schema import Verdict
from dreamprm_jax.stepbench import trial
from dreamprm_jax.stepbench.metrics import place
from dreamprm_jax.stepbench.mutate import OPERATORS
from dreamprm_jax.stepbench.records import CLEAN, Truth
from dreamprm_jax.tables import markdown_table

FORMAT = 1
LICENSE = (
    f"The package {codeio.DISTRIBUTION} is under Apache-2.0 (its metadata). Its CodeI/O references were rewritten by a "
    "language model from source files of others, whose licenses the package does not state: make the benchmark from "
    "the installed package rather than pass its files on."
)
_COLUMNS = ("run", "shown by a test", "survived", "no verdict", "survival rate", "in the benchmark")
LIMITS = (
    "A reference is called correct because it agrees with itself: whether it solves its statement was not checked.",
    "One fault a program, made by an operator: real faults of language models come in groups and are of other kinds.",
    "Only faults that a test shows are kept: those in code that no test reaches are missing.",
    "Most references define their helpers first and the main function last, unlike Chain-of-Function programs.",
    "A clean program and its erroneous twins are in one split: a scorer must not compare them with each other.",
    "Who trains on CodeI/O must leave out the problems in problems.parquet (--config.problems.exclude).",
)


def card(
    rows: Sequence[Truth],
    seed: int,
    tasks: int,
    source: str,
    dropped: Mapping[str, int],
    drawn: Mapping[str, Counter[Verdict]],
) -> dict[str, Any]:
    """The card of a benchmark with these rows.

    Args:
      rows: the truth of every program.
      seed: seed of the benchmark.
      tasks: number of tasks in the source.
      source: hash of the tasks' texts.
      dropped: number of tasks left out, by reason.
      drawn: number of mutants that were run, by operator and verdict.
    """
    wrong = [row for row in rows if row.first_wrong >= 0]
    problems = {row.problem_id for row in rows}
    return {
        "name": "StepBench",
        "format": FORMAT,
        "source": f"{codeio.DISTRIBUTION} {codeio.VERSION}: {codeio.DATA_FILE}",
        "source_hash": source,
        "license": LICENSE,
        "seed": seed,
        "python": ".".join(platform.python_version_tuple()[:2]),
        "programs": _programs(rows),
        "splits": {split: _programs([row for row in rows if row.split == split]) for split in ("dev", "test")},
        "steps": _spread([len(row.step_ends) for row in rows]),
        "first_wrong": _spread([row.first_wrong for row in wrong]),
        "place": dict(Counter(place(row) for row in wrong).most_common()),
        "verdicts": dict(Counter(row.verdict for row in wrong).most_common()),
        "operators": {
            name: _operator(drawn.get(name, Counter()), sum(row.operator == name for row in wrong))
            for name in sorted(OPERATORS)
        },
        "mutants": _operator(sum(drawn.values(), Counter()), len(wrong)),
        "tasks": {
            "in the source": tasks,
            "used": len(problems),
            "left out": sum(dropped.values()),
            "not needed for this size": tasks - len(problems) - sum(dropped.values()),
        },
        "left_out": dict(sorted(dropped.items(), key=lambda item: (-item[1], item[0]))),
        "judging": {
            "tests_per_problem": trial.TESTS,
            "mutants_per_problem": trial.CANDIDATES,
            "cpu_seconds_per_test": trial.LIMITS.cpu_seconds,
            "reference_cpu_seconds": trial.REFERENCE_SECONDS,
            "relative_tolerance": trial.RELATIVE,
            "absolute_tolerance": trial.ABSOLUTE,
        },
        "limitations": list(LIMITS),
    }


def _programs(rows: Sequence[Truth]) -> dict[str, int]:
    erroneous = sum(row.first_wrong >= 0 for row in rows)
    return {
        "all": len(rows),
        "erroneous": erroneous,
        "clean": len(rows) - erroneous,
        "problems": len({row.problem_id for row in rows}),
    }


def _spread(values: Sequence[int]) -> dict[str, int]:
    return {str(value): count for value, count in sorted(Counter(values).items())}


def _operator(verdicts: Mapping[Verdict, int], used: int) -> dict[str, Any]:
    run = sum(verdicts.values())
    survived = verdicts.get(Verdict.AC, 0)
    unknown = sum(count for verdict, count in verdicts.items() if not verdict.is_label)
    return {
        "run": run,
        "shown by a test": run - survived - unknown,
        "survived": survived,
        "no verdict": unknown,
        "survival rate": round(survived / (run - unknown), 3) if run > unknown else None,
        "in the benchmark": used,
    }


def card_text(value: Mapping[str, Any]) -> str:
    """The card as Markdown text."""
    programs, tasks = value["programs"], value["tasks"]
    lines = [
        "# StepBench",
        "",
        "Real programs of several functions; half of them with one fault in one function. A scorer is to say which",
        "function is the first wrong one, or that none is.",
        "",
        f"- {programs['all']} programs of {programs['problems']} problems: {programs['erroneous']} erroneous, "
        f"{programs['clean']} clean",
        *(
            f"- {split}: {part['all']} programs of {part['problems']} problems ({part['erroneous']} erroneous)"
            for split, part in value["splits"].items()
        ),
        f"- seed {value['seed']}, Python {value['python']}",
        f"- source: {value['source']} (hash of the tasks: {value['source_hash']})",
        f"- license: {value['license']}",
        "",
        "Score a scorer: `dreamprm stepbench score --bench THIS_FOLDER --scores FILE` (or `--prm FOLDER`); `dreamprm",
        "stepbench export` writes the programs without the answers.",
        "",
        "## Files",
        "",
        "| file | rows |",
        "|---|---|",
        "| problems.parquet | statements and tests |",
        "| programs.parquet | the programs, in the order of their hashes |",
        f"| truth.parquet | split, first wrong step (-1: none), fault (operator {CLEAN!r}: none), verdict |",
        "| card.json | this page's figures |",
        "",
        "## Where the fault is",
        "",
        *markdown_table(("steps of the program", "programs"), value["steps"].items()),
        "",
        *markdown_table(("first wrong step", "programs"), value["first_wrong"].items()),
        "",
        *markdown_table(("place", "programs"), value["place"].items()),
        "",
        *markdown_table(("how the judge saw it", "programs"), value["verdicts"].items()),
        "",
        "## Kinds of faults",
        "",
        "Run: drawn and judged, for all problems looked at. Survived: no test shows them (equivalent, not reached, or",
        "too subtle); they are not in the benchmark.",
        "",
        *markdown_table(
            ("operator", *_COLUMNS),
            ((name, *map(one.get, _COLUMNS)) for name, one in [*value["operators"].items(), ("all", value["mutants"])]),
        ),
        "",
        "## Tasks left out",
        "",
        *markdown_table(("tasks", "number"), tasks.items()),
        "",
        *markdown_table(("reason", "tasks"), value["left_out"].items()),
        "",
        "## Limitations",
        "",
        *(f"- {text}" for text in value["limitations"]),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"
