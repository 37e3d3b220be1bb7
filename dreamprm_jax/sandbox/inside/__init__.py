"""The code that runs inside a worker: a separate package that imports only the standard library.

A worker is a fresh interpreter that imports these modules by path, never ``dreamprm_jax``, so that neither jax nor any
other library with threads is loaded in a process that forks. The judge also imports ``frames``, ``jobs`` and
``values``, which define the protocol between both sides.
"""
