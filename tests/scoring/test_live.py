"""A checkpoint as the scorer of a live search, compared with the rows of the score stage; the scored windows."""

import dataclasses

import jax
import numpy as np
import pytest

from dreamprm_jax.cof.splitter import split_steps
from dreamprm_jax.config import ScoreConfig
from dreamprm_jax.models.pretrained import model_config
from dreamprm_jax.models.reward import init_params
from dreamprm_jax.models.tokenizer import prompt_text, save_tokenizer, train_tokenizer
from dreamprm_jax.runs.paths import Paths
from dreamprm_jax.schema import DataError, Problem, Program, Score
from dreamprm_jax.scoring.forms import FormOptions
from dreamprm_jax.scoring.live import LiveScorer, load, load_foreign
from dreamprm_jax.scoring.prm import PrmOptions, load_prm
from dreamprm_jax.stages.generate import generate
from dreamprm_jax.stages.score import score
from dreamprm_jax.storage import read_records
from dreamprm_jax.training.checkpoint import Checkpoints, TrainState


@pytest.fixture(scope="module")
def run(tiny_config, tmp_path_factory):
    """Settings, folder and scores of a run whose arm "raw" has a checkpoint of a random model with large logits."""
    config = dataclasses.replace(
        tiny_config,
        model=dataclasses.replace(tiny_config.model, max_length=2048),  # no input is truncated
        train=dataclasses.replace(tiny_config.train, arms=("raw",)),
        score=ScoreConfig(row_tokens=512, batch_tokens=1024, windows=("test", "meta")),
    )
    paths = Paths(tmp_path_factory.mktemp("live"))
    generate(config, paths)
    params = jax.jit(init_params, static_argnums=0)(model_config(config.model), jax.random.key(0))
    params = params | {"head": jax.tree.map(lambda leaf: 40 * leaf, params["head"])}
    with Checkpoints(paths.arm("raw") / "checkpoints", every=1, keep=1) as checkpoints:
        checkpoints.save(1, TrainState(params, (), (), ()))
    texts = [prompt_text(p) for p in read_records(paths.problems("train"), Problem)]
    texts += [p.code for p in read_records(paths.programs("train"), Program)]
    save_tokenizer(train_tokenizer(texts, 300), paths.tokenizer())
    return config, paths, score(config, paths)


def test_a_live_scorer_gives_the_score_stages_logits(run):
    config, paths, counts = run
    scorer = load(config, paths, "raw")
    total = 0
    for window in ("test", "meta"):
        problems = {p.problem_id: p for p in read_records(paths.problems(window), Problem)}
        programs = {p.program_hash: p for p in read_records(paths.programs(window), Program)}
        rows = read_records(paths.scores("raw", window), Score)
        assert {row.program_hash for row in rows} == set(programs)
        items = [(problems[row.problem_id], programs[row.program_hash].code) for row in rows]
        for found, row in zip(scorer(items), rows, strict=True):
            assert found == pytest.approx(row.step_logits, abs=1e-4)
        total += len(rows)
    assert counts["programs"] == total
    assert np.std([value for row in rows for value in row.step_logits]) > 0.1


def test_prefixes_score_as_within_the_program_and_nothing_scores_as_nothing(run):
    config, paths, _ = run
    scorer = load(config, paths, "raw")
    problem = read_records(paths.problems("test"), Problem)[0]
    program = next(p for p in read_records(paths.programs("test"), Program) if p.problem_id == problem.problem_id)
    steps = split_steps(program.code)
    whole, prefix, empty = scorer([(problem, program.code), (problem, program.code[: steps[1].end]), (problem, "")])
    assert prefix == pytest.approx(whole[:2], abs=1e-4)
    assert empty.size == 0
    assert scorer.counts["left out: empty program"] == 1


def test_a_foreign_model_scores_every_step_of_a_search(run, prm_folder):
    config, paths, _ = run
    scorer = load_foreign(config, prm_folder, PrmOptions())
    problem = read_records(paths.problems("test"), Problem)[0]
    code = "def f():\n    pass\n\n\ndef main():\n    f()\n"
    whole, prefix, empty = scorer([(problem, code), (problem, code[: split_steps(code)[0].end]), (problem, "")])
    assert whole.shape == (2,)
    assert prefix == pytest.approx(whole[:1], abs=1e-4)
    assert empty.size == 0
    options = PrmOptions(form=FormOptions(separator="#"))
    separated = load_foreign(config, prm_folder, options)
    assert separated([(problem, code)])[0].shape == (2,)
    assert separated([(problem, "")])[0].size == 0
    prm = load_prm(prm_folder, options)
    prm.reader.form = dataclasses.replace(prm.reader.form, outcome=True)
    with pytest.raises(DataError, match="gives one score a program; a search needs one a step"):
        LiveScorer(prm, config)
