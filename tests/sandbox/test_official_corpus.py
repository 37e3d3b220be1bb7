"""Compares mode ``lcb`` with recorded results of the official evaluator: 496 programs and 189 returned values."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any, Literal

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from official_corpus import DEFINITIONS, RECORDED, corpus, expected_values, returned, returning

from dreamprm_jax.sandbox import Judge, JudgeTask, Limits, compare
from dreamprm_jax.sandbox.inside import values
from dreamprm_jax.schema import TestCase

OFFICIAL: dict[str, list[Any]] = json.loads(RECORDED.read_text())
# The differences that docs/security.md lists: key, and the judge's result.
DIFFERENT: dict[str, list[int]] = {
    "end:open('/etc/passwd')": [-4],  # only files of the library can be read
    "end:open('new.txt', 'w')": [-4],  # only /dev/null can be written
    "end:sys.modules.clear()": [1, 1],  # the official evaluator cannot install the mocks of the next test
}


def task(row: dict[str, Any]) -> JudgeTask:
    kind: Literal["stdin", "functional"] = "functional" if row["fn_name"] else "stdin"
    tests = tuple(TestCase(i, o, kind) for i, o in zip(row["inputs"], row["outputs"], strict=True))
    return JudgeTask(row["key"], row["code"], tests, row["fn_name"])


def test_the_corpus_is_as_large_as_it_says() -> None:
    programs, results = corpus(), returned()
    assert len(programs) >= 400
    assert len(set(results)) == len(results) >= 150
    assert {row["key"] for row in programs} | {f"value:{value}" for value in results} == set(OFFICIAL)


def test_programs_have_the_official_result() -> None:
    rows = corpus()
    with Judge("lcb", limits=Limits(cpu_seconds=6.0, wall_seconds=12.0), workers=2) as judge:
        results = list(judge.evaluate(map(task, rows)))
    wrong = {
        row["key"]: (result.codes, OFFICIAL[row["key"]], result.error)
        for row, result in zip(rows, results, strict=True)
        if list(result.codes) != DIFFERENT.get(row["key"], OFFICIAL[row["key"]])
    }
    assert wrong == {}


def test_returned_values_have_the_official_result() -> None:
    rows, codes = [], []
    for value in returned():
        official = OFFICIAL[f"value:{value}"]
        best = official.index(1) if 1 in official else 0
        rows.append(returning(value, expected_values()[best]))
        codes.append(DIFFERENT.get(f"value:{value}", [official[best]]))
    with Judge("lcb", workers=2) as judge:
        results = list(judge.evaluate(map(task, rows)))
    wrong = {
        row["key"]: (row["outputs"], result.codes, official, result.error)
        for row, result, official in zip(rows, results, codes, strict=True)
        if list(result.codes) != official
    }
    assert wrong == {}


@pytest.mark.parametrize("value", returned())
def test_a_value_equals_what_it_equals_officially(value: str) -> None:
    names: dict[str, Any] = {}
    exec("import numpy as np\n" + DEFINITIONS.replace("VALUE", "0"), names)
    for text, code in zip(expected_values(), OFFICIAL[f"value:{value}"], strict=True):
        expected = compare.expected_value(text)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                encoded = values.canonical(eval(value, dict(names)), 1 << 20, wildcards=True)
            ours = int(compare.value_matches(encoded, expected, wildcards=True))
        except (values.Ambiguous, compare.Signalling):
            ours = -4
        assert ours == code, (text, code)
