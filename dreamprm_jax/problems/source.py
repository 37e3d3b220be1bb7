"""The problems of each window, from whichever source the settings name."""

from __future__ import annotations

from dreamprm_jax.config import Config
from dreamprm_jax.problems.livecodebench import load_problems
from dreamprm_jax.problems.procedural.compose import Composition, compose
from dreamprm_jax.problems.windows import split_windows
from dreamprm_jax.schema import DataError, Problem

WINDOWS = ("train", "meta", "test")


def load_windows(config: Config) -> tuple[dict[str, list[Problem]], list[Composition]]:
    """Problems by window, and the compositions of the procedural benchmark (empty for other sources).

    ``meta`` problems lie in the training window of dates; they give outcomes only, no step labels.

    Raises:
      DataError: where a window is empty.
    """
    settings = config.problems
    windows: dict[str, list[Problem]] = {window: [] for window in WINDOWS}
    compositions = []
    if settings.source == "procedural":
        counts = {"train": settings.train_count, "meta": settings.meta_count, "test": settings.test_count}
        for window, problem, composition in compose(config.seed, counts, settings.private_tests):
            windows[window].append(problem)
            compositions.append(composition)
    else:
        problems = load_problems(settings.path, settings.release, settings.max_private_test_bytes)
        windows, between = split_windows(problems, settings)
        if between:
            print(f"   {len(between)} of {len(problems)} problems left out: between the train and the test window")
    for window in WINDOWS:
        if not windows[window]:
            raise DataError(
                f"config.problems: no problem falls in the {window} window "
                f"(train before {settings.train_before}, test from {settings.test_from}); change the dates or counts"
            )
    return windows, compositions
