"""Plain-text, Markdown and CSV tables, and the formatting of their numbers."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

ABSENT = "-"


@dataclass(frozen=True)
class Table:
    """One table. The first column names the row, the others hold numbers."""

    key: str
    title: str
    header: list[str]
    rows: list[list[str]]
    explanation: str = ""
    pinned: int = 0  # leading rows that the report's sorting does not move

    def text(self) -> str:
        """Title, aligned columns, explanation."""
        return "\n\n".join(part for part in (self.title, text_table(self.header, self.rows), self.explanation) if part)


def text_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Aligned text: first column left, other columns right, two spaces between columns, a rule under the header."""
    lines = [list(header), *(list(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    text = [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    return "\n".join([text[0], "-" * (sum(widths) + 2 * (len(widths) - 1)), *text[1:]])


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """The lines of a Markdown table."""
    body = ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return ["| " + " | ".join(header) + " |", "|" + "---|" * len(header), *body]


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of nested values as CSV, flattened by ``flatten``."""
    flat = [flatten(row) for row in rows]
    names = list(dict.fromkeys(name for row in flat for name in row))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: "" if value is None else value for name, value in row.items()} for row in flat)
    return buffer.getvalue()


def flatten(row: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flattens nested mappings; names are joined by dots, lists are dropped."""
    flat: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        elif not isinstance(value, (list, tuple)):
            flat[prefix + name] = value
    return flat


def finite(value: Any) -> Any:
    """Replaces NaN and infinities in a nested value by None, since JSON has no NaN."""
    if isinstance(value, Mapping):
        return {name: finite(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


LEAST_PROBLEMS = 10
"""With fewer problems no intervals are shown, because the bootstrap is unreliable."""


def without_intervals(value: Any, problems: int) -> Any:
    """Replaces the ends of all intervals in a nested value by None if there are fewer than ``LEAST_PROBLEMS``."""
    if problems >= LEAST_PROBLEMS:
        return value
    if isinstance(value, Mapping):
        ends = {"low", "high"} if {"estimate", "low", "high"} <= value.keys() else set()
        return {name: None if name in ends else without_intervals(item, problems) for name, item in value.items()}
    return [without_intervals(item, problems) for item in value] if isinstance(value, (list, tuple)) else value


def number(value: float | None, digits: int = 3) -> str:
    """A formatted number, or a dash if it is undefined."""
    return ABSENT if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def signed(value: float | None, digits: int = 1) -> str:
    """A formatted number with its sign; zero after rounding has no sign."""
    text = number(value, digits)
    if text == ABSENT:
        return text
    return f"{float(text):+.{digits}f}" if float(text) else f"{0:.{digits}f}"


def percent(value: float | None) -> str:
    """A fraction as a percentage with one decimal, as in the paper."""
    return ABSENT if value is None else number(100 * value, 1)


def percent_interval(interval: Mapping[str, float | None], sign: bool = False) -> str:
    """The ends of an interval of fractions, in percent."""
    ends = [interval["low"], interval["high"]]
    if any(end is None for end in ends):
        return ABSENT
    return "[" + ", ".join(signed(100 * end) if sign else percent(end) for end in ends if end is not None) + "]"


def interval(value: Mapping[str, float | None], digits: int = 3) -> str:
    """The ends of an interval."""
    return ABSENT if value["low"] is None else f"[{number(value['low'], digits)}, {number(value['high'], digits)}]"


def p_value(value: float | None) -> str:
    """A p-value with three decimals, or "<0.001"."""
    if value is None:
        return ABSENT
    return "<0.001" if value < 0.001 else f"{value:.3f}"
