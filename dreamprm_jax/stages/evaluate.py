"""The evaluate stage: writes results.json, table.txt and CSV files from the files of earlier stages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from dreamprm_jax.config import Config
from dreamprm_jax.evaluation.aggregator_choice import AggregatorChoice, choose_aggregator
from dreamprm_jax.evaluation.judged_candidates import Candidates, load_candidates
from dreamprm_jax.evaluation.output import skip_counts, write_results
from dreamprm_jax.evaluation.printing import left_out
from dreamprm_jax.evaluation.selection_results import selection_results
from dreamprm_jax.evaluation.step_results import truth_results, with_exact_log_probabilities
from dreamprm_jax.evaluation.strategy_results import strategy_results, token_costs
from dreamprm_jax.evaluation.vote_clusters import execution_clusters
from dreamprm_jax.runs.paths import Paths
from dreamprm_jax.tables import finite


def evaluate(config: Config, paths: Paths) -> dict[str, int]:
    """Selects test candidates with every arm, compares the selections, and compares step scores with the exact truth.

    Reads the test window's problems, programs, outcomes and scores, and the train window's labels. Only the procedural
    benchmark has exact step truth; on other problems the sections that need it are replaced by a note.

    Writes ``results.json``, ``table.txt``, a CSV file for each table, ``candidates.csv`` (every candidate with its
    aggregated score from each arm), ``skipped.csv`` and ``eval_all.json`` (LiveCodeBench's format) into the evaluate
    folder, and prints the notes on the tables. For execution votes the candidates are run on inputs without answers; a
    journal stores the results of these runs.

    Returns:
      Counts of rows read and rows skipped.

    Raises:
      DataError: if a file is missing or malformed, naming it.
    """
    arms, samples, seed = config.train.arms, config.evaluate.bootstrap_samples, config.seed
    candidates, skips = load_candidates(paths, "test", arms)
    if config.problems.source == "procedural" and config.policy.kind == "simulated":
        candidates = with_exact_log_probabilities(config, paths, candidates)
    choice = choose_aggregator(config, paths, skips)

    # Selection by scores alone: random, each arm, the oracle.
    selection = selection_results(candidates, arms, choice.name, samples, seed)
    notes = _selection_notes(config, selection, candidates, choice)

    # Selection by execution: on public tests, and on inputs without answers for the votes.
    clusters = execution_clusters(config, paths, candidates, skips, notes)
    tokens, prune_top = token_costs(paths, candidates), config.evaluate.prune_top
    strategies = strategy_results(candidates, arms, choice.name, clusters, tokens, prune_top, samples, seed)

    # Test scores and training labels against the exact step truth.
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
    results = write_results(paths.results().parent, finite(results), candidates, skips)
    print("".join(f"   {line}\n" for line in left_out(results)), end="", flush=True)
    return {
        "problems": len(candidates),
        "candidates": sum(len(one.passed) for one in candidates),
        "test steps with truth": steps["counts"]["steps"] if steps else 0,
        "train steps with truth": labels["counts"]["steps"] if labels else 0,
        "skipped": len(skips),
    }


def _selection_notes(
    config: Config, selection: dict[str, Any], candidates: Sequence[Candidates], choice: AggregatorChoice
) -> list[str]:
    """Notes below the main table."""
    notes = []
    if config.evaluate.aggregator == "auto":
        notes.append(f"aggregator: {choice.reason}")
    if fewer := selection["problems_with_fewer_candidates"]:
        notes.append(
            f"{fewer} problems have fewer than {selection['best_of']} judged candidates; best-of-N uses all that they "
            "have"
        )
    if any(one.exact_log_probability is not None for one in candidates):
        notes.append(
            "mean log-probability: as the simulated policy reports it, miscalibrated like that of a language model; "
            "exact: computed from the policy's true probabilities, which identify its mistakes"
        )
    return notes
