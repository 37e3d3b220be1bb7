"""The embedded main job: the whole system on two CPU cores, offline, on the procedural benchmark with exact truth.

Command:  dreamprm run --config=configs/embedded.py --workdir=runs/embedded   (or: bash launch/local.sh)
"""

from ml_collections import config_dict

from dreamprm_jax.config import defaults


def get_config() -> config_dict.ConfigDict:
    """Settings of the embedded job."""
    config = defaults()
    config.name = "embedded"
    return config
