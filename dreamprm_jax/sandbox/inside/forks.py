"""Forks without the handlers of Python modules, which would cost each child a quarter of its page faults.

``threading`` resets its locks in a forked child, and ``random`` its seed. Neither is needed in a child of a worker:
only the thread that forks uses these modules, and the seed is fixed.
"""

from __future__ import annotations

import os
import sys
from typing import Any

_register = os.register_at_fork


def ignore_handlers() -> None:
    """Has modules that are imported from here on register no handler."""
    os.register_at_fork = lambda **handlers: None


def renumber() -> None:
    """In a child: the main thread's native id, which no handler changes either."""
    threading: Any = sys.modules.get("threading")
    if threading is not None:
        threading._main_thread._native_id = os.getpid()


def heed_handlers() -> None:
    """Ends ``ignore_handlers``."""
    os.register_at_fork = _register
