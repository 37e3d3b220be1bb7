"""Classifies a server's error by the body of its reply.

OpenAI-compatible servers differ in status codes, field names and wording, and only some versions of the client include
the body in their message. Each class has one regular expression, to which new wordings are added as alternatives.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, Literal

Meaning = Literal["passing", "gone", "overflow", "out of tokens", "parameter", "unusable", "refused"]

OPTIONAL = ("logprobs", "seed", "top_p", "n", "temperature", "stop", "max_tokens")  # in order of increasing importance
SYSTEM_ROLE = "system role"  # listed among the rejected parameters if system messages are rejected
WHOLE_REPLY = "stream=false"  # listed among the rejected parameters if the server only streams
_ALIASES = {
    "max_tokens": r"max_tokens|max_completion_tokens|max_new_tokens|max_output_tokens|maxOutputTokens|max_gen_len",
    "top_p": r"top_p|topP",
    "n": r"n|candidate_?count|candidateCount|best_of|num_?choices|num_return_sequences",
    "stop": r"stop|stop_sequences|stopSequences",
    "logprobs": r"(?:top_|response)?logprobs|responseLogprobs",
    "seed": r"seed|random_seed",
}
_PROSE = {"n": r"(?:one|multiple|number of) (?:completion )?choices?|multiple (?:completions|candidates)"}

_OVERFLOW = re.compile(
    r"context.{0,12}(?:length|size|window|limit)|exceeds?.{0,40}context|max_model_len|\bn_ctx\b|\bn_keep\b|context.{0,12}overflow"
    r"|inputs?\W{0,3} tokens \+|inputs?\W{0,3} must have less|input length|input.{0,60}(?:exceed|too long|too large)"
    r"|prompt.{0,60}too (?:long|large)|(?:request|payload|entity|content|body) too large|too many (?:input )?tokens"
    r"|max_tokens.{0,40}got -\d+|ContextWindowExceeded|string too long",
    re.IGNORECASE,
)
_OUT_OF_TOKENS = re.compile(r"could not finish the message|output limit was reached", re.IGNORECASE)
_LOADING = re.compile(
    r"\bloading\b|warming up|starting up|not ready|overloaded|temporarily unavailable|engine.{0,20}dead", re.IGNORECASE
)
_ACCOUNT = re.compile(
    r"insufficient.{0,3}(?:quota|balance|funds|credit)|credit balance|arrear|overdue|billing_hard_limit"
    r"|(?:invalid|incorrect|missing|wrong|no).{0,3}api.?key"
    r"|api.?key.{0,12}(?:not valid|not found|invalid|missing|expired|disabled)"
    r"|authentication.?error|unauthori[sz]ed|(?:location|country|region).{0,30}not supported",
    re.IGNORECASE,
)
_MODEL = re.compile(
    r"(?:invalid|unknown|no such|not a valid) model|no models? loaded"
    r"|model.{0,60}(?:not[ _]found|not exist|not been found|not available|decommissioned|deprecated)",
    re.IGNORECASE,
)
_DECLINES = re.compile(r"moderat|flagged|filter|polic|safety|inappropriate|sensitive|harm|blocked", re.IGNORECASE)
_BAD_REQUEST = re.compile(r"bad.?request|invalid.?request|unsupported.?param|validation.?error", re.IGNORECASE)
_SYSTEM = re.compile(
    r"system.{0,24}(?:role|message|instruction)|messages?\W{0,2}0\W{0,3}role|role.{0,40}system|roles must alternate",
    re.IGNORECASE,
)
_CHAT_ONLY = re.compile(r"v1/chat/completions|chat model and not|chat.completions? (?:endpoint|api)", re.IGNORECASE)
_TEMPLATE = re.compile(r"not supported|must alternate|jinja|template", re.IGNORECASE)
_STREAMS_ONLY = re.compile(
    r"(?:only|must|requires?|need|enable|set).{0,40}\bstream|\bstream\w*\W{0,3}(?:mode )?.{0,20}(?:required|only|must)"
    r"|non-?stream\w*.{0,40}not|not.{0,40}non-?stream",
    re.IGNORECASE,
)
_ECHOED = ("input", "url", "ctx", "id", "request_id", "traceid")  # fields that repeat or identify the request
_GONE = (425, 429, 498, 502, 503, 504, *range(520, 525), 529)  # proxies, loading servers, busy servers
_ADVICE = {
    401: "the key was refused; put it into the variable that policy.api_key_env names",
    402: "the account cannot pay",
    451: "the server may not answer from here",
    403: "access was refused; put the key into the variable that policy.api_key_env names",
    404: "no such model or no such endpoint; see /v1/models, or set policy.continuation='chat' for a chat-only one",
    405: "no such endpoint; set policy.continuation='chat' for a chat-only one",
    501: "no such endpoint; set policy.continuation='chat' for a chat-only one",
    429: "the account's quota is used up",
}


@dataclass(frozen=True)
class ServerError:
    """The interpretation of a server's error.

    Attributes:
      meaning: "passing" and "gone" (loading, busy, restarting) are worth retrying; "overflow": prompt and limit exceed
        the context; "out of tokens": the limit was reached before the answer began; "parameter": the server rejects a
        parameter; "unusable": invalid key, account or model; "refused": the request is rejected for an unknown reason.
      message: The status, advice, and the server's message.
      parameter: The rejected parameter, by the name that was sent, or ``SYSTEM_ROLE``.
      detail: The server's message, from which ``limit_between`` reads bounds.
    """

    meaning: Meaning
    message: str
    parameter: str | None = None
    detail: str = ""


def read_error(status: int, body: str, sent: Collection[str]) -> ServerError:
    """Interprets an error reply with this HTTP status and body. ``sent`` has the names of the request's parameters."""
    try:
        value = json.loads(body)
    except ValueError:
        value = re.sub(r"<[^>]*>", " ", body)  # HTML page of a proxy
    texts = list(_texts(value))
    everything = re.sub(r"\\+", "", " ".join(texts))  # gateways embed JSON in JSON
    detail = re.sub(r"\s+", " ", re.sub(r"\\+", "", _message(value) or everything)).strip()[:400] or "no reason given"
    parameter = _named(value, everything, sent)
    account = _ACCOUNT.search(everything) is not None

    def error(meaning: Meaning, advice: str | None = None) -> ServerError:
        message = f"HTTP {status}, {advice or _ADVICE.get(status, 'the request was refused')}: {detail}"
        return ServerError(meaning, message, parameter if meaning == "parameter" else None, detail)

    if status in (401, 402, 451):
        return error("unusable")
    if status == 429:
        return error("unusable") if account else error("gone", "asked to slow down")
    if _OUT_OF_TOKENS.search(everything):
        return error("out of tokens")
    if status == 413 or (_OVERFLOW.search(everything) and status not in (403, 404, 405)):
        return error("overflow")
    if account:
        return error("unusable", "the key or the account was refused")
    if status == 501 or ("prompt" in sent and _CHAT_ONLY.search(everything)):
        return error("unusable", _ADVICE[501])
    bad_request = _TEMPLATE if parameter == SYSTEM_ROLE else _BAD_REQUEST  # chat templates fail with status 500
    if status >= 500 and not (bad_request.search(everything) and parameter):
        return error("gone" if status in _GONE or _LOADING.search(everything) else "passing", "the server failed")
    if status in (408, 409, 425, 498, 499) or (_LOADING.search(everything) and parameter is None):
        return error("gone" if status not in (408, 409, 499) else "passing", "the server is not ready")
    if _STREAMS_ONLY.search(everything):
        parameter = WHOLE_REPLY
    if parameter is not None and status not in (404, 405):
        return error("parameter")
    if status in (404, 405, 410) or _MODEL.search(everything):
        return error("unusable", _ADVICE.get(status, _ADVICE[404]))
    if status == 403 and not _DECLINES.search(everything):  # otherwise a content filter rejects the prompt
        return error("unusable")
    return error("refused")


