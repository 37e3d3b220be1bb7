"""The tables of the document agree with the committed CSVs; families are corrected by Holm's method."""

import csv

import numpy as np
import pytest
from scipy import stats

from dreamprm_jax.schema import DataError
from research.study import claims, document, embedded
from research.study.statistics import Member, family, holm


@pytest.mark.parametrize("path", document.DOCUMENTS, ids=lambda path: path.name)
def test_the_documents_tables_are_those_of_the_csvs(path):
    text = path.read_text(encoding="utf-8")
    assert "<!-- table: " in text
    assert text == document.with_tables(text, path.name)
    assert len(text.splitlines()) <= 250


@pytest.mark.parametrize("name", claims.DOCUMENTS)
def test_figures_in_prose_are_those_of_the_csvs_or_explained(name):
    assert claims.unexplained(name) == []


def test_a_new_or_wrong_figure_in_prose_is_found(monkeypatch):
    text = claims.prose("docs/label_correction.md")
    monkeypatch.setattr(
        claims, "prose", lambda name: text.replace("the gain falls to +.028", "the gain falls to +.038")
    )
    missing, found = claims.unexplained("docs/label_correction.md")
    assert missing == "not in the text: the gain falls to +.028"
    assert "+.038" in found
    monkeypatch.setattr(claims, "prose", lambda name: text + " It solves 93.4 % of them, 1,234 in 3.5 s.")
    assert len(claims.unexplained("docs/label_correction.md")) == 3


def test_a_table_that_nobody_makes_is_named():
    with pytest.raises(DataError, match="no table 'magic'"):
        document.with_tables("<!-- table: magic -->\n<!-- end -->")


def test_figures_of_a_run_are_taken(tmp_path):
    evaluate, kept = tmp_path / "run" / "evaluate", tmp_path / "kept"
    with pytest.raises(DataError, match="no evaluation"):
        embedded.take(tmp_path / "run")
    evaluate.mkdir(parents=True)
    kept.mkdir()
    for name in embedded.COPIED:
        (evaluate / name).write_text(name)
    header = "problem_id,passed," + ",".join(embedded.ARMS)
    rows = ["a,1,2.0,1.0,0.5,", "a,0,2.0,3.0,0.0,1.0", "b,0,0.0,0.0,0.0,0.0", "b,0,1.0,1.0,1.0,1.0"]
    (evaluate / "candidates.csv").write_text("\n".join([header, *rows, ""]))
    embedded.take(tmp_path / "run", kept)
    assert (kept / "steps.csv").read_text() == "steps.csv"
    first, second = csv.DictReader((kept / "choices.csv").open())
    assert {name: float(first[name]) for name in ("random", *embedded.ARMS)} == {
        "random": 0.5, "orm": 0.5, "raw": 0.0, "closure": 1.0, "corrected": 0.0
    }  # fmt: skip
    assert float(second["corrected"]) == 0.0
    (evaluate / "candidates.csv").write_text("problem_id,passed,raw\na,1,2.0\n")
    with pytest.raises(DataError, match="no arm orm, corrected"):
        embedded.take(tmp_path / "run", kept)


def test_holm_steps_down():
    found = holm([0.01, 0.04, 0.03, np.nan, 0.5])
    assert found[:3] == pytest.approx([0.05, 0.12, 0.12])
    assert np.isnan(found[3])
    assert found[4] == pytest.approx(1.0)
    assert holm([]) == []


def test_a_family_is_paired_by_seed_and_corrected():
    rng = np.random.default_rng(0)
    noise = rng.normal(size=8)
    rows = []
    for seed in range(8):
        rows.append({"regime": "k1", "seed": seed, "arm": "raw", "step_auroc": noise[seed], "last": 0.0})
        better = noise[seed] + 0.1 + 0.01 * rng.normal()
        rows.append({"regime": "k1", "seed": seed, "arm": "em", "step_auroc": better, "last": rng.normal()})
    members = [
        Member("k1", "em", "step_auroc", "raw"),
        Member("k1", "em", "last", "raw"),
        Member("k2", "em", "last", "raw"),
    ]
    first, second, third = family(rows, members)
    values = [rows[2 * seed + 1]["step_auroc"] - noise[seed] for seed in range(8)]
    assert first.p == pytest.approx(3 * stats.ttest_1samp(values, 0).pvalue)
    assert first.certain
    assert first.text().startswith("**+.0")
    assert not second.certain
    assert third.difference.seeds == 0
    assert np.isnan(third.p)
