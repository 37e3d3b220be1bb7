"""Scores every step of a candidate program in one forward pass, as a batch job or over HTTP."""
