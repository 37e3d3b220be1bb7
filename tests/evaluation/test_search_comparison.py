"""The comparison of the search command on real problems and programs, with a scorer that knows the truth."""

import csv
import dataclasses
import shutil

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from dreamprm_jax.cli.main import main
from dreamprm_jax.cof.splitter import split_steps
from dreamprm_jax.config import SearchConfig, to_dict
from dreamprm_jax.problems.hidden_tests import HiddenTests
from dreamprm_jax.problems.procedural.compose import Composition
from dreamprm_jax.problems.procedural.truth import Valuer
from dreamprm_jax.problems.procedural.writing import read
from dreamprm_jax.runs.paths import Paths
from dreamprm_jax.schema import Outcome, Program, TestedProblem
from dreamprm_jax.search.algorithms import SearchCandidate
from dreamprm_jax.search.comparison import search_window
from dreamprm_jax.search.judged_choices import prune_then_execute
from dreamprm_jax.search.results import MethodOutcome, search_results, search_table
from dreamprm_jax.storage import read_json, read_records

TOKENS = 1200


class Exact:
    """A scorer that returns the true value of every prefix. It can be interrupted, as if the run were killed."""

    def __init__(self, paths, fail_after=None):
        rows = (Composition.from_json(row) for row in read_json(paths.compositions()))
        self.compositions = {composition.problem_id: composition for composition in rows}
        self.valuers = {}
        self.tests = HiddenTests(paths.hidden_tests())
        self.calls, self.fail_after = 0, fail_after

    def __call__(self, items):
        self.calls += 1
        if self.fail_after is not None and self.calls > self.fail_after:
            raise KeyboardInterrupt
        return [self._logits(problem, code) for problem, code in items]

    def _logits(self, problem, code):
        composition = self.compositions[problem.problem_id]
        tested = TestedProblem(**vars(problem), private_tests=self.tests.of(problem.problem_id))
        valuer = self.valuers.setdefault(problem.problem_id, Valuer(composition, tested, 1.0))
        values = [valuer.value(read(composition, code[: step.end]))[0] for step in split_steps(code)]
        clipped = np.clip(values, 0.001, 0.999)
        return np.log(clipped / (1 - clipped))


@pytest.fixture(scope="module")
def settings(config):
    search = SearchConfig(methods=("best_of_n", "beam"), width=1, expansions=3, tokens=TOKENS, problems=8)
    sandbox = dataclasses.replace(config.sandbox, workers=2)
    return dataclasses.replace(config, search=search, sandbox=sandbox)


@pytest.fixture(scope="module")
def folder(run_folder, tmp_path_factory):
    """A run with a tokenizer of words."""
    root = tmp_path_factory.mktemp("searched") / "run"
    shutil.copytree(run_folder.root, root)
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    Paths(root).tokenizer().parent.mkdir(exist_ok=True)
    tokenizer.save(str(Paths(root).tokenizer()))
    return Paths(root)


@pytest.fixture(scope="module")
def searched(folder, settings):
    return search_window(settings, folder, "raw", lambda: Exact(folder))


def test_every_method_stays_within_the_budget_and_the_verdicts_are_the_sandboxs(searched, folder):
    rows = {row["method"]: row for row in searched["table"]}
    assert list(rows) == ["random", "pool", "best_of_n", "beam"]
    assert rows["random"]["overall"]["estimate"] < rows["best_of_n"]["overall"]["estimate"]
    # The scorer knows the truth, so best-of-N must solve every problem that the pool can solve.
    assert rows["best_of_n"]["solved"] == rows["pool"]["solved"]
    assert rows["beam"]["solved"] >= rows["best_of_n"]["solved"]
    for name in ("best_of_n", "beam"):
        assert 0.5 * TOKENS < rows[name]["tokens"] <= TOKENS
        assert rows[name]["forwards"] == rows[name]["candidates"] > 3
    assert rows["beam"]["problems"] == rows["beam"]["solved"] - rows["best_of_n"]["solved"]
    with open(folder.stage("search_raw") / "choices.csv", newline="") as handle:
        choices = list(csv.DictReader(handle))
    assert len(choices) == 16
    assert sum(float(row["solved"]) for row in choices if row["method"] == "beam") == rows["beam"]["solved"]
    text = (folder.stage("search_raw") / "table.txt").read_text()
    assert max(map(len, text.splitlines())) <= 100


