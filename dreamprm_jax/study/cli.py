"""``dreamprm study``: every labelling in every regime of label noise, over many seeds; tables and plots."""

from __future__ import annotations

import argparse
from pathlib import Path

from dreamprm_jax.schema import DataError
from dreamprm_jax.storage import atomic_path, write_text
from dreamprm_jax.study.results import read_results
from dreamprm_jax.study.settings import StudySettings, freeze_study
from dreamprm_jax.tables import csv_text

DESCRIPTION = """\
Trains a small reward model on each labelling (arm) in each regime of label noise for each seed, on the procedural
benchmark with its exact truth, and compares every arm with the baseline, seed by seed. Writes WORKDIR/results (one
file for each regime, seed and arm), study.md (tables), study.csv and plots. Killed and run again, it goes on; more
seeds, regimes or arms may be added to a finished study.
`dreamprm study codeio --help`: the labellings alone, on real programs.
"""


def main(arguments: list[str]) -> int:
    """Runs the command."""
    from dreamprm_jax.cli.main import load_settings, settings_epilog, workdir  # the command line imports this module

    if arguments[:1] == ["codeio"]:
        from dreamprm_jax.study import codeio_cli

        return codeio_cli.main(arguments[1:])
    parser = argparse.ArgumentParser(
        prog="dreamprm study",
        description=DESCRIPTION,
        epilog=settings_epilog(StudySettings()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config", required=True, metavar="FILE", help="Python file with get_config(): configs/study")
    parser.add_argument("--workdir", metavar="DIR", help="folder of the study (default: runs/NAME of the config)")
    parser.add_argument("--report", action="store_true", help="make tables and plots of what is there, train nothing")
    options, overrides = parser.parse_known_args(arguments)
    settings = freeze_study(load_settings(options.config, overrides, StudySettings()))
    folder = workdir(options.workdir or f"runs/{settings.name}")
    if not options.report:
        from dreamprm_jax.stages.runner import owned
        from dreamprm_jax.study.run import run_study

        with owned(folder):
            run_study(settings, folder)
    for path in report(folder, settings.baseline):
        print(f"wrote {path.resolve()}")
    return 0


def report(folder: Path, baseline: str) -> list[Path]:
    """Writes tables and plots of all results in the folder. Returns the files.

    Raises:
      DataError: where there are no results, or none of the baseline.
    """
    from dreamprm_jax.study.plots import differences
    from dreamprm_jax.study.tables import markdown

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
