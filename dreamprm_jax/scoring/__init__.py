"""Scores every step of every candidate program in one pass."""
