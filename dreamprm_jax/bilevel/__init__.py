"""Exact hypergradients through unrolled optimizer steps, and what they are taken with respect to.

A library of its own: it needs jax and optax, and nothing else of this package. docs/bilevel.md shows its use.
"""

from dreamprm_jax.bilevel.hypergradient import MetaGradient, MetaGradientResult, Norms, make_meta_gradient
from dreamprm_jax.bilevel.labels import LabelTable, Parametrisation, WeightTable
from dreamprm_jax.bilevel.optimizers import lazy_adam, touched_rows
from dreamprm_jax.bilevel.partition import merge, partition, split_batch

__all__ = [
    "LabelTable",
    "MetaGradient",
    "MetaGradientResult",
    "Norms",
    "Parametrisation",
    "WeightTable",
    "lazy_adam",
    "make_meta_gradient",
    "merge",
    "partition",
    "split_batch",
    "touched_rows",
]
