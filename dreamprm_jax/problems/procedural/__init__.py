"""The procedural benchmark: problems composed from primitives, with exact truth for every step."""
