"""Requests to an OpenAI-compatible server: bounded, retried, ended at once by ``close``.

Retries are ours (the client's are off): exponential, with full jitter, honoring ``Retry-After``. A server that is not
there (connection refused, still loading, 429, 502 to 504) is waited for up to ``policy.outage_seconds``; other
passing faults (timeouts, 408, 409, 5xx, malformed replies) are retried ``policy.max_retries`` times.
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
from typing import TYPE_CHECKING, Any, Literal

from tqdm import tqdm

from dreamprm_jax.config import PolicyConfig
from dreamprm_jax.policy.protocol import PolicyError
from dreamprm_jax.policy.refusals import ServerError, read_error
from dreamprm_jax.runs.server_usage import Usage
from dreamprm_jax.schema import DataError

if TYPE_CHECKING:
    import openai

_MAX_BACKOFF_SECONDS = 60.0
_GLANCE_SECONDS = 0.2  # how often a call that waits looks whether the connection was closed
_QUIET_SECONDS = 5.0  # an outage of a server that has answered before is told after so long
# Words for why an answer ended; servers have their own beside OpenAI's. Any other word means that it was cut off.
_ENDS = (
    ("stop", re.compile(r"stop|eos|end|complete|finish|done|tool|function|unknown", re.IGNORECASE)),
    ("length", re.compile(r"length|max|limit|token", re.IGNORECASE)),
    ("filter", re.compile(r"filter|safety|recit|block|prohibit|sensitive|refus|moderat|spii|polic", re.IGNORECASE)),
)


class MalformedReply(Exception):
    """The server answered, but not in the schema; worth asking again."""


class NoChoices(MalformedReply):
    """The reply is in the schema and holds no answer, as where a filter took all of them."""


class ContextOverflow(Exception):
    """Prompt and token limit do not fit into the model's context; asking again will not help."""


class Refused(Exception):
    """The server does not take the request as it is; ``error.parameter`` names what it objects to, if it says so."""

    def __init__(self, error: ServerError):
        super().__init__(error.message)
        self.error = error


@dataclass(frozen=True)
class Choice:
    """One choice of a reply.

    Attributes:
      text: "" where the model declined or a filter left nothing.
      finish_reason: "stop", "length", or the server's own word.
      log_probability: The mean of its tokens', where asked for.
      cut: Whether the server, not the model, ended it: an abort, an error, a filter in the middle.
    """

    text: str
    finish_reason: str
    log_probability: float | None = None
    cut: bool = False


