"""Full fine-tuning of Qwen2.5-Coder-7B on a TPU pod slice: all parameters are trained, sharded over all chips.

Command:  dreamprm run --config=configs/qwen2_5_coder_7b.py --config.policy.base_url=http://HOST:8000/v1 --workdir=DIR
          on every host of a v5p-16 (8 chips); for larger slices set --config.train.mesh.data=N
Cost:     dreamprm inspect --config=configs/qwen2_5_coder_7b.py (with libtpu, on any machine) prints it. Per chip:
          46.1 GB for a plain step and 54.6 GB for a bi-level step, of 95 GB (docs/device_figures.md)
Expected: not run yet
"""

from ml_collections import config_dict

from dreamprm_jax.config import defaults


def get_config() -> config_dict.ConfigDict:
    """Settings of the 7B run; the data are those of qwen2_5_coder_3b.py."""
    config = defaults()
    config.name = "qwen2_5_coder_7b"

    config.problems.source = "livecodebench"
    config.policy.kind = "server"
    config.policy.model = "Qwen/Qwen3-Coder-30B-A3B-Instruct"
    config.generate.train_programs = 4
    config.label.rollouts = 16

    config.model.weights = "Qwen/Qwen2.5-Coder-7B-Instruct"
    # The shape of these weights, for `inspect` without the weights.
    config.model.architecture = "qwen2"
    config.model.vocab_size = 152064
    config.model.hidden_size = 3584
    config.model.intermediate_size = 18944
    config.model.num_layers = 28
    config.model.num_heads = 28
    config.model.num_kv_heads = 4
    config.model.rope_theta = 1e6
    config.model.max_length = 4096
    config.model.dtype = "bfloat16"
    config.model.param_dtype = "float32"  # the master weights
    config.model.remat = "dots"
    config.model.attention = "auto"

    config.train.row_tokens = 4096
    config.train.batch_size = 16
    config.train.warmup_steps = 500
    config.train.steps = 4_000
    config.train.learning_rate = 1e-5
    config.train.adam_b2 = 0.95
    config.train.labels.method = "label_table"  # the paper; the package's default is undetected_fault_online
    config.train.meta.learning_rate = 1e-2
    config.train.meta.batch_size = 16
    config.train.checkpoint_every = 250
    config.train.mesh.data = 1
    config.train.mesh.fsdp = 8
    config.train.mesh.tensor = 1
    config.inspect.topology = "v5p:2x2x2"
    config.inspect.memory_gb = 95.0
    return config
