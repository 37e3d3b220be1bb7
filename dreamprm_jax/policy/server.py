"""A policy on any OpenAI-compatible server (vLLM, SGLang, llama.cpp, hosted services).

The client renders the chat and sends the prompt, with the open answer and the prefix, to ``/v1/completions``, because
only this endpoint continues a prefix on every server. All completions of a prefix are requested together, so that the
server's prefix cache is used. A prefix ends at a line's end, so that longer prompts that begin with it have the same
tokens, as caches require. Chat-only servers, such as those of reasoning models, get the prefix as starter code
(``continuation="chat"``), and the completions are marked as not forced.
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
from dreamprm_jax.policy.abilities import ADDITION, MINUS, Abilities, probe, record, recorded
from dreamprm_jax.policy.chat_template import load_chat_template
from dreamprm_jax.policy.continuation import from_chat, from_completion
from dreamprm_jax.policy.dialect import Dialect
from dreamprm_jax.policy.protocol import Completion, CompletionRequest
from dreamprm_jax.policy.replies import Reply
from dreamprm_jax.policy.transport import ContextOverflow, Refused, Transport
from dreamprm_jax.runs.server_usage import Usage, UsageLog
from dreamprm_jax.schema import DataError

_SEED_STRIDE = 1_000_003  # difference between the seeds of successive requests for the same n choices
_LEAST_TOKENS = 16  # a smaller token limit is a context overflow
_MOST_DRAWS = 4  # maximum number of draws per completion if answers are rejected or interrupted


class ServerPolicy:
    """The policy of one server. Thread-safe."""

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
          folder: The stage's folder, to which the server's abilities and usage are written.
          abilities: The server's abilities; None probes the server before the first request.
          backoff_seconds: Maximum wait before the first retry, doubled with each further retry.

        Raises:
          DataError: if the ``openai`` package or a setting is missing.
        """
        if not config.model:
            raise DataError("policy.model is empty; name the model as the server does (see its /v1/models)")
        self.config = config
        self.name = config.model
        self._chat = config.continuation == "chat"
        self._template = load_chat_template("" if self._chat else config.chat_template)
        self._extra = _extra_body(config.extra_body)
        self._folder = folder
        self._log = UsageLog(folder)
        self._lock = threading.RLock()
        self._abilities = abilities
        self._unusable: DataError | None = None
        self._transport = Transport(config, backoff_seconds)
        known = abilities or Abilities()
        self._dialect = Dialect(self._transport, known.refused, 1 << 30 if known.choices else 1)
        self._dialect.on_change = self._keep_refusals

    @property
    def usage(self) -> Usage:
        """Requests and tokens of this process so far."""
        return self._log.total

    @property
    def abilities(self) -> Abilities:
        """The server's abilities, probed with temperature 1 if there was no request before."""
        return self._known(1.0)

    def complete(self, request: CompletionRequest) -> list[Completion]:
        """Returns exactly ``request.n`` completions.

        A greedy request (temperature 0) is sent once, because its n answers are equal. If the server returns fewer
        choices or interrupts answers, further requests follow until there are n completions. The missing completions
        have a ``Completion.fault`` if the server keeps interrupting answers or rejects the request permanently, or on a
        context overflow.

        Raises:
          PolicyError: if the server rejects the account or fails after all retries, or the policy is closed.
          DataError: if the server cannot be used.
        """
        if request.temperature == 0 and request.n > 1:
            return self.complete(replace(request, n=1)) * request.n
        self._known(request.temperature)
        completions: list[Completion] = []
        drawn, fault = 0, ""
        while len(completions) < request.n:
            missing = request.n - len(completions)
            if fault and drawn >= _MOST_DRAWS * request.n:
                return completions + self._without_answer(request, missing, fault, Usage())
            wanted = min(missing, self._dialect.most_choices)
            ask = replace(request, n=wanted, seed=request.seed + _SEED_STRIDE * drawn)
            open_line = self.config.prefix_end == "before_newline" and drawn < _MOST_DRAWS * request.n
            given = _without_line_break(request.prefix) if open_line else request.prefix
            try:
                answers = self._ask(ask, given)[:wanted]
            except ContextOverflow:
                rest = Usage(context_overflows=missing)
                return completions + self._without_answer(request, missing, "context overflow", rest)
            except Refused as refusal:
                if refusal.error.meaning == "out of tokens":
                    self._log.add(Usage(requests=1, truncated_answers=missing))
                    return completions + [Completion(request.prefix, "length", forced=not self._chat)] * missing
                rest = Usage(refused_answers=missing)
                return completions + self._without_answer(request, missing, f"refused: {refusal}", rest)
            wanted = min(wanted, self._dialect.most_choices)  # the last request may have lowered this limit
            if len(answers) < wanted:
                self._log.add(Usage(missing_choices=wanted - len(answers)))
                if len(answers) == 1:
                    self._dialect.most_choices = 1
            whole = [one for one in answers if not one.fault]
            fault = next((one.fault for one in answers if one.fault), fault)
            kept = [one for one in whole if not one.forced or one.code.startswith(request.prefix)]
            self._log.add(Usage(rejected_answers=len(whole) - len(kept)))
            completions += kept
            drawn += len(answers)
        return completions

    def sampling(self, temperature: float) -> dict[str, Any]:
        """The sampling parameters that are stored in rows.

        Raises:
          DataError: if the server's abilities are neither stored nor can be probed.
        """
        abilities = self._abilities or recorded(self._folder) or self._known(temperature)
        row: dict[str, Any] = {
            "model": self.config.model,
            "temperature": temperature,
            "top_p": self.config.top_p,
            "max_tokens": self.config.max_tokens,
            "continuation": self.config.continuation,
            "prefix_end": self.config.prefix_end,
            "prompt": PROMPT_VERSION,
            "chat_template": "server" if self._chat else self._template.identity,
            "seeds": abilities.seeds,
        }
        if self._extra:
            row["extra_body"] = self._extra
        not_sent = Dialect(self._transport, abilities.refused).not_sent(temperature, self.config.top_p)
        if not_sent:
            row["not_sent"] = not_sent
        return row

    def close(self) -> None:
        """Closes the connections; pending calls in other threads raise PolicyError."""
        self._transport.close()

    def _known(self, temperature: float) -> Abilities:
        """The server's abilities, probed by the first call.

        Raises:
          DataError: if the server cannot be used; also in later calls.
        """
        with self._lock:
            if self._unusable is not None:
                raise self._unusable
            if self._abilities is None:
                coding = None if self._chat else {start: self._coding_prompt(start) for start in (ADDITION, MINUS)}
                try:
                    found = probe(self._dialect, self._sampled(temperature or 1.0, 1, self.config.max_tokens), coding)
                    if self.config.logprobs and not found.logprobs:
                        raise DataError(
                            f"policy.logprobs: {self._transport.where} gives no log-probabilities; "
                            "set config.policy.logprobs=False"
                        )
                except DataError as error:
                    if not self._transport.closed:
                        self._unusable = error
                    raise
                self._abilities = found
                if not found.choices:
                    self._dialect.most_choices = 1
                record(found, self._folder, self._transport.where)
            return self._abilities

    def _keep_refusals(self) -> None:
        """Adds parameters that were rejected later to the stored abilities."""
        with self._lock:
            if self._abilities is None or self._abilities.refused == self._dialect.refused:
                return
            before = recorded(self._folder)
            known = (*(before.refused if before else ()), *self._dialect.refused)
            self._abilities = dataclasses.replace(self._abilities, refused=tuple(dict.fromkeys(known)))
            record(self._abilities, self._folder, self._transport.where)

    def _ask(self, request: CompletionRequest, given: str) -> list[Completion]:
        """Sends one request with retries, and returns at least one completion of ``given``.

        Raises:
          ContextOverflow: if the prompt leaves no room for ``_LEAST_TOKENS`` tokens in the context.
        """
        limit = self.config.max_tokens
        parameters: dict[str, Any] = {}
        if self._chat:
            parameters["messages"] = (
                continuation_messages(request.problem, request.prefix) if request.prefix else messages(request.problem)
            )
        else:
            parameters["prompt"] = self._template.render(messages(request.problem)) + assistant_prefix(given)
        while True:
            sampled = self._sampled(request.temperature, request.seed, limit)
            try:
                reply = self._dialect.ask({**sampled, **parameters, "n": request.n})
                return self._read(request, given, parameters.get("prompt", ""), reply)
            except ContextOverflow:
                limit //= 2  # the prompt may fit with a smaller token limit
                if limit < _LEAST_TOKENS:
                    raise

    def _sampled(self, temperature: float, seed: int, limit: int) -> dict[str, Any]:
        parameters: dict[str, Any] = {
            "temperature": temperature,
            "top_p": self.config.top_p,
            "max_tokens": limit,
            "seed": seed & 0x7FFFFFFF,  # servers accept 32 bits
        }
        if not self._chat:
            parameters["stop"] = [FENCE_CLOSE]
        if self.config.logprobs:
            parameters["logprobs"] = True if self._chat else 1
        if self._extra:
            parameters["extra_body"] = self._extra
        return parameters

    def _coding_prompt(self, program: str) -> str:
        """A prompt in the usual format, whose open answer is the beginning of a tiny program."""
        name = "add(a, b) that returns the sum of a and b" if program == ADDITION else "absolute(n) that returns |n|"
        return self._template.render([Message(role="user", content=f"Write a Python function {name}.")]) + (
            assistant_prefix(program)
        )

    def _read(self, request: CompletionRequest, given: str, prompt: str, reply: Reply) -> list[Completion]:
        self._log.add(reply.usage)
        completions = []
        for choice in reply.choices:
            if self._chat:
                completion = from_chat(choice.text, request.prefix, choice.finish_reason)
            else:
                completion = from_completion(choice.text, prompt, given, choice.finish_reason)
            fault = f"cut off ({choice.finish_reason})" if choice.cut else ""
            completions.append(replace(completion, log_probability=choice.log_probability, fault=fault))
        return completions

    def _without_answer(self, request: CompletionRequest, n: int, fault: str, usage: Usage) -> list[Completion]:
        self._log.add(usage)
        return [Completion(request.prefix, "length" if fault == "context overflow" else "none", True, fault=fault)] * n


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
