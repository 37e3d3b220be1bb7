"""The two input formats of the study's reward models: text and structure.

Structure has one token for every stage that the statement asks for, one for every stage that main() calls, and one for
every helper, which encodes its primitive and form. The small model then need not learn to parse text, and its accuracy
is limited by the labels. Text uses the package's own tokenizer and input format (``training.examples``).
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Sequence
from typing import Literal

import numpy as np

from dreamprm_jax.config import ModelConfig
from dreamprm_jax.labeling.correction.methods import StepKey
from dreamprm_jax.models.tokenizer import prompt_text, train_tokenizer
from dreamprm_jax.problems.procedural.compose import PRIMITIVES
from dreamprm_jax.training.examples import NO_LABEL, Example, Window, build_examples
from research.study.world import World

Reading = Literal["structure", "text"]


def examples(reading: Reading, model: ModelConfig, world: World, keys: Sequence[StepKey]) -> dict[str, list[Example]]:
    """Token sequences of all programs by window, in the order of the world. Labels are 0.

    Args:
      reading: text or structure.
      model: settings with vocabulary size, maximum length and kind of tokens.
      world: the programs.
      keys: rows of the label table.
    """
    if reading == "structure":
        rows = {(program, step): row for row, (_, program, step) in enumerate(keys)}
        return {window: _structure(world, window, rows) for window in world.programs}
    texts = [prompt_text(problem) for problem in world.problems["train"].values()]
    texts += [one.program.code for one in world.programs["train"]]
    tokenizer = train_tokenizer(texts, model.vocab_size, model.tokenizer_pieces)
    counts: Counter[str] = Counter()
    found: dict[str, list[Example]] = {}
    for window, known in world.programs.items():
        programs = [one.program for one in known]
        built = build_examples(
            tokenizer, model, Window(world.problems[window], programs, world.outcomes(window)), keys, counts
        )
        by_hash = {example.program_hash: example for example in built}  # duplicate candidates are built only once
        found[window] = [by_hash[program.program_hash] for program in programs]
    return found


@functools.cache
def _vocabulary() -> dict[tuple[str, str], int]:
    """Token ids of the structural reading, from 1; 0 is padding."""
    words = [(kind, name) for name in PRIMITIVES for kind in ("asked", "called")]
    words += [(f"form {form}", name) for name, primitive in PRIMITIVES.items() for form in range(len(primitive.forms))]
    return {word: number for number, word in enumerate(words, 1)}


def structure_vocabulary() -> int:
    """Vocabulary size of the structural reading, including padding."""
    return len(_vocabulary()) + 1


def _structure(world: World, window: str, rows: dict[tuple[str, int], int]) -> list[Example]:
    words, found = _vocabulary(), []
    for one in world.programs[window]:
        names = world.compositions[one.program.problem_id].names
        written = one.written
        assert written.plan is not None
        tokens = [words["asked", name] for name in names]
        tokens += [words["called", names[place]] for place in written.plan.calls]
        main = len(tokens) - 1
        tokens += [
            words[f"form {form}", names[place]] for place, form in zip(written.plan.calls, written.forms, strict=True)
        ]
        ends = np.arange(main, len(tokens), dtype=np.int32)
        index = [rows.get((one.program.program_hash, step), NO_LABEL) for step in range(len(ends))]
        found.append(
            Example(
                one.program.problem_id,
                one.program.program_hash,
                np.asarray(tokens, np.int32),
                ends,
                np.asarray(index, np.int32),
                np.zeros(len(ends), np.float32),
                float(one.passed),
            )
        )
    return found
