"""Forks without the fork handlers of Python modules, which cost each child a quarter of its page faults.

``threading`` resets its locks in a forked child, and ``random`` its seed. A child of a worker needs neither: only the
thread that forks uses these modules, and the seed is fixed.
"""

from __future__ import annotations

import os
import sys
from typing import Any

_register = os.register_at_fork


def ignore_handlers() -> None:
    """Keeps modules that are imported after this call from registering handlers."""
    os.register_at_fork = lambda **handlers: None


def renumber() -> None:
    """In a child: corrects the main thread's native id, which a handler would do."""
    threading: Any = sys.modules.get("threading")
    if threading is not None:
        threading._main_thread._native_id = os.getpid()


def heed_handlers() -> None:
    """Ends ``ignore_handlers``."""
    os.register_at_fork = _register
