"""The evaluate stage: files of the earlier stages -> results.json, table.txt and CSV files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from dreamprm_jax.config import Config
from dreamprm_jax.evaluation.aggregator_choice import Choice, choose_aggregator
from dreamprm_jax.evaluation.judged_candidates import Candidates, load_candidates
from dreamprm_jax.evaluation.output import skip_counts, write_results
from dreamprm_jax.evaluation.selection_results import selection_results
from dreamprm_jax.evaluation.step_results import truth_results
from dreamprm_jax.evaluation.strategy_results import strategy_results, token_costs
from dreamprm_jax.evaluation.vote_clusters import execution_clusters
from dreamprm_jax.runs.paths import Paths
from dreamprm_jax.tables import finite


def evaluate(config: Config, paths: Paths) -> dict[str, int]:
    """Selects among the test window's candidates with every arm, compares, and judges steps against the truth.

    Reads the test window's problems, programs, outcomes and scores, and the train window's labels. Only the procedural
    benchmark has an exact truth of its steps; on other problems the sections that need it are absent, with a note.

    Writes ``results.json``, ``table.txt``, a CSV file for each table, ``candidates.csv`` (every candidate with the
    number by which each arm ranks it), ``skipped.csv`` and ``eval_all.json`` (LiveCodeBench's format) into the evaluate
    folder, and prints the tables. Candidates are run on inputs without answers for the votes; a journal keeps the
    results of these runs.

    Returns:
      Counts of what was read, and of what was left out.

    Raises:
      DataError: naming the file that is missing or malformed.
    """
    arms, samples, seed = config.train.arms, config.evaluate.bootstrap_samples, config.seed
    candidates, skips = load_candidates(paths, "test", arms)
    choice = choose_aggregator(config, paths, skips)

    # Reading alone: random, each arm, the oracle.
    selection = selection_results(candidates, arms, choice.name, samples, seed)
    notes = _selection_notes(config, selection, candidates, choice)

    # Running programs: on public tests, and on inputs without answers for the votes.
    clusters = execution_clusters(config, paths, candidates, skips, notes)
    tokens, prune_top = token_costs(paths, candidates), config.evaluate.prune_top
    strategies = strategy_results(candidates, arms, choice.name, clusters, tokens, prune_top, samples, seed)

    # The exact truth of steps: what the scores of the test steps and the training labels are worth.
    steps, labels = truth_results(config, paths, candidates, skips, notes)

    results = {
        "name": config.name,
        "source": config.problems.source,
        "seed": seed,
        "bootstrap_samples": samples,
        "aggregator": choice.name,
        "aggregator_choice": asdict(choice),
        "arms": list(arms),
        "selection": selection,
        "strategies": strategies,
        "steps": steps,
        "labels": labels,
        "skipped": skip_counts(skips),
        "notes": notes,
    }
    write_results(paths.results().parent, finite(results), candidates, skips)
    return {
        "problems": len(candidates),
        "candidates": sum(len(one.passed) for one in candidates),
        "test_steps_with_truth": steps["counts"]["steps"] if steps else 0,
        "train_steps_with_truth": labels["counts"]["steps"] if labels else 0,
        "skipped": len(skips),
    }


def _selection_notes(
    config: Config, selection: dict[str, Any], candidates: Sequence[Candidates], choice: Choice
) -> list[str]:
    """What a reader of the main table must know."""
    notes = []
    if config.evaluate.aggregator == "auto":
        notes.append(f"aggregator: {choice.reason}")
    if fewer := selection["problems_with_fewer_candidates"]:
        notes.append(
            f"{fewer} problems have fewer than {selection['best_of']} judged candidates; best-of-N uses as many as "
            "they have"
        )
    if config.policy.kind == "simulated" and any(one.log_probability is not None for one in candidates):
        notes.append(
            "mean log-probability: the simulated policy's probabilities tell its mistakes apart; a language model's "
            "say far less"
        )
    return notes
