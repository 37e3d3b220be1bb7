"""Where questions come from: LiveCodeBench (hub, local files) and the procedural benchmark."""
