"""The code that runs inside a worker: a separate package that imports only the standard library.

A worker is a fresh interpreter that imports these modules by path. It never imports ``dreamprm_jax``, so a process that
forks never loads jax or another library with threads. The judge also imports ``frames``, ``jobs`` and ``values``, which
define the protocol between the two sides.
"""
