"""The journal's index finds every key across its merges, in little memory."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

from dreamprm_jax.runs.journal import Journal
from dreamprm_jax.runs.key_index import KeyIndex


def test_every_key_is_found() -> None:
    """20,000 keys give five merges and about eighty digests that end in a zero byte."""
    index = KeyIndex()
    for number in range(20_000):
        assert index.add(f"k{number}", 7 * number, number % 1000 + 1)
        assert number % 777 or not index.add(f"k{number // 2}", 0, 0)
    assert len(index) == 20_000
    assert [index.find(f"k{number}") for number in range(20_000)] == [(7 * n, n % 1000 + 1) for n in range(20_000)]
    assert "k20000" not in index


def test_memory_of_a_key() -> None:
    tracemalloc.start()
    index = KeyIndex()
    for number in range(30_000):
        index.add(f"k{number}", 500 * number, 500)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held / 30_000 < 60  # bytes: 28 in the arrays, the rest in the dict of unmerged keys


def test_a_long_journal_is_reopened(tmp_path: Path) -> None:
    keys = [f'unit "{number}", \\x' if number % 100 == 0 else f"unit{number}" for number in range(6000)]
    with Journal(tmp_path / "j") as journal:
        for number, key in enumerate(keys):
            journal.put(key, [number, "é"])
    with Journal(tmp_path / "j") as journal:
        assert len(journal) == len(keys)
        assert all(journal.get(key) == [number, "é"] for number, key in enumerate(keys))
        assert not journal.put(keys[100], None)
