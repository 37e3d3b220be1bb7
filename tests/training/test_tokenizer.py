"""Byte-level BPE: any text is restored, steps end at token boundaries, and errors name files that cannot be read."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dreamprm_jax.cof.splitter import split_steps
from dreamprm_jax.models.tokenizer import (
    PIECES,
    encode_prompt,
    encode_steps,
    load_tokenizer,
    prompt_text,
    save_tokenizer,
    train_tokenizer,
)
from dreamprm_jax.schema import DataError

PROGRAM = (
    "import sys\n\n\ndef main():\n    print(read(sys.stdin.read(), 1234))\n\n\n"
    "def read(text, n):\n    return text\n\n\nmain()\n"
)


@pytest.mark.parametrize("pieces", PIECES)
def test_any_text_comes_back(pieces):
    tokenizer = train_tokenizer([PROGRAM] * 3, 300, pieces)
    assert tokenizer.get_vocab_size() <= 300
    assert tokenizer.token_to_id("<|pad|>") == 0

    @settings(max_examples=60, deadline=None)
    @given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=60))
    def check(text):
        assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text

    check()
    check.hypothesis.inner_test("\r\n\t  \x00 é\U0001f600 \u2028 1234")


def test_no_token_crosses_a_piece():
    tokenizer = train_tokenizer([PROGRAM] * 50, 400)
    tokens = [tokenizer.decode([i]) for i in tokenizer.encode(PROGRAM).ids]
    assert "".join(tokens) == PROGRAM
    assert [t for t in tokens if any(c.isdigit() for c in t)] == ["1", "2", "3", "4"]
    assert "\n    " in tokens  # a line break with the indentation after it
    assert len(tokens) < len(PROGRAM) / 2
    lines = train_tokenizer([PROGRAM] * 50, 400, "lines")
    assert len(lines.encode(PROGRAM).ids) < len(tokens)


def test_steps_are_tokenized_apart(tokenizer):
    steps = encode_steps(tokenizer, PROGRAM)
    assert len(steps) == 2
    spans = [PROGRAM[s.start : s.end] for s in split_steps(PROGRAM)]
    assert [tokenizer.decode(step.tolist()) for step in steps] == spans
    assert all(step.dtype == np.int32 and len(step) for step in steps)
    # the tokens of a prefix do not depend on the text after it
    np.testing.assert_array_equal(encode_steps(tokenizer, spans[0])[0], steps[0])


def test_prompt_is_platform_title_statement(benchmark, tokenizer):
    _, problem, _ = benchmark[0]
    assert prompt_text(problem) == f"Platform: procedural\nTitle: Composed task\n\n{problem.statement}\n\n"
    assert tokenizer.decode(encode_prompt(tokenizer, problem).tolist()) == prompt_text(problem)


def test_lone_surrogate_is_read_as_a_replacement(tokenizer):
    (tokens,) = encode_steps(tokenizer, "x = '\ud800'\n")
    assert tokenizer.decode(tokens.tolist()) == "x = '?'\n"


def test_control_tokens_in_programs_and_statements_are_text(tmp_path, tokenizer):
    """This holds for tokenizers that are saved now. A tokenizer saved without the setting behaves as before."""
    path = tmp_path / "tokenizer.json"
    save_tokenizer(tokenizer, path)
    values = json.loads(path.read_text())
    extra = {**values["added_tokens"][0], "id": 399, "content": "<think>", "special": False}
    values["added_tokens"].append(extra)
    path.write_text(json.dumps(values))
    program = "# <|pad|> <think>\nx = '<|pad|>'\n"
    (tokens,) = encode_steps(load_tokenizer(path), program)
    control = {0, load_tokenizer(path).token_to_id("<think>")}
    assert not control & set(tokens.tolist())
    assert load_tokenizer(path).decode(tokens.tolist()) == program
    (tmp_path / "tokenizer_config.json").unlink()
    (tokens,) = encode_steps(load_tokenizer(path), program)
    assert control <= set(tokens.tolist())


def test_training_is_deterministic():
    assert train_tokenizer([PROGRAM], 290).to_str() == train_tokenizer([PROGRAM], 290).to_str()


def test_files(tmp_path, tokenizer):
    path = tmp_path / "tokenizer.json"
    with pytest.raises(DataError, match=r"tokenizer\.json: no such file; the train stage writes it"):
        load_tokenizer(path)
    save_tokenizer(tokenizer, path)
    assert load_tokenizer(path).to_str() == tokenizer.to_str()
    path.write_text("{}", encoding="utf-8")
    with pytest.raises(DataError, match=r"tokenizer\.json: not a tokenizer\.json"):
        load_tokenizer(path)


def test_vocabulary_without_room_for_bytes_is_refused():
    """Otherwise, token ids beyond the embedding would silently give NaN."""
    with pytest.raises(DataError, match=r"config\.model\.vocab_size=200: bytes and padding alone need 257"):
        train_tokenizer([PROGRAM], 200)
    assert train_tokenizer([PROGRAM], 257).get_vocab_size() == 257
