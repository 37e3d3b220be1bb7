"""Lets programs open /dev/null for writing, which the system-call filter denies for all files."""

from __future__ import annotations

import builtins
import io
import os
from collections.abc import Callable
from typing import Any

NULL_FD = 253  # a child's descriptor of /dev/null, open for reading and writing


def install() -> None:
    """Makes ``open`` and ``os.open`` return a duplicate of an open descriptor for /dev/null."""
    os.open = _answering(os.open, lambda real, *args, **more: os.dup(NULL_FD))
    opened = _answering(io.open, lambda real, *args, **more: real(os.dup(NULL_FD), *args, **more))
    io.open = builtins.open = opened


def _answering(real: Callable[..., Any], answer: Callable[..., Any]) -> Callable[..., Any]:
    def opened(file: Any, *args: Any, **more: Any) -> Any:
        try:
            return real(file, *args, **more)
        except PermissionError:
            if isinstance(file, int) or os.fspath(file) != os.devnull:
                raise
            return answer(real, *args, **more)

    opened.__name__ = opened.__qualname__ = "open"
    return opened
