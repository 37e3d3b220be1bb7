"""Who writes code: an OpenAI-compatible server, replay of saved outputs, the simulated policy."""
