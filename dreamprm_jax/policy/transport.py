"""Requests to an OpenAI-compatible server. Their number is bounded, failures are retried, and ``close`` cancels them.

The client's retries are disabled. Retries here use exponential backoff with full jitter and honor ``Retry-After``. If a
server is unavailable (connection refused, still loading, 429, 502 to 504 and similar), requests are retried for up to
``policy.outage_seconds``. After other temporary failures (timeouts, 408, 409, other 5xx, malformed replies) they are
retried ``policy.max_retries`` times.
"""

from __future__ import annotations

import contextlib
import difflib
import email.utils
import math
import os
import random
import re
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from tqdm import tqdm

from dreamprm_jax.config import PolicyConfig
from dreamprm_jax.policy.protocol import PolicyError
from dreamprm_jax.policy.refusals import ServerError, read_error
from dreamprm_jax.policy.replies import ErrorReply, MalformedReply, NoChoices, Reply, WebPage, read_reply
from dreamprm_jax.runs.server_usage import Usage
from dreamprm_jax.schema import DataError

if TYPE_CHECKING:
    import openai

_MAX_BACKOFF_SECONDS = 60.0
_GLANCE_SECONDS = 0.2  # interval at which pending calls check whether the connection was closed
_QUIET_SECONDS = 5.0  # delay before an outage of a server that has answered before is reported


class ContextOverflow(Exception):
    """Prompt and token limit exceed the model's context; retries do not help."""


class Refused(Exception):
    """The server rejects the request; ``error.parameter`` names the parameter at fault, if known."""

    def __init__(self, error: ServerError):
        super().__init__(error.message)
        self.error = error


