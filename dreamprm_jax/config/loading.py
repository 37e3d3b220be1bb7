"""From a config file and the command line's overrides to a frozen ``Config``."""

from __future__ import annotations

import dataclasses
import difflib
from typing import Any, Literal, get_args, get_origin

import dacite
from ml_collections import config_dict

from dreamprm_jax.config.renamed import with_current_names
from dreamprm_jax.config.run import Config
from dreamprm_jax.config.setting import leaves
from dreamprm_jax.schema import DataError
from dreamprm_jax.user_code import call_file


def defaults() -> config_dict.ConfigDict:
    """A ConfigDict with every field and its default: where a config file starts."""
    return config_dict.ConfigDict(dataclasses.asdict(Config()))


def to_dict(config: Any) -> dict[str, Any]:
    """The settings as plain values, for JSON and for fingerprints."""
    return dataclasses.asdict(config)


def freeze(settings: config_dict.ConfigDict | dict[str, Any]) -> Config:
    """Turns a ConfigDict into a ``Config``.

    Raises:
      DataError: on an unknown field, a wrong type or a value outside the listed choices, naming the field.
    """
    values = settings.to_dict() if isinstance(settings, config_dict.ConfigDict) else settings
    check_names(values, to_dict(Config()), "")
    values = with_current_names(values)
    try:
        return dacite.from_dict(Config, values, config=dacite.Config(strict=True, cast=[tuple]))
    except dacite.WrongTypeError as error:
        raise DataError(f"config: {error.field_path} is {error.value!r}, not {_wanted(error.field_type)}") from error
    except dacite.DaciteError as error:
        raise DataError(f"config: {error}") from error


def _wanted(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(repr, get_args(kind)))}"
    if get_origin(kind) is tuple:
        return f"a tuple, each item {_wanted(get_args(kind)[0])}"
    return getattr(kind, "__name__", str(kind))


def check_names(values: dict[str, Any], known: dict[str, Any], prefix: str) -> None:
    """Raises DataError on a field that the defaults do not know, with the nearest one that they do."""
    for name, value in values.items():
        if name not in known:
            raise DataError(f"config: no field {prefix + name!r}" + _nearest(prefix, name, known))
        if isinstance(value, dict) and isinstance(known[name], dict):
            check_names(value, known[name], f"{prefix}{name}.")


def _nearest(prefix: str, name: str, known: Any) -> str:
    close = difflib.get_close_matches(name, known, 1, 0.5)
    return f"; did you mean {prefix + close[0]!r}?" if close else ""


def load_config(path: str, overrides: list[str]) -> Config:
    """Reads a run's config file, applies ``--config.field=value`` overrides, checks every type.

    Raises:
      DataError: as ``load_settings`` and ``freeze``.
    """
    return freeze(load_settings(path, overrides, Config()))


def load_settings(path: str, overrides: list[str], defaults: Any) -> config_dict.ConfigDict:
    """The ConfigDict of a config file with overrides; ``defaults`` is the dataclass that has its fields ("": no file).

    The file may import modules that lie beside it.

    Raises:
      DataError: naming the file or the field that is wrong, with the nearest known field.
    """
    from absl import flags, logging
    from ml_collections import config_flags

    known = [name for name, _, _ in leaves(defaults)]
    for item in overrides:
        name = item.removeprefix("--config.").split("=")[0]
        if not item.startswith("--config."):
            raise DataError(f"unrecognized argument {item!r}")
        if name not in known:
            raise DataError(f"config: no field {name!r}" + _nearest("", name, known))
        if "=" not in item:
            raise DataError(f"config: field {name!r} needs a value: --config.{name}=VALUE")
    settings = call_file(path, "get_config", "--config") if path else config_dict.ConfigDict(to_dict(defaults))
    if not isinstance(settings, config_dict.ConfigDict):
        raise DataError(f"--config: {path}: needs a function get_config() that returns config.defaults() with changes")
    logging.set_verbosity(logging.ERROR)  # the checkpoint library logs warnings in normal operation
    values, command_line = flags.FlagValues(), ["dreamprm", *overrides]
    try:
        config_flags.DEFINE_config_dict("config", settings, flag_values=values, sys_argv=command_line)
        values(command_line)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"config: {error}") from error
    return settings
