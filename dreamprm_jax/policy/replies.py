"""Reads a server's reply: choices, finish reasons and token counts. Detects errors sent with status 200."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from dreamprm_jax.runs.server_usage import Usage

# Values of finish_reason of OpenAI and other servers. Any other value means that the server interrupted the answer.
_ENDS = (
    ("cut", re.compile(r"error|time|(?<![a-z])rate|retr(?:y|ies)|cancel|abort|network|unavailable", re.IGNORECASE)),
    ("stop", re.compile(r"stop|eo[st]|end|complete|finish|done|natural|tool|function|unknown", re.IGNORECASE)),
    ("length", re.compile(r"length|max|limit|token|context|window", re.IGNORECASE)),
    ("filter", re.compile(r"filter|safety|recit|block|prohibit|sensitive|refus|moderat|spii|polic", re.IGNORECASE)),
)


class MalformedReply(Exception):
    """The reply does not match the schema; worth retrying."""


class NoChoices(MalformedReply):
    """The reply matches the schema but has no choices, for example because a filter removed them."""


class WebPage(Exception):
    """The server answered with a web page, so the address is not that of its API."""


class ErrorReply(Exception):
    """An error object instead of choices, with HTTP status 200."""

    def __init__(self, failure: Any):
        super().__init__(str(failure)[:200])
        if hasattr(failure, "model_dump"):  # a pydantic object of the client
            failure = {name: value for name, value in failure.model_dump().items() if value is not None}
        failure = failure if isinstance(failure, dict) else getattr(failure, "__dict__", str(failure))
        code = str(failure.get("code") or failure.get("status") or "") if isinstance(failure, dict) else ""
        http = re.fullmatch(r"([45]\d\d)\d*", code)  # FastChat's codes are longer
        self.status = int(http[1]) if http else 500
        self.body = json.dumps({"error": failure}, default=str)


@dataclass(frozen=True)
class Choice:
    """One choice of a reply.

    Attributes:
      text: "" if the model declined or a filter removed everything.
      finish_reason: "stop", "length", or the server's own value.
      log_probability: Mean log-probability of its tokens, if requested.
      cut: Whether the server interrupted it: an abort, an error, a content filter.
    """

    text: str
    finish_reason: str
    log_probability: float | None = None
    cut: bool = False


@dataclass(frozen=True)
class Reply:
    """A server's reply with at least one choice, sorted by index."""

    choices: tuple[Choice, ...]
    usage: Usage
    reports_usage: bool = False
    reports_cache: bool = False


