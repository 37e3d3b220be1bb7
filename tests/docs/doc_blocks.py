"""Reads the commands of the documents: fenced blocks, their marks, and the command of each line."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
_FENCE = re.compile(r"^```([^\n`]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_HEREDOC = re.compile(r"<<\s*'?(\w+)'?[^\n]*\n.*?^\1$", re.MULTILINE | re.DOTALL)
_OPERATORS = {"&&", "||", "|", "&", ";", "(", ")", ";;"}
_KEYWORDS = {"if", "then", "else", "fi", "for", "until", "while", "do", "done", "!", "exec"}


@dataclass(frozen=True)
class Block:
    """One fenced block of a document."""

    document: Path
    language: str
    marks: tuple[str, ...]  # the words after the language: "test", "file=NAME"
    text: str

    @property
    def needs(self) -> str:
        """What the block needs in addition to the installed package; "" if nothing."""
        match = re.search(r"^# needs: (.+)$", self.text, re.MULTILINE)
        return match[1] if match else ""


def documents() -> list[Path]:
    """Every document whose commands are checked."""
    names = ["README.md", "CONTRIBUTING.md", "launch/README.md"]
    found = [REPOSITORY / name for name in names if (REPOSITORY / name).exists()]
    return found + sorted((REPOSITORY / "docs").glob("*.md"))


def blocks(document: Path) -> list[Block]:
    """The fenced blocks of a document, in order."""
    found = []
    for match in _FENCE.finditer(document.read_text(encoding="utf-8")):
        language, *marks = match[1].split() or [""]
        found.append(Block(document, language, tuple(marks), match[2]))
    return found


def commands(text: str) -> Iterator[list[str]]:
    """The simple commands of a shell text, as words, without redirections, loop keywords and here-documents."""
    text = _HEREDOC.sub("", text).replace("\\\n", " ")
    for line in text.splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if word in _OPERATORS:
                while words and (words[0] in _KEYWORDS or re.fullmatch(r"\w+=.*", words[0])):
                    words = words[1:]
                if words:
                    yield words
                words = []
            else:
                words.append(word)


def loose_commands(document: Path) -> Iterator[list[str]]:
    """``dreamprm`` and study commands outside of bash blocks: in plain blocks, indented lines and inline code."""
    text = document.read_text(encoding="utf-8")
    for block in blocks(document):
        if block.language != "bash":
            for line in block.text.replace("\\\n", " ").splitlines():
                message = re.match(r"dreamprm \w+: ", line)  # the output of a command
                if line.startswith(("dreamprm ", "python -m research.study")) and not message:
                    yield shlex.split(line, comments=True)
    outside = _FENCE.sub("", text)
    for line in re.findall(r"^ {4}((?:dreamprm|python -m research\.study)[^\n]*)$", outside, re.MULTILINE):
        yield shlex.split(line, comments=True)
    for code in re.findall(r"`((?:dreamprm |python -m research\.study)[^`]*)`", outside):
        yield shlex.split(code.replace("\n", " "))
