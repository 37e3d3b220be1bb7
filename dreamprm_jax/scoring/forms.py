"""The input formats of public reward models, and the conversion of a problem and a program to tokens.

A form specifies the layout of the text, the separator after each step, and the tokens at which scores are read.
transformers loads the tokenizer and its chat template, so that the tokens are the same as for other users of the model.
The text of a statement or a program is never encoded as control tokens.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
from jaxtyping import Int
from tokenizers import Tokenizer

from dreamprm_jax.cof.splitter import split_steps
from dreamprm_jax.config import ModelConfig
from dreamprm_jax.labeling.step_files import step_texts
from dreamprm_jax.models.heads import OUTPUT, Head, find_head
from dreamprm_jax.models.hf_export import TRAINED_SEPARATOR
from dreamprm_jax.models.hf_import import Checkpoint
from dreamprm_jax.models.tokenizer import prompt_text
from dreamprm_jax.schema import DataError, Granularity, Problem, Program, Step
from dreamprm_jax.training.examples import cut_statement

Message = Mapping[str, str]
NATIVE = "native"


@dataclass(frozen=True)
class Form:
    """The input format of a reward model.

    Attributes:
      layout: "apart": prompt, steps and separators are tokenized separately. "text": they are tokenized as one text.
        "chat": the tokenizer's chat template, with all steps in the assistant's message. "turns": the chat template,
        with each step as a user message that the assistant answers with the positive label.
      separator: text after each step. The score is read at its last token, or at the last token of the step if empty.
      between: text between the prompt and the first step, and text between two steps.
      start: whether the tokenizer's BOS token precedes the prompt.
      labels: positive and negative label token of a language model without a head; () for a model with a head.
      outcome: whether the model has one score per program, read at the end of the program.
    """

    layout: Literal["apart", "text", "chat", "turns"]
    separator: str = ""
    between: tuple[str, str] = ("", "")
    start: bool = False
    labels: tuple[str, ...] = ()
    outcome: bool = False


FORMS = {
    NATIVE: Form("apart"),  # `dreamprm export`
    "trl": Form("apart", "\n", start=True),  # TRL's PRMTrainer
    "skywork": Form("apart", "\n", between=("\n", ""), start=True),
    "qwen-prm": Form("chat", "<extra_0>"),
    "rlhflow": Form("turns", between=(" ", ""), labels=("+", "-")),
    "math-shepherd": Form("text", " ки", between=(" ", "\n"), start=True, labels=("+", "-")),
    "outcome": Form("chat", outcome=True),  # sequence classifiers, Qwen's RM
}


@dataclass(frozen=True)
class FormOptions:
    """Options for the form; None means that the value is derived from the model's folder."""

    form: str | None = None
    separator: str | None = None
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Piece:
    """A part of the text. ``read``: a score is read at its last token, or at the token before its first one."""

    text: str
    role: Literal["fixed", "statement", "step"]
    read: Literal["", "last", "before"] = ""


@dataclass(frozen=True)
class Tokenized:
    """Tokens of a prompt and a program."""

    tokens: Int[np.ndarray, " t"]
    ends: Int[np.ndarray, " s"]  # positions at which the scores are read
    statement: tuple[int, int]  # start and end of the statement's tokens, which may be truncated


def guess_form(head: Head | None, architecture: str, folder: Path) -> str:
    """The form that published models with this kind of head use.

    Raises:
      DataError: if ``head`` is None.
    """
    if head is None:
        raise _no_head(folder)
    if head.tensor == "v_head.summary":
        return "skywork"
    if head.layer and head.labels > 1:
        return "qwen-prm"
    if head.labels > 1 and architecture.endswith("ForTokenClassification"):
        return "trl"
    if head.tensor == "score" and architecture.endswith("ForTokenClassification"):
        return NATIVE
    return "outcome"


def _no_head(folder: Path) -> DataError:
    return DataError(
        f"{folder}: has no reward head (tensor 'score.weight', or another that is known). A language model that "
        "answers '+' or '-' is scored with --form=rlhflow (a chat, a step a turn) or --form=math-shepherd"
    )


