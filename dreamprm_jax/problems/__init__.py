"""Where questions come from: LiveCodeBench, sets in installed packages, the procedural benchmark; date windows."""
