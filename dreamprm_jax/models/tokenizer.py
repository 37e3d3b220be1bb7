"""A byte-level BPE tokenizer that is trained on the training window, and the input format of the reward model.

The prompt and every step are tokenized separately. So in training and in scoring, every step ends at a token boundary,
and the tokens of a prefix do not depend on the text after it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from jaxtyping import Int
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from dreamprm_jax.cof.splitter import split_steps
from dreamprm_jax.schema import DataError, Granularity, Problem
from dreamprm_jax.storage import atomic_path, read_json, write_json

PAD = "<|pad|>"
SETTINGS = "tokenizer_config.json"
SMALLEST_VOCABULARY = 257  # all bytes and PAD; also the minimum of the setting model.vocab_size

# Regular expressions of a piece; tokens do not cross piece boundaries. Every digit is a separate piece.
PIECES = {
    # words with the preceding space, runs of punctuation, a line break with the indentation after it
    "words": r"\r?\n[ \t]*| ?[A-Za-z_]+|\d| ?[^\sA-Za-z_\d]+|\s+",
    # lines: tokens may span words (superword BPE, arXiv 2503.13423); gives short sequences if texts are repetitive
    "lines": r"\d|[^\d\r\n]+|[\r\n]+[ \t]*",
}


def train_tokenizer(texts: Iterable[str], vocab_size: int, pieces: str = "words") -> Tokenizer:
    """Trains a byte-level BPE tokenizer, which can encode any text without loss. ``pieces``: a key of ``PIECES``.

    Raises:
      DataError: if ``vocab_size`` is too small for all bytes and padding.
    """
    if vocab_size < SMALLEST_VOCABULARY:
        raise DataError(f"config.model.vocab_size={vocab_size}: bytes and padding alone need {SMALLEST_VOCABULARY}")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(PIECES[pieces]), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.encode_special_tokens = True
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, path: Path) -> None:
    """Writes ``tokenizer.json`` atomically, and next to it the setting that text never becomes control tokens."""
    record_splitting(path)
    with atomic_path(path) as temporary:
        tokenizer.save(str(temporary))


def record_splitting(path: Path) -> None:
    """Sets ``split_special_tokens``, a setting of transformers, in the tokenizer_config.json next to ``path``."""
    settings = path.with_name(SETTINGS)
    write_json(settings, {**(read_json(settings) if settings.exists() else {}), "split_special_tokens": True})


def splits_special_tokens(path: Path) -> bool:
    """Whether the tokenizer at ``path`` encodes the names of control tokens in a text as plain text."""
    settings = path.with_name(SETTINGS)
    return settings.exists() and read_json(settings).get("split_special_tokens") is True


def as_recorded(tokenizer: Tokenizer, path: Path) -> Tokenizer:
    """The tokenizer of ``path`` with its recorded setting. Without a recorded setting, it is returned unchanged.

    ``encode_special_tokens`` affects only tokens that are marked as special, so all added tokens are marked here.
    """
    if not splits_special_tokens(path):
        return tokenizer
    values = json.loads(tokenizer.to_str())
    values["added_tokens"] = [{**token, "special": True} for token in values["added_tokens"]]
    tokenizer = Tokenizer.from_str(json.dumps(values))
    tokenizer.encode_special_tokens = True
    return tokenizer


def load_tokenizer(path: Path) -> Tokenizer:
    """Reads a ``tokenizer.json`` and its recorded setting. Raises DataError if the file is missing or malformed."""
    if not path.exists():
        raise DataError(f"{path}: no such file; the train stage writes it")
    try:
        return as_recorded(Tokenizer.from_file(str(path)), path)
    except Exception as error:  # the library raises bare Exception
        raise DataError(f"{path}: not a tokenizer.json ({error})") from error


def prompt_text(problem: Problem) -> str:
    """The reward model's input before a program: platform, title, statement (as in DreamPRM-Code, without the id)."""
    return f"Platform: {problem.platform}\nTitle: {problem.title}\n\n{problem.statement}\n\n"


def encode_prompt(tokenizer: Tokenizer, problem: Problem) -> Int[np.ndarray, " t"]:
    """Token ids of the prompt, int32."""
    return _encode(tokenizer, prompt_text(problem))


def encode_steps(tokenizer: Tokenizer, code: str, granularity: Granularity = "function") -> list[Int[np.ndarray, " t"]]:
    """Token ids of each step of a program, in order, int32. No step is empty."""
    return encode_texts(tokenizer, (code[step.start : step.end] for step in split_steps(code, granularity)))


def encode_texts(tokenizer: Tokenizer, texts: Iterable[str]) -> list[Int[np.ndarray, " t"]]:
    """Token ids of each text, in order, int32."""
    return [_encode(tokenizer, text) for text in texts]


def _encode(tokenizer: Tokenizer, text: str) -> Int[np.ndarray, " t"]:
    # A lone surrogate cannot be encoded in UTF-8; it is replaced with "?".
    clean = text.encode("utf-8", "replace").decode("utf-8") if not text.isascii() else text
    return np.asarray(tokenizer.encode(clean, add_special_tokens=False).ids, np.int32)
