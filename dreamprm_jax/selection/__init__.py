"""Selection of one program by step scores and executions: aggregators, best-of-N, votes and filters."""