@dataclass(frozen=True)
class Reply:
    """A server's reply: at least one choice, in the order of their indices."""

    choices: tuple[Choice, ...]
    usage: Usage
    reports_usage: bool = False
    reports_cache: bool = False


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
        self._closed = threading.Event()
        self._gone_since: float | None = None
        self._told = False
        self._answered = False
        self._client = _client(config)

    @property
    def where(self) -> str:
        """The server and the model, for messages."""
        return f"{self.config.base_url}, model {self.config.model}"

    @property
    def closed(self) -> bool:
        """Whether ``close`` was called."""
        return self._closed.is_set()

    def close(self) -> None:
        """Closes the connections; calls that wait end with PolicyError."""
        self._closed.set()
        self._client.close()

    def ask(self, parameters: dict[str, Any]) -> Reply:
        """One request, with its retries: ``messages`` among the parameters makes it a chat.

        Args:
          parameters: As the endpoint's, less the model; what the client does not know goes under ``extra_body``.

        Raises:
          PolicyError: when the server still fails after all retries, cannot be used, or the connection was closed.
          ContextOverflow: when the model's context is too short.
          Refused: where the server does not take the request.
        """
        retries, failures, since = 0, 0, time.monotonic()
        while True:
            asked = time.monotonic()
            try:
                reply = self._in_thread(parameters)
                with self._lock:
                    self._gone_since, self._told, self._answered = None, False, True
                return Reply(
                    reply.choices, reply.usage + Usage(retries=retries), reply.reports_usage, reply.reports_cache
                )
            except Exception as error:
                last = error
            meaning, message = self._meaning(last, parameters)
            since = since if retries else asked
            waiting = meaning == "gone" and time.monotonic() - since < self.config.outage_seconds
            waiting = waiting and self._waits_for_server(message)
            failures += not waiting
            if failures > self.config.max_retries:
                if isinstance(last, NoChoices):
                    raise Refused(ServerError("refused", message)) from last
                raise PolicyError(f"{self.where}: failed {retries + 1} times, last with {message}") from last
            self._sleep(self._wait_seconds(retries, last))
            retries += 1

    def _meaning(self, error: Exception, parameters: dict[str, Any]) -> tuple[Literal["passing", "gone"], str]:
        """What to do after a fault that is worth asking again; raises for any other."""
        import openai

        name = f"{type(error).__name__}: "
        if isinstance(error, _ErrorReply):
            found = read_error(error.status, error.body, _names(parameters))
        elif isinstance(error, openai.APIStatusError):
            found = read_error(error.status_code, error.response.text, _names(parameters))
        elif isinstance(error, openai.APIConnectionError):
            cause = f"{error} {error.__cause__ or ''}".strip()
            lasting = isinstance(error, openai.APITimeoutError) or re.search(r"\bname\b|getaddrinfo|certificate", cause)
            return "passing" if lasting else "gone", name + cause
        elif isinstance(error, (openai.APIResponseValidationError, MalformedReply)):
            return "passing", name + str(error)
        else:
            raise error
        if found.meaning == "passing" or found.meaning == "gone":
            return found.meaning, name + found.message
        if found.meaning == "overflow":
            raise ContextOverflow(found.message) from error
        if found.meaning == "unusable":
            raise PolicyError(f"{self.where}: {found.message}") from error
        raise Refused(found) from error

    def _waits_for_server(self, message: str) -> bool:
        """Whether the server, which is not there, has not yet been gone for too long; says so once."""
        with self._lock:
            now = time.monotonic()
            if self._gone_since is None:
                self._gone_since = now
            gone = now - self._gone_since
            if not self._told and (not self._answered or gone > _QUIET_SECONDS):
                self._told = True
                limit = f"{self.config.outage_seconds:g} s (policy.outage_seconds)"
                tqdm.write(f"   waiting for {self.where}, at most {limit}: {message}")
            return gone < self.config.outage_seconds

    def _wait_seconds(self, attempt: int, error: Exception) -> float:
        ceiling = min(_MAX_BACKOFF_SECONDS, self.backoff_seconds * 2 ** min(attempt, 20))
        # Jitter only spreads clients in time: it takes no part in what is sampled.
        return _retry_after(error) + random.uniform(0, ceiling)

    def _sleep(self, seconds: float) -> None:
        self._closed.wait(seconds)
        self._check_open()

    def _check_open(self) -> None:
        if self._closed.is_set():
            raise PolicyError(f"{self.where}: the policy was closed")

    def _in_thread(self, parameters: dict[str, Any]) -> Reply:
        """One attempt, in a thread of its own: a socket that waits cannot be woken, the thread that waits here can."""
        while not self._places.acquire(timeout=_GLANCE_SECONDS):
            self._check_open()
        box: list[Reply | BaseException] = []
        done = threading.Event()

        def attempt() -> None:
            try:
                box.append(self._once(parameters))
            except BaseException as error:
                box.append(error)
            finally:
                done.set()

        try:
            self._check_open()
            threading.Thread(target=attempt, name="policy request", daemon=True).start()
            while not done.wait(_GLANCE_SECONDS):
                self._check_open()
        finally:
            self._places.release()
        if isinstance(box[0], BaseException):
            self._check_open()  # a closed client's errors are not the server's
            raise box[0]
        return box[0]

    def _once(self, parameters: dict[str, Any]) -> Reply:
        create: Callable[..., Any] = (
            self._client.chat.completions.create if "messages" in parameters else self._client.completions.create
        )
        try:
            reply = create(model=self.config.model, **parameters)
        except ValueError as error:
            raise MalformedReply(f"the reply is not JSON ({error})") from error
        failure = getattr(reply, "error", None)
        choices = getattr(reply, "choices", None)
        if failure and not choices:  # an error under status 200
            raise _ErrorReply(failure)
        if choices == [] or (choices is None and getattr(reply, "usage", None) is not None):
            raise NoChoices("no choices in the reply")
        if not isinstance(choices, list):
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
            declined_answers=sum(
                choice.finish_reason != "length" and not (choice.text or choice.cut) for choice in read
            ),
            cut_answers=sum(choice.cut for choice in read),
        )
        return Reply(read, spent, reports_usage=bool(spent.prompt_tokens), reports_cache=cached is not None)


class _ErrorReply(Exception):
    """An error object where choices belong, under HTTP status 200."""

    def __init__(self, failure: Any):
        import json

        super().__init__(str(failure)[:200])
        failure = failure if isinstance(failure, dict) else getattr(failure, "__dict__", str(failure))
        code = str(failure.get("code") or failure.get("status") or "") if isinstance(failure, dict) else ""
        self.status = int(code) if re.fullmatch(r"[45]\d\d", code) else 500
        self.body = json.dumps({"error": failure}, default=str)


def _names(parameters: dict[str, Any]) -> list[str]:
    return [*parameters.get("extra_body", {}), *(name for name in parameters if name != "extra_body")]


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
    message = getattr(choice, "message", None)
    value = getattr(message, "content", None) if chat else getattr(choice, "text", None)
    if isinstance(value, list):  # content as parts
        parts = [part if isinstance(part, dict) else getattr(part, "__dict__", {}) for part in value]
        value = "".join(str(part.get("text") or "") for part in parts if part.get("type", "text") == "text")
    word = str(getattr(choice, "finish_reason", None) or "unknown")
    end = next((name for name, words in _ENDS if words.match(word) or (name != "stop" and words.search(word))), "cut")
    declined = value is None and word == "unknown" and not getattr(message, "refusal", None)
    text = value if isinstance(value, str) else ""
    cut = bool(end == "cut" or (end == "filter" and text.strip()) or getattr(choice, "error", None) or declined)
    # JSON escapes can spell lone surrogates, files cannot store them.
    text = text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
    said = end if end in ("stop", "length") and word != "unknown" else word
    return Choice(text, said, _mean_log_probability(getattr(choice, "logprobs", None)), cut)


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
