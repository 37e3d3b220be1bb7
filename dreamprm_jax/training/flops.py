"""FLOPs of a step: those that MFU counts, by a formula, and those of all matrix products of a traced function.

XLA's own cost analysis counts the body of a loop once, so a scan over 36 layers counts as one layer. The jaxpr has
every trip count. Matrix products are almost the whole cost of a decoder.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr

from dreamprm_jax.models.decoder import DecoderConfig


def layer_elements(model: DecoderConfig) -> int:
    """Number of elements of all kernels of one layer, without adapters."""
    heads = 2 * (model.num_heads + model.num_kv_heads) * model.head_dim
    return model.hidden_size * (heads + 3 * model.intermediate_size)


def useful_flops(
    model: DecoderConfig, row_tokens: int, rows: float, outer_rows: float = 0.0, tangent_rows: float = 0.0
) -> float:
    """FLOPs that one step needs (PaLM, arXiv 2204.02311, appendix B), without recomputation by remat.

    A forward pass takes 2 FLOPs per kernel element and token, plus attention over half of the row. The backward pass
    takes twice as many, or as many again for kernels that are frozen under LoRA. A pass with tangents costs two forward
    passes.

    Args:
      model: the decoder; embedding, norms, adapters and head are left out.
      row_tokens: tokens per row.
      rows: rows of the inner batch.
      outer_rows: rows of the outer batch, on average over the steps.
      tangent_rows: rows of the inner batch's forward-mode pass, on average over the steps.
    """
    kernels = 2.0 * model.num_layers * layer_elements(model)
    attention = 2.0 * model.num_layers * model.num_heads * model.head_dim * row_tokens
    trained = (2 if model.lora is not None else 3) * kernels + 3 * attention
    return row_tokens * ((rows + outer_rows) * trained + tangent_rows * 2 * (kernels + attention))


def _inner(value: Any) -> Iterator[Any]:
    if isinstance(value, ClosedJaxpr):
        yield value.jaxpr
    elif isinstance(value, Jaxpr):
        yield value
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _inner(item)


def jaxpr_flops(jaxpr: Any) -> int:
    """2 x multiply-adds of every ``dot_general``: scans times their length, conds by their most expensive branch."""
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
