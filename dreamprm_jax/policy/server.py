"""A policy on any OpenAI-compatible server (vLLM, SGLang, llama.cpp, hosted ones).

The chat is rendered here and the prompt, with the open answer and the prefix, goes to ``/v1/completions``: the one
form in which every server truly continues a prefix. All completions of one prefix are asked for together, so that the
server's prefix cache serves them. Retries are ours (the client's are off): exponential, with full jitter, honouring
``Retry-After``. Chat-only servers get the prefix as starter code (``continuation="chat"``), marked as not forced.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from dreamprm_jax.cof.prompts import FENCE_CLOSE, PROMPT_VERSION, assistant_prefix, continuation_messages, messages
from dreamprm_jax.config import PolicyConfig
from dreamprm_jax.policy.chat_template import load_chat_template
from dreamprm_jax.policy.continuation import from_chat, from_completion
from dreamprm_jax.policy.protocol import Completion, CompletionRequest, PolicyError
from dreamprm_jax.schema import DataError

if TYPE_CHECKING:
    import openai

_SEED_STRIDE = 1_000_003  # between the seeds of the single requests that stand for one of n choices
_MAX_BACKOFF_SECONDS = 60.0


@dataclass(frozen=True)
class Usage:
    """What the server was asked for so far."""

    requests: int = 0  # answered ones
    retries: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    missing_choices: int = 0  # choices that a server left out of an answer and that were asked for again


class MalformedReply(Exception):
    """The server answered, but not in the schema; worth asking again."""


class ServerPolicy:
    """Speaks to one server. Safe to call from several threads."""

    def __init__(self, config: PolicyConfig, backoff_seconds: float = 0.5):
        """Opens the client; no request is made yet.

        Args:
          config: The server's address, model and limits.
          backoff_seconds: The longest wait before the first retry; it doubles with each.

        Raises:
          DataError: when the ``openai`` package or a setting is missing.
        """
        if not config.model:
            raise DataError("policy.model is empty; name the model as the server does (see its /v1/models)")
        self.config = config
        self.name = config.model
        self.backoff_seconds = backoff_seconds
        self._template = load_chat_template(config.chat_template)
        self._lock = threading.Lock()
        self._usage = Usage()
        self._one_choice_only = False  # learnt from the server's answers
        self._client = _client(config)

    @property
    def usage(self) -> Usage:
        """Requests and tokens so far."""
        with self._lock:
            return self._usage

    def complete(self, request: CompletionRequest) -> list[Completion]:
        """Answers with exactly ``request.n`` completions.

        A greedy request (temperature 0) is asked once: its n answers are equal.

        Raises:
          PolicyError: when the server refuses, or still fails after ``max_retries`` retries.
        """
        if request.temperature == 0 and request.n > 1:
            return self.complete(replace(request, n=1)) * request.n
        completions: list[Completion] = []
        while len(completions) < request.n:
            missing = request.n - len(completions)
            seed = request.seed + _SEED_STRIDE * len(completions)
            answers = self._ask(replace(request, n=1 if self._one_choice_only else missing, seed=seed))
            if len(answers) < missing and not self._one_choice_only:
                self._one_choice_only = True
                self._count(missing_choices=missing - len(answers))
            completions += answers[:missing]
        return completions

    def sampling(self, temperature: float) -> dict[str, Any]:
        """The sampling parameters as recorded in rows."""
        return {
            "model": self.config.model,
            "temperature": temperature,
            "max_tokens": self.config.max_tokens,
            "continuation": self.config.continuation,
            "prompt": PROMPT_VERSION,
            "chat_template": self._template.identity if self.config.continuation == "completions" else "server",
        }

    def close(self) -> None:
        """Closes the connections."""
        self._client.close()

    def _ask(self, request: CompletionRequest) -> list[Completion]:
        """One request with its retries: at least one completion, as many as the server gave."""
        call = self._ask_chat if self.config.continuation == "chat" else self._ask_completions
        return self._with_retries(lambda: call(request))

    def _ask_completions(self, request: CompletionRequest) -> list[Completion]:
        prompt = self._template.render(messages(request.problem)) + assistant_prefix(request.prefix)
        choices = self._choices(
            self._client.completions.create,
            model=self.config.model,
            prompt=prompt,
            n=request.n,
            temperature=request.temperature,
            max_tokens=self.config.max_tokens,
            seed=_server_seed(request.seed),
            stop=[FENCE_CLOSE],
        )
        return [from_completion(_text(choice), prompt, request.prefix, _reason(choice)) for choice in choices]

    def _ask_chat(self, request: CompletionRequest) -> list[Completion]:
        chat = continuation_messages(request.problem, request.prefix) if request.prefix else messages(request.problem)
        choices = self._choices(
            self._client.chat.completions.create,
            model=self.config.model,
            messages=chat,
            n=request.n,
            temperature=request.temperature,
            max_tokens=self.config.max_tokens,
            seed=_server_seed(request.seed),
        )
        return [
            from_chat(_text(getattr(choice, "message", None), "content"), request.prefix, _reason(choice))
            for choice in choices
        ]

    def _choices(self, create: Callable[..., Any], **parameters: Any) -> list[Any]:
        """Makes one call; the choices of its reply, in their order. Counts its tokens."""
        try:
            reply = create(**parameters)
        except ValueError as error:
            raise MalformedReply(f"the reply is not JSON ({error})") from error
        choices = getattr(reply, "choices", None)
        if not isinstance(choices, list) or not choices:
            raise MalformedReply(f"no choices in the reply ({str(reply)[:200]!r})")
        usage = getattr(reply, "usage", None)
        self._count(
            requests=1,
            prompt_tokens=getattr(usage, "prompt_tokens", 0) or 0,
            completion_tokens=getattr(usage, "completion_tokens", 0) or 0,
        )
        return sorted(choices, key=lambda choice: getattr(choice, "index", None) or 0)

    def _with_retries(self, call: Callable[[], list[Completion]]) -> list[Completion]:
        import openai

        transient = (
            openai.APIConnectionError,  # timeouts are of this type too
            openai.RateLimitError,
            openai.InternalServerError,
            openai.ConflictError,
            openai.APIResponseValidationError,
            MalformedReply,
        )
        attempts = self.config.max_retries + 1
        for attempt in range(attempts):
            try:
                return call()
            except transient as error:
                if attempt + 1 == attempts:
                    raise PolicyError(
                        f"{self.config.base_url}, model {self.config.model}: failed {attempts} times, last with "
                        f"{type(error).__name__}: {error}"
                    ) from error
                self._count(retries=1)
                time.sleep(self._wait_seconds(attempt, error))
            except openai.APIStatusError as error:  # 4xx: asking again will not help
                raise PolicyError(
                    f"{self.config.base_url}, model {self.config.model}: {_refusal(error)}: {error.message}"
                ) from error
        raise PolicyError("policy.max_retries must be 0 or more")

    def _wait_seconds(self, attempt: int, error: Exception) -> float:
        ceiling = min(_MAX_BACKOFF_SECONDS, self.backoff_seconds * 2**attempt)
        # Jitter only spreads clients in time: it takes no part in what is sampled.
        return _retry_after(error) + random.uniform(0, ceiling)

    def _count(self, **increments: int) -> None:
        with self._lock:
            self._usage = replace(
                self._usage, **{name: getattr(self._usage, name) + value for name, value in increments.items()}
            )


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


def _server_seed(seed: int) -> int:
    """Within the 32 bits that servers accept."""
    return seed & 0x7FFFFFFF


def _text(holder: Any, field: str = "text") -> str:
    """The text of a choice, without lone surrogates (JSON escapes can spell them, files cannot store them)."""
    value = getattr(holder, field, None)
    if not isinstance(value, str):
        raise MalformedReply(f"a choice without {field} ({str(holder)[:200]!r})")
    return value.encode("utf-8", "surrogatepass").decode("utf-8", "replace")


def _reason(choice: Any) -> str:
    return str(getattr(choice, "finish_reason", None) or "unknown")


def _retry_after(error: Exception) -> float:
    """The seconds that the server asked to wait; 0 where it named none."""
    headers = getattr(getattr(error, "response", None), "headers", {})
    try:
        return min(max(float(headers.get("retry-after", 0)), 0.0), _MAX_BACKOFF_SECONDS)
    except ValueError:  # an HTTP date
        return 0.0


def _refusal(error: openai.APIStatusError) -> str:
    advice = {
        401: "the key was refused; put it into the variable that policy.api_key_env names",
        403: "the key was refused; put it into the variable that policy.api_key_env names",
        404: "no such model or no such endpoint; see /v1/models, or set policy.continuation='chat' for a chat-only one",
    }
    return f"HTTP {error.status_code}, {advice.get(error.status_code, 'the request was refused')}"
