"""What a server can do, found out at start-up by a few tiny requests, since servers of one interface differ in it.

llama.cpp's server gave one choice for n=4 for years, some ignore seeds, reasoning models refuse temperatures, few say
what their prefix cache did. None of it is an error, so that only asking shows it.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from dreamprm_jax.policy.protocol import PolicyError
from dreamprm_jax.policy.transport import ContextOverflow, Refused, Reply, Transport
from dreamprm_jax.schema import DataError
from dreamprm_jax.storage import read_json, write_json

RECORD = "server.json"
_STORY = "Once upon a time, in a small village by the sea, there lived a"
_TOKENS = 16
_RENAMED = {"max_tokens": "max_completion_tokens"}  # OpenAI's own reasoning models
_OPTIONAL = ("max_tokens", "temperature", "top_p", "seed", "n", "stop", "logprobs")


@dataclass(frozen=True)
class Abilities:
    """What the server was seen to do.

    Attributes:
      continues: Whether it continues a raw prompt: yes; "spaces stripped", where the answer lacks the space that it
        begins with; no, where it began anew; None for chats, which cannot be made to.
      choices: Whether n=2 gave two choices.
      seeds: Whether equal seeds gave equal texts and another seed another one. Even then long texts may differ in a
        rerun: what else is in a server's batch changes the last bits of its logits.
      logprobs: Whether it gives the log-probabilities of its tokens.
      echo: Whether it can repeat the prompt with the log-probabilities of its tokens.
      usage: How it counts tokens: not at all, all choices, or one choice of each request alone.
      cached_tokens: Whether it says how many prompt tokens came from its prefix cache.
      refused: Parameters that it does not take; they are not sent.
    """

    continues: str | None = "yes"
    choices: bool = True
    seeds: bool = True
    logprobs: bool = True
    echo: bool = False
    usage: str = "all choices"
    cached_tokens: bool = True
    refused: tuple[str, ...] = ()

    def line(self) -> str:
        """One line for people."""
        parts = {
            None: ["chat: prefixes are shown, not forced"],
            "yes": ["continues raw prompts"],
            "spaces stripped": ["continues raw prompts, but strips the space that an answer begins with"],
            "no": ["was NOT seen to continue a raw prompt"],
        }[self.continues]
        parts.append("n choices a request" if self.choices else "one choice a request, whatever n")
        parts.append("seeds honoured" if self.seeds else "seeds NOT honoured: a rerun gives other texts")
        parts.append("log-probabilities" if self.logprobs else "no log-probabilities")
        if self.continues is not None:
            parts.append("echo" if self.echo else "no echo")
        parts.append({"none": "no token counts"}.get(self.usage, f"token counts of {self.usage}"))
        parts.append("cache hits counted" if self.cached_tokens else "cache hits not told")
        if self.refused:
            parts.append(f"does not take {', '.join(self.refused)}")
        return "; ".join(parts)

    def accepted(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """The parameters without those that the server refuses, or under the names that it wants."""
        kept = {}
        for name, value in parameters.items():
            if name not in self.refused:
                kept[name] = value
            elif name in _RENAMED:
                kept[_RENAMED[name]] = value
        return kept


def probe(transport: Transport, coding_prompt: str, extra: dict[str, Any]) -> Abilities:
    """Asks the server. Five requests of sixteen tokens and less; they are not counted as usage.

    Args:
      transport: The connection; ``policy.continuation`` says which endpoint.
      coding_prompt: A rendered chat with an open answer, for which `` + b`` is the only sensible continuation.
      extra: ``policy.extra_body``, sent along.

    Raises:
      DataError: when no server answers, or it refuses for a reason that leaving out a parameter does not mend.
    """
    chat = transport.config.continuation == "chat"
    text: dict[str, Any] = {"messages": [{"role": "user", "content": _STORY}]} if chat else {"prompt": _STORY}
    base: dict[str, Any] = {
        "max_tokens": _TOKENS,
        "temperature": 1.0,
        "top_p": 1.0,
        "seed": 1,
        "n": 2,
        "logprobs": True if chat else 1,
    }
    if not chat:
        base["stop"] = ["\n```"]
    if extra:
        base["extra_body"] = extra
    found = Abilities(continues=None if chat else "yes")
    try:
        found, first = _negotiated(transport, found, {**text, **base})
        again, other = (transport.ask(found.accepted({**text, **base, "seed": seed}), patient=False) for seed in (1, 2))
        found = _compared(found, first, again, other)
        if chat:
            return found
        return dataclasses.replace(
            found, continues=_continues(transport, found, coding_prompt, extra), echo=_echoes(transport, extra)
        )
    except (PolicyError, Refused, ContextOverflow) as error:
        raise DataError(f"the policy's server cannot be used: {transport.where}: {error}") from error


def record(abilities: Abilities, folder: Path | None, where: str) -> None:
    """Prints what the server can do and keeps it in the stage's folder; says nothing of what is recorded there."""
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
    return Abilities(**{**{k: v for k, v in row.items() if k != "server"}, "refused": tuple(row["refused"])})


def _negotiated(transport: Transport, found: Abilities, parameters: dict[str, Any]) -> tuple[Abilities, Reply]:
    """The first reply; parameters that the server refuses are left out one after another."""
    for _ in range(len(_OPTIONAL)):
        try:
            return found, transport.ask(found.accepted(parameters), patient=False)
        except Refused as refusal:
            if refusal.parameter not in _OPTIONAL or refusal.parameter in found.refused:
                raise
            found = dataclasses.replace(found, refused=(*found.refused, refusal.parameter))
    return found, transport.ask(found.accepted(parameters), patient=False)


def _compared(found: Abilities, first: Reply, again: Reply, other: Reply) -> Abilities:
    texts = [[choice.text for choice in reply.choices] for reply in (first, again, other)]
    counted = first.usage.completion_tokens
    full = first.usage.truncated_answers == len(first.choices) > 1 and counted <= _TOKENS
    return dataclasses.replace(
        found,
        choices=len(first.choices) >= 2,
        seeds="seed" not in found.refused and texts[0] == texts[1] != texts[2],
        logprobs=all(choice.log_probability is not None for choice in first.choices),
        usage="none" if not first.reports_usage else "one choice a request alone" if full else "all choices",
        cached_tokens=again.reports_cache,
    )


def _continues(transport: Transport, found: Abilities, prompt: str, extra: dict[str, Any]) -> str:
    parameters = {"prompt": prompt, "max_tokens": 4, "temperature": 0.0, "n": 1, **_body(extra)}
    text = transport.ask(found.accepted(parameters), patient=False).choices[0].text
    text = text.removeprefix(prompt)
    if text.startswith(" +"):
        return "yes"
    return "spaces stripped" if text.startswith("+") else "no"


def _echoes(transport: Transport, extra: dict[str, Any]) -> bool:
    try:
        reply = transport.ask(
            {"prompt": _STORY, "max_tokens": 1, "echo": True, "logprobs": 1, **_body(extra)}, patient=False
        )
    except (PolicyError, Refused):
        return False
    choice = reply.choices[0]
    return choice.text.startswith(_STORY) and choice.log_probability is not None


def _body(extra: dict[str, Any]) -> dict[str, Any]:
    return {"extra_body": extra} if extra else {}
