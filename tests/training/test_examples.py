"""Programs as token sequences: positions of steps, rows of the label table, overlong inputs, counts."""

import dataclasses
from collections import Counter

import numpy as np
import pytest

from dreamprm_jax.config import ModelConfig
from dreamprm_jax.models.tokenizer import encode_prompt, encode_steps
from dreamprm_jax.schema import DataError, Outcome, Program, Verdict
from dreamprm_jax.training.examples import DROPPED_TOKENS, NO_LABEL, Window, build_examples, relabel, tokenize

CODE = "def main():\n    a()\n\n\ndef a():\n    b()\n\n\ndef b():\n    pass\n\n\nmain()\n"


def outcome(program, verdict):
    return Outcome(program.problem_id, program.program_hash, verdict, 0, 1, "", 0.0, "", "")


@pytest.fixture(scope="module")
def problem(benchmark):
    return benchmark[0][1]


@pytest.fixture(scope="module")
def program(problem):
    return Program.make(problem.problem_id, CODE, 0, "x", {})


@pytest.fixture(scope="module")
def lengths(tokenizer, problem):
    return len(encode_prompt(tokenizer, problem)), sum(map(len, encode_steps(tokenizer, CODE)))


def test_relabeled_steps_without_a_label_leave_the_table(tokenizer, problem, program):
    keys = [(problem.problem_id, program.program_hash, 0), (problem.problem_id, program.program_hash, 1)]
    built = build_examples(
        tokenizer, ModelConfig(), Window({problem.problem_id: problem}, [program], [outcome(program, Verdict.AC)]),
        keys, Counter(),
    )  # fmt: skip
    np.testing.assert_array_equal(built[0].label_index, [0, 1, NO_LABEL])
    (example,) = relabel(built, np.float32([np.nan, 0.75]))
    np.testing.assert_array_equal(example.label_index, [NO_LABEL, 1, NO_LABEL])
    np.testing.assert_array_equal(example.raw, np.float32([0, 0.75, 0]))
    np.testing.assert_array_equal(example.tokens, built[0].tokens)


def test_examples_join_labels_and_outcomes(tokenizer, problem, program):
    failed = Program.make(problem.problem_id, "print(1)\n", 1, "x", {})
    unknown = Program.make(problem.problem_id, "print(2)\n", 2, "x", {})
    empty = Program.make(problem.problem_id, "", 3, "x", {})
    again = dataclasses.replace(program, sample_index=4)  # the same text again
    keys = [("q", "elsewhere", 0), (problem.problem_id, program.program_hash, 1)]
    verdicts = [outcome(program, Verdict.AC), outcome(failed, Verdict.RE), outcome(unknown, Verdict.SANDBOX_ERROR)]
    counts = Counter()
    examples = build_examples(
        tokenizer, ModelConfig(),
        Window({problem.problem_id: problem}, [program, failed, unknown, empty, again], verdicts), keys, counts,
    )  # fmt: skip
    assert [e.program_hash for e in examples] == [program.program_hash, failed.program_hash]
    assert counts == {"left out: no verdict": 1, "left out: empty program": 1}
    first = examples[0]
    np.testing.assert_array_equal(first.label_index, [NO_LABEL, 1, NO_LABEL])
    np.testing.assert_array_equal(first.raw, np.float32([0, 0, 0]))
    assert (first.outcome, examples[1].outcome) == (1.0, 0.0)
    np.testing.assert_array_equal(examples[1].label_index, [NO_LABEL])
    prompt = encode_prompt(tokenizer, problem)
    start = len(prompt)
    np.testing.assert_array_equal(first.tokens[:start], prompt)
    for end, tokens in zip(first.step_index, encode_steps(tokenizer, CODE), strict=True):
        np.testing.assert_array_equal(first.tokens[start : end + 1], tokens)
        start = end + 1
    assert start == len(first.tokens)


def test_what_fits_exactly_is_left_alone(tokenizer, problem, program, lengths):
    counts = Counter()
    ((_, tokens, _),) = tokenize(tokenizer, ModelConfig(max_length=sum(lengths)), problem, [program], counts)
    assert len(tokens) == sum(lengths)
    assert not counts


def test_statement_is_truncated_on_the_left(tokenizer, problem, program, lengths):
    counts = Counter()
    model = ModelConfig(max_length=sum(lengths) - 5, overlong="truncate_statement")
    ((_, tokens, ends),) = tokenize(tokenizer, model, problem, [program], counts)
    assert len(tokens) == model.max_length == ends[-1] + 1
    whole = np.concatenate([encode_prompt(tokenizer, problem), *encode_steps(tokenizer, CODE)])
    np.testing.assert_array_equal(tokens, whole[5:])
    assert counts == {"statements truncated on the left": 1, DROPPED_TOKENS: 5}


@pytest.mark.parametrize(("overlong", "shorter_by"), [("drop", 1), ("truncate_statement", None)])
def test_what_does_not_fit_is_dropped_and_counted(tokenizer, problem, program, lengths, overlong, shorter_by):
    # truncate_statement drops a program that fills the context without the statement
    length = sum(lengths) - shorter_by if shorter_by else lengths[1]
    short = Program.make(problem.problem_id, "1\n", 1, "x", {})
    counts = Counter()
    model = ModelConfig(max_length=length, overlong=overlong)
    rows = tokenize(tokenizer, model, problem, [program, short], counts)
    assert program not in [row[0] for row in rows]
    assert counts["dropped: longer than the model's context"] == 1
    assert len(rows) == 1


def test_raise_names_the_program(tokenizer, problem, program, lengths):
    model = ModelConfig(max_length=sum(lengths) - 1, overlong="raise")
    message = rf"program {program.program_hash} of {problem.problem_id}: {lengths[0]} \+ {lengths[1]} tokens exceed"
    with pytest.raises(DataError, match=message):
        tokenize(tokenizer, model, problem, [program], Counter())
