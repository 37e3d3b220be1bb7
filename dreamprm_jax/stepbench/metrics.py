"""ProcessBench's metrics (arXiv 2412.06559) for functions as steps, with intervals over problems, and baselines.

The answer for a program is the index of its first wrong step, -1 for none. A step is predicted to be wrong if its score
is below a threshold, which is chosen to maximize F1 on the dev split. All metrics are computed on the test split.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from dreamprm_jax.metrics.statistics import Interval, percentile_interval, resampled_counts
from dreamprm_jax.metrics.step_metrics import first_error_f1, predicted_first_errors
from dreamprm_jax.schema import DataError
from dreamprm_jax.stepbench.records import Bench, Truth
from dreamprm_jax.stepbench.scores import Said

MISSING = -2  # answer for a program without a score or named step; never counts as right
_THRESHOLDS = 400  # maximum number of thresholds to try


@dataclass(frozen=True)
class Result:
    """The metrics of one scorer on the test split."""

    name: str
    f1: Interval
    accuracy_erroneous: Interval
    accuracy_correct: Interval
    threshold: float | None  # None if the scorer names steps itself
    missing: int  # number of programs of the test split without an answer
    by_operator: dict[str, tuple[int, float]]  # operator -> number of erroneous programs, fraction of right answers
    by_place: dict[str, tuple[int, float]]  # the same by position of the fault: first step, last step, between
    by_verdict: dict[str, tuple[int, float]]  # the same by verdict of the judge on the program


def evaluate(bench: Bench, name: str, said: Said, samples: int, seed: int, threshold: float | None = None) -> Result:
    """The metrics of one scorer.

    Args:
      bench: the benchmark.
      name: name of the scorer, for tables.
      said: the scorer's step scores or named steps.
      samples: number of bootstrap resamples of problems.
      seed: seed of the resampling.
      threshold: scores below it predict a wrong step; None chooses it on the dev split.

    Raises:
      DataError: if the test split is empty, or if no threshold is given and there are no scores for the dev split.
    """
    dev, test = _split(bench, "dev"), _split(bench, "test")
    if not test:
        raise DataError("the benchmark has no program in its test split; make a larger one")
    if not said.scores:
        threshold = None
    elif threshold is None:
        dev = [row for row in dev if row.program_hash in said.scores]
        if not dev:
            raise DataError(f"{name}: no score of the dev split, on which the threshold is chosen; or give --threshold")
        threshold = best_threshold(dev, said)
    answers = predictions(test, said, threshold)
    right = (answers == np.array([row.first_wrong for row in test])).astype(float)
    return _result(name, test, right, threshold, int((answers == MISSING).sum()), samples, seed)


def baselines(bench: Bench, samples: int, seed: int) -> list[Result]:
    """Metrics of baselines that do not read the programs.

    The first baseline always answers "no error". The others answer "no error" with a probability that is chosen on the
    dev split, and otherwise name a step: a random one; the one at a fixed position, which is chosen on the dev split;
    or the longest one. Expected accuracies are exact, without sampling.
    """
    dev, test = _split(bench, "dev"), _split(bench, "test")
    results = [
        _result("always no error", test, np.array([float(r.first_wrong < 0) for r in test]), None, 0, samples, seed)
    ]
    rules: dict[str, list[Callable[[Truth], np.ndarray]]] = {
        "random step": [lambda row: np.full(len(row.step_ends), 1.0 / len(row.step_ends))],
        "position": [_place_rule(place) for place in (0, 1, 2, 3, -1, -2, -3)],
        "longest step": [lambda row: _only(row, int(np.argmax(np.diff(row.step_ends, prepend=0))))],
    }
    for name, choices in rules.items():
        rule = max(
            choices, key=lambda choice: float(np.mean(_hits(dev, choice)[_wrong(dev)])) if _wrong(dev).any() else 0
        )
        share = _best_share(float(np.mean(_hits(dev, rule)[_wrong(dev)])) if _wrong(dev).any() else 0.0)
        right = np.where(_wrong(test), (1.0 - share) * _hits(test, rule), share)
        results.append(_result(name, test, right, None, 0, samples, seed))
    return results


def predictions(rows: Sequence[Truth], said: Said, threshold: float | None) -> np.ndarray:
    """(N,) int: the scorer's answers. An index, -1 for no error, or ``MISSING`` without an answer."""
    answers = np.full(len(rows), MISSING)
    for index, row in enumerate(rows):
        if row.program_hash in said.named:
            answers[index] = said.named[row.program_hash]
        elif row.program_hash in said.scores and threshold is not None:
            answers[index] = predicted_first_errors([np.array(said.scores[row.program_hash])], threshold)[0]
    return answers


