"""Compares import and export with transformers: always with golden files, and live if torch is installed."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import make_golden
import numpy as np
import pytest
from models_toy import random_params
from safetensors.numpy import load_file, save_file

from dreamprm_jax.config import LoraConfig, ModelConfig
from dreamprm_jax.models.hf_config import read_config
from dreamprm_jax.models.hf_export import export_model
from dreamprm_jax.models.hf_import import check_folder, load_params
from dreamprm_jax.models.pretrained import make_params, model_config
from dreamprm_jax.models.reward import hidden_states, step_logits
from dreamprm_jax.models.tokenizer import train_tokenizer
from dreamprm_jax.schema import DataError

KEY = jax.random.key(0)


def ours(config, params, tokens):
    """Hidden states and the logits of every position."""
    tokens = jnp.asarray(tokens, jnp.int32)
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    everywhere = positions
    run = jax.jit(
        lambda p: (
            hidden_states(config, p, tokens, positions),
            step_logits(config, p, tokens, positions, jnp.ones_like(tokens), everywhere),
        )
    )
    return run(params)


@pytest.mark.parametrize("name", make_golden.VARIANTS)
def test_golden_files(name):
    folder = make_golden.GOLDEN / name
    config = read_config(folder)
    golden = np.load(folder / "expected.npz")
    hidden, logits = ours(config, load_params(config, folder, KEY), golden["tokens"])
    np.testing.assert_allclose(hidden, golden["hidden"], atol=5e-5)
    np.testing.assert_allclose(logits, golden["logits"], atol=5e-5)
    assert np.std(golden["logits"]) > 0.3


@pytest.mark.parametrize("name", make_golden.VARIANTS)
def test_live_import_and_export(name, tmp_path):
    pytest.importorskip("torch", reason="the live comparison needs torch; the golden files cover its absence")
    import transformers

    model = make_golden.build(name, vocab_size=300, hidden_size=64, intermediate_size=96)
    model.save_pretrained(tmp_path / "in")
    tokens = np.random.default_rng(1).integers(0, 300, (2, 50))
    expected = make_golden.expected(model, tokens)
    config = read_config(tmp_path / "in")
    params = load_params(config, tmp_path / "in", KEY)
    hidden, logits = ours(config, params, tokens)
    np.testing.assert_allclose(hidden, expected["hidden"], atol=1e-4)
    np.testing.assert_allclose(logits, expected["logits"], atol=1e-4)

    export_model(config, params, tmp_path / "out", file_bytes=100_000)
    assert len(list((tmp_path / "out").glob("*.safetensors"))) > 1
    again = transformers.AutoModelForTokenClassification.from_pretrained(tmp_path / "out").eval()
    np.testing.assert_allclose(make_golden.expected(again, tokens)["logits"], expected["logits"], atol=1e-5)
    assert read_config(tmp_path / "out") == config


@pytest.mark.parametrize(
    "scaling",
    [
        {"rope_type": "linear", "factor": 3.0},
        {"rope_type": "dynamic", "factor": 3.0},
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16},
        {"type": "yarn", "factor": 8.0, "original_max_position_embeddings": 32, "beta_fast": 4.0, "beta_slow": 2.0},
        {
            "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "truncate": False,
            "mscale": 0.7, "mscale_all_dim": 1.3,
        },
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "attention_factor": 0.8},
        {"type": "yarn", "factor": 4.0},
        make_golden.LLAMA3,
    ],
    ids=lambda scaling: "-".join(map(str, scaling.values())),
)  # fmt: skip
@pytest.mark.parametrize("kind", ["qwen2", "mistral"])
def test_rope_types(kind, scaling, tmp_path):
    torch = pytest.importorskip("torch", reason="the live comparison needs torch")
    import transformers

    torch.manual_seed(7)
    shape = make_golden.SHAPE | {"max_position_embeddings": 64, "sliding_window": None, "hidden_size": 64}
    config = transformers.AutoConfig.for_model(kind, **shape, rope_theta=1e4, rope_scaling=dict(scaling))
    model = transformers.AutoModelForTokenClassification.from_config(config).eval()
    model.save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    values.pop("rope_parameters")  # as before transformers 5
    (tmp_path / "config.json").write_text(json.dumps(values | {"rope_theta": 1e4, "rope_scaling": scaling}))
    tokens = np.random.default_rng(1).integers(0, 40, (2, 64))
    expected = make_golden.expected(model, tokens)
    read = read_config(tmp_path)
    params = load_params(read, tmp_path, KEY)
    np.testing.assert_allclose(ours(read, params, tokens)[0], expected["hidden"], atol=1e-4)
    plain = dataclasses.replace(read, rope_scaling=None)
    if "dynamic" not in scaling.values():
        assert np.abs(ours(plain, params, tokens)[0] - expected["hidden"]).max() > 1e-2
    export_model(read, params, tmp_path / "out")
    assert read_config(tmp_path / "out") == read


@pytest.mark.parametrize(
    ("kind", "changes", "context"),
    [
        ("mistral", {"sliding_window": 100}, 100),
        ("mistral", {"sliding_window": 1000}, 256),
        ("mistral", {"sliding_window": None}, 256),
        ("qwen2", {"sliding_window": 100, "use_sliding_window": True}, 100),
        ("qwen2", {"sliding_window": 100, "use_sliding_window": False}, 256),
        ("qwen3", {"sliding_window": 100, "layer_types": ["full_attention", "sliding_attention"]}, 100),
    ],
)
def test_a_sliding_window_bounds_the_context(kind, changes, context, tmp_path):
    values = json.loads((make_golden.GOLDEN / "qwen2" / "config.json").read_text()) | {"layer_types": None}
    (tmp_path / "config.json").write_text(json.dumps(values | {"model_type": kind} | changes))
    assert read_config(tmp_path).max_positions == context


def test_a_window_is_not_seen_within_it(tmp_path):
    torch = pytest.importorskip("torch", reason="the live comparison needs torch")
    import transformers

    torch.manual_seed(7)
    config = transformers.AutoConfig.for_model("mistral", **make_golden.SHAPE, sliding_window=24)
    model = transformers.AutoModelForTokenClassification.from_config(config).eval()
    model.save_pretrained(tmp_path)
    tokens = np.random.default_rng(1).integers(0, 40, (2, 24))
    read = read_config(tmp_path)
    assert read.max_positions == 24
    hidden, _ = ours(read, load_params(read, tmp_path, KEY), tokens)
    np.testing.assert_allclose(hidden, make_golden.expected(model, tokens)["hidden"], atol=1e-4)


@pytest.mark.parametrize("labels", [1, 2, 3])
@pytest.mark.parametrize("layers", [1, 2])
def test_training_starts_from_a_folders_own_head(labels, layers, tmp_path):
    """Training never starts from a random head in place of the stored one."""
    shutil.copytree(make_golden.GOLDEN / "qwen2", tmp_path / "m")
    path, rng = tmp_path / "m" / "model.safetensors", np.random.default_rng(0)
    tensors = {name: value for name, value in load_file(path).items() if not name.startswith("score.")}
    last = "score.2" if layers == 2 else "score"
    hidden = rng.standard_normal((24, 16)).astype(np.float32)
    weight = rng.standard_normal((labels, 24 if layers == 2 else 16)).astype(np.float32)
    save_file(tensors | {f"{last}.weight": weight} | ({"score.0.weight": hidden} if layers == 2 else {}), path)
    settings = ModelConfig(weights=str(tmp_path / "m"), max_length=64)
    values = json.loads((tmp_path / "m" / "config.json").read_text())
    values["id2label"] = {str(n): f"LABEL_{n}" for n in range(labels)}
    (tmp_path / "m" / "config.json").write_text(json.dumps(values))
    if labels == 3:
        with pytest.raises(DataError, match=r"has 3 labels \(LABEL_0, LABEL_1, LABEL_2\); which of them is right"):
            model_config(settings)
        return
    config = model_config(settings)
    assert (config.head_hidden, config.head_activation) == ((24, "relu") if layers == 2 else (0, "silu"))
    head = make_params(settings, config, KEY)["head"]
    expected = weight[1] - weight[0] if labels == 2 else weight[0]
    np.testing.assert_array_equal(head["kernel"], expected)
    assert float(head["bias"]) == 0.0
    if layers == 2:
        np.testing.assert_array_equal(head["hidden_kernel"], hidden.T)


@pytest.mark.parametrize("name", ["qwen2", "qwen3"])
def test_live_vocabulary_logits(name, tmp_path):
    torch = pytest.importorskip("torch", reason="the live comparison needs torch; the golden files cover its absence")
    import transformers

    reference = make_golden.build(name, hidden_size=64).config
    torch.manual_seed(3)
    model = transformers.AutoModelForCausalLM.from_config(reference).eval()
    model.save_pretrained(tmp_path)
    tokens = np.random.default_rng(1).integers(0, 40, (2, 50))
    with torch.no_grad():
        expected = model(input_ids=torch.from_numpy(tokens)).logits.numpy()
    table = model.get_output_embeddings().weight.detach().numpy()
    config = read_config(tmp_path)
    assert config.tie_embeddings == (name == "qwen2")
    hidden, _ = ours(config, load_params(config, tmp_path, KEY), tokens)
    np.testing.assert_allclose(np.asarray(hidden) @ table.T, expected, atol=1e-4)
    narrow = dataclasses.replace(config, dtype="bfloat16", param_dtype="bfloat16")
    hidden, _ = ours(narrow, load_params(narrow, tmp_path, KEY), tokens)
    with torch.no_grad():
        expected = model.to(torch.bfloat16)(input_ids=torch.from_numpy(tokens)).logits.float().numpy()
    ranked = np.sort(expected, axis=-1)
    clear = ranked[..., -1] - ranked[..., -2] > 0.1 * expected.std()  # bf16 may reorder closer logits
    assert clear.mean() > 0.7
    got = (np.asarray(hidden, np.float32) @ table.T).argmax(-1)
    np.testing.assert_array_equal(got[clear], expected.argmax(-1)[clear])


def test_export_merges_lora(tmp_path):
    base = read_config(make_golden.GOLDEN / "qwen2")
    config = dataclasses.replace(base, lora=LoraConfig(rank=3, alpha=5.0, targets=("q", "o", "down")))
    params = load_params(config, make_golden.GOLDEN / "qwen2", KEY)
    layers = params["decoder"]["layers"]
    for target in config.lora.targets:
        b = layers[target]["lora_b"]
        layers[target]["lora_b"] = 0.1 * jax.random.normal(jax.random.key(b.size), b.shape)
    tokens = np.load(make_golden.GOLDEN / "qwen2" / "expected.npz")["tokens"]
    _, adapted = ours(config, params, tokens)
    export_model(config, params, tmp_path)
    merged = load_params(base, tmp_path, KEY)
    np.testing.assert_allclose(ours(base, merged, tokens)[1], adapted, rtol=2e-6, atol=2e-6)
    assert "lora_a" not in merged["decoder"]["layers"]["q"]


def test_exported_tokenizer_is_the_one_of_training(tmp_path):
    pytest.importorskip("torch", reason="transformers' pipeline needs torch")
    import transformers

    text = "def f(x):\n    return x + 12\n"
    tokenizer = train_tokenizer([text] * 3, 270)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    config = dataclasses.replace(read_config(make_golden.GOLDEN / "qwen2"), vocab_size=300)
    params = random_params(config)
    folder = export_model(config, params, tmp_path / "out", tokenizer=tmp_path / "tokenizer.json")
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    tokens = tokenizer.encode(text).ids
    assert theirs(text).input_ids == tokens
    model = transformers.AutoModelForTokenClassification.from_pretrained(folder)
    scores = model(**theirs(text, return_tensors="pt")).logits[0, :, 0].sigmoid().detach().numpy()
    expected = jax.nn.sigmoid(ours(config, params, [tokens])[1][0])
    np.testing.assert_allclose(scores, expected, atol=1e-5)


def test_bfloat16_files_keep_their_bits(tmp_path):
    config = dataclasses.replace(read_config(make_golden.GOLDEN / "llama"), param_dtype="bfloat16")
    params = load_params(config, make_golden.GOLDEN / "llama", KEY)
    export_model(config, params, tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    assert {v.dtype.name for k, v in stored.items() if not k.startswith("score.")} == {"bfloat16"}
    again = load_params(config, tmp_path, KEY)
    jax.tree.map(np.testing.assert_array_equal, params, again)


def test_folder_without_a_head_gets_a_random_one(tmp_path):
    shutil.copy(make_golden.GOLDEN / "qwen2" / "config.json", tmp_path)
    tensors = load_file(make_golden.GOLDEN / "qwen2" / "model.safetensors")
    bare = {name.removeprefix("model."): value for name, value in tensors.items() if not name.startswith("score.")}
    save_file(bare, tmp_path / "model.safetensors")
    config = read_config(tmp_path)
    params = load_params(config, tmp_path, KEY)
    original = load_params(config, make_golden.GOLDEN / "qwen2", KEY)
    np.testing.assert_array_equal(params["decoder"]["embedding"], original["decoder"]["embedding"])
    assert 0.005 < float(jnp.std(params["head"]["kernel"])) < 0.05
    wide = dataclasses.replace(config, head_hidden=8)
    assert load_params(wide, tmp_path, KEY)["head"]["hidden_kernel"].shape == (16, 8)
    with pytest.raises(DataError, match=r"set model\.head_hidden=0"):
        load_params(wide, make_golden.GOLDEN / "qwen2", KEY)
    with pytest.raises(DataError, match=r"model\.head_hidden: .* only 0 can be exported"):
        export_model(wide, params, tmp_path / "out")


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model_type": "gpt2"},
            r"config\.json: field 'model_type' is 'gpt2'; supported are qwen2, qwen3, llama, mistral",
        ),
        ({"hidden_size": None}, r"field 'hidden_size' is missing"),
        ({"num_hidden_layers": "two"}, r"field 'num_hidden_layers' is 'two'; a positive int is needed"),
        ({"num_key_value_heads": 3}, r"config\.json: model: num_heads=4 must be a multiple of num_kv_heads=3"),
        ({"hidden_act": "gelu"}, r"field 'hidden_act' is 'gelu'"),
        ({"sliding_window": -4, "use_sliding_window": True}, r"field 'sliding_window' is -4; a positive int is needed"),
        (
            {"rope_parameters": {"rope_type": "longrope"}},
            r"asks for rope type 'longrope'; supported are default, linear",
        ),
        ({"rope_parameters": {"rope_type": "yarn"}}, r"of type 'yarn' lacks the numbers \['factor'\]"),
        (
            {"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "mscale": "x"}},
            r"'yarn' has no number in \['mscale'",
        ),
        ({"quantization_config": {"quant_method": "fp8"}}, r"field 'quantization_config' says .*quantized \(fp8\)"),
        ({"rope_parameters": {"rope_type": "llama3"}}, r"of type 'llama3' lacks the numbers \['factor'"),
        ({"model_type": "llama", "mlp_bias": True}, r"field 'mlp_bias' is true"),
    ],
)
def test_config_that_the_decoder_does_not_do(changes, message, tmp_path):
    values = json.loads((make_golden.GOLDEN / "qwen2" / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(values | changes))
    with pytest.raises(DataError, match=message):
        read_config(tmp_path)


def test_config_that_is_no_config(tmp_path):
    with pytest.raises(DataError, match=r"config\.json: not found"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(DataError, match=r"config\.json: not readable as JSON"):
        read_config(tmp_path)


def test_tensors_that_do_not_fit(tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(make_golden.GOLDEN / "qwen2", folder)
    path = folder / "model.safetensors"
    config, tensors = read_config(folder), load_file(path)
    name = "model.layers.1.self_attn.k_proj.weight"

    save_file({k: v for k, v in tensors.items() if k != name}, path)
    with pytest.raises(DataError, match=rf"tensor '{name}' is missing"):
        load_params(config, folder, KEY)
    save_file(tensors | {name: tensors[name][:, :-1].copy()}, path)
    for reads in (lambda: load_params(config, folder, KEY), lambda: check_folder(config, folder)):
        with pytest.raises(DataError, match=rf"tensor '{name}' has shape \(8, 15\), config.json asks for \(8, 16\)"):
            reads()
    save_file(tensors | {"model.layers.2.mlp.up_proj.weight": tensors[name]}, path)
    with pytest.raises(DataError, match=r"tensor 'model.layers.2.mlp.up_proj.weight' and 0 more have no place"):
        load_params(config, folder, KEY)
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(DataError, match=r"model\.safetensors: not readable as safetensors"):
        load_params(config, folder, KEY)
    path.unlink()
    with pytest.raises(DataError, match=r"neither model\.safetensors nor"):
        load_params(config, folder, KEY)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {name: "gone.safetensors"}}))
    with pytest.raises(DataError, match=r"names \['gone.safetensors'\], not in the folder"):
        load_params(config, folder, KEY)
