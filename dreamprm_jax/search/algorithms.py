"""Function-level search with a live policy: the reward model decides which prefixes are worth continuing.

A policy completes prefixes (``policy.protocol``), always to whole programs; the steps after the prefix are what it
proposes. Every completion is a candidate and is read once: as the reward model is causal, one pass gives the value of
all its prefixes. So no completion and no score is discarded.

- ``best_of_n``: whole programs from nothing; the baseline on the same budget.
- ``beam``: after each function the ``width`` prefixes with the best scores are kept and completed again.
- ``lookahead``: a prefix is scored where its completions are ``lookahead`` steps further, the mean over them (arXiv
  2408.03314, lookahead search).
- ``diverse_beam``: ``width`` subtrees that each keep their own best child (diverse verifier tree search).

A search that ends with tokens left starts another round, as best-of-N draws more programs. The budget
counts every token that the policy writes; a completion that would exceed it is dropped and ends the search.

A search is a generator: it yields requests, receives the completions, and returns its candidates. The driver
(``search.driver``) owns the policy, the scorer and the batching over problems.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from dreamprm_jax.policy.protocol import CompletionRequest
from dreamprm_jax.schema import Problem, Step, content_hash
from dreamprm_jax.selection.aggregators import aggregate

MAX_ROUNDS = 1000


class ProgramScorer(Protocol):
    """Scores programs; the device half implements it."""

    def __call__(self, items: Sequence[tuple[Problem, str]]) -> list[np.ndarray]:
        """Step logits of each (problem, program or prefix), as many as it has steps; empty for one it cannot read."""


@dataclass(frozen=True)
class SearchSettings:
    """How to search.

    Attributes:
      method: ``best_of_n``, ``beam``, ``lookahead`` or ``diverse_beam``.
      width: prefixes kept after a step.
      expansions: completions asked for each of them.
      lookahead: steps beyond the prefix at which ``lookahead`` reads its value.
      tokens: the most that the policy may write for one problem.
      temperature: of the policy.
      aggregator: of step logits, over the steps up to the one that is read.
    """

    method: str = "beam"
    width: int = 2
    expansions: int = 2
    lookahead: int = 2
    tokens: int = 1000
    temperature: float = 0.8
    aggregator: str = "last"


METHODS = ("best_of_n", "beam", "lookahead", "diverse_beam")


@dataclass(frozen=True)
class Written:
    """One completion of a prefix, and the reward model's logits of the whole program."""

    code: str
    steps: tuple[Step, ...]
    logits: np.ndarray  # (steps,), empty where the reward model could not read it
    tokens: int  # written after the prefix


@dataclass(frozen=True)
class Candidate:
    """One distinct program of a search."""

    code: str
    number: float  # aggregated over all steps; NaN without logits
    order: int  # when it was written


@dataclass(frozen=True)
class SearchResult:
    """What a search found and what it cost."""

    candidates: tuple[Candidate, ...]  # in the order in which they were written, each text once
    written: int  # completions within the budget, repeats included
    tokens: int  # written by the policy, within the budget
    forwards: int  # programs read by the reward model
    rounds: int


Search = Generator[list[CompletionRequest], list[list[Written]], SearchResult]


def search(problem: Problem, settings: SearchSettings, seed: Callable[..., int]) -> Search:
    """Searches one problem. ``seed`` derives a request's seed from text parts.

    Raises:
      ValueError: for an unknown method.
    """
    if settings.method not in METHODS:
        raise ValueError(f"unknown search method {settings.method!r}; choose among {', '.join(METHODS)}")
    state = _Pool(settings.tokens)
    rounds = 0
    while not state.exhausted and rounds < MAX_ROUNDS:
        before = state.tokens
        yield from _round(problem, settings, state, lambda *parts, r=rounds: seed(str(r), *parts))
        rounds += 1
        if state.tokens == before:  # the policy has nothing (more) to write
            break
    numbers = aggregate([written.logits for written in state.programs.values()], settings.aggregator)
    candidates = tuple(
        Candidate(code, float(number), order)
        for order, (code, number) in enumerate(zip(state.programs, numbers, strict=True))
    )
    return SearchResult(candidates, state.written, state.tokens, len(state.programs), rounds)


