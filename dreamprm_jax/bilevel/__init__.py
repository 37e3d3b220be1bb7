"""Exact hypergradients through unrolled optimizer steps, and label-side parameters to take them with respect to.

A library of its own: it imports jax and optax, and nothing else of this package. docs/bilevel.md shows its use.
"""

from dreamprm_jax.bilevel import optimizers
from dreamprm_jax.bilevel.approximate import CG, Neumann
from dreamprm_jax.bilevel.corrector_net import CorrectorNet, corrector_net
from dreamprm_jax.bilevel.hypergradient import MetaGradient, MetaGradientResult, Norms, make_meta_gradient
from dreamprm_jax.bilevel.labels import LabelTable, Parametrisation, WeightTable
from dreamprm_jax.bilevel.notices import HypergradientWarning
from dreamprm_jax.bilevel.optimizers import lazy_adam, touched_rows
from dreamprm_jax.bilevel.partition import merge, partition, split_batch, stack_batches
from dreamprm_jax.bilevel.problem import Point
from dreamprm_jax.bilevel.replay import ReplayResult, make_replay

__all__ = [
    "CG",
    "CorrectorNet",
    "HypergradientWarning",
    "LabelTable",
    "MetaGradient",
    "MetaGradientResult",
    "Neumann",
    "Norms",
    "Parametrisation",
    "Point",
    "ReplayResult",
    "WeightTable",
    "corrector_net",
    "lazy_adam",
    "make_meta_gradient",
    "make_replay",
    "merge",
    "optimizers",
    "partition",
    "split_batch",
    "stack_batches",
    "touched_rows",
]
