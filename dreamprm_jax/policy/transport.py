"""Requests to an OpenAI-compatible server: bounded, retried, with the errors sorted into passing and lasting ones.

Retries are ours (the client's are off): exponential, with full jitter, honouring ``Retry-After``. A server that has
gone away (connection refused, 502 to 504) is waited for up to ``policy.outage_seconds``, as it may be restarting; other
passing faults (timeouts, 408, 409, 429, 5xx, malformed replies) are retried ``policy.max_retries`` times.
"""

from __future__ import annotations

import email.utils
import os
import random
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dreamprm_jax.config import PolicyConfig
from dreamprm_jax.policy.protocol import PolicyError
from dreamprm_jax.runs.server_usage import Usage
from dreamprm_jax.schema import DataError

if TYPE_CHECKING:
    import openai

_MAX_BACKOFF_SECONDS = 60.0
_OVERFLOW = re.compile(
    r"context.?(length|size|window)|maximum context|exceed.{0,20}context|max_model_len", re.IGNORECASE
)
_GONE = (502, 503, 504)  # what proxies, and servers that are still loading, answer


class MalformedReply(Exception):
    """The server answered, but not in the schema; worth asking again."""


class ContextOverflow(Exception):
    """Prompt and token limit do not fit into the model's context; asking again will not help."""


class Refused(Exception):
    """HTTP 400 or 422: the server will not take the request as it is."""

    def __init__(self, message: str, parameter: str | None):
        super().__init__(message)
        self.parameter = parameter  # the one that it names, if any


@dataclass(frozen=True)
class Choice:
    """One choice of a reply."""

    text: str
    finish_reason: str
    log_probability: float | None  # mean of its tokens', where asked for


@dataclass(frozen=True)
class Reply:
    """A server's reply: at least one choice, in the order of their indices."""

    choices: tuple[Choice, ...]
    usage: Usage
    reports_usage: bool
    reports_cache: bool


class Transport:
    """The connection to one server. Safe to use from several threads."""

    def __init__(self, config: PolicyConfig, backoff_seconds: float = 0.5):
        """Opens the client; no request is made yet.

        Args:
          config: The server's address and limits.
          backoff_seconds: The longest wait before the first retry; it doubles with each.

        Raises:
          DataError: when the ``openai`` package is missing.
        """
        self.config = config
        self.backoff_seconds = backoff_seconds
        self._places = threading.BoundedSemaphore(max(1, config.concurrency))
        self._lock = threading.Lock()
        self._gone_since: float | None = None
        self._client = _client(config)

    @property
    def where(self) -> str:
        """The server and the model, for messages."""
        return f"{self.config.base_url}, model {self.config.model}"

    def close(self) -> None:
        """Closes the connections."""
        self._client.close()

    def ask(self, parameters: dict[str, Any], patient: bool = True) -> Reply:
        """One request, with its retries: ``messages`` among the parameters makes it a chat.

        Args:
          parameters: As the endpoint's, less the model; what the client does not know goes under ``extra_body``.
          patient: Whether to wait for a server that has gone away.

        Raises:
          PolicyError: when the server refuses, or still fails after all retries.
          ContextOverflow: when the model's context is too short.
          Refused: where the server does not take the request.
        """
        import openai

        passing = (
            openai.APIConnectionError,  # timeouts are of this type too
            openai.RateLimitError,
            openai.InternalServerError,
            openai.ConflictError,
            openai.APIResponseValidationError,
            MalformedReply,
        )
        retries, failures = 0, 0
        while True:
            try:
                reply = self._once(parameters)
                with self._lock:
                    self._gone_since = None
                return Reply(
                    reply.choices, reply.usage + Usage(retries=retries), reply.reports_usage, reply.reports_cache
                )
            except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
                if _OVERFLOW.search(str(error)):
                    raise ContextOverflow(str(error)) from error
                raise Refused(f"{_refusal(error)}: {error.message}", _named(error, parameters)) from error
            except openai.APIStatusError as error:
                if not (isinstance(error, passing) or error.status_code == 408) or _out_of_quota(error):
                    raise PolicyError(f"{self.where}: {_refusal(error)}: {error.message}") from error
                last: Exception = error
            except passing as error:
                last = error
            waiting = patient and self._is_gone(last)
            failures += not waiting
            if failures > self.config.max_retries:
                raise PolicyError(
                    f"{self.where}: failed {retries + 1} times, last with {type(last).__name__}: {last}"
                ) from last
            time.sleep(self._wait_seconds(retries, last))
            retries += 1

    def _is_gone(self, error: Exception) -> bool:
        """Whether the server has gone away, and not yet for too long."""
        import openai

        refused = isinstance(error, openai.APIConnectionError) and not isinstance(error, openai.APITimeoutError)
        if not refused and getattr(error, "status_code", None) not in _GONE:
            return False
        with self._lock:
            if self._gone_since is None:
                self._gone_since = time.monotonic()
            return time.monotonic() - self._gone_since < self.config.outage_seconds

    def _wait_seconds(self, attempt: int, error: Exception) -> float:
        ceiling = min(_MAX_BACKOFF_SECONDS, self.backoff_seconds * 2 ** min(attempt, 20))
        # Jitter only spreads clients in time: it takes no part in what is sampled.
        return _retry_after(error) + random.uniform(0, ceiling)

    def _once(self, parameters: dict[str, Any]) -> Reply:
        create: Callable[..., Any] = (
            self._client.chat.completions.create if "messages" in parameters else self._client.completions.create
        )
        try:
            with self._places:
                reply = create(model=self.config.model, **parameters)
        except ValueError as error:
            raise MalformedReply(f"the reply is not JSON ({error})") from error
        choices = getattr(reply, "choices", None)
        if not isinstance(choices, list) or not choices:
            raise MalformedReply(f"no choices in the reply ({str(reply)[:200]!r})")
        ordered = sorted(choices, key=lambda choice: getattr(choice, "index", None) or 0)
        read = tuple(_choice(choice, "messages" in parameters) for choice in ordered)
        usage = getattr(reply, "usage", None)
        details = getattr(usage, "prompt_tokens_details", None)
        cached = details.get("cached_tokens") if isinstance(details, dict) else getattr(details, "cached_tokens", None)
        spent = Usage(
            requests=1,
            prompt_tokens=getattr(usage, "prompt_tokens", 0) or 0,
            cached_tokens=cached or 0,
            completion_tokens=getattr(usage, "completion_tokens", 0) or 0,
            truncated_answers=sum(choice.finish_reason == "length" for choice in read),
        )
        return Reply(read, spent, reports_usage=bool(spent.prompt_tokens), reports_cache=cached is not None)


