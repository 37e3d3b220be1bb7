"""``python -m research.study``: every labeling in every regime of label noise, over many seeds; tables and plots."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from typing import Any

from dreamprm_jax.cli.options import settings_help, workdir_of
from dreamprm_jax.config import load_settings
from dreamprm_jax.schema import DataError
from dreamprm_jax.storage import atomic_path, write_text
from dreamprm_jax.tables import csv_text
from research.study.results import read_results
from research.study.settings import StudySettings, freeze_study

DESCRIPTION = """\
Trains a small reward model on each labeling (arm) in each regime of label noise for each seed, on the procedural
benchmark with its exact truth, and compares every arm with the baseline, seed by seed. Writes WORKDIR/results (one
file for each regime, seed and arm), study.md (tables), study.csv and plots. A stopped study continues where it was;
seeds, regimes and arms may be added to a finished one.
`python -m research.study labels --help`: the labelings alone, in a grid of noise; `codeio`: on real programs.
"""


def main(arguments: list[str]) -> int:
    """Runs the command. Returns the exit status: 0, 2 (bad input) or 130 (interrupted)."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwinds, so that the units' processes end
    try:
        if arguments[:1] == ["codeio"]:
            from research.study import codeio_cli

            return codeio_cli.main(arguments[1:])
        if arguments[:1] == ["labels"]:
            from research.study import label_grid

            return label_grid.main(arguments[1:])
        return _study(arguments)
    except DataError as error:
        print(f"research.study: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped; run the same command again to continue", file=sys.stderr)
        return 130


def parser(program: str, description: str, defaults: Any) -> argparse.ArgumentParser:
    """The options that both studies share; the settings are listed by ``--help``."""
    made = argparse.ArgumentParser(
        prog=program,
        description=description,
        epilog=settings_help(defaults),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument("--config", required=True, metavar="FILE", help="Python file with get_config(): research/configs")
    made.add_argument("--workdir", metavar="DIR", help="folder of the study (default: runs/NAME of the config)")
    return made


def _study(arguments: list[str]) -> int:
    options = parser("python -m research.study", DESCRIPTION, StudySettings())
    options.add_argument("--report", action="store_true", help="make tables and plots of what is there, train nothing")
    given, overrides = options.parse_known_args(arguments)
    settings = freeze_study(load_settings(given.config, overrides, StudySettings()))
    folder = workdir_of(given, settings)
    if not given.report:
        from dreamprm_jax.runs.locks import run_lock
        from research.study.run import run_study

        with run_lock(folder):
            run_study(settings, folder)
    for path in report(folder, settings.baseline):
        print(f"wrote {path.resolve()}")
    return 0


def report(folder: Path, baseline: str) -> list[Path]:
    """Writes tables and plots of all results in the folder. Returns the files.

    Raises:
      DataError: If there are no results, or none of the baseline.
    """
    from research.study.plots import differences
    from research.study.tables import markdown

    rows = read_results(folder)
    if not any(row["arm"] == baseline for row in rows):
        raise DataError(f"{folder}: no result of the baseline {baseline!r}")
    tables, csv = folder / "study.md", folder / "study.csv"
    write_text(tables, markdown(rows, baseline))
    write_text(csv, csv_text(rows))
    written = [tables, csv]
    for figure in ("step_auroc", "best_of_n_sum_log_odds"):
        path = folder / f"{figure}.svg"
        with atomic_path(path) as temporary:
            differences(rows, baseline, figure).savefig(temporary, format="svg")
        written.append(path)
    return written


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
