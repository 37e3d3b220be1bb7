"""Renders a chat to the text that a model continues, here rather than on the server.

Servers disagree on how to continue an unfinished assistant message; a prompt that is rendered here and sent as plain
text means the same on all of them. Templates are Jinja, run sandboxed as transformers does; they come from a file, a
tokenizer's folder, or are the ChatML form (Qwen and many others).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import jinja2
import jinja2.sandbox

from dreamprm_jax.cof.prompts import Message
from dreamprm_jax.schema import DataError, content_hash

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True)
class ChatTemplate:
    """A Jinja chat template and the special tokens it may name."""

    source: str
    bos_token: str = ""
    eos_token: str = ""
    origin: str = "ChatML"

    @property
    def identity(self) -> str:
        """A short hash of the template, recorded with what it produced."""
        return content_hash(self.source, digits=8)

    def render(self, messages: Sequence[Message]) -> str:
        """The chat as text, up to where the assistant's answer begins; no beginning-of-sequence token.

        Servers put that token before the text of ``/v1/completions`` themselves; twice would be wrong.

        Raises:
          DataError: when the template is malformed or refuses the messages.
        """
        environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
        try:
            text = environment.from_string(self.source).render(
                messages=list(messages),
                add_generation_prompt=True,
                enable_thinking=False,  # templates that know it leave no room for reasoning before the code
                bos_token=self.bos_token,
                eos_token=self.eos_token,
                tools=None,
            )
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            raise DataError(f"policy.chat_template: {self.origin}: {type(error).__name__}: {error}") from error
        return text.removeprefix(self.bos_token) if self.bos_token else text


def load_chat_template(path: str) -> ChatTemplate:
    """The template at ``path``: a Jinja file or a tokenizer's folder; "" is ChatML.

    Raises:
      DataError: when there is no template there.
    """
    if not path:
        return ChatTemplate(CHATML)
    location = Path(path)
    if location.is_file():
        return ChatTemplate(_read(location), origin=path)
    if not location.is_dir():
        raise DataError(f"policy.chat_template {path!r}: no such file or folder; leave it empty for ChatML")
    settings_file = location / "tokenizer_config.json"
    settings = _settings(settings_file) if settings_file.is_file() else {}
    separate = location / "chat_template.jinja"
    source = _read(separate) if separate.is_file() else settings.get("chat_template")
    if isinstance(source, list):  # several named ones
        source = next((item.get("template") for item in source if item.get("name") == "default"), None)
    if not isinstance(source, str):
        raise DataError(f"policy.chat_template {path!r}: neither chat_template.jinja nor one in tokenizer_config.json")
    return ChatTemplate(source, _token(settings, "bos_token"), _token(settings, "eos_token"), origin=path)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"policy.chat_template: {path}: cannot be read ({error})") from error


def _settings(path: Path) -> dict[str, Any]:
    try:
        settings = json.loads(_read(path))
    except ValueError as error:
        raise DataError(f"policy.chat_template: {path}: not valid JSON ({error})") from error
    return settings if isinstance(settings, dict) else {}


def _token(settings: dict[str, Any], name: str) -> str:
    token = settings.get(name)
    if isinstance(token, dict):  # transformers' AddedToken
        token = token.get("content")
    return token if isinstance(token, str) else ""


def _to_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)
