"""Checks the settings of a run before machines are requested: names, types, values, divisibility by the devices.

python launch/check_settings.py --devices=N STAGE --config=FILE [--config.FIELD=VALUE ...] exits with status 0 and
prints the mesh, or with status 2 and an error. It takes seconds and compiles nothing; see `dreamprm plan` for memory
and price.
"""

from __future__ import annotations

import argparse
import sys

from dreamprm_jax.config import Config, load_config
from dreamprm_jax.schema import DataError
from dreamprm_jax.stages.validation import validate

TRAINS = ("train", "run")


def check(config: Config, stage: str, devices: int) -> str:
    """Describes how the run is divided over the devices.

    Raises:
      DataError: if a setting is invalid or does not fit, naming it.
    """
    validate(config)
    if stage not in TRAINS:
        return f"{stage}: one process"
    from dreamprm_jax.training.mesh import abstract_mesh, check_divisible

    settings = config.train
    mesh = abstract_mesh(settings.mesh, devices)
    for field, section in (("", settings), ("meta.", settings.meta)):
        micro = section.batch_size // section.accumulation
        check_divisible(mesh, micro, f"config.train.{field}batch_size / accumulation")
    axes = " x ".join(f"{name} {size}" for name, size in mesh.shape.items())
    return f"{stage}: {devices} devices as {axes}, {settings.batch_size} rows a step"


def main(arguments: list[str]) -> int:
    """Returns the exit status: 0, or 2 for invalid settings."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--devices", type=int, required=True)
    parser.add_argument("stage")
    parser.add_argument("--config", required=True)
    options, overrides = parser.parse_known_args(arguments)
    try:
        print(
            f"launch: settings checked: {check(load_config(options.config, overrides), options.stage, options.devices)}"
        )
    except DataError as error:
        print(f"launch: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
