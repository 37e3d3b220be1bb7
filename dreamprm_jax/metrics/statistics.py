"""Statistics over problems: unbiased pass@k, bootstrap, paired tests, recovered fraction of the oracle gap.

Candidates of one problem are not independent, so every interval resamples problems. Comparisons of methods are paired
by problem, since a 95% interval of one accuracy at 131 problems (about 6.7 points) is wider than the differences that
papers report.
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
      candidates: (P,) number of judged programs of each problem, n.
      correct: (P,) number of them that passed, c.
      k: Number of programs drawn.

    Returns:
      (P,), NaN for problems with fewer than k candidates.

    Raises:
      ValueError: if k < 1, or if counts are not 0 <= correct <= candidates.
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
    """Bootstrap resamples, as the number of times that each problem was drawn.

    Yields:
      (c, P) with c <= chunk; each row sums to P, and there are ``samples`` rows in total. The rows depend on the seed
      but not on the chunk, so two calls with the same seed are paired.
    """
    rng = np.random.default_rng(seed)
    for start in range(0, samples, chunk):
        size = min(chunk, samples - start)
        yield rng.multinomial(problems, np.full(problems, 1.0 / problems), size=size)


def bootstrap_means(values: np.ndarray, samples: int, seed: int) -> np.ndarray:
    """Means over resampled problems.

    Args:
      values: (R, P) R quantities of P problems; all R use the same resamples.
      samples: Number of resamples, S.
      seed: Seed of the resampling.

    Returns:
      (S, R).
    """
    values = np.asarray(values, dtype=np.float64)
    problems = values.shape[1]
    return np.concatenate([counts @ values.T / problems for counts in resampled_counts(problems, samples, seed)])


def percentile_interval(estimate: float, replicates: np.ndarray) -> Interval:
    """The central 95% of bootstrap replicates, ignoring NaN replicates."""
    finite = replicates[np.isfinite(replicates)]
    if not np.isfinite(estimate) or not finite.size:
        return Interval(float(estimate), float("nan"), float("nan"))
    low, high = np.quantile(finite, [0.025, 0.975])
    return Interval(float(estimate), float(low), float(high))


def bootstrap_interval(values: np.ndarray, samples: int, seed: int) -> Interval:
    """Mean over problems with its 95% percentile bootstrap interval.

    Args:
      values: (P,) one value per problem; for a paired comparison, the differences.
      samples: Number of resamples.
      seed: Seed of the resampling.
    """
    values = np.asarray(values, dtype=np.float64)
    return percentile_interval(float(values.mean()), bootstrap_means(values[None], samples, seed)[:, 0])


def wilson_interval(successes: float, trials: int) -> Interval:
    """A proportion with Wilson's 95% score interval, for results of which only the count is known."""
    if trials < 1:
        return Interval(float("nan"), float("nan"), float("nan"))
    share, z2 = successes / trials, NORMAL_975**2
    center = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = NORMAL_975 * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials**2)) / (1 + z2 / trials)
    return Interval(share, center - half, center + half)


@dataclass(frozen=True)
class PairedTest:
    """Numbers of problems on which two methods differ, and the exact two-sided p-value."""

    wins: int  # problems on which the first method is better
    losses: int
    p_value: float


def mcnemar(first: np.ndarray, second: np.ndarray) -> PairedTest:
    """McNemar's exact two-sided test: under the null hypothesis, wins are Binomial(wins + losses, 1/2).

    Args:
      first: (P,) accuracies of one method: 0 or 1, or fractions if tied candidates were averaged. Only the sign of a
        difference counts, so with fractions this is the sign test; with 0 and 1 both tests are equal.
      second: (P,) accuracies of the other method.
    """
    difference = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    wins, losses = int((difference > 1e-12).sum()), int((difference < -1e-12).sum())
    trials = wins + losses
    tail = sum(math.comb(trials, count) for count in range(min(wins, losses) + 1))
    return PairedTest(wins, losses, float(min(Fraction(1), Fraction(2 * tail, 2**trials))))


def random_selection_test(pass_rates: np.ndarray, successes: float) -> float:
    """Exact probability that random selection solves at least ``successes`` problems.

    The number of problems that random selection solves has a Poisson binomial distribution, with each problem's pass
    rate as its success probability. Unlike a paired test against one random draw, this test does not depend on a draw.

    Args:
      pass_rates: (P,) fraction of each problem's candidates that pass.
      successes: Number of problems that a method solved; a fraction (averaged ties) is rounded down, which is
        conservative.
    """
    distribution = np.ones(1)
    for rate in np.asarray(pass_rates, dtype=np.float64):
        distribution = np.convolve(distribution, [1.0 - rate, rate])
    threshold = max(0, math.floor(successes + 1e-9))
    return float(min(1.0, distribution[threshold:].sum()))


def recovered_share(method: np.ndarray, random: np.ndarray, oracle: np.ndarray) -> np.ndarray:
    """(method - random) / (oracle - random): the share of the oracle gap that selection recovers.

    Args:
      method: Accuracies of any shape (an estimate, or its bootstrap replicates).
      random: Accuracies of random selection, same shape.
      oracle: Accuracies of the oracle, same shape.

    Returns:
      Same shape; NaN if there is no gap.
    """
    method, random, oracle = (np.asarray(value, dtype=np.float64) for value in (method, random, oracle))
    gap = oracle - random
    return np.divide(method - random, gap, out=np.full(np.shape(gap), np.nan), where=gap > 1e-12)
