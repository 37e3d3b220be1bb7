"""dreamprm_jax: process reward models for code, trained by exact bi-level label correction in JAX.

The host half (``problems``, ``cof``, ``policy``, ``sandbox``, ``labeling``, ``engine``, ``selection``,
``evaluation``) never imports jax; the device half (``models``, ``bilevel``, ``training``, ``scoring``) never runs
untrusted code. They meet in the files that ``schema`` defines.
"""

__version__ = "0.1.0"