class _Pool:
    """All completions of one problem so far, within the budget."""

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.tokens = 0
        self.written = 0
        self.exhausted = False
        self.programs: dict[str, Written] = {}

    def add(self, answers: Sequence[Sequence[Written]]) -> list[Written]:
        """Takes completions as long as they fit into the budget. Returns those that it took."""
        taken = []
        for one in (written for answer in answers for written in answer):
            if self.exhausted or self.tokens + one.tokens > self.budget:
                self.exhausted = True
                break
            self.tokens += one.tokens
            self.written += 1
            self.programs.setdefault(one.code, one)
            taken.append(one)
        return taken

    def below(self, prefix: str) -> list[Written]:
        """Every program that begins with a prefix, whichever request it came from."""
        return [one for code, one in self.programs.items() if code.startswith(prefix)]


def _round(
    problem: Problem, settings: SearchSettings, pool: _Pool, seed: Callable[..., int]
) -> Generator[list[CompletionRequest], list[list[Written]], None]:
    """One round, from whole programs to the last step."""
    count = settings.width * settings.expansions
    first = pool.add((yield [_request(problem, "", count, settings, seed)]))
    if settings.method == "best_of_n" or not first:
        return
    beams = _first_beams(settings, first, pool)
    depth = 1
    while beams and not pool.exhausted:
        requests = [_request(problem, prefix, settings.expansions, settings, seed) for prefix in beams]
        pool.add((yield requests))
        beams = _next_beams(settings, beams, depth, pool)
        depth += 1


def _request(
    problem: Problem, prefix: str, count: int, settings: SearchSettings, seed: Callable[..., int]
) -> CompletionRequest:
    own = seed(problem.problem_id, content_hash(prefix, digits=16))
    return CompletionRequest(problem, prefix, count, settings.temperature, own)


def _first_beams(settings: SearchSettings, first: Sequence[Written], pool: _Pool) -> list[str]:
    """The prefixes of one step to continue."""
    if settings.method != "diverse_beam":
        return [prefix for prefix, _ in _children(settings, first, 0)[: settings.width]]
    beams: list[str] = []
    for subtree in range(settings.width):
        own = _children(settings, first[subtree :: settings.width], 0)
        _append_new(beams, own)
    return beams


def _next_beams(settings: SearchSettings, beams: Sequence[str], depth: int, pool: _Pool) -> list[str]:
    """The prefixes of one more step: the best of all, or the best of each subtree."""
    if settings.method != "diverse_beam":
        below = {one.code: one for prefix in beams for one in pool.below(prefix)}
        return [prefix for prefix, _ in _children(settings, list(below.values()), depth)[: settings.width]]
    chosen: list[str] = []
    for prefix in beams:
        _append_new(chosen, _children(settings, pool.below(prefix), depth))
    return chosen


def _append_new(chosen: list[str], children: Sequence[tuple[str, float]]) -> None:
    """Takes the best child that no other subtree has taken."""
    for prefix, _ in children:
        if prefix not in chosen:
            chosen.append(prefix)
            return


def _children(settings: SearchSettings, programs: Sequence[Written], depth: int) -> list[tuple[str, float]]:
    """Distinct prefixes that end after step ``depth``, with their values, best first.

    A program that has no step after it is complete: it is a candidate and not a prefix. One without logits is neither.
    """
    values: dict[str, list[float]] = {}
    for one in programs:
        if len(one.steps) <= depth + 1 or len(one.logits) != len(one.steps):
            continue
        ahead = settings.lookahead if settings.method == "lookahead" else 0
        until = min(depth + ahead, len(one.steps) - 1) + 1
        value = float(aggregate([one.logits[:until]], settings.aggregator)[0])
        if not np.isnan(value):
            values.setdefault(one.code[: one.steps[depth].end], []).append(value)
    ranked = [(prefix, float(np.mean(own))) for prefix, own in values.items()]
    return sorted(ranked, key=lambda item: -item[1])  # stable: earlier ones win ties


def ranked(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Best first; candidates without a number last; ties in the order of writing."""
    return sorted(candidates, key=lambda one: (np.isnan(one.number), -np.nan_to_num(one.number), one.order))
