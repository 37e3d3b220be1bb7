"""The stages with a Hugging Face folder and LoRA: trained and saved parameters, resumption, and the exported folder."""

import dataclasses
import shutil
from collections import Counter

import chex
import flax.traverse_util
import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from dreamprm_jax.cli import main as cli
from dreamprm_jax.config import LoraConfig, MeshConfig, ModelConfig, to_dict
from dreamprm_jax.models.decoder import decoder_config
from dreamprm_jax.models.hf_config import read_config
from dreamprm_jax.models.hf_export import export_model
from dreamprm_jax.models.hf_import import load_params
from dreamprm_jax.models.lora import split_trainable
from dreamprm_jax.models.pretrained import model_config
from dreamprm_jax.models.reward import init_params
from dreamprm_jax.models.tokenizer import load_tokenizer, prompt_text, train_tokenizer
from dreamprm_jax.runs.paths import Paths
from dreamprm_jax.runs.stage_folder import DONE
from dreamprm_jax.runs.trained import trained_arm
from dreamprm_jax.schema import Problem, Program, Score
from dreamprm_jax.scoring.scorer import ProgramReading, Reading, Scorer
from dreamprm_jax.stages.runner import run_stage
from dreamprm_jax.stages.score import score_programs
from dreamprm_jax.storage import read_records
from dreamprm_jax.training.examples import tokenize
from dreamprm_jax.training.export import export
from dreamprm_jax.training.mesh import make_mesh
from dreamprm_jax.training.parameters import frozen_params, initial_params, trained_params

LORA = LoraConfig(rank=2, alpha=8.0, targets=("q", "v"))
SHAPE = ModelConfig(
    architecture="qwen3",
    vocab_size=900,
    hidden_size=16,
    intermediate_size=32,
    num_layers=2,
    num_heads=2,
    num_kv_heads=1,
)


