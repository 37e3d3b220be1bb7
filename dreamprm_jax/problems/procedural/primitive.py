"""Primitives: the stages of problems, each with descriptions, correct code and plausible wrong code."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Role = Literal["parse", "filter", "map", "order", "aggregate", "format"]
Kind = Literal["text", "ints", "words", "int", "word"]

# Probability that the simulated policy writes a wrong form, by tier of the primitive.
WRONG_RATE = {"sure": 0.06, "tricky": 0.17, "treacherous": 0.32}


@dataclass(frozen=True)
class Primitive:
    """One stage. Texts and forms may contain ``{k}`` (the problem's parameter), forms also ``{a}`` (argument name)."""

    name: str
    role: Role
    takes: Kind  # type of the argument
    gives: Kind  # type of the result
    tier: Literal["sure", "tricky", "treacherous"]
    phrases: tuple[str, str]  # paraphrases for the statement and the docstring
    functions: tuple[str, str]  # possible function names
    forms: tuple[str, ...]  # function bodies: the correct one, then plausible wrong ones
    parameter: tuple[int, int] | None = None  # inclusive range of k
    write: Callable[[random.Random], str] | None = None  # parsers only: generates an input in this format

    def wrong_rate(self) -> float:
        """Base probability of a wrong form, divided evenly among the wrong forms."""
        return WRONG_RATE[self.tier]
