"""Settings: frozen dataclasses inside the package, an ml_collections ConfigDict in config files.

A config file (``configs/*.py``) calls ``defaults()``, changes fields and returns the ConfigDict. The command line
overrides single fields (``--config.train.steps=50``). ``freeze`` converts the result to a ``Config`` and checks every
type. Only the command line handles ConfigDicts.
"""

from dreamprm_jax.config.data import (
    EngineConfig,
    GenerateConfig,
    LabelConfig,
    PolicyConfig,
    ProblemsConfig,
    SandboxConfig,
)
from dreamprm_jax.config.loading import check_names, defaults, freeze, load_config, load_settings, to_dict
from dreamprm_jax.config.model import (
    LabelsConfig,
    LoraConfig,
    MeshConfig,
    MetaConfig,
    ModelConfig,
    StepDataConfig,
    TrainConfig,
)
from dreamprm_jax.config.run import (
    Config,
    DistributedConfig,
    EvaluateConfig,
    InspectConfig,
    ScoreConfig,
    SearchConfig,
)
from dreamprm_jax.config.setting import SettingInfo, leaves, section, setting

__all__ = [
    "Config",
    "DistributedConfig",
    "EngineConfig",
    "EvaluateConfig",
    "GenerateConfig",
    "InspectConfig",
    "LabelConfig",
    "LabelsConfig",
    "LoraConfig",
    "MeshConfig",
    "MetaConfig",
    "ModelConfig",
    "PolicyConfig",
    "ProblemsConfig",
    "SandboxConfig",
    "ScoreConfig",
    "SearchConfig",
    "SettingInfo",
    "StepDataConfig",
    "TrainConfig",
    "check_names",
    "defaults",
    "freeze",
    "leaves",
    "load_config",
    "load_settings",
    "section",
    "setting",
    "to_dict",
]
