"""Checks the comparison against a direct implementation of the official rules, with examples and by fuzzing."""

from __future__ import annotations

import json
from decimal import Decimal, InvalidOperation
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dreamprm_jax.sandbox import compare
from dreamprm_jax.sandbox.inside import values

LIMIT = 1 << 20


def official(prediction: str, expected: str) -> bool | None:
    """The comparison of ``grade_stdio`` (commit 28fef95). None if it raises an error."""

    def lines(text: str) -> list[str]:
        return [line.strip() for line in text.strip().split("\n")]

    def decimals(line: str) -> list[Decimal] | None:
        try:
            return [Decimal(token) for token in line.split()]
        except InvalidOperation:
            return None

    if len(lines(prediction)) != len(lines(expected)):
        return False
    for line, other in zip(lines(prediction), lines(expected), strict=True):
        if line == other:
            continue
        ours, theirs = decimals(line), decimals(other)
        if ours is None or theirs is None:
            return False
        try:
            if ours != theirs:
                return False
        except InvalidOperation:
            return None
    return True


def ours(prediction: str, expected: str) -> bool | None:
    try:
        return compare.output_mismatch(prediction, expected) is None
    except compare.Signalling:
        return None


@pytest.mark.parametrize(
    ("output", "expected", "same"),
    [
        ("7", "7\n", True),
        ("1  2", "1 2", True),
        ("1.0", "1", True),
        ("1e3", "1000", True),
        ("0.1", "0.10000000000000000000000001", False),
        ("-0", "0", True),
        ("nan", "NaN", False),
        ("nan", "nan", True),
        ("yes", "YES", False),
        ("a  b", "a b", False),
        ("1\r\n2", "1\n2", True),
        ("7\n8", "7", False),
        ("", "", True),
        ("x", "", False),
        ("sNaN", "1", None),
        ("1 sNaN", "2 1", False),  # decided at the first token
        ("1e999999999", "1", False),
        ("7\0", "7", False),
        ("１", "1", True),
    ],
)
def test_outputs(output: str, expected: str, same: bool | None) -> None:
    assert ours(output, expected) is same
    assert official(output, expected) is same


NUMBERS = ["1", "1.0", "01", "+1", "1e0", "-0", "0", "nan", "NaN", "sNaN", "inf", "x", "１", "1_0", "10", "\0"]
SPACES = [" ", "\n", "\t", "\r\n", "\x0b", "\u2028"]
text = st.lists(st.sampled_from(NUMBERS + SPACES), max_size=12).map("".join)


@settings(max_examples=500, deadline=None)
@given(st.one_of(text, st.text(max_size=20)), st.one_of(text, st.text(max_size=20)))
def test_outputs_as_official(output: str, expected: str) -> None:
    assert ours(output, expected) is official(output, expected)


@settings(max_examples=200, deadline=None)
@given(text)
def test_an_output_equals_itself(output: str) -> None:
    assert ours(output, output) is True


json_values: st.SearchStrategy[Any] = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-3, 3),
        st.integers(),
        st.floats(allow_nan=False),
        st.sampled_from([0.0, -0.0, 1.0, 2.0, 1e300, float("inf"), 10**40, float(2**70), 2**70]),
        st.text(max_size=3),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=2), inner, max_size=3)),
    max_leaves=6,
)


@settings(max_examples=500, deadline=None)
@given(json_values, json_values)
def test_canonical_texts_are_equal_exactly_where_values_are(one: Any, other: Any) -> None:
    assert compare.value_matches(values.canonical(one, LIMIT), other) == (one == other)
    assert compare.value_matches(values.canonical(one, LIMIT), one)
    assert compare.value_matches(values.canonical(one, LIMIT), other, wildcards=True) == (one == other)


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(max_size=30), st.text(alphabet='[]{}",:*?0123', max_size=30)), json_values)
def test_hostile_texts_match_only_their_value(encoded: str, expected: Any) -> None:
    try:
        same = compare.value_matches(encoded, expected)
    except compare.Signalling:
        assert "!" in encoded or values.MARK in encoded
        return
    if same:
        assert encoded == values.canonical(expected, LIMIT)


@pytest.mark.parametrize(
    ("encoded", "expected", "official_too"),
    [
        ("[*]", [1], True),
        ("[*,2]", [1, 2], True),
        ('{"a":*}', {"a": [1]}, True),
        ("*", 1, False),
        ("*", [1], False),
        ("[*]", [1, 2], False),
        ("[*", [1], False),
        ("[*]]", [1], False),
    ],
)
def test_wildcards_count_in_official_mode_below_the_top(encoded: str, expected: Any, official_too: bool) -> None:
    assert not compare.value_matches(encoded, expected)
    assert compare.value_matches(encoded, expected, wildcards=True) is official_too


@pytest.mark.parametrize("wildcards", [False, True])
def test_nothing_equals_an_expected_nan(wildcards: bool) -> None:
    for text in ("NaN", "[NaN]", '{"a": [1, NaN]}'):
        expected = compare.expected_value(text)
        assert not compare.value_matches(values.canonical(expected, LIMIT), expected, wildcards)
    assert not compare.value_matches(values.canonical(object(), LIMIT), compare.expected_value("NaN"), wildcards)
    assert compare.value_matches('["?"]', ["?"], wildcards)


class AlwaysEqual(int):
    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = int.__hash__


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        ((1, 2), "[1,2]"),
        ([(1, 2)], "[?]"),
        (True, "1"),
        (3.0, "3"),
        (float("nan"), "?"),
        ({1: 2}, "?"),
        ({"b": 1, "a": None}, '{"a":null,"b":1}'),
        ({1, 2}, "?"),
        (AlwaysEqual(3), "?"),
        ([AlwaysEqual(3)], "[?]"),
        ("é\n", '"\\u00e9\\n"'),
    ],
)
def test_canonical(value: Any, encoded: str) -> None:
    assert values.canonical(value, LIMIT) == encoded


def test_canonical_of_an_element_that_equals_everything_in_official_mode() -> None:
    assert values.canonical([AlwaysEqual(3)], LIMIT, wildcards=True) == "[*]"
    assert values.canonical(AlwaysEqual(3), LIMIT, wildcards=True) == "?"


def test_canonical_stops_at_its_limit() -> None:
    with pytest.raises(values.TooLarge):
        values.canonical([0] * 1000, 1500)
    cycle: list[Any] = []
    cycle.append(cycle)
    with pytest.raises((values.TooLarge, RecursionError)):
        values.canonical(cycle, 1 << 30)


def test_expected_values_are_checked() -> None:
    assert compare.expected_value("[1, 2]") == [1, 2]
    for broken in ("", "[1", "[" * 100_000, '{"a":' * 700 + "1" + "}" * 700):
        with pytest.raises(ValueError):  # noqa: PT011
            compare.expected_value(broken)


def test_large_outputs_compare_in_linear_time() -> None:
    numbers = " ".join(["1"] * 500_000)
    assert ours(numbers.replace("1", "1.0"), numbers)
    assert json.loads("[" + "1," * 1000 + "1]")
    assert ours("9" * 1_000_000, "7") is False
