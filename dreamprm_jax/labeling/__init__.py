"""Outcomes, Monte-Carlo estimates of step values, and label correction."""
