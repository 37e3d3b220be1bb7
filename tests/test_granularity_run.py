"""A whole run with block steps: labels, scores and report split programs in the same way."""

from __future__ import annotations

import dataclasses
import json

import pytest

from dreamprm_jax.cof.splitter import split_steps
from dreamprm_jax.config import MetaConfig
from dreamprm_jax.labeling.exact_truth import why_no_truth
from dreamprm_jax.runs.paths import Paths
from dreamprm_jax.runs.stage_graph import STAGES
from dreamprm_jax.schema import Program, Score, StepLabel
from dreamprm_jax.stages.runner import run_stage
from dreamprm_jax.storage import read_records


@pytest.mark.slow
def test_block_steps_from_labels_to_report(tmp_path, tiny_config):
    """With replayed programs, each prefix is continued by its own program, for any kind of step."""
    written = Paths(tmp_path / "written")
    run_stage(tiny_config, written.root, "generate")
    rows = [row for window in ("train", "meta", "test") for row in read_records(written.programs(window), Program)]
    saved = tmp_path / "saved.jsonl"
    saved.write_text("".join(json.dumps({"problem_id": row.problem_id, "code": row.code}) + "\n" for row in rows))
    config = dataclasses.replace(
        tiny_config,
        policy=dataclasses.replace(tiny_config.policy, kind="replay", path=str(saved)),
        label=dataclasses.replace(tiny_config.label, granularity="block", rollouts=1),
        train=dataclasses.replace(tiny_config.train, arms=("raw",), row_tokens=1024, meta=MetaConfig(batch_size=2)),
        model=dataclasses.replace(tiny_config.model, max_length=1024),
    )
    paths = Paths(tmp_path / "run")
    for stage in STAGES:
        run_stage(config, paths.root, stage)
    train = {row.program_hash: row.code for row in read_records(paths.programs("train"), Program)}
    test = {row.program_hash: row.code for row in read_records(paths.programs("test"), Program)}
    labels = read_records(paths.step_labels(), StepLabel)
    assert [(row.program_hash, row.start, row.end) for row in labels] == [
        (program, step.start, step.end) for program, code in train.items() for step in split_steps(code, "block")
    ]
    scores = {row.program_hash: len(row.step_scores) for row in read_records(paths.scores("raw"), Score)}
    assert scores == {program: len(split_steps(code, "block")) for program, code in test.items()}
    assert sum(scores.values()) > sum(len(split_steps(code)) for code in test.values())
    assert paths.report().exists()


def test_truth_is_of_function_steps(tiny_config):
    label = dataclasses.replace(tiny_config.label, granularity="block")
    assert why_no_truth(tiny_config) is None
    assert "exact for function steps alone" in (why_no_truth(dataclasses.replace(tiny_config, label=label)) or "")
