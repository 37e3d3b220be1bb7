"""Exact hypergradients through unrolled optimizer steps, and what they are taken with respect to.

A library of its own: it needs jax and optax, and nothing else of this package. docs/bilevel.md shows its use.
"""

from dreamprm_jax.bilevel.corrector_net import CorrectorNet, corrector_net
from dreamprm_jax.bilevel.hypergradient import MetaGradient, MetaGradientResult, Norms, make_meta_gradient
from dreamprm_jax.bilevel.labels import LabelTable, Parametrisation, WeightTable, table_on_em
from dreamprm_jax.bilevel.optimizers import lazy_adam, touched_rows
from dreamprm_jax.bilevel.partition import merge, partition, split_batch

__all__ = [
    "CorrectorNet",
    "LabelTable",
    "MetaGradient",
    "MetaGradientResult",
    "Norms",
    "Parametrisation",
    "WeightTable",
    "corrector_net",
    "lazy_adam",
    "make_meta_gradient",
    "merge",
    "partition",
    "split_batch",
    "table_on_em",
    "touched_rows",
]
