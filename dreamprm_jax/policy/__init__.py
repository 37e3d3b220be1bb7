"""Policies, which write code: an OpenAI-compatible server, replay of saved programs, the simulated policy."""
