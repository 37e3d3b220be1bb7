"""Runs the examples of docs/bilevel.md unchanged."""

import re
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score

PAGE = Path(__file__).parents[2] / "docs" / "bilevel.md"


def test_the_first_lines_find_the_outlier() -> None:
    names: dict[str, Any] = {}
    exec(compile(PAGE.read_text(encoding="utf-8").split("```python\n")[1].split("```")[0], str(PAGE), "exec"), names)
    hypergradient = np.abs(names["result"].hypergradient)
    assert hypergradient[2] > 5 * hypergradient[:2].max()


def test_the_example_beats_no_correction() -> None:
    text = PAGE.read_text(encoding="utf-8")
    match = re.search(r"<!-- example -->\n```python\n(.*?)```", text, re.DOTALL)
    assert match is not None
    names: dict[str, Any] = {}
    exec(compile(match[1], str(PAGE), "exec"), names)
    assert names["corrected"] > 0.87
    assert names["corrected"] > names["plain"] + 0.15
    assert roc_auc_score(names["flipped"], -np.asarray(names["phi"])) > 0.93
    # The page states these figures.
    assert f"**{names['plain']:.2f}** without" in text
    assert f"**{names['corrected']:.2f}** with" in text
