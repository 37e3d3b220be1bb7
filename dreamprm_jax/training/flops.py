"""Matrix FLOPs of a traced function, loops counted as often as they run.

XLA's own cost analysis counts a loop's body once, so that a scan over 36 layers costs as much there as one layer. The
jaxpr knows every trip count; matrix products are all but the whole cost of a decoder.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr


def _inner(value: Any) -> Iterator[Any]:
    if isinstance(value, ClosedJaxpr):
        yield value.jaxpr
    elif isinstance(value, Jaxpr):
        yield value
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _inner(item)


def jaxpr_flops(jaxpr: Any) -> int:
    """2 x multiply-adds of every ``dot_general``: scans times their length, a cond at its dearest branch."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            depth = math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
            total += 2 * math.prod(equation.outvars[0].aval.shape) * depth
            continue
        costs = [jaxpr_flops(j) for value in equation.params.values() for j in _inner(value)]
        if equation.primitive.name == "cond":
            total += max(costs, default=0)
        else:
            total += sum(costs) * equation.params.get("length", 1) if equation.primitive.name == "scan" else sum(costs)
    return total


def matrix_flops(function: Any, *arguments: Any) -> int:
    """Matrix FLOPs of one call, on all devices together. Arguments may be abstract."""
    return jaxpr_flops(jax.make_jaxpr(function)(*arguments).jaxpr)