def best_threshold(rows: Sequence[Truth], said: Said) -> float:
    """The threshold with the largest F1 on these rows. Candidates are the scores, or ``_THRESHOLDS`` quantiles."""
    scores = [np.array(said.scores[row.program_hash]) for row in rows]
    truth = np.array([row.first_wrong for row in rows])
    values = np.unique(np.concatenate(scores))
    if len(values) > _THRESHOLDS:
        values = np.unique(np.quantile(values, np.linspace(0.0, 1.0, _THRESHOLDS), method="nearest"))
    tried = [
        (np.nan_to_num(first_error_f1(predicted_first_errors(scores, value), truth).f1), -value) for value in values
    ]
    return float(-max(tried)[1])


# ---------------------------------------------------------------- metrics


def _split(bench: Bench, split: str) -> list[Truth]:
    return [row for row in bench.truth.values() if row.split == split]


def _wrong(rows: Sequence[Truth]) -> np.ndarray:
    return np.array([row.first_wrong >= 0 for row in rows], dtype=bool)


def _result(
    name: str, rows: Sequence[Truth], right: np.ndarray, threshold: float | None, missing: int, samples: int, seed: int
) -> Result:
    """Metrics from ``right``, (N,) probability that each answer is right. Intervals resample problems."""
    wrong = _wrong(rows)
    names = sorted({row.problem_id for row in rows})
    problem = np.array([names.index(row.problem_id) for row in rows], dtype=int)
    sums = [
        np.bincount(problem, weights, minlength=len(names))
        for weights in (right * wrong, wrong.astype(float), right * ~wrong, (~wrong).astype(float))
    ]
    estimate = _accuracies(*(float(one.sum()) for one in sums))
    counts = np.concatenate(list(resampled_counts(len(names), samples, seed)))
    replicates = _accuracies(*(counts @ one for one in sums))
    f1, erroneous, correct = (percentile_interval(float(e), r) for e, r in zip(estimate, replicates, strict=True))
    by_operator, by_place, by_verdict = (
        _by([group(row) for row in rows], right, wrong)
        for group in (lambda row: row.operator, place, lambda row: row.verdict)
    )
    return Result(name, f1, erroneous, correct, threshold, missing, by_operator, by_place, by_verdict)


def _accuracies(*sums: float | np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(F1, accuracy on erroneous programs, accuracy on clean ones), from the numbers of right and of all programs."""
    right_wrong, wrong, right_clean, clean = (np.asarray(one, dtype=float) for one in sums)
    with np.errstate(invalid="ignore", divide="ignore"):
        erroneous, correct = right_wrong / wrong, right_clean / clean
        total = erroneous + correct
        f1 = np.where(total == 0.0, 0.0, 2.0 * erroneous * correct / total)
    return f1, erroneous, correct


def _by(groups: Sequence[str], right: np.ndarray, wrong: np.ndarray) -> dict[str, tuple[int, float]]:
    found: dict[str, tuple[int, float]] = {}
    for group in sorted({name for name, is_wrong in zip(groups, wrong, strict=True) if is_wrong}):
        inside = wrong & (np.array(groups) == group)
        found[group] = (int(inside.sum()), float(right[inside].mean()))
    return found


def place(row: Truth) -> str:
    """The position of the fault: "first step", "last step" or "between"."""
    last = row.first_wrong == len(row.step_ends) - 1
    return "first step" if row.first_wrong == 0 else "last step" if last else "between"


# ---------------------------------------------------------------- baselines


def _place_rule(index: int) -> Callable[[Truth], np.ndarray]:
    def rule(row: Truth) -> np.ndarray:
        last = len(row.step_ends) - 1
        return _only(row, min(index, last) if index >= 0 else max(last + 1 + index, 0))

    return rule


def _only(row: Truth, index: int) -> np.ndarray:
    chances = np.zeros(len(row.step_ends))
    chances[index] = 1.0
    return chances


def _hits(rows: Sequence[Truth], rule: Callable[[Truth], np.ndarray]) -> np.ndarray:
    """(N,) probability that the rule names the first wrong step; 0 for clean programs."""
    return np.array([rule(row)[row.first_wrong] if row.first_wrong >= 0 else 0.0 for row in rows])


def _best_share(accuracy: float) -> float:
    """The probability of answering "no error" that maximizes F1, if a named step is right with this ``accuracy``."""
    shares = np.linspace(0.0, 1.0, 101)
    f1, _, _ = _accuracies((1.0 - shares) * accuracy, np.ones(101), shares, np.ones(101))
    return float(shares[int(np.argmax(np.nan_to_num(f1)))])
