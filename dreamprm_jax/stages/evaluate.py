"""The evaluate stage: files of the earlier stages -> results.json, table.txt and CSV files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dreamprm_jax.config import Config
from dreamprm_jax.evaluation.aggregator_choice import choose_aggregator
from dreamprm_jax.evaluation.candidates import Candidates, load_candidates
from dreamprm_jax.evaluation.costs import token_costs
from dreamprm_jax.evaluation.eval_all import eval_all_row, write_eval_all
from dreamprm_jax.evaluation.executions import execution_clusters
from dreamprm_jax.evaluation.methods import methods
from dreamprm_jax.evaluation.selection_table import selection_results
from dreamprm_jax.evaluation.step_table import label_results, label_rows, score_rows, step_results
from dreamprm_jax.evaluation.strategy_table import strategy_results
from dreamprm_jax.evaluation.tables import results_text
from dreamprm_jax.evaluation.text_table import csv_text, finite
from dreamprm_jax.labeling.exact_truth import load_truth, why_no_truth
from dreamprm_jax.runs.paths import Paths
from dreamprm_jax.schema import CorrectedLabel, Skip, StepLabel
from dreamprm_jax.storage import read_records, write_json, write_text

_HACKING = ("accuracy", "score", "passes_public", "hacking_rate", "hacking_rate_of_public")


def evaluate(config: Config, paths: Paths) -> dict[str, int]:
    """Selects among the test window's candidates with every arm, compares, and judges steps against the truth.

    Reads the test window's problems, programs, outcomes and scores, and the train window's labels. The exact truth of
    the procedural benchmark is made here, and nowhere before, so that no training stage can read it; on real problems
    there is none, and the sections that need it are absent with a note.

    Writes ``results.json``, ``table.txt``, one CSV a table, ``candidates.csv`` (every candidate with every arm's
    number), ``skipped.csv`` and ``eval_all.json`` (LiveCodeBench's format) into the evaluate folder, and prints the
    table. Candidates are run on inputs without answers for the votes; a journal keeps what ran.

    Returns:
      Counts of what was read, and of what was left out.

    Raises:
      DataError: naming the file that is missing or malformed.
    """
    arms, samples, seed = config.train.arms, config.evaluate.bootstrap_samples, config.seed
    candidates, skips = load_candidates(paths, "test", arms)
    notes: list[str] = []
    choice = choose_aggregator(config, paths, skips)
    if config.evaluate.aggregator == "auto":
        notes.append(f"aggregator: {choice.reason}")
    selection = selection_results(candidates, arms, choice.name, samples, seed)
    if selection["problems_with_fewer_candidates"]:
        notes.append(
            f"{selection['problems_with_fewer_candidates']} problems have fewer than {selection['best_of']} judged "
            "candidates; best-of-N uses as many as they have"
        )
    if config.policy.kind == "simulated" and any(one.log_probability is not None for one in candidates):
        notes.append(
            "mean log-probability: the simulated policy's probabilities tell its mistakes apart; a language model's "
            "say far less"
        )
    clusters = execution_clusters(config, paths, candidates, skips, notes)
    tokens, prune_top = token_costs(paths, candidates), config.evaluate.prune_top
    strategies = strategy_results(candidates, arms, choice.name, clusters, tokens, prune_top, samples, seed)
    steps, labels = _against_truth(config, paths, candidates, skips, notes)
    results = finite(
        {
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
            "skipped": [
                {"source": source, "reason": reason, "count": count}
                for (source, reason), count in sorted(Counter((row.source, row.reason) for row in skips).items())
            ],
            "notes": notes,
        }
    )
    folder = paths.results().parent
    _write_tables(folder, results, candidates, skips)
    write_eval_all(
        folder / "eval_all.json",
        [
            eval_all_row(one.problem, [program.code for program in one.programs], list(one.passed > 0))
            for one in candidates
        ],
    )
    write_json(paths.results(), results)
    text = results_text(results)
    write_text(folder / "table.txt", text)
    print(text, end="", flush=True)
    return {
        "problems": len(candidates),
        "candidates": sum(len(one.passed) for one in candidates),
        "test_steps_with_truth": steps["counts"]["steps"] if steps else 0,
        "train_steps_with_truth": labels["counts"]["steps"] if labels else 0,
        "skipped": len(skips),
    }


def _against_truth(
    config: Config, paths: Paths, candidates: Sequence[Candidates], skips: list[Skip], notes: list[str]
) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """Step and label figures, each None with a note where there is nothing to compare."""
    if reason := why_no_truth(config):
        notes.append(f"no step or label figures: {reason}")
        return None, None
    steps = labels = None
    samples, seed = config.evaluate.bootstrap_samples, config.seed
    scored = score_rows(candidates, config.train.arms, load_truth(config, paths, "test"), skips)
    if len(scored.step):
        steps = step_results(scored, config.train.arms, samples, seed)
    else:
        notes.append("no step figures: no test program has both its truth and a score from every arm")
    corrected = read_corrected(config, paths)
    if not corrected:
        notes.append("no corrected labels: no arm that corrects them, or it wrote none; raw labels alone are judged")
    labelled = label_rows(
        read_records(paths.step_labels(), StepLabel), corrected, load_truth(config, paths, "train"), skips
    )
    if len(labelled.step):
        labels = label_results(labelled, samples, seed)
    else:
        notes.append("no label figures: no labelled training step has its truth")
    return steps, labels


def read_corrected(config: Config, paths: Paths) -> dict[str, list[CorrectedLabel]]:
    """Arm -> the labels that it trained on, for every arm that changed them."""
    arms = [arm for arm in config.train.arms if paths.corrected_labels(arm).exists()]
    rows = {arm: read_records(paths.corrected_labels(arm), CorrectedLabel) for arm in arms}
    return {arm: labels for arm, labels in rows.items() if labels}


def _write_tables(
    folder: Path, results: dict[str, Any], candidates: Sequence[Candidates], skips: Sequence[Skip]
) -> None:
    selection, strategies = results["selection"], results["strategies"]
    tables: dict[str, Sequence[dict[str, Any]]] = {
        "table": selection["table"],
        "differences": selection["differences"],
        "programs": selection["programs"],
        "platforms": selection["platforms"],
        "months": selection["months"],
        "curve": [
            {"method": key, "k": k, **point}
            for key, points in selection["curve"]["methods"].items()
            for k, point in zip(selection["curve"]["k"], points, strict=True)
        ],
        "aggregators": [{"arm": arm, **row} for arm, row in selection["aggregators"].items()],
        "strategies": strategies["table"],
        "costs": strategies["curve"],
        "hacking": [
            {"method": row["method"], "n": n, **{name: row[name][column] for name in _HACKING}}
            for row in strategies["hacking"]
            for column, n in enumerate(row["n"])
        ],
        "candidates": candidate_rows(candidates, results["arms"], results["aggregator"]),
        "skipped": [{"source": row.source, "row": row.row, "reason": row.reason} for row in skips],
    }
    for section in ("steps", "labels"):
        if results[section]:
            tables[section] = results[section]["table"]
    for name, rows in tables.items():
        write_text(folder / f"{name}.csv", csv_text(rows))


def candidate_rows(candidates: Sequence[Candidates], arms: Sequence[str], aggregator: str) -> list[dict[str, Any]]:
    """One row a candidate: verdict, length, and the number by which each arm ranks it."""
    numbers = {method.key: method.numbers for method in methods(candidates, arms, aggregator) if method.key in arms}
    return [
        {
            "problem_id": one.problem.problem_id,
            "difficulty": one.problem.difficulty,
            "program_hash": program.program_hash,
            "sample_index": program.sample_index,
            "passed": int(one.passed[position]),
            "characters": len(program.code),
            **{arm: float(numbers[arm][row][position]) for arm in arms},
        }
        for row, one in enumerate(candidates)
        for position, program in enumerate(one.programs)
    ]
