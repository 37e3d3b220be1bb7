"""Sources of problems (LiveCodeBench, sets in installed packages, the procedural benchmark) and date windows."""
