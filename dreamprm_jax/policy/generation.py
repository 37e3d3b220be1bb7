"""Requests candidate programs from a policy, concurrently for many problems, and journals every answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from dreamprm_jax.engine.concurrent import concurrent_map
from dreamprm_jax.policy.protocol import Completion, CompletionRequest, Policy, PolicyError
from dreamprm_jax.runs.journal import Journal
from dreamprm_jax.runs.progress import Progress
from dreamprm_jax.schema import DataError


def ask_for_candidates(
    policy: Policy,
    requests: Sequence[CompletionRequest],
    key: Callable[[CompletionRequest], str],
    journal: Journal,
    threads: int,
) -> None:
    """Sends those requests, one per problem, whose answers are not in the journal.

    Args:
      policy: The policy.
      requests: One request per problem.
      key: Maps a request to its journal key, a hash of everything that the answer depends on.
      journal: Maps keys to [[code, mean log-probability or None, fault], ...].
      threads: Number of concurrent requests.

    Raises:
      DataError: if the policy failed on some problems. It is raised after all others are answered and gives the number.
    """
    keys = {key(request): request for request in requests}
    missing = [item for item in keys.items() if item[0] not in journal]

    def ask(item: tuple[str, CompletionRequest]) -> list[Completion] | PolicyError:
        try:
            return policy.complete(item[1])
        except PolicyError as error:
            return error

    with Progress("generate", len(keys), "problem", len(keys) - len(missing), journal.path) as progress:
        for (name, request), answer in concurrent_map(ask, missing, threads, in_order=False):
            if isinstance(answer, PolicyError):
                progress.add(request.problem.problem_id, failure=str(answer))
            else:
                journal.put(name, [_row(one) for one in answer])
                progress.add()
    if progress.record.failed:
        raise DataError(
            f"the policy failed on {progress.record.failed} problem(s), first {progress.record.first_failure}; "
            "its answers are kept; run the same command again to request the rest"
        )


def _row(completion: Completion) -> list[Any]:
    return [completion.code, completion.log_probability, completion.fault]
