"""What runs inside a worker: a package of its own that imports the standard library only.

A worker is a fresh interpreter that imports these modules by path, never ``dreamprm_jax``, so that neither jax nor any
other library with threads is in a process that forks. The judge imports ``frames``, ``jobs`` and ``values`` from here
too: they define what both sides agree on.
"""