@pytest.fixture(scope="module")
def base(tmp_path_factory, benchmark, repository):
    """The folder of a pretrained decoder without a reward head, with a tokenizer that would truncate and pad."""
    folder = tmp_path_factory.mktemp("base")
    model = decoder_config(SHAPE)
    params = jax.jit(init_params, static_argnums=0)(model, jax.random.key(3))
    params["decoder"] = jax.tree.map(lambda leaf: leaf * (12.0 if leaf.ndim > 2 else 1.0), params["decoder"])
    texts = [
        path.read_text(encoding="utf-8") for path in (repository / "dreamprm_jax/problems/procedural").glob("*.py")
    ]
    texts += [prompt_text(problem) for _, problem, _ in benchmark[:30]]
    tokenizer = train_tokenizer(texts, SHAPE.vocab_size, "lines")
    tokenizer.enable_truncation(5)
    tokenizer.enable_padding(length=9)
    tokenizer.save(str(folder / "given.json"))
    export_model(model, params, folder, folder / "given.json")
    tensors = load_file(folder / "model.safetensors")
    decoder = {name: tensor for name, tensor in tensors.items() if not name.startswith("score.")}
    assert len(decoder) < len(tensors)
    save_file(decoder, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def settings(tiny_config, base):
    train = dataclasses.replace(tiny_config.train, arms=("corrected",), learning_rate=0.05)
    model = dataclasses.replace(tiny_config.model, weights=str(base), lora=LORA)
    return dataclasses.replace(tiny_config, model=model, train=train)


@pytest.fixture(scope="module")
def root(settings, tmp_path_factory):
    """The folder of a run that is finished up to its scores."""
    root = tmp_path_factory.mktemp("run")
    for stage in ("generate", "label", "train", "score"):
        run_stage(settings, root, stage)
    return root


@pytest.fixture(scope="module")
def mesh():
    return make_mesh(MeshConfig())


@pytest.fixture(scope="module")
def exported(settings, root, tmp_path_factory):
    return export(trained_arm(root / "corrected"), tmp_path_factory.mktemp("exported"))


def flat(tree):
    return flax.traverse_util.flatten_dict(tree)


def test_only_adapters_and_head_change(settings, root, mesh):
    model, paths = model_config(settings.model), Paths(root)
    start, frozen = split_trainable(model, initial_params(settings, model, mesh))
    chex.assert_trees_all_equal(initial_params(settings, model, mesh, "trainable"), start)
    chex.assert_trees_all_equal(frozen_params(settings, model, mesh), frozen)
    trains = {path for path, leaf in flat(start).items() if leaf is not None}
    assert {path[-2:] for path in trains} == {
        ("q", "lora_a"), ("q", "lora_b"), ("v", "lora_a"), ("v", "lora_b"), ("head", "kernel"), ("head", "bias"),
    }  # fmt: skip
    first, before = flat(start), flat(frozen)
    for arm, last in (("warmup", 4), ("corrected", 8)):
        step, params = trained_params(model, mesh, paths.arm(arm) / "checkpoints", frozen)
        assert step == last
        for path, leaf in flat(params).items():
            if path in trains:
                assert np.abs(leaf - first[path]).max() > 1e-3, path
            else:
                np.testing.assert_array_equal(leaf, before[path])


def test_checkpoints_hold_the_trainable_part_alone(settings, root):
    model = model_config(settings.model)
    whole = sum(
        leaf.size * 4 for leaf in jax.tree.leaves(jax.eval_shape(lambda: init_params(model, jax.random.key(0))))
    )
    folder = Paths(root).arm("corrected") / "checkpoints" / "8"
    names = (folder / "default" / "_METADATA").read_text(encoding="utf-8")
    assert "lora_b" in names
    stored = sum(file.stat().st_size for file in (folder / "default").rglob("d/*"))
    assert 0 < stored < whole / 2


def test_resumed_training_ends_the_same(settings, root, mesh, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(root, copy)
    paths, original = Paths(copy), Paths(root)
    (paths.stage("train") / DONE).unlink()
    shutil.rmtree(paths.arm("corrected") / "checkpoints" / "8")
    paths.corrected_labels("corrected").unlink()
    assert run_stage(settings, copy, "train")
    model = model_config(settings.model)
    frozen = frozen_params(settings, model, mesh)
    states = [trained_params(model, mesh, p.arm("corrected") / "checkpoints", frozen) for p in (paths, original)]
    chex.assert_trees_all_equal(*states)
    metrics = [(p.arm("corrected") / "metrics.jsonl").read_text(encoding="utf-8") for p in (paths, original)]
    assert metrics[0] == metrics[1]
    assert paths.corrected_labels("corrected").read_bytes() == original.corrected_labels("corrected").read_bytes()


def test_tokenizer_is_that_of_the_weights_without_its_truncation(root, base):
    ours, theirs = load_tokenizer(Paths(root).tokenizer()), load_tokenizer(base / "tokenizer.json")
    assert ours.get_vocab() == theirs.get_vocab()
    text = "def solve(values):\n    return sorted(values)\n"
    assert (len(theirs.encode(text).ids), len(theirs.encode("a").ids)) == (9, 9)
    assert ours.decode(ours.encode(text).ids) == text


def test_exported_folder_gives_the_scores_of_the_score_stage(settings, root, base, mesh, exported):
    paths = Paths(root)
    rows = read_records(paths.scores("corrected"), Score)
    assert {row.checkpoint for row in rows} == {"corrected/8"}
    by_hash = {row.program_hash: np.asarray(row.step_logits) for row in rows}
    problems = {p.problem_id: p for p in read_records(paths.problems("test"), Problem)}
    programs = {p.program_hash: p for p in read_records(paths.programs("test"), Program)}.values()
    tokenizer = load_tokenizer(paths.tokenizer())
    sequences = [
        ProgramReading(scored, Reading(tokens, ends))
        for program in programs
        for scored, tokens, ends in tokenize(
            tokenizer, settings.model, problems[program.problem_id], [program], Counter()
        )
    ]
    assert len(sequences) == len(rows) > 3

    model = read_config(exported)
    assert model.lora is None
    scorer = Scorer(model, mesh, load_params(model, exported, jax.random.key(9)), 512, 2048)
    again = score_programs(scorer, "again", "x", sequences)
    for row in again:
        np.testing.assert_allclose(row.step_logits, by_hash[row.program_hash], atol=1e-5)
    # The adapters have an effect: the merged kernels differ from the initial ones, the others do not.
    before, after = load_file(base / "model.safetensors"), load_file(exported / "model.safetensors")
    changed = {name for name, tensor in before.items() if np.abs(tensor - after[name]).max() > 1e-3}
    assert {name.split(".")[-2] for name in changed} == {"q_proj", "v_proj"}
    for name in before.keys() - changed:
        np.testing.assert_array_equal(before[name], after[name])
    assert load_tokenizer(exported / "tokenizer.json").get_vocab() == tokenizer.get_vocab()

    torch = pytest.importorskip("torch", reason="transformers reads the folder where torch is installed")
    import transformers

    served = transformers.AutoModelForTokenClassification.from_pretrained(exported).eval()
    for sequence in sequences:
        with torch.no_grad():
            logits = served(torch.tensor(sequence.reading.tokens[None].astype(np.int64))).logits[0, :, 0].numpy()
        expected = by_hash[sequence.program.program_hash]
        np.testing.assert_allclose(logits[sequence.reading.ends], expected, atol=1e-4)


def test_export_command(settings, root, exported, tmp_path, capsys):
    path = tmp_path / "config.py"
    path.write_text(
        f"from ml_collections import config_dict\n\n\ndef get_config():\n"
        f"    return config_dict.ConfigDict({to_dict(settings)!r})\n",
        encoding="utf-8",
    )
    output = tmp_path / "out" / "model"
    command = ["export", f"--config={path}", f"--workdir={root}", f"--output={output}"]
    assert cli.main(command) == 0
    assert capsys.readouterr().out.endswith(f"wrote {output}\n")
    for name, tensor in load_file(exported / "model.safetensors").items():
        np.testing.assert_array_equal(load_file(output / "model.safetensors")[name], tensor)
    assert cli.main(command) == 2
    assert f"--output={output}: exists and is not an empty folder" in capsys.readouterr().err


def test_export_of_what_is_not_there(root, tmp_path, capsys):
    for path, message in (
        (root / "orm", "the models trained there are corrected"),
        (tmp_path / "run" / "corrected", "no trained model there; give RUN/ARM"),
    ):
        assert cli.main(["export", f"--prm={path}", f"--output={tmp_path / 'out'}"]) == 2
        assert message in capsys.readouterr().err
    assert cli.main(["export", f"--output={tmp_path / 'out'}"]) == 2
    assert "no model is given; use --prm=RUN/ARM" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