def _client(config: PolicyConfig) -> openai.OpenAI:
    try:
        import openai
    except ImportError as error:
        raise DataError('the server policy needs the openai package: pip install "dreamprm-jax[server]"') from error
    return openai.OpenAI(
        base_url=config.base_url,
        api_key=os.environ.get(config.api_key_env) or "none",  # local servers want none, the client wants one
        timeout=config.timeout_seconds,
        max_retries=0,
    )


def _choice(choice: Any, chat: bool) -> Choice:
    holder, field = (getattr(choice, "message", None), "content") if chat else (choice, "text")
    value = getattr(holder, field, None)
    if chat and value is None and getattr(choice, "finish_reason", None) == "length":
        value = ""  # a reasoning model that never came to its answer
    if not isinstance(value, str):
        raise MalformedReply(f"a choice without {field} ({str(choice)[:200]!r})")
    # JSON escapes can spell lone surrogates, files cannot store them.
    text = value.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
    reason = str(getattr(choice, "finish_reason", None) or "unknown")
    return Choice(text, reason, _mean_log_probability(getattr(choice, "logprobs", None)))


def _mean_log_probability(value: Any) -> float | None:
    """Of the tokens of a choice; servers have them as ``token_logprobs`` or, in chats and llama.cpp, ``content``."""
    numbers = getattr(value, "token_logprobs", None)
    if numbers is None:
        items = getattr(value, "content", None) or []
        numbers = [item.get("logprob") if isinstance(item, dict) else getattr(item, "logprob", None) for item in items]
    known = [float(number) for number in numbers if isinstance(number, (int, float))]
    return sum(known) / len(known) if known else None


def _retry_after(error: Exception) -> float:
    """The seconds that the server asked to wait (a number or an HTTP date); 0 where it named none."""
    headers = getattr(getattr(error, "response", None), "headers", {})
    value = headers.get("retry-after", "")
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except (TypeError, ValueError):
            seconds = 0.0
    return min(max(seconds, 0.0), _MAX_BACKOFF_SECONDS)


def _out_of_quota(error: openai.APIStatusError) -> bool:
    return error.status_code == 429 and getattr(error, "code", None) == "insufficient_quota"


def _named(error: openai.APIStatusError, parameters: dict[str, Any]) -> str | None:
    """The parameter that the refusal is about."""
    name = getattr(error, "param", None)
    if name in parameters:
        return str(name)
    return next((name for name in parameters if re.search(rf"\b{name}\b", error.message)), None)


def _refusal(error: openai.APIStatusError) -> str:
    advice = {
        401: "the key was refused; put it into the variable that policy.api_key_env names",
        403: "the key was refused; put it into the variable that policy.api_key_env names",
        404: "no such model or no such endpoint; see /v1/models, or set policy.continuation='chat' for a chat-only one",
        429: "the account's quota is used up",
    }
    return f"HTTP {error.status_code}, {advice.get(error.status_code, 'the request was refused')}"