def read_reply(reply: Any, chat: bool) -> Reply:
    """Reads a server's reply, as parsed by the client.

    Args:
      reply: The client's object, or text if the content is not JSON: a stream of events, or a web page.
      chat: Whether choices contain messages.

    Raises:
      ErrorReply: if it is an error.
      WebPage: if it is a web page.
      NoChoices, MalformedReply: if it contains no answer.
    """
    if isinstance(reply, str):
        if re.match(r"\s*(?:<!doctype|<html)", reply, re.IGNORECASE):
            raise WebPage(re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", reply)).strip()[:200])
        reply = _assembled(reply)
    choices = getattr(reply, "choices", None)
    failure = getattr(reply, "error", None) or (reply if getattr(reply, "object", None) == "error" else None)
    if failure and not choices:
        raise ErrorReply(failure)
    if choices == [] or (choices is None and getattr(reply, "usage", None) is not None):
        raise NoChoices("no choices in the reply")
    if not isinstance(choices, list):
        raise MalformedReply(f"no choices in the reply ({str(reply)[:200]!r})")
    ordered = sorted(choices, key=lambda choice: getattr(choice, "index", None) or 0)
    read = tuple(_choice(choice, chat) for choice in ordered)
    usage = getattr(reply, "usage", None)
    details = getattr(usage, "prompt_tokens_details", None)
    cached = details.get("cached_tokens") if isinstance(details, dict) else getattr(details, "cached_tokens", None)
    spent = Usage(
        requests=1,
        prompt_tokens=getattr(usage, "prompt_tokens", 0) or 0,
        cached_tokens=cached or 0,
        completion_tokens=getattr(usage, "completion_tokens", 0) or 0,
        truncated_answers=sum(choice.finish_reason == "length" for choice in read),
        declined_answers=sum(choice.finish_reason != "length" and not (choice.text or choice.cut) for choice in read),
        cut_answers=sum(choice.cut for choice in read),
    )
    return Reply(read, spent, reports_usage=bool(spent.prompt_tokens), reports_cache=cached is not None)


def _assembled(events: str) -> Any:
    """Assembles a reply from server-sent events; choices without a finish reason were interrupted."""
    choices: dict[int, SimpleNamespace] = {}
    whole = SimpleNamespace(choices=None, usage=None, error=None)
    for chunk in _chunks(events):
        whole.usage = getattr(chunk, "usage", None) or whole.usage
        failed = chunk if getattr(chunk, "message", None) and not hasattr(chunk, "choices") else None
        whole.error = getattr(chunk, "error", None) or failed or whole.error
        for part in getattr(chunk, "choices", None) or ():
            index = getattr(part, "index", None) or 0
            if index not in choices:
                message = SimpleNamespace(content="")
                choices[index] = SimpleNamespace(
                    index=index,
                    text="",
                    message=message,
                    finish_reason="unfinished",
                    logprobs=SimpleNamespace(content=[]),
                )
            choice = choices[index]
            delta = getattr(part, "delta", None)
            choice.text += getattr(part, "text", None) or ""
            choice.message.content += _content_text(getattr(delta, "content", None)) or ""
            choice.finish_reason = getattr(part, "finish_reason", None) or choice.finish_reason
            choice.logprobs.content += [
                SimpleNamespace(logprob=number) for number in _numbers(getattr(part, "logprobs", None))
            ]
    whole.choices = list(choices.values()) or None
    return whole


def _chunks(events: str) -> Iterator[Any]:
    for line in events.splitlines():
        name, _, data = line.partition(":")
        if name.strip() == "data" and data.strip() not in ("", "[DONE]"):
            try:
                yield json.loads(data, object_hook=lambda fields: SimpleNamespace(**fields))
            except ValueError as error:
                raise MalformedReply(f"an event of the stream is not JSON ({data.strip()[:200]!r})") from error


def _choice(choice: Any, chat: bool) -> Choice:
    message = getattr(choice, "message", None)
    value = _content_text(getattr(message, "content", None)) if chat else getattr(choice, "text", None)
    word = str(getattr(choice, "finish_reason", None) or "unknown")
    end = next((name for name, words in _ENDS if words.match(word) or (name != "stop" and words.search(word))), "cut")
    declined = value is None and word == "unknown" and not getattr(message, "refusal", None)
    text = value if isinstance(value, str) else ""
    cut = bool(end == "cut" or (end == "filter" and text.strip()) or getattr(choice, "error", None) or declined)
    # JSON escapes can encode lone surrogates, which files cannot store.
    text = text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
    said = end if end in ("stop", "length") and word != "unknown" else word
    return Choice(text, said, _mean_log_probability(getattr(choice, "logprobs", None)), cut)


def _content_text(value: Any) -> Any:
    """A message's content. If the content has parts, their text without reasoning."""
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list):
        return value
    parts = [
        {"text": part} if isinstance(part, str) else part if isinstance(part, dict) else getattr(part, "__dict__", {})
        for part in value
    ]
    return "".join(str(part.get("text") or "") for part in parts if part.get("type", "text") in ("text", "output_text"))


def _mean_log_probability(value: Any) -> float | None:
    numbers = _numbers(value)
    return sum(numbers) / len(numbers) if numbers else None


def _numbers(value: Any) -> list[float]:
    """The tokens' log-probabilities: ``token_logprobs`` or, in chats and for llama.cpp, ``content``."""
    numbers = getattr(value, "token_logprobs", None)
    if numbers is None:
        items = getattr(value, "content", None) or []
        numbers = [item.get("logprob") if isinstance(item, dict) else getattr(item, "logprob", None) for item in items]
    return [float(number) for number in numbers if isinstance(number, (int, float))]