def test_a_stopped_search_goes_on_and_ends_with_the_same_table(searched, folder, settings, tmp_path):
    shutil.copytree(folder.root, tmp_path / "run", ignore=shutil.ignore_patterns("search_*"))
    again = Paths(tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        search_window(settings, again, "raw", lambda: Exact(again, fail_after=5))
    assert search_window(settings, again, "raw", lambda: Exact(again)) == searched

    def never():
        raise AssertionError("a finished search asks for no scorer")

    assert search_window(settings, again, "raw", never) == searched


def test_public_tests_choose_among_the_best_and_are_counted(folder, settings):
    """With a scorer that ranks at random, three runs on public tests solve more problems."""

    class Blind(Exact):
        def _logits(self, problem, code):
            return np.full(len(split_steps(code)), (len(code) * 7919) % 101 / 101)

    results = {}
    for judged in (0, 3):
        search = dataclasses.replace(settings.search, methods=("best_of_n",), judged=judged)
        rows = search_window(dataclasses.replace(settings, search=search), folder, "orm", lambda: Blind(folder))[
            "table"
        ]
        results[judged] = {row["method"]: row for row in rows}["best_of_n"]
    assert results[0]["judged"] == 0
    assert 1 <= results[3]["judged"] <= 3
    assert results[3]["solved"] > results[0]["solved"]


def test_choosing_by_public_tests_by_hand():
    a, b, c = (SearchCandidate(code, 0.0) for code in "abc")
    known = {("p", "a"): False, ("p", "b"): True, ("p", "c"): True}
    assert prune_then_execute([a, b, c], "p", 2, known) == (b, 2)
    assert prune_then_execute([a, b, c], "p", 1, known) == (a, 1)
    assert prune_then_execute([a, b, c], "p", 0, known) == (a, 0)
    assert prune_then_execute([a], "without tests", 2, known) == (a, 0)
    assert prune_then_execute([], "p", 2, known) == (None, 0)


def test_differences_are_paired():
    def outcome(method, solved):
        return MethodOutcome(method, np.array(solved, float), *(np.ones(4) for _ in range(4)))

    rows = search_results(
        [outcome("best_of_n", [0, 1, 0, 1]), outcome("beam", [1, 1, 1, 1]), outcome("random", [0.1, 0.9, 0.1, 0.9])],
        200,
        0,
    )
    assert "difference" not in rows[0]
    assert rows[1]["difference"]["estimate"] == 0.5
    assert (rows[1]["problems"], rows[1]["p_value"]) == (2.0, 0.5)
    assert rows[2]["p_value"] is None  # a sign test would count small gaps as wins and losses
    assert len(search_table(rows, "").rows) == 3


def test_mistakes_are_named(folder, settings, tmp_path, capsys):
    config_file = tmp_path / "config.py"
    config_file.write_text(
        "from ml_collections import config_dict\n\n\ndef get_config():\n"
        f"    return config_dict.ConfigDict({to_dict(settings)!r})\n"
    )
    command = ["search", f"--config={config_file}", f"--workdir={folder.root}"]
    for arm, message in (
        ("none", "--arm=none: the run's reward models are orm, raw, corrected"),
        ("raw", "stage 'train' has not finished"),
    ):
        assert main([*command, f"--arm={arm}"]) == 2
        assert message in capsys.readouterr().err
    for setting, message in (
        ("methods=('mcts',)", "config.search.methods="),
        ("width=0", "config.search.width=0: must be at least 1"),
    ):
        assert main([*command, "--arm=raw", f"--config.search.{setting}"]) == 2
        assert message in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["search", "--workdir", str(tmp_path)])


def test_the_run_is_as_it_was(searched, folder, run_folder):
    """Searching changes none of the run's own files."""
    assert read_records(folder.programs("test"), Program) == read_records(run_folder.programs("test"), Program)
    assert read_records(folder.outcomes("test"), Outcome) == read_records(run_folder.outcomes("test"), Outcome)
