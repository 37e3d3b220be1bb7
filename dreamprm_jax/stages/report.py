"""The report stage: writes a self-contained report.html and the plots from results.json and its source rows."""

from __future__ import annotations

from dreamprm_jax.config import Config
from dreamprm_jax.evaluation.judged_candidates import load_candidates
from dreamprm_jax.evaluation.report.figures import draw_figures
from dreamprm_jax.evaluation.report.page import render, run_facts
from dreamprm_jax.labeling.exact_truth import load_truth, why_no_truth
from dreamprm_jax.runs.paths import Paths
from dreamprm_jax.schema import Outcome
from dreamprm_jax.storage import read_json, read_records, write_text


def report(config: Config, paths: Paths) -> dict[str, int]:
    """Builds the report of an evaluated run.

    The output is byte-identical for identical inputs: no time stamps, fixed ids, fixed jitter.

    Returns:
      Counts of tables, plots, problems in the table and programs in the viewer.

    Raises:
      DataError: if the evaluate stage's results, or a file that it read, is missing.
    """
    results = read_json(paths.results())
    candidates, _ = load_candidates(paths, "test", config.train.arms)  # the evaluate stage has reported the skips
    truth = load_truth(config, paths, "test") if why_no_truth(config) is None else None
    figures = draw_figures(config, paths, results, candidates, truth)
    outcomes = {row.program_hash: row for row in read_records(paths.outcomes("test"), Outcome)}
    page, counts = render(config, results, candidates, truth, figures, outcomes, run_facts(paths.root, config.evaluate))
    write_text(paths.report(), page)
    return counts
