"""What clients of the HTTP scorer send and get: vLLM's pooling schema, and steps of programs.

``/pooling`` takes the requests that vLLM takes for a token classifier, and answers as vLLM does when it serves the
folder that ``dreamprm export`` writes: one row ``[score]`` for each token of the input (``task`` "token_classify", the
default), or the last token's score alone ("classify"). With ``messages`` the assistant's message is the program and all
before it the prompt: the program is cut into its steps and there is one row ``[score]`` a step.

``/score_steps`` takes a problem and programs, and answers with the span and the score of every step: the prompt is
rendered as in training, so this is what the batch job computes.
"""

from __future__ import annotations

import base64
import time
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from dreamprm_jax.models.tokenizer import encode_steps
from dreamprm_jax.problems.json_rows import is_unicode, json_type
from dreamprm_jax.schema import DataError, Program, Step
from dreamprm_jax.scoring.forms import without
from dreamprm_jax.scoring.inputs import inline_problem, unusable
from dreamprm_jax.scoring.prm import Prm
from dreamprm_jax.scoring.scorer import Reading, sigmoid

TASKS = ("token_classify", "classify")
EMBED_DTYPES = ("float32", "float16", "bfloat16")  # of base64, little-endian


class TooLong(DataError):
    """An input beyond the model's context."""


@dataclass(frozen=True)
class Pooling:
    """A parsed ``/pooling`` request."""

    readings: list[Reading]
    use_activation: bool
    whole: bool  # one score an input, not one a token or step
    base64: str  # dtype of the bytes; "": numbers


# ---------------------------------------------------------------- /pooling


def parse_pooling(body: Mapping[str, Any], prm: Prm) -> Pooling:
    """Reads a request.

    Raises:
      DataError: naming the field.
      TooLong: where an input exceeds the model's context.
    """
    task = body.get("task") or TASKS[0]
    if task not in TASKS:
        raise DataError(f"task: {task!r} is not served here; choose from {', '.join(TASKS)}")
    form = body.get("encoding_format") or "float"
    if form not in ("float", "base64"):
        raise DataError(f"encoding_format: {form!r}; choose float or base64")
    kind = body.get("embed_dtype") or "float32"
    if kind not in EMBED_DTYPES:
        raise DataError(f"embed_dtype: {kind!r}; choose from {', '.join(EMBED_DTYPES)}")
    if body.get("endianness") not in (None, "native", "little"):
        raise DataError(f"endianness: {body['endianness']!r}; choose native or little")
    activation = next((body[n] for n in ("use_activation", "activation") if body.get(n) is not None), True)
    if not isinstance(activation, bool):
        raise DataError("use_activation: must be true or false")
    if ("messages" in body) == ("input" in body):
        raise DataError("input: give either input or messages")
    cut = body.get("truncate_prompt_tokens")
    if cut is not None and (not _is_id(cut) or cut < -1 or cut == 0):
        raise DataError("truncate_prompt_tokens: a positive number, or -1 for the model's context")
    keep = prm.limits.max_length if cut == -1 else cut
    if "messages" in body:
        readings = [_conversation(body["messages"], prm, keep)]
    else:
        readings = [_whole(tokens) for tokens in _inputs(body, prm, keep)]
    for index, reading in enumerate(readings):
        if len(reading.tokens) > prm.limits.max_length:
            raise TooLong(
                f"input {index}: {len(reading.tokens)} tokens exceed the model's context of {prm.limits.max_length}"
                + ("" if cut is not None else "; truncate_prompt_tokens keeps the last ones")
            )
    if task == "classify":
        readings = [Reading(r.tokens, np.asarray([len(r.tokens) - 1])) for r in readings]
    return Pooling(readings, activation, task == "classify", kind if form == "base64" else "")


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
            raise DataError(f"input {index}: a {json_type(item)} where text or a list of token ids belongs")
        if not len(tokens):
            raise DataError(f"input {index}: empty")
        inputs.append(tokens if keep is None else tokens[-keep:])
    return inputs


def _conversation(messages: Any, prm: Prm, keep: int | None) -> Reading:
    """Prompt and program; of the prompt only what leaves ``keep`` tokens in all."""
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
    """A message's text, from a string or from parts of type "text"; None where it is neither."""
    if isinstance(content, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in content):
        parts = [part.get("text") for part in content]
        content = "".join(parts) if all(isinstance(part, str) for part in parts) else None
    return content if isinstance(content, str) else None


