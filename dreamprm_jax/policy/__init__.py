"""Policies, which write code: an OpenAI-compatible server, a replay of saved programs, or the simulated policy."""
