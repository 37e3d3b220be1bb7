"""Loads a frozen ``Config`` from a config file and command-line overrides."""

from __future__ import annotations

import dataclasses
import difflib
import re
from typing import Any, Literal, get_args, get_origin

import dacite
from ml_collections import config_dict

from dreamprm_jax.config.renamed import with_current_names
from dreamprm_jax.config.run import Config
from dreamprm_jax.config.setting import leaves
from dreamprm_jax.schema import DataError
from dreamprm_jax.user_code import call_file

_TYPES = {int: "an integer", float: "a number", bool: "true or false"}


def defaults() -> config_dict.ConfigDict:
    """A ConfigDict with the default of every field, which a config file modifies."""
    return config_dict.ConfigDict(dataclasses.asdict(Config()))


def to_dict(config: Any) -> dict[str, Any]:
    """The settings as nested plain values."""
    return dataclasses.asdict(config)


def freeze(settings: config_dict.ConfigDict | dict[str, Any]) -> Config:
    """Converts a ConfigDict to a ``Config``.

    Raises:
      DataError: if a field is unknown, or its value has the wrong type or is not one of the choices; names the field.
    """
    values = settings.to_dict() if isinstance(settings, config_dict.ConfigDict) else settings
    check_names(values, to_dict(Config()), "")
    values = with_current_names(values)
    try:
        return dacite.from_dict(Config, values, config=dacite.Config(strict=True, cast=[tuple]))
    except dacite.WrongTypeError as error:
        raise DataError(f"config.{error.field_path}={error.value!r}: must be {_expected(error.field_type)}") from error
    except dacite.DaciteError as error:
        raise DataError(f"config: {error}") from error


def _expected(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(repr, get_args(kind)))}"
    if get_origin(kind) is tuple:
        return f"a tuple; each item must be {_expected(get_args(kind)[0])}"
    return f"of type {getattr(kind, '__name__', kind)}"


def check_names(values: dict[str, Any], known: dict[str, Any], prefix: str) -> None:
    """Raises DataError if a field is not in ``known``; the message suggests the most similar name."""
    for name, value in values.items():
        if name not in known:
            raise DataError(f"config: no field {prefix + name!r}" + _nearest(prefix, name, known))
        if isinstance(value, dict) and isinstance(known[name], dict):
            check_names(value, known[name], f"{prefix}{name}.")


def _nearest(prefix: str, name: str, known: Any) -> str:
    close = difflib.get_close_matches(name, known, 1, 0.5)
    return f"; did you mean {prefix + close[0]!r}?" if close else ""


def load_config(path: str, overrides: list[str]) -> Config:
    """Reads a config file, applies ``--config.field=value`` overrides, and checks every type.

    Raises:
      DataError: the errors of ``load_settings`` and ``freeze``.
    """
    return freeze(load_settings(path, overrides, Config()))


def load_settings(path: str, overrides: list[str], defaults: Any) -> config_dict.ConfigDict:
    """The ConfigDict of a config file with overrides.

    Args:
      path: The config file, which may import modules from its folder; "" for the defaults.
      overrides: Command-line arguments of the form ``--config.field=value``.
      defaults: Dataclass with the default of every field.

    Raises:
      DataError: if the file or an override is invalid; names the file, or the field and the most similar field.
    """
    from absl import flags
    from ml_collections import config_flags

    known = {name: value for name, value, _ in leaves(defaults)}
    for item in overrides:
        name = item.removeprefix("--config.").split("=")[0]
        if not item.startswith("--config."):
            raise DataError(f"unrecognized argument {item!r}")
        if name not in known:
            raise DataError(f"config: no field {name!r}" + _nearest("", name, known))
        if "=" not in item:
            raise DataError(f"config: field {name!r} needs a value: --config.{name}=VALUE")
        value = item.partition("=")[2]
        if isinstance(known[name], tuple) and re.fullmatch(r"[\w -]+(,[\w -]+)+", value):
            items = ",".join(repr(part.strip()) for part in value.split(","))
            raise DataError(f'config.{name}={value}: write several items as "--config.{name}=({items})"')
    settings = call_file(path, "get_config", "--config") if path else config_dict.ConfigDict(to_dict(defaults))
    if not isinstance(settings, config_dict.ConfigDict):
        raise DataError(f"--config: {path}: needs a function get_config() that returns config.defaults() with changes")
    values, command_line = flags.FlagValues(), ["dreamprm", *overrides]
    try:
        config_flags.DEFINE_config_dict("config", settings, flag_values=values, sys_argv=command_line)
        values(command_line)
    except flags.IllegalFlagValueError as error:
        given, _, reason = str(error).removeprefix("flag --").partition(": ")
        wanted = {f"config.{name}": _TYPES.get(type(value)) for name, value, _ in leaves(defaults)}
        rule = wanted.get(given.partition("=")[0])
        raise DataError(f"{given}: " + (f"must be {rule}" if rule else reason)) from error
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"config: {error}") from error
    return settings
