"""The procedural benchmark: problems composed from primitives, with the exact truth about every step."""
