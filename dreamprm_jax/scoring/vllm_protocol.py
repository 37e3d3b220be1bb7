"""vLLM's pooling API: ``/pooling``, ``/classify`` and ``/score`` with the request and answer schemas of vLLM.

``/pooling`` answers like vLLM when it serves a folder written by ``dreamprm export``: with one row ``[score]`` per
input token (``task`` "token_classify", the default), or with only the score of the last token ("classify", and
``/classify``). With ``messages``, the last message, by the assistant, is the program, and the messages before it are
the prompt. The program is split into steps, and the answer has one row ``[score]`` per step. ``/score`` takes pairs of
a prompt and a program.
"""

from __future__ import annotations

import base64
import json
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from dreamprm_jax.models.tokenizer import encode_steps
from dreamprm_jax.problems.json_rows import is_unicode, type_error
from dreamprm_jax.schema import DataError, Program
from dreamprm_jax.scoring.forms import without
from dreamprm_jax.scoring.inputs import unusable
from dreamprm_jax.scoring.prm import Prm
from dreamprm_jax.scoring.protocol import TooLong, parse_aggregator, total_score
from dreamprm_jax.scoring.scorer import Reading
from dreamprm_jax.selection.aggregators import aggregate, sigmoid
from dreamprm_jax.selection.reward_models import DEFAULT_AGGREGATOR

TASKS = ("token_classify", "classify")
ENCODINGS = ("float", "base64", "bytes", "bytes_only")
DTYPES = ("float32", "float16", "bfloat16")  # of encodings other than float
# Field names of the prompt and the program in ``/score``.
PAIRS = (("text_1", "text_2"), ("queries", "documents"), ("queries", "items"), ("data_1", "data_2"))
Kind = Literal["pooling", "classify", "score"]
LABEL = "step_score"  # label name of an exported model


@dataclass(frozen=True)
class Request:
    """A parsed request."""

    kind: Kind
    readings: list[Reading]
    use_activation: bool = True
    whole: bool = False  # one score per input instead of one per token or step
    encoding: str = "float"
    dtype: str = "float32"
    big_endian: bool = False
    aggregator: str = DEFAULT_AGGREGATOR  # of ``/score``


@dataclass(frozen=True)
class Packed:
    """A binary answer."""

    body: bytes
    metadata: str  # JSON metadata; "": no metadata is sent


def parse(kind: Kind, body: Mapping[str, Any], prm: Prm) -> Request:
    """Parses a request.

    Raises:
      DataError: if a field is wrong; names the field.
      TooLong: if an input exceeds the model's context.
    """
    task = "classify" if kind == "classify" else body.get("task") or TASKS[0]
    if task not in TASKS:
        raise DataError(f"task: {task!r} is not served here; choose from {', '.join(TASKS)}")
    encoding = _choice(body, "encoding_format", ENCODINGS) if kind == "pooling" else "float"
    dtype = _choice(body, "embed_dtype", DTYPES)
    endian = _choice(body, "endianness", ("native", "little", "big"))
    activation = next((body[n] for n in ("use_activation", "activation") if body.get(n) is not None), True)
    if not isinstance(activation, bool):
        raise DataError("use_activation: must be true or false")
    cut = body.get("truncate_prompt_tokens")
    if cut is not None and (not _is_id(cut) or cut < -1 or cut == 0):
        raise DataError("truncate_prompt_tokens: a positive number, or -1 for the model's context")
    keep = prm.limits.max_length if cut == -1 else cut
    if kind == "score":
        readings = [_conversation(pair, prm, keep) for pair in _pairs(body)]
    elif ("messages" in body) == ("input" in body):
        raise DataError("input: give either input or messages")
    elif "messages" in body:
        readings = [_conversation(body["messages"], prm, keep)]
    else:
        readings = [_whole(tokens) for tokens in _inputs(body, prm, keep)]
    for index, reading in enumerate(readings):
        if len(reading.tokens) > prm.limits.max_length:
            raise TooLong(
                f"input {index}: {len(reading.tokens)} tokens exceed the model's context of {prm.limits.max_length}"
                + ("" if cut is not None else "; truncate_prompt_tokens keeps the last ones")
            )
    whole = task == "classify"
    if whole:
        readings = [Reading(reading.tokens, reading.ends[-1:]) for reading in readings]
    big = endian == "big" or (endian == "native" and sys.byteorder == "big")
    return Request(kind, readings, activation, whole, encoding, dtype, big, parse_aggregator(body, prm))


