"""``python -m research.study document``: the tables of the documents, from the CSVs in research/results.

A table stands between ``<!-- table: NAME -->`` and ``<!-- end -->``; a test makes them again and compares.
``research.study.claims`` has the figures in prose.
"""

from __future__ import annotations

import argparse
import csv
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from dreamprm_jax.evaluation.paper import GROUPS, SOLVED
from dreamprm_jax.schema import DataError
from dreamprm_jax.storage import write_text
from dreamprm_jax.tables import markdown_table, percent
from research.study import embedded
from research.study.results import Row
from research.study.statistics import LEVEL, Member, family
from research.study.tables import mean, number, paired, signed

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "research" / "results"
DOCUMENTS = tuple(
    ROOT / name for name in ("docs/label_correction.md", "docs/experiments.md", "docs/reproduction.md", "README.md")
)
_TABLE = re.compile(r"(<!-- table: (?P<name>\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
DEFAULT, HEAD = "undetected_fault_online", "undetected_fault_online:value_head=1"
BEST, LEARNED = "best_of_n_sum_log_odds", "best_of_n_learned"


def rewrite(arguments: Sequence[str] = ()) -> list[Path]:
    """Rewrites the tables of the documents. With ``--run``, first copies the figures of the embedded job from a run."""
    options = argparse.ArgumentParser(prog="python -m research.study document", description=__doc__, allow_abbrev=False)
    options.add_argument("--run", metavar="DIR", help="a finished run of configs/embedded.py, whose figures are kept")
    if run := options.parse_args(arguments).run:
        embedded.take(Path(run))
    for path in DOCUMENTS:
        write_text(path, with_tables(path.read_text(encoding="utf-8"), path.name))
    return list(DOCUMENTS)


def with_tables(text: str, name: str = "") -> str:
    """The text with every table regenerated. Raises DataError for a table with an unknown name."""

    def made(found: re.Match[str]) -> str:
        if found["name"] not in TABLES:
            raise DataError(f"{name}: no table {found['name']!r}; there are {', '.join(TABLES)}")
        return found[1] + TABLES[found["name"]]() + "\n" + found[3]

    return _TABLE.sub(made, text)


def without_tables(text: str) -> str:
    """The text without the tables that this module generates."""
    return _TABLE.sub("", text)


def rows_of(study: str, file_name: str = "study.csv") -> list[Row]:
    """The rows of a study's committed CSV."""
    with (RESULTS / study / file_name).open(encoding="utf-8", newline="") as file:
        rows = [{key: _value(text) for key, text in row.items() if text} for row in csv.DictReader(file)]
    for row in rows:  # for studies from before the labelings were renamed
        row["arm"] = str(row.get("arm", "")).replace("hidden_fault", "undetected_fault")
    return rows


def _value(text: str) -> str | int | float:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def differences(study: str, figure: str, arms: Sequence[str], regimes: Sequence[str] = (), base: str = "raw") -> str:
    """A table of paired differences by arm (rows) and regime (columns). The first row has the baseline's means."""
    rows = rows_of(study)
    columns = list(regimes or dict.fromkeys(row["regime"] for row in rows))
    lines = [[f"`{base}`, its mean", *(number(mean(rows, regime, base, figure)) for regime in columns)]]
    lines += [[f"`{arm}`", *(paired(rows, regime, arm, base, figure).text() for regime in columns)] for arm in arms]
    return "\n".join(markdown_table(["", *(f"`{regime}`" for regime in columns)], lines))


def label_table() -> float:
    """The largest absolute difference, over regimes, between the paper's label table and raw labels."""
    rows = rows_of("confirm_structure")
    regimes = dict.fromkeys(row["regime"] for row in rows)
    return max(abs(paired(rows, one, "label_table:meta=same", "raw", "step_auroc").mean) for one in regimes)


def label_moves(study: str, arm: str) -> list[float]:
    """The mean change of an arm's labels in each regime, as a mean over the seeds."""
    rows = rows_of(study)
    return [mean(rows, regime, arm, "label_moved") for regime in dict.fromkeys(row["regime"] for row in rows)]


def choice_members() -> list[Member]:
    """Family T of research/comparisons.md."""
    ways = ((BEST, BEST), (LEARNED, LEARNED), (LEARNED, BEST))
    return [
        Member(regime, arm, figure, "raw", base)
        for figure, base in ways
        for arm in (DEFAULT, HEAD)
        for regime in CHOICE_CELLS
    ]


def _choosing() -> str:
    """Family T, and the results of exact labels."""
    rows = rows_of("choosing_confirm")
    texts = [one.text() for one in family(rows, choice_members())]
    titles = [
        f"{arm}{way}"
        for way in (", sum of log-odds", ", learned choice", ", learned choice - `raw`, sum")
        for arm in ("default", "second head")
    ]
    width = len(CHOICE_CELLS)
    lines = [["`raw`, sum of log-odds: its mean", *(number(mean(rows, cell, "raw", BEST)) for cell in CHOICE_CELLS)]]
    lines += [[title, *texts[place * width : (place + 1) * width]] for place, title in enumerate(titles)]
    clean = [paired(rows, cell, "clean", "raw", BEST).text() for cell in CHOICE_CELLS]
    lines.append(["exact labels, sum of log-odds (in no family)", *clean])
    return "\n".join(markdown_table(["best of 8, less `raw`", *(f"`{cell}`" for cell in CHOICE_CELLS)], lines))


def span(values: Sequence[float], digits: int = 3) -> str:
    low, high = (f"{value:.{digits}f}".removeprefix("0") for value in (min(values), max(values)))
    return f"{low} to {high}"


def points(values: Sequence[float]) -> str:
    return f"{100 * min(values):.1f} to {100 * max(values):.1f}"


def count(found: Iterable[bool]) -> str:
    return ("no", "one", "two", "three", "four", "five", "six")[sum(found)]


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


CHOICE_CELLS = ("k1", "k4_repair5", "weak_tests_repair5")
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


def _questions() -> str:
    tested = family(rows_of("repair_confirm"), repair_members())
    width = len(REPAIR_CELLS)
    step, choice = tested[:width], tested[3 * width : 4 * width]
    text = family(rows_of("choosing_confirm"), choice_members())[: len(CHOICE_CELLS)]  # the default, sum of log-odds
    certain = sum(one.certain and one.difference.mean > 0 for one in text)
    text_model = count([True] * certain) if certain else "none"
    return embedded.questions(
        f"gains in {count(one.difference.mean > 0 for one in step)} of six cells of noise, certain in "
        f"{count(one.certain for one in step)}",
        f"in {count(one.certain for one in choice)}, with a text model in {text_model}",
        f"Not measurably: its step scores are within {number(label_table())} AUROC of those from raw labels, where it "
        f"moved labels by {span(label_moves('confirm_structure', 'label_table:meta=same'))}.",
    )


def _repair_gains() -> str:
    """The gain of the default labels over raw labels in each cell of family R, for README.md."""
    rows = rows_of("repair_confirm")
    lines = []
    for cell, tested in zip(REPAIR_CELLS, family(rows, repair_members()), strict=False):  # first: step-AUROC minus raw
        base, _, repair = cell.partition("_repair")
        text = "4 rollouts, weak tests" if base == "weak_tests" else f"{base[1:]} rollout{'s' * (base != 'k1')}"
        lines.append([text + (", repair" if repair else ""), tested.text()])
    return "\n".join(markdown_table(["noise of the labels", "gain in step-AUROC"], lines))


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
    """AUROC of the labels on CodeI/O variants, with the interval of the difference from raw labels."""
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


def _real_code(study: str) -> str:
    """Step-AUROC of the scorers of CodeI/O programs by regime, and the comparisons that were named in advance."""
    rows = [row for row in rows_of(study, "measures.csv") if row["group"] == "all"]
    regimes = list(dict.fromkeys(row["regime"] for row in rows))
    found = {(row["scorer"], row["regime"]): number(float(row["step_auroc"])) for row in rows}
    plain = [name for name in ("position", "length", "mean log-probability") if (name, regimes[0]) in found]
    lines = [[name, *(found[name, regime] for regime in regimes)] for name in plain]
    arms = [name for name in dict.fromkeys(row["scorer"] for row in rows) if name not in plain]
    lines += [[f"`{name}`", *(found[name, regime] for regime in regimes)] for name in arms]
    pairs: dict[str, list[str]] = {}
    for row in rows_of(study, "comparisons.csv"):
        ends = ", ".join(signed(float(row[end])) for end in ("low", "high"))
        text = f"{signed(float(row['difference']))} [{ends}]"
        name = f"`{row['scorer']}` - `{row['less']}`"
        pairs.setdefault(name, []).append(f"**{text}**" if float(row["p_holm"]) < LEVEL else text)
    lines += [[name, *cells] for name, cells in pairs.items()]
    return "\n".join(markdown_table(["step-AUROC", *(f"`{regime}`" for regime in regimes)], lines))


def _paper() -> str:
    """The paper's results on LiveCodeBench, in percent."""
    lines = []
    for name, solved in SOLVED.items():
        shares = [percent(count / size) for count, size in zip(solved, GROUPS, strict=True)]
        lines.append([name, *shares, percent(sum(solved) / sum(GROUPS)), f"{sum(solved):.0f}"])
    return "\n".join(markdown_table(["method", "easy", "medium", "hard", "overall", "problems"], lines))


OLD = ("label_table:meta=same,rate=0.1", "undetected_fault", DEFAULT, "clean", "clean:target=value")
OTHERS = ("raw_with_outcome", "outcome", "orm", "closure", "scan", "nait", "self_training", "undetected_fault", DEFAULT)
TABLES: dict[str, Callable[[], str]] = {
    "families": _families,
    "labels_auroc": _labels,
    "baselines_step_auroc": lambda: differences("repair_baselines", "step_auroc", OTHERS),
    "faithful": _faithful,
    "choosing": _choosing,
    "codeio": _codeio,
    "paper": _paper,
    "real_code": lambda: _real_code("real_code"),
    "real_code_trained": lambda: _real_code("real_code_trained"),
    "embedded": embedded.table,
    "embedded_answers": embedded.answers,
    "embedded_differences": embedded.differences,
    "questions": _questions,
    "repair_gains": _repair_gains,
    "text_step_auroc": lambda: differences("confirm", "step_auroc", OLD),
}
