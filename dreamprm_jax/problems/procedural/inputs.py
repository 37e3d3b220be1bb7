"""Primitives that parse the input, and generators of inputs in the same formats."""

from __future__ import annotations

import random

from dreamprm_jax.problems.procedural.primitive import Primitive

VOCABULARY = (
    "apple", "level", "Otter", "echo", "tree", "noon", "Iris", "stats", "umbrella", "kayak",
    "Echo", "rotor", "tree", "banana", "apple", "oak", "Ant", "civic", "egg", "river",
    "Noon", "lemon", "data", "under", "ivy", "zebra", "queue", "Tree", "area", "moth",
)


def integers(rng: random.Random, low: int = -9, high: int = 20) -> list[int]:
    """A short list with repeated values. Boundary cases occur in some tests, but not in all."""
    return [rng.randint(low, high) for _ in range(rng.randint(2, 9))]


def words(rng: random.Random) -> list[str]:
    """A short list of words with repeated words, palindromes, capitals and initial vowels."""
    return [rng.choice(VOCABULARY) for _ in range(rng.randint(2, 8))]


def _lines(values: list[int]) -> str:
    return "\n".join(map(str, values)) + "\n"


def _counted(rng: random.Random) -> str:
    values = integers(rng)
    return f"{len(values)}\n{' '.join(map(str, values))}\n"


def _terminated(rng: random.Random) -> str:
    values = [value for value in integers(rng) if value] or [3]
    tail = [rng.randint(1, 9) for _ in range(rng.choice([0, 0, 1, 2]))]
    return " ".join(map(str, [*values, 0, *tail])) + "\n"


def _commented(rng: random.Random) -> str:
    return "\n".join(f"#{v}" if rng.random() < 0.25 else str(v) for v in [*integers(rng), 5]) + "\n"


def _ranges(rng: random.Random) -> str:
    parts = []
    for _ in range(rng.randint(1, 3)):
        low = rng.randint(0, 12)
        parts.append(f"{low}:{low + rng.randint(0, 4)}")
    return " ".join(parts) + "\n"


def _runs(rng: random.Random) -> str:
    return "\n".join(f"{rng.randint(-5, 15)} {rng.randint(1, 3)}" for _ in range(rng.randint(1, 4))) + "\n"


def _grid(rng: random.Random) -> str:
    width = rng.randint(1, 3)
    rows = [[rng.randint(-9, 20) for _ in range(width)] for _ in range(rng.randint(1, 4))]
    return "\n".join(" ".join(map(str, row)) for row in rows) + "\n"


def _until_end(rng: random.Random) -> str:
    tail = words(rng)[:2] if rng.random() < 0.5 else []
    return " ".join([*words(rng), "END", *tail]) + "\n"


def _word_lines(rng: random.Random) -> str:
    chosen = words(rng)
    return f"{len(chosen)}\n" + "\n".join(chosen) + "\n"