class Transport:
    """The connection to one server. Thread-safe."""

    def __init__(self, config: PolicyConfig, backoff_seconds: float = 0.5):
        """Opens the client; no request is made yet. The wait before retries starts at ``backoff_seconds`` and doubles.

        Raises:
          DataError: if the ``openai`` package is missing.
        """
        self.config = config
        self.backoff_seconds = backoff_seconds
        self._places = threading.BoundedSemaphore(max(1, config.concurrency))
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._gone_since: float | None = None
        self._notified = False
        self._answered = False
        self._client = _client(config)

    @property
    def where(self) -> str:
        """Address and model, for messages."""
        return f"{self.config.base_url}, model {self.config.model}"

    @property
    def closed(self) -> bool:
        """Whether ``close`` was called."""
        return self._closed.is_set()

    def close(self) -> None:
        """Closes the connections; pending calls raise PolicyError."""
        self._closed.set()
        self._client.close()

    def ask(self, parameters: dict[str, Any]) -> Reply:
        """Sends one request with retries; a chat request if the parameters contain ``messages``.

        Args:
          parameters: Parameters of the endpoint, without the model; extra fields are under ``extra_body``.

        Raises:
          PolicyError: if the server fails after all retries or cannot be used, or the connection was closed.
          ContextOverflow: if the model's context is too short.
          Refused: if the server rejects the request.
        """
        retries, failures, refused_since = 0, 0, math.inf
        while True:
            try:
                reply = self._in_thread(parameters)
                with self._lock:
                    self._gone_since, self._notified, self._answered = None, False, True
                return Reply(
                    reply.choices, reply.usage + Usage(retries=retries), reply.reports_usage, reply.reports_cache
                )
            except Exception as error:
                last = error
            meaning, message = self._meaning(last, parameters)
            now, waiting = time.monotonic(), False
            if meaning == "gone":  # both limits start at a failure, because an answer may take longer than they allow
                refused_since = min(refused_since, now)
                waiting = self._waits_for_server(now, message) and now - refused_since < self.config.outage_seconds
            failures += not waiting
            if failures > self.config.max_retries:
                if isinstance(last, NoChoices):
                    raise Refused(ServerError("refused", message)) from last
                raise PolicyError(f"{self.where}: failed {retries + 1} times, last with {message}") from last
            self._sleep(self._wait_seconds(retries, last))
            retries += 1

    def _meaning(self, error: Exception, parameters: dict[str, Any]) -> tuple[Literal["passing", "gone"], str]:
        """Classifies a failure that is worth retrying; raises an exception for any other failure."""
        import openai

        name = f"{type(error).__name__}: "
        if isinstance(error, ErrorReply):
            found = read_error(error.status, error.body, _names(parameters))
        elif isinstance(error, openai.APIStatusError):
            found = read_error(error.status_code, error.response.text, _names(parameters))
        elif isinstance(error, WebPage):
            raise PolicyError(
                f"{self.where}: answered with a web page ({error}){self._address_advice(error)}"
            ) from error
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
            raise PolicyError(f"{self.where}: {found.message}{self._address_advice(error)}") from error
        raise Refused(found) from error

    def _address_advice(self, error: Exception) -> str:
        """A hint about a wrong address or model name; "" if there is none."""
        response = getattr(error, "response", None)
        if response is not None and getattr(response, "history", None):
            return f"; it redirects to {response.url}: set policy.base_url to that address"
        if isinstance(error, WebPage) or getattr(response, "status_code", 0) in (400, 404, 405):
            names: list[str] = []
            with contextlib.suppress(Exception):  # this request only serves the hint
                names = [str(model.id) for model in self._client.with_options(timeout=5).models.list().data]
            if names and self.config.model not in names:
                close = difflib.get_close_matches(self.config.model, names, 3, 0.3) or names[:5]
                return f"; it serves {', '.join(close)}{', ...' if len(names) > len(close) else ''}"
            if not names and not re.search(r"/v\d", self.config.base_url):
                return f"; most servers' address ends in /v1: try policy.base_url={self.config.base_url.rstrip('/')}/v1"
        return ""

    def _waits_for_server(self, now: float, message: str) -> bool:
        """Whether to keep waiting for a server that is unavailable at time ``now``. Prints a notice once."""
        with self._lock:
            if self._gone_since is None:
                self._gone_since = now
            gone = now - self._gone_since
            if not self._notified and (not self._answered or gone > _QUIET_SECONDS):
                self._notified = True
                limit = f"{self.config.outage_seconds:g} s (policy.outage_seconds)"
                tqdm.write(f"   waiting for {self.where}, at most {limit}: {message}")
            return gone < self.config.outage_seconds

    def _wait_seconds(self, attempt: int, error: Exception) -> float:
        ceiling = min(_MAX_BACKOFF_SECONDS, self.backoff_seconds * 2 ** min(attempt, 20))
        # Unseeded jitter, which does not affect the samples.
        return _retry_after(error) + random.uniform(0, ceiling)

    def _sleep(self, seconds: float) -> None:
        self._closed.wait(seconds)
        self._check_open()

    def _check_open(self) -> None:
        if self._closed.is_set():
            raise PolicyError(f"{self.where}: the policy was closed")

    def _in_thread(self, parameters: dict[str, Any]) -> Reply:
        """One attempt in a separate thread, because a blocked socket cannot be interrupted by ``close``."""
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
            self._check_open()  # errors of a closed client are not errors of the server
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
        return read_reply(reply, "messages" in parameters)


def _names(parameters: dict[str, Any]) -> list[str]:
    return [*parameters.get("extra_body", {}), *(name for name in parameters if name != "extra_body")]


def _client(config: PolicyConfig) -> openai.OpenAI:
    try:
        import openai
    except ImportError as error:
        raise DataError('the server policy needs the openai package: pip install "dreamprm-jax[server]"') from error
    return openai.OpenAI(
        base_url=config.base_url,
        api_key=os.environ.get(config.api_key_env) or "none",  # the client requires a key, local servers do not
        timeout=config.timeout_seconds,
        max_retries=0,
    )


def _retry_after(error: Exception) -> float:
    """The wait that the server requested, in seconds (a number or an HTTP date); 0 if none."""
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
