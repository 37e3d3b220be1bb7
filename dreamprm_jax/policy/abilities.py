"""Probes a server with a few small requests before the first real one.

OpenAI-compatible servers differ without reporting an error: llama.cpp's server gave one choice for n=4 for years,
Ollama wraps prompts into a chat, some ignore seeds, some strip the leading spaces of an answer. A server that cannot
continue a prompt is refused here, with the setting that works.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from dreamprm_jax.policy.continuation import begins_anew, reads_as_chat
from dreamprm_jax.policy.dialect import Dialect
from dreamprm_jax.policy.protocol import PolicyError
from dreamprm_jax.policy.replies import Reply
from dreamprm_jax.policy.transport import ContextOverflow, Refused
from dreamprm_jax.runs.server_usage import Usage
from dreamprm_jax.schema import DataError
from dreamprm_jax.storage import read_json, write_json

RECORD = "server.json"
_STORY = "Once upon a time, in a small village by the sea, there lived a"
_TOKENS = 16  # limit for a story; a chat gets the run's own limit, since reasoning may come first
# Programs cut in the middle of a line, which any model continues in the same way.
ADDITION = "def add(a, b):\n    return a"
MINUS = "def absolute(n):\n    if n < 0:"


@dataclass(frozen=True)
class Abilities:
    """What the server was seen to do.

    Attributes:
      continues: Whether it continues a raw prompt: yes; "unclear", where the model's answer does not show it; None for
        chats, which cannot be made to.
      choices: Whether n=2 gave two choices.
      seeds: Whether equal seeds gave equal texts and another seed another one. Even then long texts may differ in a
        rerun: what else is in a server's batch changes the last bits of its logits.
      logprobs: Whether it gives the log-probabilities of its tokens; not asked unless the run wants them.
      usage: How it counts tokens: not at all, all choices, or one choice of each request alone.
      cached_tokens: Whether it says how many prompt tokens came from its prefix cache.
      refused: Parameters that it does not take; they are not sent. "name=value": refused at that value.
    """

    continues: str | None = "yes"
    choices: bool = True
    seeds: bool = True
    logprobs: bool = True
    usage: str = "all choices"
    cached_tokens: bool = True
    refused: tuple[str, ...] = ()

    def line(self) -> str:
        """One line for people."""
        parts = {
            None: ["chat: prefixes are shown, not forced"],
            "yes": ["continues raw prompts"],
            "unclear": ["its continuation of a raw prompt is no proof that it continues them"],
        }[self.continues]
        parts.append("n choices a request" if self.choices else "one choice a request, whatever n")
        parts.append("seeds honored" if self.seeds else "seeds NOT honored: a rerun gives other texts")
        if self.logprobs:
            parts.append("log-probabilities")
        parts.append({"none": "no token counts"}.get(self.usage, f"token counts of {self.usage}"))
        parts.append("cache hits counted" if self.cached_tokens else "cache hits not told")
        if self.refused:
            parts.append(f"does not take {', '.join(self.refused)}")
        return "; ".join(parts)


def probe(dialect: Dialect, sampling: dict[str, Any], coding: dict[str, str] | None) -> Abilities:
    """Probes the server: once with the run's own values, then for comparison. The requests do not count as usage.

    Args:
      dialect: The connection; it learns what the server does not take.
      sampling: The run's parameters, as they are sent.
      coding: Rendered chats with an open answer, by how the answer begins: ``ADDITION`` and ``MINUS``; None for a
        server of chats.

    Raises:
      DataError: when no server answers, it refuses for a reason that leaving out a parameter does not mend, or it does
        not continue prompts.
    """
    where = dialect.transport.where
    text: dict[str, Any] = {"prompt": _STORY}
    if coding is None:
        text = {"messages": [{"role": "user", "content": "Write one sentence about a village by the sea."}]}
    elif "max_tokens" in sampling:
        text["max_tokens"] = _TOKENS
    try:
        _asked(dialect, {**sampling, **text, "n": 2})
        varied = {**sampling, **text, "n": 2, "temperature": 1.0}
        first, again, other = (_asked(dialect, {**varied, "seed": seed}) for seed in (1, 1, 2))
        continues = None if coding is None else _continues(dialect, sampling, coding, where)
    except (PolicyError, Refused, ContextOverflow) as error:
        if dialect.transport.closed:
            raise
        reason = str(error).removeprefix(f"{where}: ")
        raise DataError(f"the policy's server cannot be used: {where}: {reason}") from error
    texts = [[choice.text for choice in reply.choices] for reply in (first, again, other)]
    counted = first.usage.completion_tokens
    full = coding is not None and first.usage.truncated_answers == len(first.choices) > 1 and counted <= _TOKENS
    return Abilities(
        continues=continues,
        choices=len(first.choices) >= 2,
        seeds="seed" not in dialect.refused and texts[0] == texts[1] != texts[2],
        logprobs="logprobs" in sampling and all(choice.log_probability is not None for choice in first.choices),
        usage="none" if not first.reports_usage else "one choice a request alone" if full else "all choices",
        cached_tokens=again.reports_cache,
        refused=dialect.refused,
    )


def record(abilities: Abilities, folder: Path | None, where: str) -> None:
    """Prints what the server can do and stores it in the stage's folder, unless the same is stored there already."""
    if folder is None:
        return
    row = {"server": where, **dataclasses.asdict(abilities), "refused": list(abilities.refused)}
    path = folder / RECORD
    if not path.exists() or read_json(path) != row:
        tqdm.write(f"   {where}: {abilities.line()}")  # a progress bar may be on its line
        write_json(path, row)


def recorded(folder: Path | None) -> Abilities | None:
    """What an earlier process found out for the same stage."""
    if folder is None or not (folder / RECORD).exists():
        return None
    row = read_json(folder / RECORD)
    fields = {field.name for field in dataclasses.fields(Abilities)}
    return Abilities(**{**{k: v for k, v in row.items() if k in fields}, "refused": tuple(row["refused"])})


def _asked(dialect: Dialect, parameters: dict[str, Any]) -> Reply:
    try:
        return dialect.ask(parameters)
    except Refused as refusal:
        if refusal.error.meaning != "out of tokens":
            raise
        return Reply((), Usage())  # it reasons for longer than the limit, and takes the parameters


def _continues(dialect: Dialect, sampling: dict[str, Any], coding: dict[str, str], where: str) -> str:
    """Whether the server continues prompts, by two that any model continues alike.

    Raises:
      DataError: where it begins anew, or strips the spaces that an answer begins with.
    """
    refusal = "prefixes of programs cannot be continued there: set config.policy.continuation='chat'"
    stripped = False
    for prefix, expected in ((ADDITION, r"\s*\+\s*b"), (MINUS, r"\s*(?:return\b|n\s*=)")):
        parameters = {**sampling, "prompt": coding[prefix], "max_tokens": _TOKENS, "temperature": 0.0, "n": 1}
        choices = _asked(dialect, parameters).choices
        text = choices[0].text.removeprefix(coding[prefix]) if choices else ""
        if reads_as_chat(text) or begins_anew(text, prefix):
            raise DataError(
                f"{where}: /v1/completions answers as in a chat instead of continuing the prompt (it began with "
                f"{text[:60]!r}); {refusal}, or use a server that takes raw prompts"
            )
        matches = re.match(expected, text) is not None
        if text[:1].isspace() and (matches or stripped):
            return "yes"
        stripped |= matches
    if stripped:
        raise DataError(f"{where}: strips the spaces that an answer begins with, so that {refusal}, or another server")
    return "unclear"