def _choice(body: Mapping[str, Any], name: str, choices: Sequence[str]) -> str:
    value = body.get(name) or choices[0]
    if value not in choices:
        raise DataError(f"{name}: {value!r}; choose from {', '.join(choices)}")
    return str(value)


def _pairs(body: Mapping[str, Any]) -> list[list[dict[str, Any]]]:
    """The conversations of ``/score``. A single prompt is paired with every program."""
    names = next((names for names in PAIRS if all(name in body for name in names)), None)
    if names is None:
        raise DataError("text_1 and text_2 belong here, a prompt and a program (or queries and documents)")
    first, second = ([body[name]] if isinstance(body[name], str | dict) else body[name] for name in names)
    for name, texts in zip(names, (first, second), strict=True):
        if not isinstance(texts, list) or not texts:
            raise DataError(f"{name}: text or a list of texts belongs here")
    if len(first) == 1:
        first = first * len(second)
    if len(first) != len(second):
        raise DataError(f"{names[0]}: {len(first)} texts for {len(second)} of {names[1]}; give one, or as many")
    return [
        [{"role": role, "content": _inner(text)} for role, text in zip(("user", "assistant"), pair, strict=True)]
        for pair in zip(first, second, strict=True)
    ]


def _inner(text: Any) -> Any:
    return text.get("content") if isinstance(text, dict) else text


def _inputs(body: Mapping[str, Any], prm: Prm, keep: int | None) -> list[np.ndarray]:
    given, special = body["input"], body.get("add_special_tokens") is True
    if isinstance(given, str) or (isinstance(given, list) and given and all(_is_id(item) for item in given)):
        given = [given]
    if not isinstance(given, list) or not given:
        raise DataError("input: text, a list of texts, a list of token ids, or a list of such lists belongs here")
    inputs = []
    for index, item in enumerate(given):
        if isinstance(item, str):
            _check_text(item, f"input {index}")
            tokens = np.asarray(prm.tokenizer.encode(item, add_special_tokens=special).ids, np.int32)
        elif isinstance(item, list) and all(_is_id(token) for token in item):
            if any(not 0 <= token < prm.model.vocab_size for token in item):
                raise DataError(f"input {index}: token ids must be from 0 to {prm.model.vocab_size - 1}")
            tokens = np.asarray(item, np.int32)
        else:
            raise type_error(f"input {index}", item, "a string or a list of token ids")
        if not len(tokens):
            raise DataError(f"input {index}: empty")
        inputs.append(tokens if keep is None else tokens[-keep:])
    return inputs


def _conversation(messages: Any, prm: Prm, keep: int | None) -> Reading:
    """The tokens of prompt and program; the prompt is truncated on the left to at most ``keep`` tokens in total."""
    if not isinstance(messages, list) or len(messages) < 2:
        raise DataError(
            "messages: a list belongs here, the prompt's messages and then the assistant's with the program"
        )
    texts = []
    for index, message in enumerate(messages):
        text = _content(message.get("content")) if isinstance(message, dict) else None
        if text is None:
            raise DataError(f"messages[{index}]: must have a role and a content of text, or of parts of type 'text'")
        _check_text(text, f"messages[{index}].content")
        texts.append(text)
    if messages[-1].get("role") != "assistant":
        raise DataError(f"messages[{len(messages) - 1}]: the last message must be the assistant's, with the program")
    if reason := unusable(texts[-1], len(texts[-1])):
        raise DataError(f"messages[{len(messages) - 1}].content: {reason}")
    if prm.reader is not None:
        given = [
            {"role": str(m.get("role")), "content": text} for m, text in zip(messages[:-1], texts[:-1], strict=True)
        ]
        program = Program.make("", texts[-1], 0, "", {})
        found = prm.reader.sequence(given, prm.reader.texts(program, prm.granularity))
        cut = 0 if keep is None else max(0, len(found.tokens) - keep)
        if cut > found.statement[1] - found.statement[0]:
            raise TooLong(f"messages: what is not the prompt alone is longer than {keep} tokens")
        return Reading(*without(found, cut))
    prompt = np.asarray(prm.tokenizer.encode("\n\n".join(texts[:-1]), add_special_tokens=False).ids, np.int32)
    steps = encode_steps(prm.tokenizer, texts[-1], prm.granularity)
    if keep is not None:
        room = keep - sum(map(len, steps))
        if room < 0:
            raise TooLong(f"messages[{len(messages) - 1}].content: the program alone is longer than {keep} tokens")
        prompt = prompt[max(0, len(prompt) - room) :]
    ends = len(prompt) + np.cumsum([len(step) for step in steps]) - 1
    return Reading(np.concatenate([prompt, *steps]), ends)


