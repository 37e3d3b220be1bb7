"""Creates the policy that the settings select."""

from __future__ import annotations

from pathlib import Path

from dreamprm_jax.config import PolicyConfig
from dreamprm_jax.policy.protocol import Policy
from dreamprm_jax.schema import DataError


def make_policy(config: PolicyConfig, compositions: Path | None = None, folder: Path | None = None) -> Policy:
    """The policy of ``config.kind``, whose module is imported lazily.

    Args:
      config: The policy's settings.
      compositions: File of compositions for the simulated policy (``Paths.compositions``).
      folder: The stage's folder, to which a server's abilities and usage are written.

    Raises:
      DataError: if a setting, file or package that the kind needs is missing.
    """
    if config.kind == "server":
        from dreamprm_jax.policy.server import ServerPolicy

        return ServerPolicy(config, folder)
    if config.kind == "replay":
        from dreamprm_jax.policy.replay import ReplayPolicy

        if not config.path:
            raise DataError("policy.path is empty; the replay policy reads its programs from there")
        return ReplayPolicy(Path(config.path))
    from dreamprm_jax.policy.simulated import SimulatedPolicy

    if compositions is None:
        raise DataError("policy.kind 'simulated' knows only the procedural benchmark; set 'server' or 'replay'")
    return SimulatedPolicy.from_file(compositions, config.wrong_rate_scale)
