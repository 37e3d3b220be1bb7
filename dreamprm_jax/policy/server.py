"""A policy on any OpenAI-compatible server (vLLM, SGLang, llama.cpp, hosted ones).

The chat is rendered here and the prompt, with the open answer and the prefix, goes to ``/v1/completions``: the one
form in which every server truly continues a prefix. All completions of one prefix are asked for together, so that the
server's prefix cache serves them; a prefix ends at a line's end, so that its tokens are those of any longer prompt that
begins with it, as caches want. Chat-only servers, such as those of reasoning models, get the prefix as starter code
(``continuation="chat"``), marked as not forced.
"""

from __future__ import annotations

import dataclasses
import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

from dreamprm_jax.cof.prompts import (
    FENCE_CLOSE,
    PROMPT_VERSION,
    Message,
    assistant_prefix,
    continuation_messages,
    messages,
)
from dreamprm_jax.config import PolicyConfig
from dreamprm_jax.policy.abilities import Abilities, probe, record, recorded
from dreamprm_jax.policy.chat_template import load_chat_template
from dreamprm_jax.policy.continuation import from_chat, from_completion
from dreamprm_jax.policy.protocol import CONTEXT_OVERFLOW, Completion, CompletionRequest, PolicyError
from dreamprm_jax.policy.transport import ContextOverflow, Refused, Reply, Transport
from dreamprm_jax.runs.server_usage import Usage, UsageLog
from dreamprm_jax.schema import DataError

_SEED_STRIDE = 1_000_003  # between the seeds of the single requests that stand for one of n choices
_LEAST_TOKENS = 16  # an answer that has no room for so many is empty
_MOST_DRAWS = 4  # of each completion, where answers may be rejected


