"""A tiny reward model as a Hugging Face folder, and files with problems and candidates of the procedural benchmark."""

import dataclasses
import json

import jax
import pytest

from dreamprm_jax.models.decoder import DecoderConfig
from dreamprm_jax.models.hf_export import export_model
from dreamprm_jax.models.reward import init_params
from dreamprm_jax.models.tokenizer import prompt_text, save_tokenizer, train_tokenizer
from dreamprm_jax.policy.protocol import CompletionRequest
from dreamprm_jax.policy.simulated import SimulatedPolicy
from dreamprm_jax.scoring.prm import PrmOptions, load_prm
from dreamprm_jax.scoring.scorer import Scorer

MODEL = DecoderConfig(
    vocab_size=512, hidden_size=16, intermediate_size=24, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=8,
    qkv_bias=True, max_positions=1024,
)  # fmt: skip


@pytest.fixture(scope="session")
def written(benchmark):
    """Eight test problems, each with four candidate programs: (problem, codes)."""
    chosen = [(problem, composition) for window, problem, composition in benchmark if window == "test"][:8]
    policy = SimulatedPolicy({problem.problem_id: composition for problem, composition in chosen})
    return [
        (problem, [c.code for c in policy.complete(CompletionRequest(problem, "", 4, 0.8, 7))]) for problem, _ in chosen
    ]


@pytest.fixture(scope="session")
def prm_folder(tmp_path_factory, written):
    """The folder of a reward model with logits of order one."""
    folder = tmp_path_factory.mktemp("prm")
    params = jax.jit(init_params, static_argnums=0)(MODEL, jax.random.key(0))
    params = params | {"head": jax.tree.map(lambda leaf: 40 * leaf, params["head"])}
    texts = [text for problem, codes in written for text in (prompt_text(problem), *codes)]
    save_tokenizer(train_tokenizer(texts, MODEL.vocab_size), folder / "tokenizer.json")
    return export_model(dataclasses.replace(MODEL), params, folder / "hf", folder / "tokenizer.json")


@pytest.fixture(scope="session")
def problems_file(tmp_path_factory, written):
    """The problems as JSON lines with this package's field names."""
    path = tmp_path_factory.mktemp("problems") / "problems.jsonl"
    fields = ("problem_id", "title", "statement", "platform")
    path.write_text("".join(json.dumps({f: getattr(p, f) for f in fields}) + "\n" for p, _ in written), "utf-8")
    return path


@pytest.fixture(scope="session")
def candidates_file(tmp_path_factory, written):
    """All candidates as JSON lines {problem_id, code}, problem by problem."""
    path = tmp_path_factory.mktemp("candidates") / "candidates.jsonl"
    rows = [{"problem_id": problem.problem_id, "code": code} for problem, codes in written for code in codes]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


@pytest.fixture(scope="session")
def prm(prm_folder):
    return load_prm(prm_folder, PrmOptions())


@pytest.fixture(scope="session")
def scorer(prm):
    return Scorer(prm.model, prm.mesh, prm.params, 1024, 4096)
