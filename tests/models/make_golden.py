"""Makes the golden files of test_hf.py with transformers: ``python tests/models/make_golden.py`` (needs torch).

Each folder of golden/ has a tiny random token classifier as transformers saves it, and expected.npz with the results of
transformers: the last hidden states and the logits of the label.
"""

from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).with_name("golden")
SHAPE = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "num_labels": 1,
    "initializer_range": 0.3,  # wide, so that every part affects the result
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
VARIANTS = {
    "qwen2": {"rope_theta": 1e6, "tie_word_embeddings": True},
    "qwen3": {"rope_theta": 1e6, "head_dim": 8},
    "llama": {"rope_theta": 1e5, "tie_word_embeddings": True},
    "llama-bias-rescaled": {"attention_bias": True, "rope_parameters": LLAMA3, "rope_scaling": LLAMA3},
}


def build(name: str, **changes):
    """A tiny random token classifier from transformers for a variant, in evaluation mode."""
    import torch
    import transformers

    kind = name.split("-")[0]
    config = transformers.AutoConfig.for_model(kind, **(SHAPE | VARIANTS[name] | changes))
    torch.manual_seed(7)
    model = transformers.AutoModelForTokenClassification.from_config(config).eval()
    with torch.no_grad():  # norms and biases start at 1 and 0, which would hide mistakes
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


def expected(model, tokens: np.ndarray) -> dict[str, np.ndarray]:
    """The last hidden states and the logits [B T] that transformers computes."""
    import torch

    with torch.no_grad():
        out = model(input_ids=torch.from_numpy(tokens), output_hidden_states=True)
    return {
        "tokens": tokens,
        "hidden": out.hidden_states[-1].float().numpy(),
        "logits": out.logits[..., 0].float().numpy(),
    }


def main() -> None:
    tokens = np.random.default_rng(0).integers(0, SHAPE["vocab_size"], (2, 24))
    for name in VARIANTS:
        model = build(name)
        model.save_pretrained(GOLDEN / name)
        np.savez_compressed(GOLDEN / name / "expected.npz", **expected(model, tokens))


if __name__ == "__main__":
    main()
