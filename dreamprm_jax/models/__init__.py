"""The decoder and its scalar reward head, as pure functions of their parameters."""
