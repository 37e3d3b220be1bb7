"""The interface of a policy, which writes whole programs and completions of a prefix.

All ``n`` completions of a prefix are requested together, so that a server's prefix cache is used. Completions are whole
programs, so splitting, judging and labeling do not depend on the prefix.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from dreamprm_jax import schema

MEAN_LOG_PROBABILITY = "mean_logprob"  # key in a program's sampling parameters


def request_seed(config_seed: int, *parts: str) -> int:
    """A seed derived from the run's seed and the parts that identify a request, independent of time and worker."""
    return int(schema.content_hash(str(config_seed), *parts, digits=8), 16) & 0x7FFFFFFF


class PolicyError(RuntimeError):
    """The policy could not answer despite retries (server down, rate limit, malformed reply, closed).

    This infrastructure failure never counts as a failed program. The same request may succeed later.
    """


@dataclass(frozen=True)
class CompletionRequest:
    """A request for ``n`` programs that begin with the same prefix.

    Attributes:
      problem: The problem to solve.
      prefix: The first steps of a program, up to the end of a step; "" requests a whole program.
      n: Number of completions.
      temperature: Sampling temperature; 0 is greedy.
      seed: Equal requests with equal seeds have equal completions, if the policy is deterministic.
    """

    problem: schema.Problem
    prefix: str
    n: int
    temperature: float
    seed: int


@dataclass(frozen=True)
class Completion:
    """An answer, or the reason for a missing answer.

    Attributes:
      code: The whole program: the prefix and its continuation.
      finish_reason: "stop", "length" (truncated), or the server's own value.
      forced: True if the policy continued the exact text of the prefix; False if the prefix was only shown to it
        ("starter code"), so the answer may differ. True for an empty prefix.
      log_probability: Mean log-probability of the sampled tokens, if the policy reports it.
      fault: Reason for a missing answer: "context overflow", "cut off (abort)", "refused: ..."; "" if there is an
        answer, even an empty one. Retries do not help. A missing answer is not a failed program: it has no verdict
        and is counted separately.
    """

    code: str
    finish_reason: str
    forced: bool
    log_probability: float | None = None
    fault: str = ""


class Policy(Protocol):
    """The policy interface. Implementations are thread-safe."""

    @property
    def name(self) -> str:
        """Name of the policy, stored with every program and label."""

    def complete(self, request: CompletionRequest) -> list[Completion]:
        """Returns exactly ``request.n`` completions.

        Raises:
          PolicyError: if the policy's infrastructure fails, or the policy is closed.
        """

    def sampling(self, temperature: float) -> dict[str, Any]:
        """The sampling parameters that are stored in rows (temperature, token limit, prompt version, ...)."""

    def close(self) -> None:
        """Releases connections and files. Thread-safe and non-blocking.

        Pending calls of ``complete`` in other threads raise PolicyError within a second.
        """
