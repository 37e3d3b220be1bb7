"""The search command: searches every test problem with every method, judges the selected programs and compares them.

The folder ``search_ARM`` of the run receives ``results.json``, ``table.txt``, ``search.csv`` and ``choices.csv``. Every
problem's search and every verdict is journaled; after a kill, the same command resumes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dreamprm_jax.config import Config, to_dict
from dreamprm_jax.models.tokenizer import encode_texts, load_tokenizer
from dreamprm_jax.policy.factory import make_policy
from dreamprm_jax.policy.protocol import PolicyError
from dreamprm_jax.problems.hidden_tests import HiddenTests
from dreamprm_jax.runs.fingerprint import fingerprint
from dreamprm_jax.runs.journal import Journal
from dreamprm_jax.runs.paths import Paths
from dreamprm_jax.runs.progress import progress_of
from dreamprm_jax.runs.stage_folder import StageFolder
from dreamprm_jax.schema import DataError, Problem, canonical_json, content_hash
from dreamprm_jax.search.algorithms import ProgramScorer, SearchCandidate, SearchResult, SearchSettings, ranked
from dreamprm_jax.search.driver import TokenCounter, run_searches
from dreamprm_jax.search.judged_choices import judge_searches
from dreamprm_jax.search.results import search_results, search_table
from dreamprm_jax.selection.reward_models import DEFAULT_AGGREGATOR, arm_aggregator, arm_label
from dreamprm_jax.storage import read_json, read_records, write_json, write_text
from dreamprm_jax.tables import csv_text

MakeScorer = Callable[[], ProgramScorer]


def search_window(config: Config, paths: Paths, arm: str, make_scorer: MakeScorer) -> dict[str, Any]:
    """Searches the test window with one arm, and compares with best-of-N on the same budget.

    Args:
      config: Settings of the run: ``search``, and ``evaluate.aggregator`` (for "auto", the aggregator that the evaluate
        stage chose, or the default before that stage).
      paths: Paths of the run; its train stage must be done.
      arm: Name of the reward model.
      make_scorer: Called if there is something to search.

    Returns:
      The contents of ``results.json``.

    Raises:
      DataError: if the policy or the sandbox failed; running again resumes.
    """
    settings, started = config.search, time.monotonic()
    problems = read_records(paths.problems("test"), Problem)[: settings.problems or None]
    aggregator = arm_aggregator(arm, _aggregator(config, paths))
    digest = content_hash(
        fingerprint(config, "train", paths.root), arm, aggregator, canonical_json(to_dict(settings)), str(config.seed),
        str(config.evaluate.bootstrap_samples), digits=16,
    )  # fmt: skip
    folder = StageFolder(paths.stage(f"search_{arm}"), digest)
    if folder.is_done():
        print((folder.path / "table.txt").read_text(encoding="utf-8"), end="")
        print(f"already done for these settings, reused ({folder.path})")
        return read_json(folder.path / "results.json")
    folder.open(to_dict(config))
    found = _search(config, paths, problems, aggregator, make_scorer, folder)
    outcomes, choices = judge_searches(
        config, problems, HiddenTests(paths.hidden_tests()), found, folder.path / "verdicts.journal"
    )
    title = (
        f"Search on {len(problems)} test problems by {arm_label(arm)} ({aggregator}), "
        f"at most {settings.tokens} tokens per problem"
    )
    rows = search_results(outcomes, config.evaluate.bootstrap_samples, config.seed)
    results = {"arm": arm, "aggregator": aggregator, "problems": len(problems), "table": rows}
    text = search_table(rows, title).text() + "\n"
    write_text(folder.path / "search.csv", csv_text(rows))
    write_text(folder.path / "choices.csv", csv_text(choices))
    write_text(folder.path / "table.txt", text)
    write_json(folder.path / "results.json", results)
    print(f"\n{text}\nwrote {folder.path}", flush=True)
    folder.finish({"problems": len(problems), "methods": len(settings.methods)}, time.monotonic() - started)
    return results


def _aggregator(config: Config, paths: Paths) -> str:
    if config.evaluate.aggregator != "auto":
        return config.evaluate.aggregator
    return read_json(paths.results())["aggregator"] if paths.results().exists() else DEFAULT_AGGREGATOR


def _search(
    config: Config,
    paths: Paths,
    problems: Sequence[Problem],
    aggregator: str,
    make_scorer: MakeScorer,
    folder: StageFolder,
) -> dict[str, dict[str, SearchResult]]:
    """Runs the searches that are not in the journal. Returns method -> problem id -> result, best candidate first."""
    settings = config.search
    with Journal(folder.path / "searches.journal") as journal:
        todo = {
            method: [one for one in problems if f"{method}/{one.problem_id}" not in journal]
            for method in settings.methods
        }
        if any(todo.values()):
            scorer, count = make_scorer(), _token_counter(paths)
            policy = make_policy(config.policy, compositions=paths.compositions(), folder=folder.path)
            try:
                for method, rest in todo.items():
                    how = SearchSettings(
                        method, settings.width, settings.expansions, settings.lookahead, settings.tokens,
                        settings.temperature, aggregator,
                    )  # fmt: skip
                    done = len(problems) - len(rest)
                    searches = run_searches(
                        rest, how, policy, scorer, count, config.seed, config.policy.concurrency,
                        granularity=config.label.granularity,
                    )  # fmt: skip
                    for problem, result in progress_of(searches, method, len(problems), "problem", done):
                        row: dict[str, Any] = {"tokens": result.tokens}
                        row["candidates"] = [[one.code, _plain(one.number)] for one in result.candidates]
                        journal.put(f"{method}/{problem.problem_id}", row)
            except PolicyError as error:
                raise DataError(
                    f"the policy failed: {error}; its answers are kept; run the same command again"
                ) from error
            finally:
                policy.close()
        return {
            method: {one.problem_id: _result(journal.get(f"{method}/{one.problem_id}")) for one in problems}
            for method in settings.methods
        }


def _result(row: Any) -> SearchResult:
    candidates = (
        SearchCandidate(code, float("nan") if number is None else number) for code, number in row["candidates"]
    )
    return SearchResult(tuple(ranked(list(candidates))), row["tokens"])


def _plain(number: float) -> float | None:
    return None if np.isnan(number) else number


def _token_counter(paths: Paths) -> TokenCounter:
    tokenizer = load_tokenizer(paths.tokenizer())
    return lambda texts: [len(ids) for ids in encode_texts(tokenizer, texts)]
