"""``python -m research.study codeio-measure``: reward models and baselines on held-out CodeI/O variants.

Every scorer assigns a number to each step of each program of test.jsonl (``codeio-files``). The metrics use the exact
truth: step-AUROC, first-error F1 (threshold from the other half of the problems), and best of 8 of the drawn programs
by the sum of log-odds. They are computed on all programs, by number of steps, and by whether training may have seen the
mutation operators of the faults (``codeio-files --operators=seen``). Intervals are bootstraps over problems.

A name that ``--prm`` gives several times is one scorer: its metrics are means over these models (seeds of training).
docs/experiments.md has the commands for an accelerator.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from dreamprm_jax.metrics.statistics import bootstrap_interval, percentile_interval
from dreamprm_jax.metrics.step_metrics import auroc, auroc_replicates, first_error_f1, predicted_first_errors
from dreamprm_jax.problems.json_rows import read_jsonl
from dreamprm_jax.schema import DataError
from dreamprm_jax.selection.aggregators import aggregate
from dreamprm_jax.selection.best_of_n import best_of_k_weights
from dreamprm_jax.stepbench.scores import step_logprobs
from dreamprm_jax.storage import write_text
from dreamprm_jax.tables import csv_text, markdown_table
from research.study.codeio import CodeioSettings
from research.study.codeio_files import seen
from research.study.results import Row
from research.study.statistics import LEVEL, holm
from research.study.tables import number, signed

DESCRIPTION = f"""{__doc__}
Writes measures.md, measures.csv and comparisons.csv in WORKDIR/REGIME.
"""
SETTINGS = CodeioSettings
OPTIONS: dict[str, dict[str, Any]] = {
    "--regime": {"default": "k4_repair20", "help": "whose test.jsonl is read (default: %(default)s)"},
    "--prm": {"action": "append", "default": [], "metavar": "NAME=FOLDER", "help": "a reward model; may be repeated, "
              "with the same name for other seeds"},
    "--logprobs": {"default": "", "metavar": "FILE", "help": "what benchmarks/stepbench_logprobs.py wrote for "
                   "test_programs.jsonl"},
}  # fmt: skip
BEST_OF = 8
LOGPROB = "mean log-probability"
DEFAULT = "undetected_fault_online"
# Family C of research/comparisons.md.
MEMBERS = (
    *((name, "raw") for name in ("closure", "closure_mixture", "undetected_fault", DEFAULT, "outcome", "orm", "clean")),
    (DEFAULT, "closure"),
    ("raw", "position"),
)
Scores = list[Float[np.ndarray, " steps"]]  # step scores of each program; higher is better
OptionalScores = list[Float[np.ndarray, " steps"] | None]
Scorers = Mapping[str, Sequence[Scores]]  # name -> one or several models, whose metrics are averaged
Measured = Mapping[str, tuple[Sequence[Mapping[str, Any]], Scorers]]


def run(
    settings: CodeioSettings, folder: Path, regime: str = "k4_repair20", prm: Sequence[str] = (), logprobs: str = ""
) -> list[Path]:
    """Scores the programs and computes the metrics. Returns the written files.

    Raises:
      DataError: if test.jsonl is missing, if ``logprobs`` has no row for a program, or if ``prm`` is malformed.
    """
    here = folder / regime
    rows = read_test(here / "test.jsonl")
    scorers: dict[str, list[OptionalScores]] = {name: [list(scores)] for name, scores in baselines(rows).items()}
    if logprobs:
        scorers[LOGPROB] = [_log_probabilities(rows, Path(logprobs))]
    for text in prm:
        name, equals, model = text.partition("=")
        if not equals:
            raise DataError(f"--prm {text!r}: NAME=FOLDER expected")
        scorers.setdefault(name, []).append(_model_scores(rows, model))
    every = list(itertools.chain(*scorers.values()))
    scored = [all(scores[index] is not None for scores in every) for index in range(len(rows))]
    kept = {name: [[one for one, fits in zip(scores, scored, strict=True) if one is not None and fits]
                   for scores in models] for name, models in scorers.items()}  # fmt: skip
    if left_out := len(rows) - sum(scored):
        print(f"{left_out} of {len(rows)} programs are too long for a scorer, and are not measured")
    data = {regime: (list(itertools.compress(rows, scored)), kept)}
    return write_measures(here, data, MEMBERS, settings.bootstrap_samples)


def write_measures(folder: Path, data: Measured, members: Sequence[tuple[str, str]], samples: int) -> list[Path]:
    """Measures every scorer in every regime, and compares pairs of scorers.

    Args:
      folder: folder of measures.md, measures.csv and comparisons.csv.
      data: regime -> programs as in test.jsonl, and the step scores of each scorer's models.
      members: (scorer, other scorer) pairs to compare in every regime, all in one family. Pairs without scores are
        left out.
      samples: number of bootstrap resamples.

    Returns:
      Paths of the files.
    """
    found: list[Row] = []
    compared: list[Row] = []
    for regime, (rows, scorers) in data.items():
        for name, models in scorers.items():
            found += [{"regime": regime} | row for row in measure(name, rows, models, samples)]
        there = [pair for pair in members if set(pair) <= set(scorers)]
        compared += [{"regime": regime} | row for row in comparisons(rows, scorers, there, samples)]
    corrected = holm([row["p"] for row in compared])
    compared = [row | {"p_holm": p} for row, p in zip(compared, corrected, strict=True)]
    texts = [f"# {regime}\n\n{table([row for row in found if row['regime'] == regime])}" for regime in data]
    if compared:
        texts.append(f"# Step-AUROC, paired over problems\n\n{comparison_table(compared)}")
    written = [folder / "measures.md", folder / "measures.csv", folder / "comparisons.csv"]
    for path, content in zip(written, ("\n".join(texts), csv_text(found), csv_text(compared)), strict=True):
        write_text(path, content)
    return written


def comparisons(
    rows: Sequence[Mapping[str, Any]],
    scorers: Scorers,
    members: Sequence[tuple[str, str]],
    samples: int,
) -> list[Row]:
    """Differences in step-AUROC between two scorers, with bootstrap intervals and two-sided bootstrap p-values."""
    names = {key: place for place, key in enumerate(dict.fromkeys(row["problem_id"] for row in rows))}
    problem = np.repeat([names[row["problem_id"]] for row in rows], [len(row["labels"]) for row in rows])
    truth = np.concatenate([np.array(row["labels"]) > 0.5 for row in rows])
    compared = {name: scorers[name] for pair in members for name in pair}
    drawn = {name: _step_aurocs(models, truth, problem, len(names), samples) for name, models in compared.items()}
    found: list[Row] = []
    for one, other in members:
        (value_one, drawn_one), (value_other, drawn_other) = drawn[one], drawn[other]
        shifts = drawn_one - drawn_other
        shifts = shifts[np.isfinite(shifts)]
        value = percentile_interval(value_one - value_other, shifts)
        beyond = min(np.count_nonzero(shifts <= 0), np.count_nonzero(shifts >= 0))
        p = min(1.0, 2 * (beyond + 1) / (len(shifts) + 1))
        ends = {"difference": value.estimate, "low": value.low, "high": value.high}
        found.append({"scorer": one, "less": other} | ends | {"p": p})
    return found


def _step_aurocs(
    models: Sequence[Scores], truth: np.ndarray, problem: np.ndarray, problems: int, samples: int
) -> tuple[float, Float[np.ndarray, " samples"]]:
    """(step-AUROC of all programs, step-AUROC of resampled problems), both as means over the models."""
    flat = [np.concatenate(scores) for scores in models]
    drawn = [auroc_replicates(one, truth, problem, problems, samples, seed=0) for one in flat]
    return float(np.mean([auroc(one, truth) for one in flat])), np.mean(drawn, axis=0)


def comparison_table(rows: Sequence[Row]) -> str:
    """One line per pair, one column per regime. Bold means p < .05 after Holm's correction over all comparisons."""
    regimes = list(dict.fromkeys(row["regime"] for row in rows))
    lines: dict[str, dict[str, str]] = {}
    for row in rows:
        text = f"{signed(row['difference'])} [{signed(row['low'])}, {signed(row['high'])}]"
        bold = f"**{text}**" if row["p_holm"] < LEVEL else text
        lines.setdefault(f"{row['scorer']} - {row['less']}", {})[row["regime"]] = bold
    body = [[pair, *(cells.get(regime, "") for regime in regimes)] for pair, cells in lines.items()]
    return "\n".join(markdown_table(["", *(f"`{regime}`" for regime in regimes)], body)) + "\n"