class FormReader:
    """Converts problems and programs to the input tokens of a foreign model."""

    def __init__(self, form: Form, name: str, tokenizer: Any, folder: Path, pad: int | None) -> None:
        """Prepares the tokenizer.

        Args:
          form: input format of the model.
          name: name of the form, for error messages.
          tokenizer: a tokenizer of transformers, or an object with the same attributes.
          folder: folder of the tokenizer, for error messages.
          pad: id of the padding token, or None. transformers' sequence classifiers never read a score there.

        Raises:
          DataError: if the form needs a chat template and there is none, or if the separator has no tokens.
        """
        if form.layout == "turns" and not tokenizer.chat_template:
            raise DataError(f"{folder}: has no chat template, which --form={name} needs")
        if form.layout == "chat" and not tokenizer.chat_template:
            if form.separator:
                raise DataError(f"{folder}: has no chat template, which --form={name} needs")
            form = dataclasses.replace(form, layout="text", between=("\n", ""), start=True)
        self.form, self.name, self._hf, self._folder, self._pad = form, name, tokenizer, folder, pad
        self.tokenizer: Tokenizer = tokenizer.backend_tokenizer
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        self._plain = Tokenizer.from_str(self.tokenizer.to_str())  # reads control tokens as text
        self._plain.encode_special_tokens = True
        added = self.tokenizer.get_added_tokens_decoder().values()
        self._special = [token.content for token in added if token.special]
        if form.separator and not self.tokenizer.encode(form.separator, add_special_tokens=False).ids:
            raise DataError(f"--separator={form.separator!r}: the tokenizer of {folder} makes no token of it")

    def steps(self, code: str, granularity: Granularity) -> list[Step]:
        """The steps of a program that are scored; the whole program is one step in an outcome form."""
        return [Step(0, 0, len(code), "")] if self.form.outcome else split_steps(code, granularity)

    def texts(self, program: Program, granularity: Granularity) -> list[str]:
        """The texts of these steps, without trailing whitespace: line breaks are part of the separator."""
        if self.form.outcome:
            return [program.code.rstrip()]
        return [text.rstrip() for text in step_texts(program, granularity)]

    def read(
        self,
        problem: Problem,
        programs: Sequence[Program],
        limits: ModelConfig,
        counts: Counter[str],
        granularity: Granularity,
    ) -> list[tuple[Program, Int[np.ndarray, " t"], Int[np.ndarray, " s"]]]:
        """Like ``training.examples.tokenize``, but in this form."""
        # A statement without title and platform is used as it is, as in a file of prompts and steps.
        text = prompt_text(problem) if problem.title or problem.platform else problem.statement
        messages = [{"role": "user", "content": text.strip()}]
        rows = []
        for program in programs:
            if not program.code:
                counts["left out: empty program"] += 1
                continue
            found = self.sequence(messages, self.texts(program, granularity))
            room = found.statement[1] - found.statement[0]
            total = len(found.tokens)
            where = f"program {program.program_hash} of {problem.problem_id}"
            cut = cut_statement(room, total - room, limits, counts, where)
            if cut is not None:
                rows.append((program, *without(found, cut)))
        return rows

    def sequence(self, messages: Sequence[Message], steps: Sequence[str]) -> Tokenized:
        """Tokens of the messages before a program and of the program's steps.

        Raises:
          DataError: if the chat template fails, or changes or omits the text of a message.
        """
        return self._tokens(self._pieces(messages, steps))

    # ------------------------------------------------------------ pieces

    def _pieces(self, messages: Sequence[Message], steps: Sequence[str]) -> list[_Piece]:
        form = self.form
        if form.layout == "turns":
            return self._turns(messages, steps)
        body: list[_Piece] = []
        for number, step in enumerate(steps):
            between = form.between[1] if number else ""
            body += [_Piece(between, "fixed")] if between else []
            read: Literal["", "last"] = "" if form.outcome else "last"
            body.append(_Piece(step, "step", "" if form.separator else read))
            body += [_Piece(form.separator, "fixed", read)] if form.separator else []
        if form.layout == "chat":
            answer = {"role": "assistant", "content": "".join(piece.text for piece in body)}
            contents = [[_Piece(message["content"], "statement")] for message in messages]
            return self._rendered([*messages, answer], [*contents, body])
        bos = self._hf.bos_token if form.start else None
        statement = "\n\n".join(message["content"] for message in messages)
        first = [_Piece(bos, "fixed")] if bos else []
        if form.layout == "apart":  # between[0] is tokenized together with the prompt
            return [*first, _Piece(statement + form.between[0], "statement"), *body]
        return [*first, _Piece(statement, "statement"), _Piece(form.between[0], "fixed"), *body]

    def _turns(self, messages: Sequence[Message], steps: Sequence[str]) -> list[_Piece]:
        *before, last = messages
        contents = [[_Piece(message["content"], "statement")] for message in before]
        chat = [dict(message) for message in before]
        for number, step in enumerate(steps):
            parts = [_Piece(step, "step")]
            if not number:
                parts = [_Piece(last["content"], "statement"), _Piece(self.form.between[0], "fixed"), *parts]
            answer = [_Piece(self.form.labels[0], "fixed", "before")]
            for role, message in (("user", parts), ("assistant", answer)):
                chat.append({"role": role, "content": "".join(piece.text for piece in message)})
                contents.append(message)
        return self._rendered(chat, contents)

    def _rendered(self, messages: Sequence[Message], contents: Sequence[Sequence[_Piece]]) -> list[_Piece]:
        """The pieces of a rendered conversation. Text that the template adds around the contents is "fixed"."""
        marks = [f"\ue000{number}\ue001" for number in range(len(messages))]
        empty = self._render([{**message, "content": mark} for message, mark in zip(messages, marks, strict=True)])
        whole = self._render(messages)
        for trimmed in (False, True):  # many templates trim the messages
            rest, pieces = empty, []
            for mark, parts in zip(marks, contents, strict=True):
                before, found, rest = rest.partition(mark)
                if not found:
                    raise DataError(f"{self._folder}: its chat template leaves out a message or its content")
                pieces += [_Piece(before, "fixed"), *(_trimmed(parts) if trimmed else parts)]
            pieces = [piece for piece in (*pieces, _Piece(rest, "fixed")) if piece.text]
            if "".join(piece.text for piece in pieces) == whole:
                return pieces
        raise DataError(f"{self._folder}: its chat template changes what the messages say; set --form")

    def _render(self, messages: Sequence[Message]) -> str:
        try:
            return str(self._hf.apply_chat_template([dict(m) for m in messages], tokenize=False))
        except Exception as error:  # errors of jinja, and any error that a template raises
            raise DataError(f"{self._folder}: its chat template fails: {type(error).__name__}: {error}") from error

    # ------------------------------------------------------------ tokens

    def _tokens(self, pieces: Sequence[_Piece]) -> Tokenized:
        texts = [piece.text for piece in pieces]
        untrusted = any(s in piece.text for piece in pieces if piece.role != "fixed" for s in self._special)
        if self.form.layout == "apart" or untrusted:
            ids: list[int] = []
            ranges = []
            for piece in pieces:
                start = len(ids)
                ids += self._encode(piece.text, self.tokenizer if piece.role == "fixed" else self._plain).ids
                ranges.append((start, len(ids)))
        else:
            encoding = self._encode("".join(texts), self.tokenizer)
            ids = encoding.ids
            ranges = _ranges(texts, encoding.offsets)
        ends = []
        for piece, (start, end) in zip(pieces, ranges, strict=True):
            if piece.read:
                ends.append(end - 1 if piece.read == "last" else start - 1)
        if self.form.outcome:
            ends = [next((n for n in range(len(ids) - 1, -1, -1) if ids[n] != self._pad), len(ids) - 1)]
        own = [place for piece, place in zip(pieces, ranges, strict=True) if piece.role == "statement"]
        # Only the last message of the prompt may be truncated.
        statement = own[-1] if own else (0, 0)
        return Tokenized(np.asarray(ids, np.int32), np.asarray(ends, np.int32), statement)

    def _encode(self, text: str, tokenizer: Tokenizer) -> Any:
        clean = text.encode("utf-8", "replace").decode("utf-8") if not text.isascii() else text
        return tokenizer.encode(clean, add_special_tokens=False)


