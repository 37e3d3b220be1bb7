"""Negotiates request parameters: parameters that a server rejects are dropped, renamed or bounded, and recorded."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from dreamprm_jax.cof.prompts import without_system
from dreamprm_jax.policy.refusals import OPTIONAL, SYSTEM_ROLE, WHOLE_REPLY, limit_between
from dreamprm_jax.policy.replies import Reply
from dreamprm_jax.policy.transport import Refused, Transport

_RENAMED = "max_completion_tokens"  # replaces max_tokens for OpenAI's reasoning models
_BY_VALUE = ("temperature", "top_p")  # often rejected only at some values
_MOST_REFUSALS = 24  # maximum number of rejections of one request


class Dialect:
    """Sends requests in a form that the server accepts. The form is learned from its errors. Thread-safe."""

    def __init__(self, transport: Transport, refused: tuple[str, ...] = (), most_choices: int = 1 << 30):
        """Starts with the known properties of the server.

        Args:
          transport: The connection.
          refused: Parameters that are not sent: names, or "name=value" if only that value is rejected.
          most_choices: Maximum n of a request.
        """
        self.transport = transport
        self.refused = refused
        self.most_choices = most_choices
        self.longest = 0  # maximum max_tokens that the server accepts; 0: no limit
        self.shortest = 0  # minimum
        self.on_change: Callable[[], None] = lambda: None
        self._proven: set[str] = set()
        self._lock = threading.Lock()

    def not_sent(self, temperature: float, top_p: float) -> list[str]:
        """The parameters that are not sent in requests with these values."""
        values = {"temperature": temperature, "top_p": top_p}
        names = [entry.partition("=")[0] for entry in self.refused
                 if "=" not in entry or entry in (_key(name, value) for name, value in values.items())]  # fmt: skip
        return list(dict.fromkeys(names))

    def ask(self, parameters: dict[str, Any]) -> Reply:
        """Sends a request, and repeats it without rejected parameters. The reply may have fewer choices than requested.

        Raises:
          Refused: if the server rejects the request for a reason other than a parameter.
          PolicyError, ContextOverflow: see ``Transport.ask``.
        """
        for _ in range(_MOST_REFUSALS):
            sent = self._spelled(parameters)
            try:
                reply = self.transport.ask(sent)
            except Refused as refusal:
                if refusal.error.meaning == "out of tokens":
                    raise
                name = refusal.error.parameter
                if name is None:
                    return self._without_rejected(sent, refusal)
                if not self._learn(_ours(name), sent, refusal.error.detail):
                    raise
                continue
            self._proven |= {_key(name, value) for name, value in sent.items()}
            return reply
        return self.transport.ask(self._spelled(parameters))

    def _spelled(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """The parameters in the form that the server accepts."""
        sent = {name: value for name, value in parameters.items()
                if name not in self.refused and _key(name, value) not in self.refused}  # fmt: skip
        if "max_tokens" in parameters:
            limit = max(min(parameters["max_tokens"], self.longest or parameters["max_tokens"]), self.shortest)
            if "max_tokens" in sent:
                sent["max_tokens"] = limit
            elif "messages" in parameters and _RENAMED not in self.refused:
                sent[_RENAMED] = limit
        if "n" in sent:
            sent["n"] = min(sent["n"], self.most_choices)
        if SYSTEM_ROLE in self.refused and "messages" in sent:
            sent["messages"] = without_system(sent["messages"])
        if WHOLE_REPLY in self.refused:
            streamed = {"stream": True, "stream_options": {"include_usage": True}}
            sent["extra_body"] = {**sent.get("extra_body", {}), **streamed}  # the client still reads one reply
        return sent

    def _learn(self, name: str, sent: dict[str, Any], detail: str) -> bool:
        """Records a rejected parameter. Returns whether the request can be sent in another form."""
        with self._lock:
            before = (self.refused, self.most_choices, self.longest, self.shortest)
            spelling = _RENAMED if name == "max_tokens" and _RENAMED in sent else name
            if name == SYSTEM_ROLE:
                if not any(message["role"] == "system" for message in sent.get("messages", ())):
                    return False
                self._refuse(SYSTEM_ROLE)
            elif name == WHOLE_REPLY:
                if "stream" in sent.get("extra_body", {}):
                    return False
                self._refuse(WHOLE_REPLY)
            elif name not in OPTIONAL or spelling not in sent:
                return False
            elif name == "n" and sent["n"] > 1:
                self.most_choices = min(self.most_choices, sent["n"] // 2)
            elif name == "max_tokens" and not (spelling == name and _RENAMED in detail):
                bound = limit_between(detail, sent[spelling])
                if bound is not None and bound > sent[spelling]:
                    self.shortest = bound
                elif bound is not None:
                    self.longest = bound
                else:
                    self._refuse(spelling)
            else:
                self._refuse(_key(name, sent[name]) if name in _BY_VALUE else spelling)
            changed = before != (self.refused, self.most_choices, self.longest, self.shortest)
        if changed:
            self.on_change()
        return True  # also if another thread has recorded it in the meantime

    def _refuse(self, entry: str) -> None:
        if entry not in self.refused:
            self.refused = (*self.refused, entry)

    def _without_rejected(self, sent: dict[str, Any], refusal: Refused) -> Reply:
        """Retries a request whose error names no parameter, omitting as few untested parameters as possible.

        Raises:
          Refused: the original error, if no parameter causes it.
        """
        names = [name for name in (*OPTIONAL, _RENAMED) if name in sent]
        left_out = [name for name in names if _key(name, sent[name]) not in self._proven]
        reply = self._tried(sent, left_out) if left_out else None
        if reply is None:
            raise refusal
        for name in reversed(left_out):
            fewer = [other for other in left_out if other != name]
            fuller = self._tried(sent, fewer) if fewer else None
            if fuller is not None:
                left_out, reply = fewer, fuller
        with self._lock:
            for name in left_out:
                self._refuse(_key(name, sent[name]) if name in _BY_VALUE else name)
        self.on_change()
        return reply

    def _tried(self, sent: dict[str, Any], left_out: list[str]) -> Reply | None:
        kept = {name: value for name, value in sent.items() if name not in left_out}
        try:
            reply = self.transport.ask(kept)
        except Refused:
            return None
        self._proven |= {_key(name, value) for name, value in kept.items()}
        return reply


def _ours(name: str) -> str:
    return "max_tokens" if name == _RENAMED else name


def _key(name: str, value: Any) -> str:
    return f"{name}={value:g}" if name in _BY_VALUE and isinstance(value, (int, float)) else (
        f"n={value}" if name == "n" else name
    )  # fmt: skip
