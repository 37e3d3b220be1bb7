"""The tables of a study: means over seeds, and paired differences from the baseline with 95% intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy import stats

from dreamprm_jax.tables import ABSENT, markdown_table
from research.study.results import Row

# figure -> column title
LABEL_COLUMNS = {
    "label_auroc": "AUROC",
    "label_brier": "Brier",
    "label_ece": "ECE",
    "sign_agreement_recoverable": "signs right (recoverable)",
    "sign_agreement_value": "signs right (V)",
}
MODEL_COLUMNS = {
    "step_auroc": "step-AUROC",
    "first_error_f1": "first-error F1",
    "best_of_n_last": "best of N, last step",
    "best_of_n_mean": "best of N, mean",
    "best_of_n_sum_log_odds": "best of N, sum of log-odds",
}
COMPARED = ("step_auroc", "best_of_n_last", "best_of_n_sum_log_odds")  # figures with tables of paired differences


@dataclass(frozen=True)
class Difference:
    """A paired difference over seeds."""

    mean: float
    low: float  # lower end of the 95% interval; NaN with fewer than two seeds
    high: float
    seeds: int  # number of seeds

    def text(self) -> str:
        """Text such as ``+.047 [+.031, +.062]``."""
        if not self.seeds:
            return ABSENT
        mean, low, high = (signed(value) for value in (self.mean, self.low, self.high))
        return f"{mean} [{low}, {high}]" if self.seeds > 1 else mean


def paired(rows: Sequence[Row], regime: str, arm: str, baseline: str, figure: str) -> Difference:
    """The difference arm - baseline over the seeds that have both: mean and Student's t interval."""
    return difference(paired_values(rows, regime, (arm, figure), (baseline, figure)))


def paired_values(
    rows: Sequence[Row], regime: str, first: tuple[str, str], second: tuple[str, str]
) -> Float[np.ndarray, " seeds"]:
    """The difference between two (arm, figure) pairs for each seed that has both."""
    mine, other = (_by_seed(rows, regime, *one) for one in (first, second))
    return np.array([mine[seed] - other[seed] for seed in sorted(mine.keys() & other.keys())])


def difference(values: Float[np.ndarray, " seeds"]) -> Difference:
    """Mean and Student's t interval of paired differences."""
    if not len(values):
        return Difference(np.nan, np.nan, np.nan, 0)
    low = high = np.nan
    if len(values) > 1:
        half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
        low, high = values.mean() - half, values.mean() + half
    return Difference(float(values.mean()), float(low), float(high), len(values))


def mean(rows: Sequence[Row], regime: str, arm: str, figure: str) -> float:
    """Mean over the seeds; NaN without seeds."""
    values = list(_by_seed(rows, regime, arm, figure).values())
    return float(np.mean(values)) if values else float("nan")


def markdown(rows: Sequence[Row], baseline: str) -> str:
    """Tables of differences over all regimes, then tables of labels and reward models per regime, best arm first."""
    regimes = list(dict.fromkeys(row["regime"] for row in rows))
    parts = [_summary(rows, regimes, baseline, figure) for figure in COMPARED]
    return "\n\n".join([*parts, *(_regime(rows, regime, baseline) for regime in regimes)]) + "\n"


def _summary(rows: Sequence[Row], regimes: Sequence[str], baseline: str, figure: str) -> str:
    """One line per arm, one column per regime: paired differences from the baseline, and the baseline's means."""
    known = {row["arm"] for row in rows}
    found = {(regime, arm): paired(rows, regime, arm, baseline, figure) for regime in regimes for arm in known}

    def overall(arm: str) -> float:
        values = [found[regime, arm].mean for regime in regimes if found[regime, arm].seeds]
        return float(np.mean(values)) if values else -np.inf

    lines = [
        [f"`{arm}`", *(found[regime, arm].text() for regime in regimes)]
        for arm in sorted(known - {baseline}, key=overall, reverse=True)
    ]
    base = [f"`{baseline}`, its mean", *(number(mean(rows, regime, baseline, figure)) for regime in regimes)]
    header = [f"{MODEL_COLUMNS[figure]}: arm - {baseline}", *regimes]
    return _lines(header, [base, *lines])


def _regime(rows: Sequence[Row], regime: str, baseline: str) -> str:
    here = [row for row in rows if row["regime"] == regime]
    seeds = len({row["seed"] for row in here})
    arms = sorted({row["arm"] for row in here}, key=lambda arm: -mean(here, regime, arm, "step_auroc"))
    header = ["arm", "seeds", *MODEL_COLUMNS.values(), *(f"{MODEL_COLUMNS[name]} - {baseline}" for name in COMPARED)]
    models, labels = [], []
    for arm in arms:
        count = str(len(_by_seed(here, regime, arm, "step_auroc")))
        figures = [number(mean(here, regime, arm, name)) for name in MODEL_COLUMNS]
        against = [ABSENT if arm == baseline else paired(here, regime, arm, baseline, name).text() for name in COMPARED]
        models.append([f"`{arm}`", count, *figures, *against])
        labels.append([f"`{arm}`", *(number(mean(here, regime, arm, name)) for name in LABEL_COLUMNS)])
    known = [row for row in labels if any(cell != ABSENT for cell in row[1:])]
    random, oracle = (number(float(np.mean([row[name] for row in here]))) for name in ("random", "oracle"))
    return (
        f"### {regime}: {seeds} seed(s); of the candidates a random one passes {random}, the best possible {oracle}\n\n"
        f"{_lines(header, models)}\n\nLabels against recoverability:\n\n"
        f"{_lines(['arm', *LABEL_COLUMNS.values()], known)}"
    )


def _by_seed(rows: Sequence[Row], regime: str, arm: str, figure: str) -> dict[int, Float[np.ndarray, ""]]:
    return {row["seed"]: row[figure] for row in rows if row["regime"] == regime and row["arm"] == arm and figure in row}


def number(value: float) -> str:
    """Text such as ``.047``; ABSENT for NaN."""
    text = f"{value:.3f}"
    return ABSENT if np.isnan(value) else text[1:] if text.startswith("0.") else text


def signed(value: float) -> str:
    """Text such as ``+.047``."""
    return f"{value:+.3f}".replace("+0.", "+.").replace("-0.", "-.")


def _lines(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(markdown_table(header, rows))