def characters(value: Any) -> int:
    """Characters of all texts in a request."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict | list):
        return sum(map(characters, value.values() if isinstance(value, dict) else value))
    return 0


def _whole(tokens: np.ndarray) -> Reading:
    return Reading(tokens, np.arange(len(tokens)))


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _check_text(text: str, where: str) -> None:
    if not is_unicode(text):
        raise DataError(f"{where}: holds a lone surrogate, which has no UTF-8 form")


def pooling_response(request: Pooling, logits: Sequence[Float[np.ndarray, " s"]], prm: Prm) -> dict[str, Any]:
    """The answer to a ``/pooling`` request."""
    data: list[dict[str, Any]] = []
    for index, values in enumerate(logits):
        numbers = sigmoid(values) if request.use_activation else values
        entry: Any = numbers.tolist() if request.whole else numbers[:, None].tolist()
        if request.base64:
            entry = base64.b64encode(numbers.astype(request.base64).tobytes()).decode("ascii")
        data.append({"index": index, "object": "pooling", "data": entry})
    tokens = sum(len(reading.tokens) for reading in request.readings)
    return {
        "id": f"pool-{uuid.uuid4().hex}",
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


# ---------------------------------------------------------------- /score_steps


@dataclass(frozen=True)
class Steps:
    """A parsed ``/score_steps`` request."""

    programs: list[Program]
    steps: list[list[Step]]
    readings: list[Reading]
    truncated: bool  # whether a statement lost its beginning


def parse_steps(body: Mapping[str, Any], prm: Prm) -> Steps:
    """Reads a request ``{problem: {statement, title, platform}, code: text}`` or ``{problem, codes: [text, ...]}``.

    Raises:
      DataError: naming the field.
      TooLong: where a program exceeds the model's context.
    """
    problem = inline_problem(body["problem"], "problem") if isinstance(body.get("problem"), dict) else None
    if problem is None:
        raise DataError("problem: an object with statement, title and platform belongs here (or question_content, ...)")
    if ("code" in body) == ("codes" in body):
        raise DataError("code: give either code or codes")
    name = "code" if "code" in body else "codes"
    codes = [body["code"]] if name == "code" else body["codes"]
    if not isinstance(codes, list) or not codes:
        raise DataError("codes: a list of programs belongs here")
    for index, code in enumerate(codes):
        where = name if name == "code" else f"codes[{index}]"
        if not isinstance(code, str):
            raise DataError(f"{where}: a {json_type(code)} where text belongs")
        if reason := unusable(code, len(code)):
            raise DataError(f"{where}: {reason}")
    programs = [Program.make(problem.problem_id, code, index, "", {}) for index, code in enumerate(codes)]
    counts: Counter[str] = Counter()
    rows = prm.read(problem, programs, counts)
    if len(rows) < len(programs):
        left_out = min({program.sample_index for program in programs} - {row[0].sample_index for row in rows})
        raise TooLong(f"{name}[{left_out}]: longer than the model's context of {prm.limits.max_length} tokens")
    return Steps(
        programs,
        [prm.steps(program.code) for program in programs],
        [Reading(tokens, ends) for _, tokens, ends in rows],
        counts["statements truncated on the left"] > 0,
    )


def steps_response(request: Steps, logits: Sequence[Float[np.ndarray, " s"]], prm: Prm) -> dict[str, Any]:
    """The answer to a ``/score_steps`` request. Offsets are those of the text, in Unicode code points."""
    results = []
    for program, steps, reading, values in zip(request.programs, request.steps, request.readings, logits, strict=True):
        spans = [
            {"index": s.index, "start": s.start, "end": s.end, "name": s.name, "logit": logit, "score": score}
            for s, logit, score in zip(steps, values.tolist(), sigmoid(values).tolist(), strict=True)
        ]
        results.append({"program_hash": program.program_hash, "tokens": len(reading.tokens), "steps": spans})
    return {
        "object": "list",
        "created": int(time.time()),
        "model": prm.name,
        "checkpoint": prm.checkpoint,
        "statement_truncated": request.truncated,
        "results": results,
    }
