"""Settings that have an effect only with certain values of other settings."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from dreamprm_jax.config import Config, TrainConfig, leaves
from dreamprm_jax.labeling.correction.methods import CORRECTED, LEARNED
from dreamprm_jax.user_code import is_user_function

_LEARNED = (*LEARNED, "FILE.py:FUNCTION")
# Each entry: settings or whole sections; another setting; and the values of the latter that they need (True: any value
# that is not empty or 0). If the latter has several items, one of them must have such a value.
NEEDS: tuple[tuple[str, str, tuple[object, ...] | Literal[True]], ...] = (
    ("problems.path problems.strict", "problems.source", ("livecodebench", "file")),
    (
        "problems.release problems.max_private_test_bytes problems.train_before problems.test_from",
        "problems.source",
        ("livecodebench",),
    ),
    (
        "problems.train_count problems.test_count",
        "problems.source",
        ("procedural", "file", "codeio", "humaneval", "leetcode"),
    ),
    ("problems.private_tests problems.held_out evaluate.vote_inputs", "problems.source", ("procedural",)),
    ("problems.made_tests", "problems.source", ("codeio",)),
    ("policy.wrong_rate_scale", "policy.kind", ("simulated",)),
    ("policy.path", "policy.kind", ("replay",)),
    (
        "policy.base_url policy.model policy.api_key_env policy.chat_template policy.continuation policy.prefix_end "
        "policy.max_tokens policy.top_p policy.extra_body policy.logprobs policy.timeout_seconds policy.max_retries "
        "policy.outage_seconds policy.concurrency",
        "policy.kind",
        ("server",),
    ),
    ("policy.chat_template policy.prefix_end", "policy.continuation", ("completions",)),
    ("generate.temperature label.temperature", "policy.kind", ("simulated", "server")),
    ("generate.temperature", "generate.candidates", ("",)),
    ("label.min_rollouts label.max_rollouts label.decided label.posterior", "label.strategy", ("adaptive",)),
    ("engine.address", "engine.executor", ("ray",)),
    ("model.lora.alpha model.lora.targets model.lora.dropout", "model.lora.rank", True),
    ("model.tokenizer_pieces", "model.weights", ("",)),
    ("model.attention_chunk", "model.attention", ("auto", "chunked", "splash", "triton", "cudnn")),
    ("model.matmul_precision", "model.dtype", ("float32",)),
    ("train.labels.method", "train.arms", (CORRECTED,)),
    ("train.meta", "train.arms", _LEARNED),
    ("train.labels.floor", "train.arms", tuple(name for name in _LEARNED if name != "weight_table")),
    ("train.labels.smoothing", "train.arms", ("smoothing",)),
    ("train.labels.gce_q", "train.loss", ("gce",)),
    ("train.labels.corrector_hidden", "train.arms", ("corrector_net", _LEARNED[-1])),
    ("train.labels.clean_labels train.labels.clean_target", "train.arms", ("clean", "calibrator")),
    ("train.labels.clean_target", "train.labels.clean_labels", ("",)),
    ("train.labels.clean_problems", "train.arms", ("calibrator",)),
    ("train.labels.stored", "train.arms", ("stored",)),
    ("train.step_data", "train.step_data.path", True),
    ("train.step_data.meta_share", "train.step_data.meta", ("",)),
    ("train.step_data.evaluation_split", "train.step_data.evaluation", True),
    ("train.meta.reuse_forward", "train.meta.method", ("mixed",)),
    ("train.meta.reuse_forward", "train.meta.unroll", (1,)),
    ("train.meta.reuse_forward", "train.accumulation", (1,)),
    ("train.evaluate_programs", "train.evaluate_every", True),
    ("train.profile_from", "train.profile_steps", True),
    ("evaluate.vote_inputs", "evaluate.execute", True),
    ("search.lookahead", "search.methods", ("lookahead",)),
    (
        "distributed.coordinator_address distributed.num_processes distributed.process_id",
        "distributed.mode",
        ("explicit",),
    ),
    ("distributed.compile_cache", "distributed.mode", ("auto", "explicit")),
)


def labelings_of(train: TrainConfig) -> set[str]:
    """The arms' labelings; ``corrected`` is replaced by its labeling."""
    return {train.labels.method if arm == CORRECTED else arm for arm in train.arms}


def without_effect(config: Config) -> dict[str, str]:
    """The settings without effect, by dotted name, each with the setting that it would need."""
    values = {name: set(value) if isinstance(value, tuple) else {value} for name, value, _ in leaves(config)}
    labelings = labelings_of(config.train)
    own = {_LEARNED[-1] for name in labelings if is_user_function(name)}
    values["train.arms"] |= labelings | own
    values["train.loss"] |= labelings & {"gce"}  # of the labeling of that name
    found: dict[str, str] = {}
    for names, other, allowed in NEEDS:
        if any(values[other]) if allowed is True else not values[other].isdisjoint(allowed):
            continue
        wanted = "" if allowed is True else "=" + " or ".join(str(one) or "''" for one in allowed)
        needs = f"config.{other}{wanted}"
        for name in values:
            if any(name == part or name.startswith(f"{part}.") for part in names.split()):
                found.setdefault(name, needs)
    return found


def ignored_settings(config: Config, sections: Iterable[str] | None = None) -> list[str]:
    """Notes about settings that were changed but have no effect, one per reason.

    Args:
      config: All settings.
      sections: The sections to check; None: all.
    """
    defaults = {name: value for name, value, _ in leaves(Config())}
    needs, found = without_effect(config), dict[str, list[str]]()
    for name, value, _ in leaves(config):
        if name in needs and value != defaults[name] and (sections is None or name.split(".")[0] in sections):
            found.setdefault(needs[name], []).append(f"config.{name}")
    return [f"{', '.join(names)}: no effect without {reason}" for reason, names in found.items()]
