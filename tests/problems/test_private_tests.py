"""Packed private tests: strings in all pickle protocols are read, everything else is rejected, nothing is executed."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import pickle
import pickletools
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dreamprm_jax.problems.private_tests import parse_tests, read_pickled_string
from dreamprm_jax.schema import DataError, TestCase

ROWS = [
    {"input": "1 2\n", "output": "3\n", "testtype": "stdin"},
    {"input": "é😀", "output": "", "testtype": "functional"},
]
TESTS = (TestCase("1 2\n", "3\n", "stdin"), TestCase("é😀", "", "functional"))


def pack(value: object, protocol: int = 4) -> str:
    return pack_bytes(pickle.dumps(value, protocol=protocol))


def pack_bytes(data: bytes) -> str:
    return base64.b64encode(zlib.compress(data)).decode("ascii")


def test_json_text():
    assert parse_tests(json.dumps(ROWS), "here") == TESTS
    assert parse_tests("[]", "here") == ()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("padding", [0, 300, 70_000])  # the three forms of a string's length
def test_packed_by_every_protocol(protocol, padding):
    rows = [{**ROWS[0], "input": "x" * padding}, ROWS[1]]
    expected = (TestCase("x" * padding, "3\n", "stdin"), TESTS[1])
    assert parse_tests(pack(json.dumps(rows), protocol), "here") == expected
    assert parse_tests(pack(json.dumps(rows, ensure_ascii=False), protocol), "here") == expected


@given(st.text(st.characters(exclude_categories=["Cs"])), st.sampled_from(range(pickle.HIGHEST_PROTOCOL + 1)))
def test_any_string_is_read_as_pickle_reads_it(text, protocol):
    data = pickle.dumps(text, protocol=protocol)
    assert read_pickled_string(data, "here") == text
    assert read_pickled_string(pickletools.optimize(data), "here") == text


class Hostile:
    """Creates a folder when it is unpickled."""

    def __init__(self, path: Path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_code_in_a_pickle_is_refused_and_not_run(tmp_path, protocol):
    target = tmp_path / "pwned"
    for value in (Hostile(target), [json.dumps(ROWS), Hostile(target)], {"a": Hostile(target)}):
        with pytest.raises(DataError, match=r"^row 7: refused: .* opcode|^row 7: refused: the pickle is more than one"):
            parse_tests(pack(value, protocol), "row 7")
    assert not target.exists()
    pickle.loads(pickle.dumps(Hostile(target), protocol=protocol))  # ordinary unpickling creates the folder
    assert target.exists()


def test_an_inflation_bomb_stops_at_the_bound():
    bomb = pack("[" + " " * 50_000_000 + "]")
    assert len(bomb) < 100_000
    with pytest.raises(DataError, match=r"more than 1,000,000 bytes; increase problems\.max_private_test_bytes"):
        parse_tests(bomb, "here", max_bytes=1_000_000)
    assert parse_tests(pack("[]"), "here", max_bytes=100) == ()


STRING = pickle.dumps(json.dumps(ROWS))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no tests", "neither a JSON list nor base64"),
        ("{}", "must be a list of tests, not a JSON object"),
        ("[", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        (base64.b64encode(b"plain").decode(), "not zlib"),
        (base64.b64encode(zlib.compress(STRING)[:-9]).decode(), "truncated"),
        (base64.b64encode(zlib.compress(STRING) + b"x").decode(), "followed by other data"),
        (pack_bytes(b""), "no end"),
        (pack_bytes(STRING[:-1]), "no end"),
        (pack_bytes(STRING[:40]), "truncated"),
        (pack_bytes(STRING + STRING), "has data after its end"),
        (pack_bytes(b"."), "holds no string"),
        (pack_bytes(b"\x80\x04\x8c\x01\xff."), "not utf-8"),
        (pack_bytes(b"\x80\x04\x8d" + b"\xff" * 8), "truncated"),
        (pack_bytes(b"V[]"), "truncated"),
        (pack(ROWS), "refused"),
        (pack(b"[]"), "refused"),
        (pack(1), "refused"),
        (pack('{"input": 1}'), "must be a list of tests, not a JSON object"),
        (json.dumps([1]), "test 0: must be an object with input, output and testtype, not a number"),
        (json.dumps([ROWS[0], {"input": "", "testtype": "stdin"}]), "test 1, field output: missing"),
        (json.dumps([{**ROWS[0], "output": 3}]), "field output: must be a string, not a number"),
        (json.dumps([{**ROWS[0], "testtype": "x"}]), "must be 'stdin', 'functional' or 'code'"),
        (json.dumps([{**ROWS[0], "input": "\ud800"}]), "lone surrogate"),
    ],
)
def test_malformed_payloads_are_named(text, message):
    with pytest.raises(DataError, match=r"^file, row 3") as error:
        parse_tests(text, "file, row 3")
    assert message in str(error.value)


@given(st.binary(max_size=60))
def test_arbitrary_pickles_never_do_more_than_raise(data):
    for candidate in (data, b"\x80\x04" + data, STRING[:20] + data):
        with contextlib.suppress(DataError):
            assert isinstance(read_pickled_string(candidate, "here"), str)