PARSERS = (
    Primitive(
        "counted_list", "parse", "text", "ints", "sure",
        ("a line with a count n, then a line with n integers", "the number of integers first, and the integers after it"),
        ("read_numbers", "parse_counted"),
        (
            "parts = {a}.split()\nreturn [int(p) for p in parts[1:]]",
            "parts = {a}.split()\nreturn [int(p) for p in parts]",
            "parts = {a}.split()\nreturn [int(p) for p in parts[1:int(parts[0])]]",
        ),
        write=_counted,
    ),
    Primitive(
        "comma_list", "parse", "text", "ints", "sure",
        ("one line of integers separated by commas", "a comma separated line of integers"),
        ("read_commas", "parse_csv"),
        (
            'return [int(p) for p in {a}.split(",")]',
            "return [int(p) for p in {a}.split()]",
            'return [int(p) for p in {a}.split(",")[1:]]',
        ),
        write=lambda rng: ",".join(map(str, integers(rng))) + "\n",
    ),
    Primitive(
        "zero_ended", "parse", "text", "ints", "tricky",
        ("integers up to the first 0, which ends the list and is not part of it", "integers ended by a 0; whatever follows it counts for nothing"),
        ("read_until_zero", "parse_terminated"),
        (
            "parts = [int(p) for p in {a}.split()]\nreturn parts[:parts.index(0)]",
            "return [int(p) for p in {a}.split() if int(p) != 0]",
            "parts = [int(p) for p in {a}.split()]\nreturn parts[:parts.index(0) + 1]",
        ),
        write=_terminated,
    ),
    Primitive(
        "line_list", "parse", "text", "ints", "sure",
        ("one integer a line", "integers, each on a line of its own"),
        ("read_lines", "parse_lines"),
        (
            "return [int(line) for line in {a}.splitlines()]",
            "return [int(line) for line in {a}.splitlines()[1:]]",
            "return [int(line) for line in {a}]",
        ),
        write=lambda rng: _lines(integers(rng)),
    ),
    Primitive(
        "commented_lines", "parse", "text", "ints", "tricky",
        ("one integer a line, where lines that begin with # are comments", "integers on separate lines; a leading # marks a line to ignore"),
        ("read_uncommented", "parse_with_comments"),
        (
            'return [int(s) for s in {a}.splitlines() if not s.startswith("#")]',
            'return [int(s.lstrip("#")) for s in {a}.splitlines()]',
            'return [int(s) for s in {a}.split("#")[0].splitlines()]',
        ),
        write=_commented,
    ),
    Primitive(
        "inclusive_ranges", "parse", "text", "ints", "treacherous",
        ("ranges low:high, each standing for all integers from low to high, both included", "ranges low:high to be expanded with both ends included"),
        ("read_ranges", "expand_ranges"),
        (
            'pairs = [p.split(":") for p in {a}.split()]\nreturn [v for low, high in pairs for v in range(int(low), int(high) + 1)]',
            'pairs = [p.split(":") for p in {a}.split()]\nreturn [v for low, high in pairs for v in range(int(low), int(high))]',
            'pairs = [p.split(":") for p in {a}.split()]\nreturn [v for low, high in pairs for v in (int(low), int(high))]',
        ),
        write=_ranges,
    ),
    Primitive(
        "run_lengths", "parse", "text", "ints", "tricky",
        ("lines with a value and how many times it is repeated", "run lengths: on each line a value and its number of copies"),
        ("read_runs", "decode_runs"),
        (
            "rows = [list(map(int, s.split())) for s in {a}.splitlines()]\nreturn [v for v, n in rows for _ in range(n)]",
            "rows = [list(map(int, s.split())) for s in {a}.splitlines()]\nreturn [v for n, v in rows for _ in range(n)]",
            "rows = [list(map(int, s.split())) for s in {a}.splitlines()]\nreturn [v * n for v, n in rows]",
        ),
        write=_runs,
    ),
    Primitive(
        "grid_columns", "parse", "text", "ints", "tricky",
        ("a grid of integers, to be read column by column from the left", "rows of integers, taken column after column"),
        ("read_columns", "parse_grid"),
        (
            "rows = [list(map(int, s.split())) for s in {a}.splitlines()]\nreturn [v for column in zip(*rows) for v in column]",
            "rows = [list(map(int, s.split())) for s in {a}.splitlines()]\nreturn [v for row in rows for v in row]",
            "rows = [list(map(int, s.split())) for s in {a}.splitlines()]\nreturn [row[0] for row in rows]",
        ),
        write=_grid,
    ),
    Primitive(
        "word_line", "parse", "text", "words", "sure",
        ("one line of words separated by spaces", "a line of words"),
        ("read_words", "parse_words"),
        ("return {a}.split()", "return {a}.split()[1:]", "return list({a}.strip())"),
        write=lambda rng: " ".join(words(rng)) + "\n",
    ),
    Primitive(
        "semicolon_words", "parse", "text", "words", "tricky",
        ("words separated by semicolons, with stray spaces around them", "a line of words between semicolons; spaces around a word do not belong to it"),
        ("read_semicolons", "parse_semicolons"),
        (
            'return [w.strip() for w in {a}.split(";")]',
            'return {a}.split(";")',
            'return [w.strip() for w in {a}.split(" ")]',
        ),
        write=lambda rng: " ; ".join(words(rng)) + "\n",
    ),
    Primitive(
        "word_lines", "parse", "text", "words", "sure",
        ("a count n, then n lines with a word each", "n on the first line and a word on each of the next n"),
        ("read_word_lines", "parse_word_lines"),
        (
            "return {a}.split()[1:]",
            "return {a}.split()",
            "return {a}.split()[2:]",
        ),
        write=_word_lines,
    ),
    Primitive(
        "words_to_end", "parse", "text", "words", "tricky",
        ("words up to the word END, which is not one of them", "words that stop before END; later words do not count"),
        ("read_until_end", "parse_to_end"),
        (
            'parts = {a}.split()\nreturn parts[:parts.index("END")]',
            'return [w for w in {a}.split() if w != "END"]',
            'parts = {a}.split()\nreturn parts[:parts.index("END") + 1]',
        ),
        write=_until_end,
    ),
)
