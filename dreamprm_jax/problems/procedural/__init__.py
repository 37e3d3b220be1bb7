"""The procedural benchmark: problems composed of primitives, with the exact truth of every step."""
