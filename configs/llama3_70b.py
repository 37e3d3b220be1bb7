"""Full fine-tuning of a PRM of Llama 3's 70B shape on TPU pods: all parameters are trained, sharded over a slice.

Command:  dreamprm run --config=configs/llama3_70b.py --config.policy.base_url=http://HOST:8000/v1 --workdir=DIR
          on every host of a v5p-512 (256 chips); for other sizes use the mesh that `dreamprm plan` chooses
Cost:     dreamprm plan --config=configs/llama3_70b.py --chip=v5p --chips=256 prints it
Expected: not run yet
"""

from ml_collections import config_dict

from dreamprm_jax.config import defaults


def get_config() -> config_dict.ConfigDict:
    """Settings of the 70B run; the data are those of qwen2_5_coder_3b.py."""
    config = defaults()
    config.name = "llama3_70b"

    config.problems.source = "livecodebench"
    config.policy.kind = "server"
    config.policy.model = "Qwen/Qwen3-Coder-30B-A3B-Instruct"
    config.generate.train_programs = 4
    config.label.rollouts = 16

    config.model.weights = "meta-llama/Llama-3.1-70B-Instruct"
    # The shape of these weights, for `plan` and `inspect` without the weights.
    config.model.architecture = "llama"
    config.model.vocab_size = 128256
    config.model.hidden_size = 8192
    config.model.intermediate_size = 28672
    config.model.num_layers = 80
    config.model.num_heads = 64
    config.model.num_kv_heads = 8
    config.model.rope_theta = 5e5
    config.model.rms_norm_eps = 1e-5
    config.model.max_length = 4096
    config.model.dtype = "bfloat16"
    config.model.param_dtype = "float32"  # the master weights
    config.model.remat = "full"
    config.model.attention = "auto"

    config.train.labels.method = "label_table"  # bi-level, as in the paper; the default is undetected_fault_online
    config.train.row_tokens = 4096
    config.train.batch_size = 256
    config.train.warmup_steps = 100
    config.train.steps = 1_000
    config.train.learning_rate = 5e-6
    config.train.adam_b2 = 0.95
    config.train.meta.learning_rate = 1e-2
    config.train.meta.batch_size = 256
    config.train.checkpoint_every = 100
    config.train.mesh.data = 1
    config.train.mesh.fsdp = 256
    config.train.mesh.tensor = 1
    config.inspect.memory_gb = 95.0
    return config
