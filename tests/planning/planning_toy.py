"""A small model with parameters and activations that are much larger than everything that the plan ignores."""

import dataclasses

from dreamprm_jax.config import Config, InspectConfig, LoraConfig, MetaConfig, ModelConfig, TrainConfig

CONFIG = Config(
    model=ModelConfig(
        architecture="llama", vocab_size=256, hidden_size=128, intermediate_size=384, num_layers=6, num_heads=8,
        num_kv_heads=4, max_length=128, remat="full", attention="chunked",
    ),
    train=TrainConfig(
        row_tokens=128, batch_size=16, accumulation=2, arms=("label_table",), meta=MetaConfig(batch_size=16)
    ),
    inspect=InspectConfig(labels=4096, steps_per_row=8),
)  # fmt: skip
LORA = dataclasses.replace(CONFIG, model=dataclasses.replace(CONFIG.model, lora=LoraConfig(rank=2)))
