"""``python -m research.study document``: the tables of docs/label_correction.md, from the CSVs in research/results.

A table stands between ``<!-- table: NAME -->`` and ``<!-- end -->``. A test makes them again and compares.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from dreamprm_jax.schema import DataError
from dreamprm_jax.storage import write_text
from dreamprm_jax.tables import markdown_table
from research.study.results import Row
from research.study.statistics import Member, family
from research.study.tables import mean, number, paired, signed

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "research" / "results"
DOCUMENTS = (ROOT / "docs" / "label_correction.md", ROOT / "README.md")
_TABLE = re.compile(r"(<!-- table: (?P<name>\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
DEFAULT, BEST = "undetected_fault_online", "best_of_n_sum_log_odds"


def rewrite() -> list[Path]:
    """Rewrites the tables of the documents. Returns these."""
    for path in DOCUMENTS:
        write_text(path, with_tables(path.read_text(encoding="utf-8"), path.name))
    return list(DOCUMENTS)


def with_tables(text: str, name: str = "") -> str:
    """The text with every table made anew. Raises DataError on a table that nobody makes."""

    def made(found: re.Match[str]) -> str:
        if found["name"] not in TABLES:
            raise DataError(f"{name}: no table {found['name']!r}; there are {', '.join(TABLES)}")
        return found[1] + TABLES[found["name"]]() + "\n" + found[3]

    return _TABLE.sub(made, text)


def rows_of(study: str) -> list[Row]:
    """The rows of a study's committed CSV."""
    with (RESULTS / study / "study.csv").open(encoding="utf-8", newline="") as file:
        return [{key: _value(text) for key, text in row.items() if text} for row in csv.DictReader(file)]


def _value(text: str) -> str | int | float:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def differences(study: str, figure: str, arms: Sequence[str], regimes: Sequence[str] = (), base: str = "raw") -> str:
    """Rows are arms, columns regimes: the paired difference from the baseline; of the baseline, its mean."""
    rows = rows_of(study)
    columns = list(regimes or dict.fromkeys(row["regime"] for row in rows))
    lines = [[f"`{base}`, its mean", *(number(mean(rows, regime, base, figure)) for regime in columns)]]
    lines += [[f"`{arm}`", *(paired(rows, regime, arm, base, figure).text() for regime in columns)] for arm in arms]
    return "\n".join(markdown_table(["", *(f"`{regime}`" for regime in columns)], lines))


def repair_members() -> list[Member]:
    """Family R of research/comparisons.md."""
    return [
        Member(regime, DEFAULT, figure, base)
        for figure in ("step_auroc", BEST)
        for base in ("raw", "closure", "closure_mixture")
        for regime in REPAIR_CELLS
    ]


def aggregator_members() -> list[Member]:
    """Family A of research/comparisons.md."""
    return [Member(regime, DEFAULT, BEST, DEFAULT, "best_of_n_last") for regime in REPAIR_CELLS]


REPAIR_CELLS = ("k1", "k1_repair5", "k4", "k4_repair5", "k16_repair5", "weak_tests_repair5")


def _families() -> str:
    rows = rows_of("repair_confirm")
    members, others = repair_members(), aggregator_members()
    texts = [one.text() for one in (*family(rows, members), *family(rows, others))]
    names = ["step-AUROC", "best of 8"]
    titles = [f"{name}, default - `{base}`" for name in names for base in ("raw", "closure", "closure_mixture")]
    titles.append("default, best of 8: sum of log-odds - last step")
    width = len(REPAIR_CELLS)
    lines = [[title, *texts[place * width : (place + 1) * width]] for place, title in enumerate(titles)]
    return "\n".join(markdown_table(["", *(f"`{cell}`" for cell in REPAIR_CELLS)], lines))


def _labels() -> str:
    rows = rows_of("labels")
    labelings = ("raw", "raw_with_outcome", "closure", "closure_mixture", "scan", "em", "undetected_fault")
    cells = [f"{base}_k{k}{end}" for base, k, end in LABEL_CELLS]
    lines = []
    for cell in cells:
        found = [
            float(np.mean([row["label_auroc"] for row in rows if (row["regime"], row["labeling"]) == (cell, name)]))
            for name in labelings
        ]
        texts = [f"**{number(value)}**" if value == max(found) else number(value) for value in found]
        lines.append([f"`{cell}`", *texts])
    return "\n".join(markdown_table(["", *(f"`{name}`" for name in labelings)], lines))


LABEL_CELLS = [
    *(("k4", k, f"_repair{repair}" if repair else "") for k in (1, 4, 16) for repair in (0, 5)),
    *((base, 4, end) for base in ("weak_tests", "family_bias") for end in ("", "_repair5")),
]


def _faithful() -> str:
    rows = rows_of("faithful")
    lines = []
    for arm in dict.fromkeys(row["arm"] for row in rows):
        here = [row for row in rows if row["arm"] == arm]

        def text(figure: str, here: list[Row] = here) -> str:
            values = [float(row[figure]) for row in here if figure in row]
            return number(float(np.mean(values))) if values else "-"

        figures = ("step_auroc", "best_of_n_last", BEST, "label_auroc", "label_moved", "mean_weight")
        lines.append([f"`{arm}`", *map(text, figures)])
    header = ["", "step-AUROC", "best of 8, last", "best of 8, sum", "label AUROC", "labels moved by", "mean weight"]
    return "\n".join(markdown_table(header, lines))


def _codeio() -> str:
    """AUROC of the labels on CodeI/O variants, with the interval of the difference from raw."""
    rows = {(row["regime"], row["labeling"]): row for row in rows_of("codeio_repair")}
    regimes = list(dict.fromkeys(regime for regime, _ in rows))

    def text(regime: str, labeling: str) -> str:
        row = rows[regime, labeling]
        value = number(float(row["label_auroc.value"]))
        ends = (float(row[f"label_auroc.minus_raw_{end}"]) for end in ("low", "high"))
        return value if labeling == "raw" else f"{value} [{', '.join(map(signed, ends))}]"

    labelings = ("raw", "closure", "closure_mixture", "em", "undetected_fault")
    lines = [[f"`{name}`", *(text(regime, name) for regime in regimes)] for name in labelings]
    return "\n".join(markdown_table(["", *(f"`{regime}`" for regime in regimes)], lines))


RULES = ("closure", "closure_mixture", DEFAULT, "clean")
OLD = ("label_table:meta=same,rate=0.1", "em", "undetected_fault", DEFAULT, "clean", "clean:target=value")
OTHERS = ("raw_with_outcome", "outcome", "orm", "closure", "scan", "nait", "self_training", "undetected_fault", DEFAULT)
TABLES: dict[str, Callable[[], str]] = {
    "repair_step_auroc": lambda: differences("repair_confirm", "step_auroc", RULES, REPAIR_CELLS),
    "families": _families,
    "labels_auroc": _labels,
    "baselines_step_auroc": lambda: differences("repair_baselines", "step_auroc", OTHERS),
    "faithful": _faithful,
    "codeio": _codeio,
    "text_step_auroc": lambda: differences("confirm", "step_auroc", OLD),
}
