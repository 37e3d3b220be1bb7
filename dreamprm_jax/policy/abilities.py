"""Probes a server with a few small requests before the first real one.

OpenAI-compatible servers differ without reporting errors. llama.cpp's server returned one choice for n=4 for years.
Ollama wraps prompts into a chat. Some servers ignore seeds, and some strip the leading spaces of an answer. A server
that cannot continue a prompt is rejected here, with an error that names the setting to use.
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
_TOKENS = 16  # token limit for the prompt ``_STORY``; chats use the run's limit, because reasoning may come first
# Programs that end in the middle of a line. Any model continues them in the same way.
ADDITION = "def add(a, b):\n    return a"
MINUS = "def absolute(n):\n    if n < 0:"


@dataclass(frozen=True)
class Abilities:
    """Observed behavior of a server.

    Attributes:
      continues: Whether it continues a raw prompt: "yes", or "unclear" if the model's answers do not show it. None for
        chats, which cannot be forced to continue a text.
      choices: Whether n=2 returned two choices.
      seeds: Whether equal seeds returned equal texts and different seeds different texts. Long texts may still differ
        in a rerun, because other requests in a server's batch change the last bits of its logits.
      logprobs: Whether it returns log-probabilities of tokens; only tested if the run needs them.
      usage: Reported token counts: "none", "all choices", or "only one choice per request".
      cached_tokens: Whether it reports the number of prompt tokens that came from its prefix cache.
      refused: Parameters that it rejects and that are not sent; "name=value" if it rejects only that value.
    """

    continues: str | None = "yes"
    choices: bool = True
    seeds: bool = True
    logprobs: bool = True
    usage: str = "all choices"
    cached_tokens: bool = True
    refused: tuple[str, ...] = ()

    def line(self) -> str:
        """A one-line summary."""
        parts = {
            None: ["chat: prefixes are shown, not forced"],
            "yes": ["continues raw prompts"],
            "unclear": ["unclear whether it continues raw prompts"],
        }[self.continues]
        parts.append("n choices per request" if self.choices else "one choice per request for any n")
        parts.append("seeds honored" if self.seeds else "seeds NOT honored: a rerun gives different texts")
        if self.logprobs:
            parts.append("log-probabilities")
        parts.append({"none": "no token counts"}.get(self.usage, f"token counts of {self.usage}"))
        parts.append("cache hits counted" if self.cached_tokens else "cache hits not reported")
        if self.refused:
            parts.append(f"does not accept {', '.join(self.refused)}")
        return "; ".join(parts)


def probe(dialect: Dialect, sampling: dict[str, Any], coding: dict[str, str] | None) -> Abilities:
    """Probes the server with the run's parameters and with variations. The requests do not count as usage.

    Args:
      dialect: The connection. It learns the parameters that the server rejects.
      sampling: The run's parameters, as they are sent.
      coding: Maps the beginnings of programs, ``ADDITION`` and ``MINUS``, to rendered chats whose open answer they
        begin. None for a chat server.

    Raises:
      DataError: if no server responds, or if the server rejects requests even without optional parameters or does not
        continue prompts.
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
        usage="none" if not first.reports_usage else "only one choice per request" if full else "all choices",
        cached_tokens=again.reports_cache,
        refused=dialect.refused,
    )


def record(abilities: Abilities, folder: Path | None, where: str) -> None:
    """Prints a server's abilities and stores them in the stage's folder, unless they are stored there already."""
    if folder is None:
        return
    row = {"server": where, **dataclasses.asdict(abilities), "refused": list(abilities.refused)}
    path = folder / RECORD
    if not path.exists() or read_json(path) != row:
        tqdm.write(f"   {where}: {abilities.line()}")  # does not break a progress bar
        write_json(path, row)


def recorded(folder: Path | None) -> Abilities | None:
    """The abilities that an earlier process stored for the same stage, or None."""
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
        return Reply((), Usage())  # its reasoning exceeds the limit, but it accepts the parameters


def _continues(dialect: Dialect, sampling: dict[str, Any], coding: dict[str, str], where: str) -> str:
    """Tests whether the server continues prompts, with two prompts that any model continues in the same way.

    Raises:
      DataError: if it starts a new answer, or strips the leading spaces of an answer.
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
