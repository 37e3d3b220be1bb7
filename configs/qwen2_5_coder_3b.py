"""DreamPRM-Code with the paper's settings (arXiv 2512.15000): Qwen2.5-Coder-3B, LoRA, LiveCodeBench, 16 rollouts.

Command:  dreamprm run --config=configs/qwen2_5_coder_3b.py --config.policy.base_url=http://HOST:8000/v1 --workdir=DIR
          on a machine with the weights (hub id, or --config.model.weights=FOLDER) and a policy server; then
          dreamprm export --config=configs/qwen2_5_coder_3b.py --workdir=DIR --output=FOLDER, which merges the adapters
Cost:     dreamprm inspect --config=configs/qwen2_5_coder_3b.py prints it. With 8 rows of 2,048 tokens one device
          needs 45.1 GB according to the TPU compiler (docs/device_figures.md); --config.model.remat=full needs 12.5 GB
          and a quarter more computation. With more than 80 GB,
          --config.train.meta.reuse_forward=True --config.train.meta.accumulation=2 makes bi-level steps faster
Expected: the paper reports pass@1 80.9 with o4-mini-high's candidates of 2025-02 and later (131 problems; 79.4 for its
          outcome reward model, one problem is 0.76). Not run yet
"""

from pathlib import Path

from ml_collections import config_dict

from dreamprm_jax.config import defaults


def get_config() -> config_dict.ConfigDict:
    """The paper's settings, and those of the released code if the paper gives none (see docs/reproduction.md)."""
    config = defaults()
    config.name = "qwen2_5_coder_3b"

    config.problems.source = "livecodebench"
    config.problems.release = "release_v6"
    config.problems.train_before = "2024-08-01"
    config.problems.test_from = "2025-02-01"
    config.policy.kind = "server"
    config.policy.model = "Qwen/Qwen3-Coder-30B-A3B-Instruct"
    config.generate.train_programs = 1
    config.generate.temperature = 0.2
    config.label.rollouts = 16
    config.policy.top_p = 0.95  # the released code
    config.label.temperature = 0.3
    config.label.reuse = "none"  # 16 rollouts for each prefix, none shared

    config.model.weights = "Qwen/Qwen2.5-Coder-3B"
    # The shape of these weights, for `inspect` without the weights.
    config.model.architecture = "qwen2"
    config.model.vocab_size = 151936
    config.model.hidden_size = 2048
    config.model.intermediate_size = 11008
    config.model.num_layers = 36
    config.model.num_heads = 16
    config.model.num_kv_heads = 2
    config.model.rope_theta = 1e6
    config.model.max_length = 2048
    config.model.lora.rank = 8
    config.model.lora.alpha = 16.0
    config.model.lora.dropout = 0.05
    config.model.lora.targets = ("q", "k", "v", "o")
    config.model.dtype = "bfloat16"  # the released code: float32
    config.model.param_dtype = "bfloat16"  # the frozen base; adapters and head stay float32
    config.model.remat = "dots"
    config.model.attention = "auto"

    config.train.row_tokens = 2048
    config.train.batch_size = 8  # the released code: batches of 1, accumulated 8 times
    config.train.warmup_steps = 400  # about five epochs of steps and outcomes
    config.train.steps = 1_250  # the paper's 10,000 iterations are micro-batches of one, eight per update
    config.train.loss = "mse"
    config.train.optimizer = f"{Path(__file__).parents[1] / 'research' / 'torch_adam.py'}:torch_adam"
    config.train.learning_rate = 1e-4
    config.train.weight_decay = 0.01
    config.train.clip_norm = 1.0
    config.train.adam_b2 = 0.999
    config.train.labels.method = "label_table"  # the paper; the package's default is undetected_fault_online
    config.train.meta.learning_rate = 1e-2
    config.train.meta.weight_decay = 0.002
    config.train.meta.every = 8  # 157 outer updates
    config.train.meta.batch_size = 8
    config.train.checkpoint_every = 500
    config.evaluate.aggregator = "last"  # the paper; the package's default is the sum of log-odds
    config.inspect.memory_gb = 80.0
    return config
