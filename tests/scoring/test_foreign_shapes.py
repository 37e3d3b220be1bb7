"""Shapes of public models: every supported scaling of RoPE, and errors that name everything unsupported."""

import numpy as np
import pytest
from test_foreign_prm import CODES, add_tensors, make_model, make_tokenizer, ours, torch

from dreamprm_jax.schema import DataError
from dreamprm_jax.scoring.prm import PrmOptions, load_prm

OF_256 = {"original_max_position_embeddings": 256}


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("qwen2", {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0}),
        ("llama", {"rope_type": "yarn", "factor": 4.0, **OF_256, "truncate": False}),
        ("llama", {"rope_type": "yarn", "factor": 4.0, **OF_256, "mscale": 0.7, "mscale_all_dim": 0.9}),
        ("llama", {"rope_type": "yarn", "factor": 4.0, **OF_256, "attention_factor": 1.3}),
        ("mistral", {"rope_type": "linear", "factor": 2.0}),
        ("qwen3", {"rope_type": "dynamic", "factor": 2.0}),
    ],
)  # fmt: skip
def test_rescaled_positions(kind, changes, tmp_path):
    rope = {"rope_theta": 1e4, **changes}
    model = make_model(tmp_path, kind, "SequenceClassification", num_labels=1, rope_parameters=rope)
    make_tokenizer(tmp_path)
    tokens, logits, _ = ours(tmp_path, CODES[0])
    with torch.no_grad():
        expected = model(input_ids=torch.tensor([tokens.tolist()])).logits[0].numpy()
    np.testing.assert_allclose(logits, expected, atol=1e-4)


REFUSED = {
    "gptq": ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "weights are quantized (gptq)"),
    "fp8": ({"quantization_config": {"quant_method": "fp8"}}, "weights are quantized (fp8)"),
    "longrope": ({"rope_parameters": {"rope_type": "longrope", "rope_theta": 1e4}}, "asks for rope type 'longrope'"),
    "mrope": ({"rope_parameters": None, "rope_scaling": {"type": "mrope"}}, "asks for rope type 'mrope'"),
    "rope of layers": (
        {"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "has settings for each kind of layer",
    ),
    "linear attention": ({"layer_types": ["linear_attention"]}, "names 'linear_attention'"),
    "layers": ({"layer_types": 3}, "field 'layer_types' is 3"),
    "gemma": ({"model_type": "gemma2"}, "field 'model_type' is 'gemma2'"),
    "phi": ({"model_type": "phi3"}, "field 'model_type' is 'phi3'"),
    "experts": ({"model_type": "qwen3_moe"}, "field 'model_type' is 'qwen3_moe'"),
    "no type": ({"model_type": []}, "field 'model_type' is []"),
    "biases": ({"mlp_bias": True}, "field 'mlp_bias'"),
    "activation": ({"hidden_act": "gelu"}, "field 'hidden_act' is 'gelu'"),
    "rotary": ({"partial_rotary_factor": 0.5}, "field 'partial_rotary_factor'"),
    "labels": ({"id2label": {"a": "b"}}, "invalid literal for int() with base 10: 'a'"),
    "architectures": ({"architectures": 3, "id2label": {"0": "x", "1": "y"}}, "name both with --labels"),
}  # fmt: skip


@pytest.fixture(scope="module")
def plain_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain")
    make_model(folder, "llama", "TokenClassification", num_labels=2)
    make_tokenizer(folder)
    return folder


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_supported_is_refused_by_name(name, plain_folder, tmp_path):
    changes, message = REFUSED[name]
    for path in plain_folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    add_tensors(tmp_path, {}, **changes)
    with pytest.raises(DataError) as caught:
        load_prm(tmp_path, PrmOptions())
    assert message in str(caught.value)


@pytest.mark.parametrize("tensor", ["float8", "scale_inv", "lora_A"])
def test_tensors_that_are_not_known_are_refused(tensor, plain_folder, tmp_path):
    from safetensors.torch import load_file as load_torch
    from safetensors.torch import save_file as save_torch

    for path in plain_folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    name = "model.layers.0.mlp.up_proj.weight"
    tensors = load_torch(tmp_path / "model.safetensors")
    extra = tensors[name].to(torch.float8_e4m3fn) if tensor == "float8" else torch.ones(1, 1)
    save_torch(tensors | {name if tensor == "float8" else f"{name}_{tensor}": extra}, tmp_path / "model.safetensors")
    with pytest.raises(DataError, match="is stored as F8_E4M3" if tensor == "float8" else "have no place"):
        load_prm(tmp_path, PrmOptions())
