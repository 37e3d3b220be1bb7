"""Renders a chat to the text that a model continues. This is done on the client instead of the server.

Servers differ in how they continue an unfinished assistant message, but all treat a plain-text prompt in the same way.
Templates come from a file or a tokenizer folder, or are ChatML (Qwen and many others). transformers renders them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dreamprm_jax.cof.prompts import Message, without_system
from dreamprm_jax.cof.reasoning import closing_mark
from dreamprm_jax.schema import DataError, content_hash

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True)
class ChatTemplate:
    """A Jinja chat template and the special tokens that it may use."""

    source: str
    bos_token: str = ""
    eos_token: str = ""
    origin: str = "ChatML"

    @property
    def identity(self) -> str:
        """A short hash of the template, stored with generated programs."""
        return content_hash(self.source, digits=8)

    def render(self, messages: Sequence[Message]) -> str:
        """The chat as text, up to the start of the assistant's answer, without the beginning-of-sequence token.

        Servers add that token to the prompts of ``/v1/completions`` themselves. If the template has no system role, the
        system message is merged into the user's message. If it expects content as parts, it gets parts. If it opens
        the model's reasoning, the reasoning is closed, because code follows.

        Raises:
          DataError: if the template is malformed, rejects the messages, or drops a message.
        """
        chats: list[list[Any]] = [list(messages), list(without_system(messages))]
        failure = "omits the content of the messages"
        parts = [[{**m, "content": [{"type": "text", "text": m["content"]}]} for m in chat] for chat in chats]
        for chat in chats + parts:
            try:
                text = self._rendered(chat)
            except DataError as error:
                failure = str(error) if failure.startswith("omits") else failure
                continue
            if all(_bare(message["content"]) in _bare(text) for message in messages):
                return _past_reasoning(text)
        raise DataError(f"policy.chat_template: {self.origin}: {failure}")

    def _rendered(self, chat: list[Any]) -> str:
        from transformers.utils.chat_template_utils import render_jinja_template

        try:
            rendered = render_jinja_template(
                conversations=[chat],
                chat_template=self.source,
                add_generation_prompt=True,
                enable_thinking=False,  # templates that support it then omit the reasoning before the code
                bos_token=self.bos_token,
                eos_token=self.eos_token,
            )
        except Exception as error:  # jinja's own errors, and whatever a template raises
            raise DataError(f"{type(error).__name__}: {error}") from error
        text = str(rendered[0][0])
        return text.removeprefix(self.bos_token) if self.bos_token else text


def load_chat_template(path: str) -> ChatTemplate:
    """The template at ``path``, a Jinja file or a tokenizer folder; "" is ChatML.

    Raises:
      DataError: if there is no template.
    """
    if not path:
        return ChatTemplate(CHATML)
    location = Path(path)
    if location.is_file() and location.suffix != ".json":
        return ChatTemplate(_read(location), origin=path)
    if location.is_file():
        location = location.parent
    if not location.is_dir():
        raise DataError(f"policy.chat_template {path!r}: no such file or folder; leave it empty for ChatML")
    settings = _settings(location / "tokenizer_config.json")
    separate = location / "chat_template.jinja"
    source = _read(separate) if separate.is_file() else settings.get("chat_template")
    source = source or _settings(location / "chat_template.json").get("chat_template")  # a file that processors write
    if isinstance(source, list):  # several named templates
        source = next((item.get("template") for item in source if item.get("name") == "default"), None)
    if not isinstance(source, str):
        raise DataError(f"policy.chat_template {path!r}: neither chat_template.jinja nor one in tokenizer_config.json")
    return ChatTemplate(source, _token(settings, "bos_token"), _token(settings, "eos_token"), origin=path)


def _past_reasoning(text: str) -> str:
    """The prompt, followed by the end of the reasoning if the prompt starts it."""
    mark = closing_mark(text)
    if not mark:
        return text
    return text.rstrip() + (mark if "<|message|>" in mark else f"\n\n{mark}\n\n")


def _bare(text: str) -> str:
    """The text without whitespace, because templates trim and indent."""
    return "".join(text.split())


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"policy.chat_template: {path}: cannot be read ({error})") from error


def _settings(path: Path) -> dict[str, Any]:
    """A JSON object; {} if the file does not exist."""
    if not path.is_file():
        return {}
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
