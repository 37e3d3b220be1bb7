"""The interface of a policy, which writes whole programs and completions of a prefix.

A policy is asked for ``n`` completions of one prefix at a time, so that a server's prefix cache serves them together.
Completions are whole programs: splitting, judging and labeling need not know which part was given.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from dreamprm_jax import schema

MEAN_LOG_PROBABILITY = "mean_logprob"  # key, among a program's sampling parameters, of its tokens' mean


def request_seed(config_seed: int, *parts: str) -> int:
    """A seed that depends on what is asked, not on when or by which worker."""
    return int(schema.content_hash(str(config_seed), *parts, digits=8), 16) & 0x7FFFFFFF


class PolicyError(RuntimeError):
    """The policy could not answer (server down, rate limit, malformed reply, closed) although it was asked again.

    An infrastructure failure: it says nothing of any program and is never counted as one that failed. The same request
    may be answered later.
    """


@dataclass(frozen=True)
class CompletionRequest:
    """``n`` programs that begin with one prefix.

    Attributes:
      problem: The problem to solve.
      prefix: The first steps of a program, cut at a step's end; "" asks for a whole program.
      n: How many completions.
      temperature: Sampling temperature; 0 is greedy.
      seed: The same request with the same seed gives the same completions, where the policy can promise it.
    """

    problem: schema.Problem
    prefix: str
    n: int
    temperature: float
    seed: int


@dataclass(frozen=True)
class Completion:
    """One answer, or the reason why there is none.

    Attributes:
      code: The whole program: the prefix and its continuation.
      finish_reason: Why the policy stopped: "stop", "length" (cut short), or the server's own word.
      forced: True where the policy really continued the prefix, character for character; False where the prefix was
        only shown to it ("starter code") and the answer may differ. With an empty prefix it is True.
      log_probability: The mean log-probability of the tokens that were sampled, where the policy tells it.
      fault: Why this is no answer: "context overflow", "cut off (abort)", "refused: ...". Asking again does not
        help, and it is no failed program: it has no verdict and is counted apart. "" for an answer, even an empty one.
    """

    code: str
    finish_reason: str
    forced: bool
    log_probability: float | None = None
    fault: str = ""


class Policy(Protocol):
    """A writer of programs. Implementations are safe to call from several threads."""

    @property
    def name(self) -> str:
        """Who writes: recorded with every program and label."""

    def complete(self, request: CompletionRequest) -> list[Completion]:
        """Answers with exactly ``request.n`` completions.

        Raises:
          PolicyError: when the policy's infrastructure fails, or the policy is closed.
        """

    def sampling(self, temperature: float) -> dict[str, Any]:
        """The sampling parameters as recorded in rows (temperature, token limit, prompt version, ...)."""

    def close(self) -> None:
        """Gives back connections and files; safe from any thread, returns at once.

        Calls of ``complete`` that wait in other threads end within a second, with PolicyError.
        """