def read_test(path: Path) -> list[Mapping[str, Any]]:
    """The rows of test.jsonl."""
    if not path.exists():
        raise DataError(f"{path}: not found; `python -m research.study codeio-files` writes it")
    return [row for _, row in read_jsonl(path)]


def baselines(rows: Sequence[Mapping[str, Any]]) -> dict[str, Scores]:
    """Baselines that do not read the code: later steps, and longer steps, are more likely to be wrong."""
    return {
        "position": [-np.arange(len(row["labels"]), dtype=float) for row in rows],
        "length": [-np.array([len(text) for text in row["completions"]], float) for row in rows],
    }


def _log_probabilities(rows: Sequence[Mapping[str, Any]], path: Path) -> OptionalScores:
    said = {row["program_hash"]: (where, row) for where, row in read_jsonl(path)}
    scores: OptionalScores = []
    for row in rows:
        if row["program_hash"] not in said:
            raise DataError(f"{path}: nothing of program {row['program_hash']}; score {len(rows)} programs")
        where, values = said[row["program_hash"]]
        ends = np.cumsum([len(text) for text in row["completions"]])
        scores.append(np.array(step_logprobs(values, ends.tolist(), where)))
    return scores


def _model_scores(rows: Sequence[Mapping[str, Any]], folder: str) -> OptionalScores:
    """The logits of every program's steps; None for a program that does not fit into the model's context."""
    from dreamprm_jax.api import load_prm

    model = load_prm(folder)
    by_prompt: dict[str, list[int]] = {}
    for index, row in enumerate(rows):
        by_prompt.setdefault(row["prompt"], []).append(index)
    scores: OptionalScores = [None] * len(rows)
    for prompt, places in by_prompt.items():
        read = model.best_of(prompt, ["".join(rows[index]["completions"]) for index in places])
        for index, one in zip(places, read.programs, strict=True):
            if one is not None:
                scores[index] = np.array([step.logit for step in one.steps])
    return scores