def without(found: Tokenized, cut: int) -> tuple[Int[np.ndarray, " t"], Int[np.ndarray, " s"]]:
    """(tokens, ends) without the first ``cut`` tokens of the statement."""
    start = found.statement[0]
    return np.delete(found.tokens, slice(start, start + cut)), found.ends - np.int32(cut)


def _trimmed(parts: Sequence[_Piece]) -> list[_Piece]:
    """The pieces of a message with the whitespace at both ends of its text removed."""
    kept = list(parts)
    for order, strip in ((range(len(kept)), str.lstrip), (range(len(kept) - 1, -1, -1), str.rstrip)):
        for place in order:
            kept[place] = dataclasses.replace(kept[place], text=strip(kept[place].text))
            if kept[place].text:
                break
    return kept


def _ranges(texts: Sequence[str], offsets: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """(first token, last token + 1) of each text in their concatenation. Two texts may share a token."""
    starts, ends = np.asarray(offsets, np.int64).reshape(-1, 2).T
    ends = np.maximum.accumulate(ends)
    edges = np.concatenate([[0], np.cumsum([len(text) for text in texts])])
    first = np.searchsorted(ends, edges[:-1], side="right")
    last = np.searchsorted(np.maximum.accumulate(starts), edges[1:], side="left")
    return [(int(a), max(int(a), int(b))) for a, b in zip(first, last, strict=True)]


# ---------------------------------------------------------------- a folder's form


def load_reader(
    folder: Path, values: Mapping[str, Any], options: FormOptions
) -> tuple[FormReader | None, Head, int, str]:
    """The reader and the head of a folder: (reader, head, width of the head's hidden layer, description of the form).

    The reader is None for the native form without a separator, whose input is the same as in training.

    Raises:
      DataError: names the wrong option, or what is missing in the folder.
    """
    if options.form is not None and options.form not in FORMS:
        raise DataError(f"--form={options.form}: choose from {', '.join(FORMS)}")
    with Checkpoint(folder) as checkpoint:
        spoken = bool(options.form and FORMS[options.form].labels)
        head = None if spoken else find_head(checkpoint, values, options.labels)
        architectures = values.get("architectures")
        architecture = str(architectures[0]) if isinstance(architectures, list) and architectures else ""
        name = options.form or guess_form(head, architecture, folder)
        form = FORMS[name]
        if name == NATIVE and options.separator is None:
            options = dataclasses.replace(options, separator=values.get(TRAINED_SEPARATOR))
        if options.separator is not None:
            if form.layout == "turns" or form.outcome:
                raise DataError(f"--separator: the form '{name}' has none")
            form = dataclasses.replace(form, separator=options.separator.replace("\\n", "\n"))
        if head is None and not spoken:
            raise _no_head(folder)
        if name == NATIVE and options.separator is None and head is not None:
            return None, head, head.hidden(checkpoint), NATIVE
        if spoken:
            form = dataclasses.replace(form, labels=options.labels or form.labels)
        tokenizer = _own_tokenizer(folder / "tokenizer.json") if name == NATIVE else _transformers_tokenizer(folder)
        reader = FormReader(form, name, tokenizer, folder, values.get("pad_token_id"))
        if spoken:
            tied = values.get("tie_word_embeddings") is True or f"{OUTPUT}.weight" not in checkpoint
            rows = [_one_token(reader.tokenizer, label, folder) for label in form.labels]
            head = Head("model.embed_tokens" if tied else OUTPUT, "", *rows)
        assert head is not None
        chosen = f"{name}, separator {form.separator!r}, rows {head.positive}-{head.negative} of {head.tensor}"
        return reader, head, head.hidden(checkpoint), chosen


def own_reader(separator: str, path: Path) -> FormReader:
    """The reader of a model that was trained on given steps by ``dreamprm train --steps``."""
    return FormReader(dataclasses.replace(FORMS[NATIVE], separator=separator), NATIVE, _own_tokenizer(path), path, None)


def _own_tokenizer(path: Path) -> Any:
    """A tokenizer.json without changes; transformers replaces the pre-tokenizer for some architectures."""
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises Exception itself
        raise DataError(f"{path}: not a tokenizer.json ({error})") from error
    return SimpleNamespace(backend_tokenizer=tokenizer, chat_template=None, bos_token=None)


def _one_token(tokenizer: Tokenizer, label: str, folder: Path) -> int:
    ids = tokenizer.encode(label, add_special_tokens=False).ids
    if len(ids) != 1:
        raise DataError(f"--labels: {label!r} is {len(ids)} tokens of the tokenizer of {folder}; one is needed")
    return int(ids[0])


def _transformers_tokenizer(folder: Path) -> Any:
    import transformers

    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # the library raises errors of many types
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise DataError(f"{folder}: transformers cannot read its tokenizer: {reason}") from error
    if not getattr(tokenizer, "is_fast", False):
        raise DataError(f"{folder}: has no fast tokenizer (tokenizer.json); save one with transformers")
    return tokenizer