def _content(content: Any) -> str | None:
    """The text of a message from a string or from parts of type "text"; None for any other content."""
    if isinstance(content, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in content):
        parts = [part.get("text") for part in content]
        content = "".join(parts) if all(isinstance(part, str) for part in parts) else None
    return content if isinstance(content, str) else None


def _whole(tokens: np.ndarray) -> Reading:
    return Reading(tokens, np.arange(len(tokens)))


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _check_text(text: str, where: str) -> None:
    if not is_unicode(text):
        raise DataError(f"{where}: contains a lone surrogate, which has no UTF-8 form")


def response(request: Request, logits: Sequence[Float[np.ndarray, " s"]], prm: Prm) -> dict[str, Any] | Packed:
    """The answer to a request."""
    data: list[dict[str, Any]] = []
    packed: list[bytes] = []
    for index, values in enumerate(logits):
        numbers = sigmoid(values) if request.use_activation else values
        entry: dict[str, Any] = {"index": index}
        if request.kind == "score":
            raw = aggregate([values], request.aggregator)[0]
            total = total_score(values, request.aggregator) if request.use_activation else float(raw)
            entry |= {"object": "score", "score": total, "step_scores": numbers.tolist()}
        elif request.kind == "classify":
            entry |= {"label": LABEL, "probs": numbers.tolist(), "num_classes": 1}
        elif request.encoding == "float":
            entry |= {"object": "pooling", "data": numbers.tolist() if request.whole else numbers[:, None].tolist()}
        else:
            packed.append(_bytes(numbers, request))
            entry |= {"object": "pooling", "data": base64.b64encode(packed[-1]).decode("ascii")}
        data.append(entry)
    answer = _envelope(request, data, prm)
    if not request.encoding.startswith("bytes"):
        return answer
    ends = np.cumsum([len(part) for part in packed]).tolist()
    answer["data"] = [
        {
            "index": index,
            "embed_dtype": request.dtype,
            "endianness": "big" if request.big_endian else "little",
            "start": end - len(part),
            "end": end,
            "shape": [len(values)] if request.whole else [len(values), 1],
        }
        for index, (part, end, values) in enumerate(zip(packed, ends, logits, strict=True))
    ]
    return Packed(b"".join(packed), json.dumps(answer) if request.encoding == "bytes" else "")


def _bytes(numbers: np.ndarray, request: Request) -> bytes:
    values = numbers.astype(request.dtype)
    return (values.view(f"u{values.itemsize}").byteswap() if request.big_endian else values).tobytes()


def _envelope(request: Request, data: list[dict[str, Any]], prm: Prm) -> dict[str, Any]:
    tokens = sum(len(reading.tokens) for reading in request.readings)
    prefix = {"pooling": "pool", "classify": "classify", "score": "score"}[request.kind]
    return {
        "id": f"{prefix}-{uuid.uuid4().hex}",
        "object": "list",
        "created": int(time.time()),
        "model": prm.name,
        "data": data,
        "usage": {
            "prompt_tokens": tokens,
            "total_tokens": tokens,
            "completion_tokens": 0,
            "prompt_tokens_details": None,
        },
    }
