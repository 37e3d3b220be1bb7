"""The problems of each window, from whichever source the settings name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from dreamprm_jax.config import Config
from dreamprm_jax.problems.codeio_source import load_codeio
from dreamprm_jax.problems.humaneval import read_humaneval
from dreamprm_jax.problems.leetcode import read_leetcode
from dreamprm_jax.problems.livecodebench import load_problems
from dreamprm_jax.problems.procedural.compose import Composition, compose
from dreamprm_jax.problems.windows import split_counts, split_windows
from dreamprm_jax.schema import DataError, Problem, Skip

WINDOWS = ("train", "meta", "test")


def load_windows(config: Config, cache: Path | None = None) -> tuple[dict[str, list[Problem]], list[Composition]]:
    """Problems by window, and the compositions of the procedural benchmark (empty for other sources).

    ``meta`` problems lie in the training window of dates; they give outcomes only, no step labels. What was left out is
    printed, counted by reason.

    Args:
      config: all settings.
      cache: folder in which tests that take long to make are kept.

    Raises:
      DataError: where a window is empty, or the policy cannot know the source.
    """
    settings = config.problems
    if settings.source != "procedural" and config.policy.kind == "simulated":
        raise DataError(
            f"problems.source {settings.source!r} needs a policy that can write: set policy.kind to 'server' or "
            "'replay' ('simulated' knows only the procedural benchmark)"
        )
    if settings.source == "procedural" and settings.exclude:
        raise DataError("problems.exclude: the procedural benchmark has no problem to leave out; set it to ''")
    windows: dict[str, list[Problem]] = {window: [] for window in WINDOWS}
    compositions = []
    if settings.source == "procedural":
        counts = {"train": settings.train_count, "meta": settings.meta_count, "test": settings.test_count}
        for window, problem, composition in compose(config.seed, counts, settings.private_tests):
            windows[window].append(problem)
            compositions.append(composition)
    elif settings.source == "livecodebench":
        problems = _without(load_problems(settings.path, settings.release, settings.max_private_test_bytes), config)
        windows, between = split_windows(problems, settings)
        _report(len(problems), between)
    else:
        problems, skips = _packaged(config, cache)
        _report(len(problems) + len(skips), skips)
        windows = split_counts(problems, settings, config.seed)
        sizes = ", ".join(f"{window} {len(windows[window])}" for window in WINDOWS)
        print(f"   {settings.source}: {len(problems)} problems; windows drawn by hash: {sizes}")
    dated = f"train before {settings.train_before}, test from {settings.test_from}"
    for window in WINDOWS:
        if not windows[window]:
            raise DataError(
                f"config.problems: no problem falls in the {window} window "
                f"({dated if settings.source == 'livecodebench' else f'{window}_count'}); change the dates or counts"
            )
    return windows, compositions


def _packaged(config: Config, cache: Path | None) -> tuple[list[Problem], list[Skip]]:
    """Problems of a source that comes as an installed package, and what was left out of it."""
    source = config.problems.source
    if source == "codeio":
        return load_codeio(config, excluded_ids(config.problems.exclude), cache)
    if source == "humaneval":
        found = read_humaneval()
        problems, skips = found.problems, found.skips
    else:
        problems, skips = read_leetcode()
    return _without(problems, config), skips


def _without(problems: list[Problem], config: Config) -> list[Problem]:
    excluded = excluded_ids(config.problems.exclude)
    kept = [problem for problem in problems if problem.problem_id not in excluded]
    if excluded:
        print(f"   {len(problems) - len(kept)} of {len(problems)} problems left out by problems.exclude")
    return kept


def excluded_ids(path: str) -> frozenset[str]:
    """The problem ids that ``problems.exclude`` names; none for "".

    Raises:
      DataError: where the file is missing, or has no ids.
    """
    if not path:
        return frozenset()
    file = Path(path) / "problems.parquet" if Path(path).is_dir() else Path(path)
    try:
        if file.suffix == ".parquet":
            ids = pq.read_table(file, columns=["problem_id"])["problem_id"].to_pylist()
        else:
            ids = file.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        raise DataError(f"problems.exclude {path!r}: cannot be read for problem ids ({error})") from error
    if not ids:
        raise DataError(f"problems.exclude {path!r}: holds no problem id")
    return frozenset(ids)


def _report(total: int, skips: Iterable[Skip]) -> None:
    reasons = Counter(skip.reason for skip in skips)
    if reasons:
        print(f"   {sum(reasons.values())} of {total} problems left out:")
    for reason, count in reasons.most_common():
        print(f"   {count:>6} {reason}")
