"""A run that is finished up to scoring: real procedural problems and programs, with random labels and scores.

The verdicts are the exact truth of each program's last step. The labels are binomial draws with the true value of each
step. The logits of the arms are the true values with noise; the corrected arm has the least noise.
"""

import dataclasses
import json

import numpy as np
import pytest

from dreamprm_jax import config as config_module
from dreamprm_jax.labeling.exact_truth import load_truth
from dreamprm_jax.policy.protocol import CompletionRequest
from dreamprm_jax.policy.simulated import SimulatedPolicy
from dreamprm_jax.problems.hidden_tests import write_hidden_tests
from dreamprm_jax.problems.procedural.compose import compose
from dreamprm_jax.runs.paths import Paths
from dreamprm_jax.schema import CorrectedLabel, Outcome, Problem, Program, Score, StepLabel, StepTruth, Verdict
from dreamprm_jax.storage import write_json, write_records

NOISE = {"orm": 5.0, "raw": 3.5, "corrected": 2.0}


def small_config(train: int = 6, test: int = 12, samples: int = 400) -> config_module.Config:
    settings = config_module.defaults()
    settings.name = "test-run"
    settings.problems.train_count, settings.problems.test_count = train, test
    settings.evaluate.bootstrap_samples = samples
    return config_module.freeze(settings)


def logit(value: np.ndarray) -> np.ndarray:
    clipped = np.clip(value, 0.03, 0.97)
    return np.log(clipped / (1 - clipped))


def step_label(step: StepTruth, passes: int) -> StepLabel:
    """The label of one step, of which ``passes`` of 4 rollouts passed."""
    return StepLabel(
        problem_id=step.problem_id,
        program_hash=step.program_hash,
        step_index=step.step_index,
        start=0,
        end=0,
        passes=passes,
        rollouts=4,
        infrastructure_errors=0,
        unforced=0,
        posterior_alpha=1.0 + passes,
        posterior_beta=5.0 - passes,
        policy="simulated",
        sampling="{}",
        mode="faithful",
        tier="T",
        config_hash="c",
    )


def write_run(paths: Paths, config: config_module.Config) -> None:
    """Writes every file that the stages evaluate and report read."""
    rng = np.random.default_rng(0)
    counts = {"train": config.problems.train_count, "test": config.problems.test_count}
    made = list(compose(0, counts, private_tests=4))
    compositions = {composition.problem_id: composition for _, _, composition in made}
    write_json(paths.compositions(), [composition.to_json() for composition in compositions.values()])
    write_hidden_tests(paths.hidden_tests(), (problem.split()[1] for _, problem, _ in made))
    policy = SimulatedPolicy(compositions)
    for window, programs_each in (("train", 2), ("test", 8)):
        problems = [problem.split()[0] for name, problem, _ in made if name == window]
        programs = [
            Program.make(problem.problem_id, completion.code, index, policy.name, {})
            for problem in problems
            for index, completion in enumerate(policy.complete(CompletionRequest(problem, "", programs_each, 0.2, 7)))
        ]
        write_records(paths.problems(window), Problem, problems)
        write_records(paths.programs(window), Program, programs)
        truth = load_truth(config, paths, window)
        steps: dict[str, list] = {}
        for row in truth:
            steps.setdefault(row.program_hash, []).append(row)
        texts = {program.program_hash: program for program in programs}
        write_records(
            paths.outcomes(window),
            Outcome,
            [
                Outcome(
                    texts[key].problem_id,
                    key,
                    Verdict.AC if rows[-1].value else Verdict.WA,
                    0,
                    6,
                    "",
                    0.1,
                    "faithful",
                    "T",
                )
                for key, rows in steps.items()
            ],
        )
        if window == "train":
            paths.arm("corrected").mkdir(parents=True)
            rows = [{"step": step, "label_drift": step / 10, "inner_loss": 0.5} for step in range(3)]
            metrics = "".join(json.dumps(row) + "\n" for row in rows) + '{"step": 3, "label_dri'  # an incomplete line
            (paths.arm("corrected") / "metrics.jsonl").write_text(metrics)
            passes = rng.binomial(4, [row.value for row in truth])
            write_records(
                paths.step_labels(),
                StepLabel,
                [step_label(row, int(k)) for row, k in zip(truth, passes, strict=True)],
            )
            write_records(
                paths.corrected_labels("corrected"),
                CorrectedLabel,
                [
                    CorrectedLabel(
                        row.problem_id, row.program_hash, row.step_index, k / 4, (k / 4 + row.value) / 2, "table"
                    )
                    for row, k in zip(truth, passes.tolist(), strict=True)
                ],
            )
            continue
        for arm, noise in NOISE.items():
            scores = []
            for key, rows in steps.items():
                logits = logit(np.array([row.value for row in rows])) + noise * rng.normal(size=len(rows))
                scored = tuple((1 / (1 + np.exp(-logits))).tolist())
                scores.append(Score(texts[key].problem_id, key, tuple(logits.tolist()), scored, arm, "c0"))
            write_records(paths.scores(arm), Score, scores)


@pytest.fixture(scope="session")
def config():
    return small_config()


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory, config):
    """A run ready to evaluate. Tests that change files copy it first."""
    paths = Paths(tmp_path_factory.mktemp("run"))
    write_run(paths, config)
    return paths


@pytest.fixture
def without_truth(config):
    """The same settings for real problems, which have no truth."""
    return dataclasses.replace(config, problems=dataclasses.replace(config.problems, source="livecodebench"))


@pytest.fixture(scope="session")
def label_of():
    """A function that maps (truth of a step, passes of 4 rollouts) to the label of the step."""
    return step_label
