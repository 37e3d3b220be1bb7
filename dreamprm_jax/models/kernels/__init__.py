"""Pallas kernels for TPUs and GPUs, compiled from the same source."""
