"""Settings of the two reward models of the studies, on which the config files are based."""

from __future__ import annotations

from ml_collections import config_dict

from research.study.settings import study_defaults


def structural() -> config_dict.ConfigDict:
    """A small model that reads a program's structure. An arm takes about 5 seconds on one core."""
    config = _common()
    config.reading = "structure"
    config.sizes.test = 200
    config.model.hidden_size = 64
    config.model.intermediate_size = 192
    config.model.num_heads = 4
    config.model.num_kv_heads = 4
    config.recipe.steps = 400
    return config


def text() -> config_dict.ConfigDict:
    """The text reward model of configs/embedded.py with fewer training steps. An arm takes 35 seconds on one core."""
    config = _common()
    config.reading = "text"
    config.sizes.test = 120
    config.model.tokenizer_pieces = "lines"
    config.row_tokens = 192
    config.rows = 8
    config.recipe.steps = 300
    return config


def _common() -> config_dict.ConfigDict:
    config = study_defaults()
    config.sizes.train = 1200
    config.sizes.meta = 400
    config.baseline = "raw"
    return config
