"""What a primitive is: one stage of a problem, in words and in code, with the plausible ways to get it wrong."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Role = Literal["parse", "filter", "map", "order", "aggregate", "format"]
Kind = Literal["text", "ints", "words", "int", "word"]

# Chance that the simulated policy writes a wrong form, by how easy the primitive is to get wrong.
WRONG_RATE = {"sure": 0.06, "tricky": 0.17, "treacherous": 0.32}


@dataclass(frozen=True)
class Primitive:
    """One stage. Texts may hold ``{k}`` (the problem's parameter); forms may also hold ``{a}`` (the argument's name)."""

    name: str
    role: Role
    takes: Kind
    gives: Kind
    tier: Literal["sure", "tricky", "treacherous"]
    phrases: tuple[str, str]  # paraphrases for the statement and the docstring
    functions: tuple[str, str]  # names that a program may give it
    forms: tuple[str, ...]  # function bodies: the right one, then plausible wrong ones
    parameter: tuple[int, int] | None = None  # inclusive range of k
    write: Callable[[random.Random], str] | None = None  # parse only: an input text in this format

    def wrong_rate(self) -> float:
        """Base chance of a wrong form, divided evenly among the wrong forms."""
        return WRONG_RATE[self.tier]
