"""Pallas kernels, for TPUs and GPUs from one source."""