GROUPS: dict[str, Callable[[Mapping[str, Any]], bool]] = {
    "all": lambda row: True,
    "3 steps": lambda row: len(row["labels"]) == 3,
    "4 steps": lambda row: len(row["labels"]) == 4,
    "5 steps or more": lambda row: len(row["labels"]) >= 5,
    "operators seen": lambda row: all(map(seen, filter(None, row["operators"]))),
    "operators unseen": lambda row: not any(map(seen, filter(None, row["operators"]))),
}


def measure(name: str, rows: Sequence[Mapping[str, Any]], models: Sequence[Scores], samples: int) -> list[Row]:
    """One row for each non-empty group of programs, with means over the models.

    Programs without a fault are in both groups of operators.
    """
    found: list[Row] = []
    for group, belongs in GROUPS.items():
        places = [index for index, row in enumerate(rows) if belongs(row)]
        if places:
            chosen = [rows[index] for index in places]
            figures = _figures(chosen, [[scores[index] for index in places] for scores in models], samples)
            found.append({"scorer": name, "group": group, "programs": len(places)} | figures)
    return found


def _figures(rows: Sequence[Mapping[str, Any]], models: Sequence[Scores], samples: int) -> Row:
    names = {key: place for place, key in enumerate(dict.fromkeys(row["problem_id"] for row in rows))}
    problem = np.array([names[row["problem_id"]] for row in rows])
    labels = [np.array(row["labels"]) > 0.5 for row in rows]
    truth = np.concatenate(labels)
    of_step = np.repeat(problem, [len(one) for one in labels])
    figures: Row = {"problems": len(names), "steps": len(truth)}
    if truth.any() and not truth.all():
        whole, replicates = _step_aurocs(models, truth, of_step, len(names), samples)
        value = percentile_interval(whole, replicates[np.isfinite(replicates)])
        figures |= {"step_auroc": value.estimate, "step_auroc_low": value.low, "step_auroc_high": value.high}
    first = np.array([-1 if one.all() else int(np.argmin(one)) for one in labels])
    figures["first_error_f1"] = float(np.mean([_first_error_f1(scores, first, problem) for scores in models]))
    totals = [aggregate(scores, "sum_log_odds") for scores in models]
    solved = []
    for place in range(len(names)):
        own = np.flatnonzero(problem == place).tolist()
        drawn = np.repeat(own, [rows[index]["draws"] for index in own])
        passed = np.array([float(rows[index]["outcome"]) for index in drawn.tolist()])
        if len(drawn) >= BEST_OF and 0.0 < passed.mean() < 1.0:
            found = [float(best_of_k_weights(total[drawn], BEST_OF) @ passed) for total in totals]
            solved.append(float(np.mean(found)) - float(passed.mean()))
    if solved:
        gain = bootstrap_interval(np.array(solved), samples, seed=0)
        figures |= {"best_of_8_gain": gain.estimate, "best_of_8_low": gain.low, "best_of_8_high": gain.high}
    return figures


def _first_error_f1(scores: Scores, first: np.ndarray, problem: np.ndarray) -> float:
    """First-error F1. The threshold for each half of the problems is the best one on the other half."""
    tried = np.quantile(np.concatenate(scores), np.linspace(0.0, 1.0, 101))
    answers = np.full(len(scores), -1)
    for half in (0, 1):
        mine, other = (np.flatnonzero(problem % 2 == part) for part in (half, 1 - half))
        if not len(mine) or not len(other):
            return float("nan")

        def quality(threshold: float, places: np.ndarray = other) -> float:
            predicted = predicted_first_errors([scores[index] for index in places], threshold)
            return float(np.nan_to_num(first_error_f1(predicted, first[places]).f1))

        answers[mine] = predicted_first_errors([scores[index] for index in mine], max(tried, key=quality))
    return float(first_error_f1(answers, first).f1)


def table(rows: Sequence[Row]) -> str:
    """The metrics, with one line per scorer and group."""
    lines = []
    for row in rows:
        cells = [row["group"], row["scorer"], str(row["programs"])]
        for name, low, high in (
            ("step_auroc", "step_auroc_low", "step_auroc_high"), ("first_error_f1", "", ""),
            ("best_of_8_gain", "best_of_8_low", "best_of_8_high"),
        ):  # fmt: skip
            value = row.get(name, float("nan"))
            ends = f" [{number(row[low])}, {number(row[high])}]" if low in row else ""
            cells.append(number(value) + ends)
        lines.append(cells)
    header = ["programs", "scorer", "count", "step-AUROC", "first-error F1", "best of 8, above a random one"]
    order = list(GROUPS)
    lines.sort(key=lambda cells: order.index(cells[0]))
    return "\n".join(markdown_table(header, lines)) + "\n"
