"""The pipeline on a small folder in LiveCodeBench's format: bounded memory; only judging reads hidden tests."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from dreamprm_jax.config import freeze, load_config
from dreamprm_jax.runs.paths import Paths
from dreamprm_jax.schema import Outcome, Problem, Verdict
from dreamprm_jax.stages.runner import run_stage
from dreamprm_jax.storage import read_records

PROBLEMS, TOTAL, LARGEST = 40, 240_000_000, 12_000_000
EXTRA_MEMORY = 200  # MiB: several copies of the largest problem's tests, but less than all tests


@pytest.fixture(scope="module")
def benchmark_module(repository: Path) -> Any:
    """``benchmarks/livecodebench_size.py`` as a module."""
    sys.path.insert(0, str(repository / "benchmarks"))
    try:
        import livecodebench_size

        yield livecodebench_size
    finally:
        sys.path.remove(str(repository / "benchmarks"))


def test_the_spread_of_sizes(benchmark_module: Any) -> None:
    from livecodebench_folder import sizes

    made = sorted(sizes(700, 4_000_000_000, 80_000_000))
    assert abs(sum(made) - 4_000_000_000) < 10_000_000
    assert made[-1] == 80_000_000
    assert 50_000 < made[350] < 300_000


@pytest.mark.slow
def test_stages_hold_few_hidden_tests_and_training_none(benchmark_module: Any, tmp_path: Path) -> None:
    rows, peaks = tmp_path / "rows", {}
    for name, total, largest in (("small", 80_000, 2000), ("large", TOTAL, LARGEST)):
        benchmark_module.make_folder(tmp_path / name, PROBLEMS, total, largest)
        peaks[name] = benchmark_module.run_stages(
            tmp_path / name, PROBLEMS, tmp_path / f"{name}_run", benchmark_module.watch_memory, ("generate", "label")
        )
    assert not rows.exists()
    for stage, (_, peak) in peaks["large"].items():
        assert peak.host < peaks["small"][stage][1].host + EXTRA_MEMORY, stage

    paths = Paths(tmp_path / "large_run")
    problems = [one for window in ("train", "meta", "test") for one in read_records(paths.problems(window), Problem)]
    assert sum(path.stat().st_size for path in paths.stage("generate").glob("problems_*")) < 1_000_000
    outcomes = read_records(paths.outcomes("train"), Outcome)
    by_verdict = {verdict: sum(row.verdict is verdict for row in outcomes) for verdict in (Verdict.AC, Verdict.WA)}
    assert by_verdict[Verdict.WA] == 3 * by_verdict[Verdict.AC] > 0
    assert {row.tests_passed == row.tests_total - 1 for row in outcomes if row.tests_passed > 3 and not row.passed} == {
        True
    }
    assert len(problems) < PROBLEMS  # problems between the windows are skipped, and their tests are not decoded

    paths.hidden_tests().unlink()  # training, scoring, evaluation and the report do not read it
    overrides = benchmark_module.settings(tmp_path / "large", PROBLEMS)
    settings = load_config(str(benchmark_module.CONFIG), overrides)
    settings = freeze(json.loads(json.dumps(_small(settings)), object_hook=_tuples))
    for stage in ("train", "score", "evaluate", "report"):
        assert run_stage(settings, paths.root, stage)


def _small(settings: Any) -> dict[str, Any]:
    from dreamprm_jax.config import to_dict

    values = to_dict(settings)
    values["train"] |= {"arms": ["raw"], "warmup_steps": 2, "steps": 2}
    return values


def _tuples(value: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(item) if isinstance(item, list) else item for key, item in value.items()}
