"""Text to tokens: a byte-level BPE tokenizer made from the training window, and the reward model's input format.

The prompt and every step are tokenized apart, so that a step always ends at a token's end, in training and in scoring
alike, and so that the tokens of a prefix do not depend on what follows it.
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
SMALLEST_VOCABULARY = 257  # every byte, and PAD; also the minimum of the setting model.vocab_size

# What a token may not cross, as the regular expression of a whole piece. Digits always stand alone.
PIECES = {
    # words with the space before them, runs of punctuation, a line break with its indentation
    "words": r"\r?\n[ \t]*| ?[A-Za-z_]+|\d| ?[^\sA-Za-z_\d]+|\s+",
    # lines: tokens may span words (superword BPE, arXiv 2503.13423); short sequences where texts repeat themselves
    "lines": r"\d|[^\d\r\n]+|[\r\n]+[ \t]*",
}


def train_tokenizer(texts: Iterable[str], vocab_size: int, pieces: str = "words") -> Tokenizer:
    """A byte-level BPE tokenizer: any text can be encoded, and decodes to itself. ``pieces``: a key of ``PIECES``.

    Raises:
      DataError: where ``vocab_size`` has no room for every byte.
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
    """Writes ``tokenizer.json`` atomically, and beside it that text never becomes control tokens."""
    record_splitting(path)
    with atomic_path(path) as temporary:
        tokenizer.save(str(temporary))


def record_splitting(path: Path) -> None:
    """Sets ``split_special_tokens``, transformers' own setting, in the tokenizer_config.json beside ``path``."""
    settings = path.with_name(SETTINGS)
    write_json(settings, {**(read_json(settings) if settings.exists() else {}), "split_special_tokens": True})


def splits_special_tokens(path: Path) -> bool:
    """Whether the tokenizer at ``path`` reads its control tokens as plain text where a program spells them."""
    settings = path.with_name(SETTINGS)
    return settings.exists() and read_json(settings).get("split_special_tokens") is True


def as_recorded(tokenizer: Tokenizer, path: Path) -> Tokenizer:
    """The tokenizer of ``path`` with its recorded setting; models of before there was one keep their reading.

    ``encode_special_tokens`` passes over tokens marked as special alone: all that were added are marked so here.
    """
    if not splits_special_tokens(path):
        return tokenizer
    values = json.loads(tokenizer.to_str())
    values["added_tokens"] = [{**token, "special": True} for token in values["added_tokens"]]
    tokenizer = Tokenizer.from_str(json.dumps(values))
    tokenizer.encode_special_tokens = True
    return tokenizer


def load_tokenizer(path: Path) -> Tokenizer:
    """Reads a ``tokenizer.json`` and its setting. Raises DataError where it is missing or malformed."""
    if not path.exists():
        raise DataError(f"{path}: no such file; the train stage writes it")
    try:
        return as_recorded(Tokenizer.from_file(str(path)), path)
    except Exception as error:  # the library raises bare Exception
        raise DataError(f"{path}: not a tokenizer.json ({error})") from error


def prompt_text(problem: Problem) -> str:
    """What the reward model reads before a program: platform, title, statement (DreamPRM-Code's form, less the id)."""
    return f"Platform: {problem.platform}\nTitle: {problem.title}\n\n{problem.statement}\n\n"


def encode_prompt(tokenizer: Tokenizer, problem: Problem) -> Int[np.ndarray, " t"]:
    """Token ids of the prompt; int32."""
    return _encode(tokenizer, prompt_text(problem))


def encode_steps(tokenizer: Tokenizer, code: str, granularity: Granularity = "function") -> list[Int[np.ndarray, " t"]]:
    """Token ids of each step of a program, in order; int32. No step is empty."""
    return encode_texts(tokenizer, (code[step.start : step.end] for step in split_steps(code, granularity)))


def encode_texts(tokenizer: Tokenizer, texts: Iterable[str]) -> list[Int[np.ndarray, " t"]]:
    """Token ids of each text, in order; int32."""
    return [_encode(tokenizer, text) for text in texts]


def _encode(tokenizer: Tokenizer, text: str) -> Int[np.ndarray, " t"]:
    # A lone surrogate has no UTF-8 form; it is read as the replacement character.
    clean = text.encode("utf-8", "replace").decode("utf-8") if not text.isascii() else text
    return np.asarray(tokenizer.encode(clean, add_special_tokens=False).ids, np.int32)
