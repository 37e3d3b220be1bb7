"""Shared test setup: jax on the CPU with a compilation cache, and settings of small runs."""

import gc
import os
from importlib import metadata
from pathlib import Path

import hypothesis
import pytest

from dreamprm_jax import config as config_module
from dreamprm_jax.problems.procedural.compose import compose

# Set before any test module imports jax; subprocesses inherit it.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
XLA_FLAGS = [
    # Tests execute each program a few times at most, so it is compiled without slow optimizations.
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
    "--xla_cpu_parallel_codegen_split_count=1",
    # Fake devices are threads; the default timeout for their rendezvous, 40 seconds, is short on a busy machine.
    "--xla_cpu_collective_call_warn_stuck_timeout_seconds=60",
    "--xla_cpu_collective_call_terminate_timeout_seconds=600",
]
# XLA ends the process if it does not know a flag.
if tuple(map(int, metadata.version("jaxlib").split(".")[:2])) < (0, 11):
    # Fusion emitters take two thirds of the compile time of a bi-level step.
    XLA_FLAGS.append("--xla_cpu_use_fusion_emitters=false")
os.environ.setdefault("XLA_FLAGS", " ".join(XLA_FLAGS))
# Property tests have no deadline, as machines may be busy.
hypothesis.settings.register_profile("busy", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("busy")
# Tracing creates many objects but little garbage. With Python's defaults, the collector takes 10% of the time.
gc.set_threshold(100_000, 50, 100)


def pytest_configure(config: pytest.Config) -> None:
    cache = getattr(config, "cache", None)
    if cache is not None:
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache.mkdir("jax")))
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Runs files with slow tests first, so that parallel test processes finish at about the same time."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the repository."""
    return Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def benchmark():
    """150 procedural problems as (window, problem, composition), 50 per window."""
    return list(compose(0, {"train": 50, "meta": 50, "test": 50}, private_tests=5))


@pytest.fixture(scope="session")
def tiny_config() -> config_module.Config:
    """Settings of a run that takes a few seconds: three problems per window, two programs each, a one-layer model."""
    settings = config_module.defaults()
    settings.name = "tiny"
    settings.problems.train_count = settings.problems.meta_count = settings.problems.test_count = 3
    settings.problems.private_tests = 3
    settings.generate.train_programs = settings.generate.test_programs = 2
    settings.label.rollouts = 3
    settings.sandbox.workers = 2
    settings.model.update(
        vocab_size=300, hidden_size=16, intermediate_size=32, num_layers=1, num_heads=2, num_kv_heads=1, max_length=512
    )
    settings.train.update(warmup_steps=4, steps=4, batch_size=2, row_tokens=512, log_every=1, checkpoint_every=2)
    settings.train.meta.batch_size = 2
    settings.train.labels.method = "label_table"  # so that most runs exercise bi-level training
    settings.score.update(row_tokens=512, batch_tokens=1024)
    settings.evaluate.bootstrap_samples = 200
    return config_module.freeze(settings)
