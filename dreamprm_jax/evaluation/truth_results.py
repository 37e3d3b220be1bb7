"""Step scores and labels of a run against the exact truth, and what is missing for that."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from dreamprm_jax.config import Config
from dreamprm_jax.evaluation.judged_candidates import Candidates
from dreamprm_jax.evaluation.step_results import label_results, label_rows, score_rows, step_results
from dreamprm_jax.labeling.exact_truth import load_truth, why_no_truth
from dreamprm_jax.runs.paths import Paths
from dreamprm_jax.schema import CorrectedLabel, Skip, StepLabel
from dreamprm_jax.storage import read_json, read_records


def truth_results(
    config: Config, paths: Paths, candidates: Sequence[Candidates], skips: list[Skip], notes: list[str]
) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """Step figures and label figures; None with a note where there is nothing to compare."""
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
    raw = read_records(paths.step_labels(), StepLabel)
    labeled = label_rows(raw, corrected, load_truth(config, paths, "train"), skips)
    if len(labeled.step):
        labels = label_results(labeled, samples, seed)
    else:
        notes.append("no label figures: no labeled training step has its truth")
    return steps, labels


def with_exact_log_probabilities(config: Config, paths: Paths, candidates: Sequence[Candidates]) -> list[Candidates]:
    """The candidates of the simulated policy with the log-probabilities that it drew them with."""
    from dreamprm_jax.policy.simulated import exact_log_probability
    from dreamprm_jax.problems.procedural.compose import Composition

    known = {row["problem_id"]: Composition.from_json(row) for row in read_json(paths.compositions())}

    def exact(one: Candidates) -> np.ndarray | None:
        composition, scale = known[one.problem.problem_id], config.policy.wrong_rate_scale
        values = np.array([exact_log_probability(composition, program.code, scale) for program in one.programs])
        return None if np.isnan(values).all() else values  # candidates from a file, of another policy

    return [dataclasses.replace(one, exact_log_probability=exact(one)) for one in candidates]


def read_corrected(config: Config, paths: Paths) -> dict[str, list[CorrectedLabel]]:
    """Arm -> the labels that it trained on, for each arm that changed them."""
    arms = [arm for arm in config.train.arms if paths.corrected_labels(arm).exists()]
    rows = {arm: read_records(paths.corrected_labels(arm), CorrectedLabel) for arm in arms}
    return {arm: labels for arm, labels in rows.items() if labels}
