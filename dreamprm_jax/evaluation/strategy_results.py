"""Results of all selection strategies: accuracy, paired gain over the extended method, cost, reward hacking.

Costs are the tokens per problem that the policy generates and the reward model reads, counted with the reward model's
tokenizer. The policy's own tokenizer would give other counts.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from dreamprm_jax.engine.concurrent import concurrent_map
from dreamprm_jax.evaluation.hacking import hacking_row
from dreamprm_jax.evaluation.judged_candidates import Candidates
from dreamprm_jax.evaluation.ranking import ORACLE, RANDOM, methods
from dreamprm_jax.evaluation.strategies import (
    PUBLIC,
    Strategy,
    execution_strategies,
    prune_curve,
    public_filter,
    ranking,
)
from dreamprm_jax.metrics.statistics import bootstrap_means, mcnemar, percentile_interval
from dreamprm_jax.models.tokenizer import encode_texts, load_tokenizer
from dreamprm_jax.runs.paths import Paths
from dreamprm_jax.runs.progress import progress_of
from dreamprm_jax.selection.best_of_n import powers_of_two
from dreamprm_jax.selection.reward_models import arm_aggregator


def strategy_results(
    candidates: Sequence[Candidates],
    arms: Sequence[str],
    aggregator: str,
    clusters: Sequence[np.ndarray] | None,
    tokens: TokenCosts | None,
    prune_top: int,
    samples: int,
    seed: int,
) -> dict[str, Any]:
    """All strategies of one window.

    Args:
      candidates: Candidates of P problems.
      arms: Training arms with scores.
      aggregator: Aggregator of the PRM arms.
      clusters: Clusters of each problem's candidates by output; None if they were not run.
      tokens: Tokens of programs and statements; None if they were not counted.
      prune_top: Number of programs that prune-then-execute may run.
      samples: Number of bootstrap resamples of problems, the same for every row.
      seed: Seed of the bootstrap.

    Returns:
      JSON-ready: ``table``, ``curve`` (accuracy, programs run and tokens at each N), ``prune`` (accuracy by programs
      run, for each arm) and ``hacking``.
    """
    chosen = methods(candidates, arms, aggregator)
    by_arm = [method for method in chosen if method.key in arms]
    rows = [ranking(one, RANDOM, one.label, forwards=one.key in arms) for one in chosen if one.key != ORACLE]
    rows += execution_strategies(candidates, by_arm, aggregator, clusters, prune_top, seed)
    most = max(len(one.passed) for one in candidates)
    points = sorted({*powers_of_two(most), most})

    def select(index: int) -> list[list[tuple[float, float]]]:
        passed = candidates[index].passed
        chances = [[row.select(index, min(k, len(passed))) for k in points] for row in rows]
        return [[(weights @ passed, judged) for weights, judged in row] for row in chances]

    problems = concurrent_map(select, range(len(candidates)), os.cpu_count() or 1)
    by_problem = [figures for _, figures in progress_of(problems, "select", len(candidates), "problem")]
    accuracy, runs = np.ascontiguousarray(np.moveaxis(np.array(by_problem), (3, 0), (0, 3)))  # (R, k, P) each
    judged = runs.mean(axis=2)  # (R, k)
    final = accuracy[:, -1]
    replicates = bootstrap_means(final, samples, seed)
    keys = [row.key for row in rows]
    has_public = any(one.public is not None for one in candidates)
    return {
        "best_of": most,
        "executed": clusters is not None,
        "table": [
            _row(row, index, keys, final, replicates, judged[index, -1], tokens, most) for index, row in enumerate(rows)
        ],
        "curve": [
            {
                "method": row.key,
                "label": row.label,
                "n": k,
                "accuracy": float(accuracy[index, column].mean()),
                "judged": float(judged[index, column]),
                "forwards": float(k if row.forwards else 0),
                "policy_tokens": tokens.policy(k) if tokens else None,
                "reward_model_tokens": (tokens.reward_model(k) if row.forwards else 0.0) if tokens else None,
            }
            for index, row in enumerate(rows)
            for column, k in enumerate(points)
        ],
        "prune": {method.key: prune_curve(method, candidates) for method in by_arm} if has_public else {},
        "hacking": [
            hacking_row(method, candidates, points, scale, samples, seed)
            for method, scale in [
                *((one, arm_aggregator(one.key, aggregator) if one.key in arms else None) for one in chosen[:-1]),
                *((public_filter(one, candidates), None) for one in by_arm if has_public),
            ]
        ],
    }


def _row(
    row: Strategy,
    index: int,
    keys: Sequence[str],
    final: np.ndarray,
    replicates: np.ndarray,
    judged: float,
    tokens: TokenCosts | None,
    most: int,
) -> dict[str, Any]:
    base = keys.index(row.base)
    gap = final[index] - final[base]
    test = mcnemar(final[index], final[base])
    return {
        "method": row.key,
        "label": row.label,
        "against": row.base,
        "overall": asdict(percentile_interval(float(final[index].mean()), replicates[:, index])),
        "solved": float(final[index].sum()),
        "gain": asdict(percentile_interval(float(gap.mean()), replicates[:, index] - replicates[:, base])),
        "gain_problems": float(gap.sum()),
        # Accuracies of these bases are probabilities, and the sign of a difference from them has no meaning.
        "p_value": None if row.base in (RANDOM, PUBLIC) else test.p_value,
        "judged": judged,
        "forwards": float(most if row.forwards else 0),
        "policy_tokens": tokens.policy(most) if tokens else None,
        "reward_model_tokens": (tokens.reward_model(most) if row.forwards else 0.0) if tokens else None,
    }


@dataclass(frozen=True)
class TokenCosts:
    """Tokens of each problem."""

    program: np.ndarray  # (P,) mean over the problem's candidates
    statement: np.ndarray  # (P,)

    def policy(self, k: int) -> float:
        """Mean number of tokens generated for k candidates."""
        return float(k * self.program.mean())

    def reward_model(self, k: int) -> float:
        """Mean number of tokens read for k candidates, each with its statement, in one pass per program."""
        return float(k * (self.program + self.statement).mean())


def token_costs(paths: Paths, candidates: Sequence[Candidates]) -> TokenCosts | None:
    """Counts tokens with the tokenizer of the train stage; None before that stage."""
    if not paths.tokenizer().exists():
        return None
    tokenizer = load_tokenizer(paths.tokenizer())

    def lengths(texts: Iterable[str]) -> list[int]:
        return [len(ids) for ids in encode_texts(tokenizer, texts)]

    program = [float(np.mean(lengths(program.code for program in one.programs))) for one in candidates]
    statement = lengths(one.problem.statement for one in candidates)
    return TokenCosts(np.array(program), np.array(statement, dtype=float))