class ServerPolicy:
    """Speaks to one server. Safe to call from several threads."""

    def __init__(
        self,
        config: PolicyConfig,
        folder: Path | None = None,
        abilities: Abilities | None = None,
        backoff_seconds: float = 0.5,
    ):
        """Opens the client; no request is made yet.

        Args:
          config: The server's address, model and limits.
          folder: Of the stage: where what the server can do and what it was asked for is kept.
          abilities: What the server can do, where it is known; None finds it out before the first request.
          backoff_seconds: The longest wait before the first retry; it doubles with each.

        Raises:
          DataError: when the ``openai`` package or a setting is missing.
        """
        if not config.model:
            raise DataError("policy.model is empty; name the model as the server does (see its /v1/models)")
        self.config = config
        self.name = config.model
        self._template = load_chat_template(config.chat_template)
        self._extra = _extra_body(config.extra_body)
        self._folder = folder
        self._log = UsageLog(folder)
        self._lock = threading.Lock()
        self._abilities = abilities
        self._unusable: DataError | None = None
        self._most_choices = 1 << 30  # of one request: learnt from refusals
        self._transport = Transport(config, backoff_seconds)

    @property
    def usage(self) -> Usage:
        """Requests and tokens of this process so far."""
        return self._log.total

    @property
    def abilities(self) -> Abilities:
        """What the server can do: asked once, by the first that wants to know.

        Raises:
          DataError: when the server cannot be used, from then on.
        """
        with self._lock:
            if self._unusable is not None:
                raise self._unusable
            if self._abilities is None:
                try:
                    self._abilities = probe(self._transport, self._coding_prompt(), self._extra)
                    if self.config.logprobs and not self._abilities.logprobs:
                        raise DataError(f"policy.logprobs: {self._transport.where} gives no log-probabilities")
                except DataError as error:
                    self._unusable = error
                    raise
                record(self._abilities, self._folder, self._transport.where)
            return self._abilities

    def complete(self, request: CompletionRequest) -> list[Completion]:
        """Answers with exactly ``request.n`` completions.

        A greedy request (temperature 0) is asked once: its n answers are equal. A server that gives one choice a
        request, or only so many, is asked again until there are n, so that its cache holds the prefix meanwhile. Where
        the context has no room for an answer, the answers have ``finish_reason`` ``CONTEXT_OVERFLOW``.

        Raises:
          PolicyError: when the server refuses, or still fails after its retries.
          DataError: when the server cannot be used at all.
        """
        if request.temperature == 0 and request.n > 1:
            return self.complete(replace(request, n=1)) * request.n
        if not self.abilities.choices:
            self._most_choices = 1
        completions: list[Completion] = []
        drawn = 0
        while len(completions) < request.n:
            wanted = min(request.n - len(completions), self._most_choices)
            ask = replace(request, n=wanted, seed=request.seed + _SEED_STRIDE * drawn)
            open_line = self.config.prefix_end == "before_newline" and drawn < _MOST_DRAWS * request.n
            try:
                answers = self._ask(ask, _without_line_break(request.prefix) if open_line else request.prefix)
            except Refused as error:
                if error.parameter != "n" or wanted == 1:
                    raise PolicyError(f"{self._transport.where}: {error}") from error
                self._most_choices = wanted // 2
                continue
            if len(answers) < wanted:
                self._log.add(Usage(missing_choices=wanted - len(answers)))
                if len(answers) == 1:
                    self._most_choices = 1
            kept = [one for one in answers[:wanted] if not one.forced or one.code.startswith(request.prefix)]
            self._log.add(Usage(rejected_answers=len(answers[:wanted]) - len(kept)))
            completions += kept
            drawn += len(answers[:wanted])
        return completions

    def sampling(self, temperature: float) -> dict[str, Any]:
        """The sampling parameters as recorded in rows.

        Raises:
          DataError: when what the server makes of them is neither on record nor to be found out.
        """
        abilities = self._abilities or recorded(self._folder) or self.abilities
        row: dict[str, Any] = {
            "model": self.config.model,
            "temperature": temperature,
            "top_p": self.config.top_p,
            "max_tokens": self.config.max_tokens,
            "continuation": self.config.continuation,
            "prefix_end": self.config.prefix_end,
            "prompt": PROMPT_VERSION,
            "chat_template": self._template.identity if self.config.continuation == "completions" else "server",
            "seeds": abilities.seeds,
        }
        if self._extra:
            row["extra_body"] = self._extra
        if abilities.refused:
            row["not_sent"] = list(abilities.refused)
        return row

    def close(self) -> None:
        """Closes the connections."""
        self._transport.close()

    def _ask(self, request: CompletionRequest, given: str) -> list[Completion]:
        """One request with its retries: at least one completion of ``given``, as many as the server gave."""
        limit = self.config.max_tokens
        while True:
            try:
                return self._read(request, given, self._transport.ask(self._parameters(request, given, limit)))
            except ContextOverflow:
                limit //= 2  # only the limit may be too long, not the prompt
                if limit < _LEAST_TOKENS:
                    self._log.add(Usage(truncated_answers=request.n, context_overflows=request.n))
                    return [Completion(request.prefix, CONTEXT_OVERFLOW, forced=True)] * request.n

    def _parameters(self, request: CompletionRequest, given: str, limit: int) -> dict[str, Any]:
        parameters: dict[str, Any] = {
            "n": request.n,
            "temperature": request.temperature,
            "top_p": self.config.top_p,
            "max_tokens": limit,
            "seed": _server_seed(request.seed),
        }
        chat = self.config.continuation == "chat"
        if chat:
            parameters["messages"] = (
                continuation_messages(request.problem, request.prefix) if request.prefix else messages(request.problem)
            )
        else:
            parameters["prompt"] = self._prompt(request, given)
            parameters["stop"] = [FENCE_CLOSE]
        if self.config.logprobs:
            parameters["logprobs"] = True if chat else 1
        if self._extra:
            parameters["extra_body"] = self._extra
        return self.abilities.accepted(parameters)

    def _prompt(self, request: CompletionRequest, given: str) -> str:
        return self._template.render(messages(request.problem)) + assistant_prefix(given)

    def _coding_prompt(self) -> str:
        """A prompt in the form of all others, for which only `` + b`` makes sense."""
        question = Message(role="user", content="Write a Python function add(a, b) that returns the sum of a and b.")
        return self._template.render([question]) + assistant_prefix("def add(a, b):\n    return a")

    def _read(self, request: CompletionRequest, given: str, reply: Reply) -> list[Completion]:
        self._log.add(reply.usage)
        completions = []
        for choice in reply.choices:
            if self.config.continuation == "chat":
                completion = from_chat(choice.text, request.prefix, choice.finish_reason)
            else:
                completion = from_completion(choice.text, self._prompt(request, given), given, choice.finish_reason)
            completions.append(dataclasses.replace(completion, log_probability=choice.log_probability))
        return completions


def _extra_body(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text or "{}")
    except ValueError as error:
        raise DataError(f"policy.extra_body: not JSON ({error}); an object such as '{{\"top_k\": 20}}'") from error
    if not isinstance(value, dict):
        raise DataError(f"policy.extra_body: {text!r} is not a JSON object such as '{{\"top_k\": 20}}'")
    return value


def _without_line_break(prefix: str) -> str:
    return prefix.removesuffix("\n").removesuffix("\r")


def _server_seed(seed: int) -> int:
    """Within the 32 bits that servers accept."""
    return seed & 0x7FFFFFFF
