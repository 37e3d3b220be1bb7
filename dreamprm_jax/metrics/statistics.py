"""Statistics over problems: unbiased pass@k, bootstrap, paired tests, recovered share of the oracle gap.

Problems are the unit: candidates of one problem are not independent, so every interval resamples problems. Methods are
compared on the same problems, paired, since a 95% interval of one accuracy at 131 problems (about 6.7 points) is wider
than the differences that papers report.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

NORMAL_975 = 1.959963984540054
"""The 97.5% quantile of the standard normal distribution."""


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95% interval."""

    estimate: float
    low: float
    high: float


def pass_at_k(candidates: np.ndarray, correct: np.ndarray, k: int) -> np.ndarray:
    """Unbiased pass@k of each problem: 1 - C(n - c, k) / C(n, k) (Chen et al., arXiv 2107.03374, eq. 1).

    Args:
      candidates: (P,) programs judged for each problem, n.
      correct: (P,) how many of them passed, c.
      k: programs allowed.

    Returns:
      (P,), NaN where a problem has fewer than k candidates.
    """
    candidates, correct = np.asarray(candidates), np.asarray(correct)
    if k < 1 or np.any(correct > candidates) or np.any(correct < 0):
        raise ValueError("pass@k needs k >= 1 and 0 <= correct <= candidates")
    drawn = np.arange(k)
    failing = np.maximum(candidates - correct, 0)[:, None] - drawn
    denominator = np.maximum(candidates[:, None] - drawn, 1)
    all_fail = np.prod(np.maximum(failing, 0) / denominator, axis=1)
    return np.where(candidates >= k, 1.0 - all_fail, np.nan)


def resampled_counts(problems: int, samples: int, seed: int, chunk: int = 1000) -> Iterator[np.ndarray]:
    """Bootstrap resamples as counts: how often each problem was drawn.

    Yields:
      (c, P) with c <= chunk, ``samples`` rows in all; each row sums to P. The same seed gives the same rows, whatever
      the chunk, so that two calls with it are paired.
    """
    rng = np.random.default_rng(seed)
    for start in range(0, samples, chunk):
        size = min(chunk, samples - start)
        yield rng.multinomial(problems, np.full(problems, 1.0 / problems), size=size)


def bootstrap_means(values: np.ndarray, samples: int, seed: int) -> np.ndarray:
    """Means over resampled problems.

    Args:
      values: (R, P) R quantities of P problems; all R see the same resamples.
      samples: number of resamples, S.
      seed: of the resampling.

    Returns:
      (S, R).
    """
    values = np.asarray(values, dtype=np.float64)
    problems = values.shape[1]
    return np.concatenate([counts @ values.T / problems for counts in resampled_counts(problems, samples, seed)])


def percentile_interval(estimate: float, replicates: np.ndarray) -> Interval:
    """The central 95% of bootstrap replicates; replicates that are NaN (undefined there) are left out."""
    finite = replicates[np.isfinite(replicates)]
    if not np.isfinite(estimate) or not finite.size:
        return Interval(float(estimate), float("nan"), float("nan"))
    low, high = np.quantile(finite, [0.025, 0.975])
    return Interval(float(estimate), float(low), float(high))


def bootstrap_interval(values: np.ndarray, samples: int, seed: int) -> Interval:
    """Mean over problems with its 95% percentile bootstrap interval.

    Args:
      values: (P,) one value a problem. A paired difference is the interval of the differences.
      samples: number of resamples.
      seed: of the resampling.
    """
    values = np.asarray(values, dtype=np.float64)
    return percentile_interval(float(values.mean()), bootstrap_means(values[None], samples, seed)[:, 0])


def wilson_interval(successes: float, trials: int) -> Interval:
    """A proportion with Wilson's 95% score interval: where only a count is known, as for a published row."""
    if trials < 1:
        return Interval(float("nan"), float("nan"), float("nan"))
    share, z2 = successes / trials, NORMAL_975**2
    center = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = NORMAL_975 * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials**2)) / (1 + z2 / trials)
    return Interval(share, center - half, center + half)


@dataclass(frozen=True)
class PairedTest:
    """Problems on which two methods differ, and the exact two-sided p-value."""

    wins: int  # problems where the first is better
    losses: int
    p_value: float


def mcnemar(first: np.ndarray, second: np.ndarray) -> PairedTest:
    """McNemar's exact test, two-sided: under no difference, wins are Binomial(wins + losses, 1/2).

    Args:
      first: (P,) accuracies of one method; 0 or 1, or a fraction where tied candidates were averaged. A fraction counts
        by the sign of its difference alone, which makes this the sign test; on 0 and 1 the two are the same.
      second: (P,) of the other.
    """
    difference = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    wins, losses = int((difference > 1e-12).sum()), int((difference < -1e-12).sum())
    return PairedTest(wins, losses, binomial_sign_test(wins, losses))


def binomial_sign_test(wins: int, losses: int) -> float:
    """P(a split at least as uneven as wins : losses | each side has chance 1/2)."""
    trials = wins + losses
    tail = sum(math.comb(trials, count) for count in range(min(wins, losses) + 1))
    return float(min(Fraction(1), Fraction(2 * tail, 2**trials)))


def random_selection_test(pass_rates: np.ndarray, successes: float) -> float:
    """P(random selection solves at least ``successes`` problems), exactly.

    The number that random selection solves is a sum of independent coin flips with each problem's own pass rate
    (Poisson binomial). A paired test against one random draw would depend on the draw; this one does not.

    Args:
      pass_rates: (P,) share of each problem's candidates that pass.
      successes: problems that a method solved; a fraction (averaged ties) is rounded down, which is conservative.
    """
    distribution = np.ones(1)
    for rate in np.asarray(pass_rates, dtype=np.float64):
        distribution = np.convolve(distribution, [1.0 - rate, rate])
    threshold = max(0, math.floor(successes + 1e-9))
    return float(min(1.0, distribution[threshold:].sum()))


def recovered_share(method: np.ndarray, random: np.ndarray, oracle: np.ndarray) -> np.ndarray:
    """(method - random) / (oracle - random): the share of the oracle gap that selection recovers.

    Args:
      method: accuracies, any shape (an estimate, or its bootstrap replicates).
      random: of random selection, same shape.
      oracle: of the oracle, same shape.

    Returns:
      Same shape; NaN where there is no gap.
    """
    method, random, oracle = (np.asarray(value, dtype=np.float64) for value in (method, random, oracle))
    gap = oracle - random
    return np.divide(method - random, gap, out=np.full(np.shape(gap), np.nan), where=gap > 1e-12)
