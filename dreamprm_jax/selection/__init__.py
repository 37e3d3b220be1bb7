"""From step scores to one chosen program: aggregators and best-of-N."""
