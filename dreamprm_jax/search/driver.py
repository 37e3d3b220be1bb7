"""Runs the searches of many problems: calls the policy in threads and scores all new programs in one call."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from dreamprm_jax.cof.splitter import Granularity, split_steps
from dreamprm_jax.engine.concurrent import concurrent_map
from dreamprm_jax.policy.protocol import Completion, CompletionRequest, Policy, request_seed
from dreamprm_jax.schema import Problem
from dreamprm_jax.search.algorithms import ProgramScorer, ScoredCompletion, Search, SearchResult, SearchSettings, search

TokenCounter = Callable[[Sequence[str]], list[int]]
"""Texts -> number of tokens of each text."""


@dataclass
class _Running:
    """The search of one problem: its generator and its pending requests."""

    problem: Problem
    steps: Search
    requests: list[CompletionRequest]


def run_searches(
    problems: Sequence[Problem],
    settings: SearchSettings,
    policy: Policy,
    scorer: ProgramScorer,
    count_tokens: TokenCounter,
    seed: int,
    threads: int = 16,
    together: int = 16,
    granularity: Granularity = "function",
) -> Iterator[tuple[Problem, SearchResult]]:
    """Searches every problem.

    The first programs of a problem are the same for every method (seeds do not depend on the method), so that methods
    are compared on the same samples.

    Args:
      problems: Problems to search.
      settings: Settings of the searches.
      policy: Generates completions.
      scorer: Scores whole programs; called once per level for all concurrent searches.
      count_tokens: Counts tokens of generated text.
      seed: Seed of the run.
      threads: Number of concurrent requests to the policy.
      together: Number of concurrent searches.
      granularity: Definition of a step.

    Yields:
      (problem, result), in the order in which the searches end.

    Raises:
      PolicyError: if the policy failed; results yielded so far are valid.
    """
    waiting = list(reversed(problems))
    running: list[_Running] = []
    cache: dict[tuple[str, str], np.ndarray] = {}
    while waiting or running:
        while waiting and len(running) < together:
            problem = waiting.pop()
            steps = search(problem, settings, lambda *parts: request_seed(seed, "search", *parts))
            running.append(_Running(problem, steps, next(steps)))
        answers = _answers(running, policy, scorer, count_tokens, cache, threads, granularity)
        going = []
        for one, answer in zip(running, answers, strict=True):
            try:
                one.requests = one.steps.send(answer)
                going.append(one)
            except StopIteration as stop:
                for key in [key for key in cache if key[0] == one.problem.problem_id]:
                    del cache[key]
                yield one.problem, stop.value
        running = going


def _answers(
    running: Sequence[_Running],
    policy: Policy,
    scorer: ProgramScorer,
    count_tokens: TokenCounter,
    cache: dict[tuple[str, str], np.ndarray],
    threads: int,
    granularity: Granularity,
) -> list[list[list[ScoredCompletion]]]:
    requests = [request for one in running for request in one.requests]
    completions: list[list[Completion]] = [
        [one for one in answer if not one.fault]  # a truncated answer is not a program
        for _, answer in concurrent_map(policy.complete, requests, threads)
    ]
    new: dict[tuple[str, str], Problem] = {}
    for request, answer in zip(requests, completions, strict=True):
        for completion in answer:
            key = (request.problem.problem_id, completion.code)
            if key not in cache:
                new[key] = request.problem
    read = scorer([(problem, code) for (_, code), problem in new.items()]) if new else []
    cache.update(zip(new, read, strict=True))
    texts = [
        completion.code.removeprefix(request.prefix)
        for request, answer in zip(requests, completions, strict=True)
        for completion in answer
    ]
    tokens = iter(count_tokens(texts))
    scored = iter(
        [
            [
                ScoredCompletion(
                    completion.code,
                    tuple(split_steps(completion.code, granularity)),
                    cache[request.problem.problem_id, completion.code],
                    next(tokens),
                )
                for completion in answer
            ]
            for request, answer in zip(requests, completions, strict=True)
        ]
    )
    return [[next(scored) for _ in one.requests] for one in running]
