"""Forks without the handlers of Python modules, which would cost each child a quarter of its page faults.

``threading`` resets its locks in a forked child, and ``random`` its seed. Neither is needed in a child of a worker:
only the thread that forks uses these modules, and the seed is fixed.
"""

from __future__ import annotations

import os

_register = os.register_at_fork


def ignore_handlers() -> None:
    """Has modules that are imported from here on register no handler."""
    os.register_at_fork = lambda **handlers: None


def heed_handlers() -> None:
    """Ends ``ignore_handlers``."""
    os.register_at_fork = _register
