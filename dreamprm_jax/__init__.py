"""dreamprm_jax: process reward models for code, trained by exact bi-level label correction in JAX.

``import dreamprm_jax as dp`` gives the functions of ``dreamprm_jax.api``; each part is loaded when it is first used.

The host half (``problems``, ``cof``, ``policy``, ``sandbox``, ``labeling``, ``engine``, ``selection``,
``evaluation``) never imports jax; the device half (``models``, ``bilevel``, ``training``, ``scoring``) never runs
untrusted code. They meet in the files that ``schema`` defines.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dreamprm_jax.api import (
        BestOf,
        CodeStep,
        Judgment,
        RewardModel,
        ScoredProgram,
        ScoredStep,
        best_of_n,
        extract,
        judge,
        load_prm,
        split,
    )
    from dreamprm_jax.bilevel import make_meta_gradient
    from dreamprm_jax.schema import DataError

__version__ = "0.2.0"
__all__ = [
    "BestOf",
    "CodeStep",
    "DataError",
    "Judgment",
    "RewardModel",
    "ScoredProgram",
    "ScoredStep",
    "best_of_n",
    "extract",
    "judge",
    "load_prm",
    "make_meta_gradient",
    "split",
]
_ELSEWHERE = {"make_meta_gradient": "bilevel", "DataError": "schema"}  # the others are the api's


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_ELSEWHERE.get(name, 'api')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