def limit_between(detail: str, sent: int) -> int | None:
    """The allowed token limit nearest to ``sent``, read from the error message; None if the message has none."""
    plain = re.sub(r"(\d),(\d{3})(?!\d)", r"\1\2", detail)
    numbers = [int(number) for number in re.findall(r"(?<![\w.-])\d{1,9}(?![\w.]*\w)", plain)]
    if re.search(r"at least|minimum|below|>=|greater than|too (?:small|low)", detail, re.IGNORECASE):
        above = [number for number in numbers if number > sent]
        if above:
            return min(above)
    return max((number for number in numbers if 1 < number < sent), default=None)


def _texts(value: Any) -> Iterator[str]:
    """All keys, strings and numbers of a JSON value, without fields that repeat the request."""
    if isinstance(value, dict):
        for key, item in value.items():
            if key not in _ECHOED:
                yield key
                yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, (str, int, float)):
        yield str(value)


def _message(value: Any) -> str:
    """The human-readable message in an error's body; "" if there is none."""
    if isinstance(value, list):
        return "; ".join(filter(None, map(_message, value)))
    if isinstance(value, dict):
        where = ".".join(str(part) for part in value.get("loc") or ())
        found = next((text for key in ("error", "message", "msg", "detail", "errors", "error_message")
                      if (text := _message(value.get(key)))), "")  # fmt: skip
        return f"{where}: {found}" if where and found else found
    return value if isinstance(value, str) else ""


def _named(value: Any, text: str, sent: Collection[str]) -> str | None:
    """The parameter that an error is about: named in a field, in quotes, or in the message text."""
    order = [*(name for name in sent if name not in OPTIONAL), *(name for name in OPTIONAL if name in sent)]
    fields = " ".join(_fields(value))
    fields += " ".join(re.findall(r"loc\W{1,4}[\[(]\W{0,2}body\W{1,4}([\w.]+)", text))  # vLLM: Python in a message
    for pattern, where in ((r"\b(?:{0})\b", fields), (r"['\"`](?:{0})['\"`]", text), (r"\b(?:{0})\b", text)):
        for name in order:
            if name in ("messages", "prompt", "model"):
                continue
            known = _ALIASES.get(name, re.escape(name))
            if re.search(pattern.format(known), where):
                return name
    if _SYSTEM.search(text) and "messages" in sent:
        return SYSTEM_ROLE
    prose = (name for name, words in _PROSE.items() if name in sent and re.search(words, text, re.IGNORECASE))
    spoken = (name for name in order if re.search(rf"\b{name.replace('_', ' ')}\b", text, re.IGNORECASE)
              and len(name) > 4 and name not in ("messages", "prompt", "model"))  # fmt: skip
    return next(prose, None) or next(spoken, None)


def _fields(value: Any) -> Iterator[str]:
    """The values of fields that name a parameter."""
    if isinstance(value, dict):
        for key, item in value.items():
            if key in ("param", "field", "parameter") and isinstance(item, str):
                yield item
            elif key == "loc" and isinstance(item, list):
                yield " ".join(str(part) for part in item if part != "body")
            elif key not in _ECHOED:
                yield from _fields(item)
    elif isinstance(value, list):
        for item in value:
            yield from _fields(item)
