"""Exact hypergradients through an unrolled optimizer step, and what they are taken with respect to."""
