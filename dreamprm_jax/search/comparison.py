"""The search command: searches every test problem with every method, judges the choices and compares them.

The folder ``search_ARM`` of the run receives ``results.json``, ``table.txt``, ``search.csv`` and ``choices.csv``. Every
problem's search and every verdict is journaled: after a kill the same command resumes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dreamprm_jax.config import Config, to_dict
from dreamprm_jax.models.tokenizer import load_tokenizer
from dreamprm_jax.policy.factory import make_policy
from dreamprm_jax.policy.protocol import PolicyError
from dreamprm_jax.problems.hidden_tests import HiddenTests
from dreamprm_jax.runs.fingerprint import fingerprint
from dreamprm_jax.runs.journal import Journal
from dreamprm_jax.runs.paths import Paths
from dreamprm_jax.runs.progress import progress_of
from dreamprm_jax.runs.stage_folder import StageFolder
from dreamprm_jax.schema import DataError, Problem, canonical_json, content_hash
from dreamprm_jax.search.algorithms import METHODS, Candidate, ProgramScorer, SearchSettings, ranked
from dreamprm_jax.search.driver import TokenCounter, run_searches
from dreamprm_jax.search.judged_choices import Found, judge_searches
from dreamprm_jax.search.results import search_results, search_table
from dreamprm_jax.selection.reward_models import DEFAULT_AGGREGATOR, arm_aggregator, arm_label
from dreamprm_jax.storage import read_json, read_records, write_json, write_text
from dreamprm_jax.tables import csv_text

MakeScorer = Callable[[], ProgramScorer]


def search_window(config: Config, paths: Paths, arm: str, make_scorer: MakeScorer) -> dict[str, Any]:
    """Searches the test window with one arm, and compares with best-of-N on the same budget.

    Args:
      config: ``search`` says how; ``evaluate.aggregator`` how step scores become one number ("auto": the one that the
        evaluate stage chose, else the default).
      paths: of the run; its train stage is done.
      arm: which reward model.
      make_scorer: called when there is something to search.

    Returns:
      The figures, as in ``results.json``.

    Raises:
      DataError: on an unknown method or no problem; or where the policy failed: run again to go on.
    """
    settings, started = config.search, time.monotonic()
    if unknown := [name for name in settings.methods if name not in METHODS]:
        raise DataError(f"config.search.methods: unknown {', '.join(unknown)}; choose among {', '.join(METHODS)}")
    for name, least in (
        ("width", 1),
        ("expansions", 1),
        ("tokens", 1),
        ("lookahead", 0),
        ("judged", 0),
        ("problems", 0),
    ):
        if getattr(settings, name) < least:
            raise DataError(f"config.search.{name} is {getattr(settings, name)}; it must be at least {least}")
    problems = read_records(paths.problems("test"), Problem)[: settings.problems or None]
    aggregator = arm_aggregator(arm, _aggregator(config, paths))
    mark = content_hash(
        fingerprint(config, "train", paths.root), arm, aggregator, canonical_json(to_dict(settings)), str(config.seed),
        str(config.evaluate.bootstrap_samples), digits=16,
    )  # fmt: skip
    folder = StageFolder(paths.stage(f"search_{arm}"), mark)
    if folder.is_done():
        print((folder.path / "table.txt").read_text(encoding="utf-8"), end="")
        print(f"already done for these settings, reused ({folder.path})")
        return read_json(folder.path / "results.json")
    moved = folder.open(to_dict(config))
    if moved is not None:
        print(f"earlier output was made with other settings; kept in {moved}")
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
) -> dict[str, dict[str, Found]]:
    """Method -> problem -> result of its search."""
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
                        row: dict[str, Any] = {"tokens": result.tokens, "forwards": result.forwards}
                        row["candidates"] = [[one.code, _plain(one.number)] for one in result.candidates]
                        journal.put(f"{method}/{problem.problem_id}", row)
            except PolicyError as error:
                raise DataError(
                    f"the policy failed: {error}; what it answered is kept: run the same command again"
                ) from error
            finally:
                policy.close()
        return {
            method: {one.problem_id: _found(journal.get(f"{method}/{one.problem_id}")) for one in problems}
            for method in settings.methods
        }


def _found(row: Any) -> Found:
    candidates = [
        Candidate(code, float("nan") if number is None else number, order)
        for order, (code, number) in enumerate(row["candidates"])
    ]
    return Found(ranked(candidates), row["tokens"], row["forwards"])


def _plain(number: float) -> float | None:
    return None if np.isnan(number) else number


def _token_counter(paths: Paths) -> TokenCounter:
    tokenizer = load_tokenizer(paths.tokenizer())

    def count(texts: Sequence[str]) -> list[int]:
        clean = [text.encode("utf-8", "replace").decode() for text in texts]
        return [len(one.ids) for one in tokenizer.encode_batch_fast(clean, add_special_tokens=False)]

    return count
