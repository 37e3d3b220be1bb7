"""Records file accesses that the kernel denies a checker. Such a checker fails, even if it catches the error.

Landlock can only deny an access; it cannot kill the process as the system-call filter does. So each path that Python
code opens or lists is tried first. Paths that a C library opens, such as sqlite3, are not seen.
"""

from __future__ import annotations

import os
import sys
from typing import Any

denied: list[str] = []  # paths
_LISTS = ("os.listdir", "os.scandir")


def watch() -> None:
    """Starts watching this process."""
    trying = False

    def look(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal trying
        if trying or not (event == "open" or event in _LISTS) or isinstance(arguments[0], int):
            return
        trying = True
        path = "." if arguments[0] is None else arguments[0]
        try:
            os.close(os.open(path, arguments[2] if event == "open" else os.O_RDONLY))
        except PermissionError:
            denied.append(repr(path))
        except (OSError, ValueError):
            pass  # the access itself will raise this error
        finally:
            trying = False

    sys.addaudithook(look)
