"""Loads the problems of each window from the source that the settings name."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from dreamprm_jax.config import Config
from dreamprm_jax.problems.codeio_source import load_codeio
from dreamprm_jax.problems.hidden_tests import write_hidden_tests
from dreamprm_jax.problems.humaneval import read_humaneval
from dreamprm_jax.problems.leetcode import read_leetcode
from dreamprm_jax.problems.problem_files import iterate_problems
from dreamprm_jax.problems.procedural.compose import Composition, compose
from dreamprm_jax.problems.windows import dated_window, split_counts, split_windows
from dreamprm_jax.runs.progress import progress_of
from dreamprm_jax.schema import DataError, Problem, ProblemTests, Skip, TestedProblem
from dreamprm_jax.storage import write_text
from dreamprm_jax.tables import csv_text

WINDOWS = ("train", "meta", "test")
EXCLUDED = "left out by problems.exclude"
_REASONS = 20  # reasons to print


def load_windows(
    config: Config, tests: Path, cache: Path | None = None
) -> tuple[dict[str, list[Problem]], list[Composition]]:
    """Problems by window, and the compositions of the procedural benchmark (empty for other sources).

    ``meta`` problems have dates of the training window; they are used for outcomes only, not for step labels. Prints
    how many problems were left out, by reason.

    Args:
      config: All settings.
      tests: The file to which the hidden tests of all problems are written while they are read.
      cache: Folder for tests that are expensive to make.

    Raises:
      DataError: if the source cannot be read, or a window is empty.
    """
    settings = config.problems
    excluded = excluded_ids(settings.exclude)
    windows: dict[str, list[Problem]] = {window: [] for window in WINDOWS}
    problems: list[Problem] = []
    compositions = []
    skips: list[Skip] = []

    def hidden_tests(source: Iterable[TestedProblem]) -> Iterator[ProblemTests]:
        """Collects the problems, and yields their hidden tests."""
        for tested in source:
            problem, of_problem = tested.split()
            if problem.problem_id in excluded:
                skips.append(Skip(settings.source, problem.problem_id, EXCLUDED))
            else:
                problems.append(problem)
                yield of_problem

    if settings.source == "procedural":
        counts = {"train": settings.train_count, "meta": settings.meta_count, "test": settings.test_count}
        composed = list(compose(config.seed, counts, settings.private_tests, settings.held_out))
        write_hidden_tests(tests, hidden_tests(tested for _, tested, _ in composed))
        for problem, (window, _, composition) in zip(problems, composed, strict=True):
            windows[window].append(problem)
            compositions.append(composition)
    elif settings.source in ("livecodebench", "file"):
        dated = settings.source == "livecodebench"
        window_of = dated_window(settings) if dated else lambda problem: "train"
        rows = iterate_problems(
            settings.path,
            settings.release,
            settings.max_private_test_bytes,
            lambda problem: window_of(problem) is not None and problem.problem_id not in excluded,
            None if settings.strict else skips,
            packages=config.sandbox.packages,
        )
        write_hidden_tests(tests, hidden_tests(progress_of(rows, "read problems", None, "problem")))
        if dated:
            windows, between = split_windows(problems, settings)
            skips += between
    else:
        found, left_out = _packaged(config, excluded, cache)
        skips += left_out
        write_hidden_tests(tests, hidden_tests(found))
    if settings.source not in ("procedural", "livecodebench"):
        windows = split_counts(problems, settings, config.seed)
        sizes = ", ".join(f"{window} {len(windows[window])}" for window in WINDOWS)
        print(f"   {settings.source}: {len(problems)} problems; windows drawn by hash: {sizes}")
    _report(sum(map(len, windows.values())) + len(skips), skips, cache)
    dates = f"train before {settings.train_before}, test from {settings.test_from}"
    for window in WINDOWS:
        if not windows[window]:
            raise DataError(
                f"config.problems: no problem falls in the {window} window "
                f"({dates if settings.source == 'livecodebench' else f'{window}_count'}); change the dates or counts"
            )
    return windows, compositions


def _packaged(
    config: Config, excluded: frozenset[str], cache: Path | None
) -> tuple[Sequence[TestedProblem], list[Skip]]:
    """The problems of a source that is an installed package, and the problems left out."""
    if config.problems.source == "codeio":
        return load_codeio(config, excluded, cache)
    if config.problems.source == "humaneval":
        return [found.problem for found in read_humaneval()], []
    return read_leetcode()


def excluded_ids(path: str) -> frozenset[str]:
    """The problem ids that ``problems.exclude`` names; empty for "".

    Raises:
      DataError: if the file is missing, or has no ids.
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
        raise DataError(f"problems.exclude {path!r}: contains no problem id")
    return frozenset(ids)


def _report(total: int, skips: Sequence[Skip], folder: Path | None) -> None:
    """Prints how many problems were left out, by reason, and lists all of them in a file of the stage's folder."""
    if not skips:
        return
    reasons = Counter(skip.reason for skip in skips).most_common()
    print(f"   {len(skips)} of {total} problems left out:")
    for reason, count in reasons[:_REASONS]:
        print(f"   {count:>6} {reason}")
    if len(reasons) > _REASONS:
        print(f"   {sum(count for _, count in reasons[_REASONS:]):>6} for {len(reasons) - _REASONS} other reasons")
    if folder is not None:
        write_text(folder / "skipped_problems.csv", csv_text([dataclasses.asdict(skip) for skip in skips]))
        print(f"   listed in {folder / 'skipped_problems.csv'}")
