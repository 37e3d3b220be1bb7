"""Search against best-of-N on the same budget: problems solved, paired differences, and cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from dreamprm_jax.metrics.statistics import bootstrap_means, mcnemar, percentile_interval
from dreamprm_jax.tables import Table, number, p_value, percent, percent_interval, signed, without_intervals

BASELINE = "best_of_n"
LABELS = {
    "random": "random",
    "best_of_n": "best of N",
    "beam": "beam",
    "lookahead": "lookahead",
    "diverse_beam": "diverse beam",
    "pool": "oracle (of N)",
}


@dataclass(frozen=True)
class MethodOutcome:
    """One method on P problems."""

    method: str
    solved: np.ndarray  # (P,) 0 or 1, or a probability
    tokens: np.ndarray  # (P,) written by the policy
    candidates: np.ndarray  # (P,) distinct programs
    forwards: np.ndarray  # (P,) programs read by the reward model
    judged: np.ndarray  # (P,) programs run on public tests


def search_results(outcomes: Sequence[MethodOutcome], samples: int, seed: int) -> list[dict[str, Any]]:
    """One row per method, JSON-ready, with the paired difference to best-of-N if that was run.

    Args:
      outcomes: of the same problems in the same order.
      samples: bootstrap resamples of the problems.
      seed: of the bootstrap.
    """
    values = np.stack([one.solved for one in outcomes])
    replicates = bootstrap_means(values, samples, seed)
    names = [one.method for one in outcomes]
    base = names.index(BASELINE) if BASELINE in names else None
    rows = []
    for index, one in enumerate(outcomes):
        row: dict[str, Any] = {
            "method": one.method,
            "label": LABELS.get(one.method, one.method),
            "overall": asdict(percentile_interval(float(values[index].mean()), replicates[:, index])),
            "solved": float(values[index].sum()),
            **{name: float(getattr(one, name).mean()) for name in ("tokens", "candidates", "forwards", "judged")},
        }
        if base is not None and index != base:
            gap = values[index] - values[base]
            paired = percentile_interval(float(gap.mean()), replicates[:, index] - replicates[:, base])
            # "random" has chances, not 0 or 1: the sign of a difference to them says nothing of its mean.
            value = None if one.method == "random" else mcnemar(values[index], values[base]).p_value
            row |= {"difference": asdict(paired), "problems": float(gap.sum()), "p_value": value}
        rows.append(row)
    return without_intervals(rows, values.shape[1])


def search_table(rows: Sequence[Mapping[str, Any]], title: str) -> Table:
    """The rows as text."""
    cells = []
    for row in rows:
        paired = row.get("difference")
        cells.append(
            [
                row["label"],
                percent(row["overall"]["estimate"]),
                percent_interval(row["overall"]),
                signed(100 * paired["estimate"]) if paired else "",
                percent_interval(paired, sign=True) if paired else "",
                signed(row["problems"]) if paired else "",
                p_value(row["p_value"]) if paired and row["p_value"] is not None else "",
                number(row["tokens"], 0),
                number(row["candidates"], 1),
                number(row["judged"], 1),
            ]
        )
    return Table(
        "search",
        title,
        ["method", "%", "95%", "gain", "95%", "problems", "p", "tokens", "N", "run"],
        cells,
        "%: problems solved; gain: points over best of N on the same problems, with its paired interval, in\n"
        "problems, McNemar's exact p. A problem: tokens that the policy wrote, N distinct programs (each read\n"
        "once by the model), programs run on public tests. Oracle: the best of best-of-N's programs.",
    )
