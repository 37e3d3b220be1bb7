"""Random faults change one function and nothing outside the edit, and are the same for the same seed."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from stepbench_toy import TASKS

from dreamprm_jax.cof.splitter import split_steps
from dreamprm_jax.stepbench.mutate import draw_mutants, edits_by_step
from dreamprm_jax.stepbench.source_map import SourceMap

ACCENTS = '''\
GRÖSSE = 3  # a constant of no function


@wraps(3)
def größe(wörter: list[int] = [1, 2], *, mal=2):
    """Länge 3 < 4."""
    text = "äöü";  zahl = len(wörter)  -  1
    return f"{zahl + 1}" + text[zahl]


class Zähler:
    stand = 5

    def mehr(self, um: int) -> int:
        def innen(x):
            return x + um
        return innen(self.stand)
'''


def test_only_the_edit_differs_and_it_is_in_the_step():
    for code in [ACCENTS, *(task.reference for task in TASKS)]:
        steps = split_steps(code)
        mutants = draw_mutants(code, 200, Random(1))
        assert len(mutants) == len({mutant.code for mutant in mutants}) > 5
        for mutant in mutants:
            edit = mutant.edit
            grown = len(edit.text) - (edit.end - edit.start)
            assert mutant.code != code
            assert mutant.code[: edit.start] == code[: edit.start]
            assert mutant.code[edit.end + grown :] == code[edit.end :]
            assert steps[mutant.step].start <= edit.start <= edit.end <= steps[mutant.step].end
            assert mutant.function == steps[mutant.step].name
            after = split_steps(mutant.code)
            assert [step.name for step in after] == [step.name for step in steps]
            assert "".join(mutant.code[step.start : step.end] for step in after) == mutant.code


def test_what_no_edit_touches():
    steps = split_steps(ACCENTS)
    edits = [e for found in edits_by_step(ACCENTS, steps).values() for some in found.values() for e in some]
    touched = {ACCENTS[ACCENTS.rfind("\n", 0, e.start) + 1 : ACCENTS.find("\n", e.start)].strip() for e in edits}
    assert touched == {
        'text = "äöü";  zahl = len(wörter)  -  1', 'return f"{zahl + 1}" + text[zahl]',
        "return x + um", "return innen(self.stand)",
    }  # fmt: skip
    inside = ACCENTS.index("{zahl + 1}")
    assert not [e for e in edits if inside <= e.start <= inside + len("{zahl + 1}")]


def test_the_same_seed_draws_the_same_and_functions_have_equal_chances():
    code = "def tiny(a):\n    return a + 1\n\n\ndef main(values):\n" + "".join(
        f"    v{i} = values[{i}] * {i} - tiny(v{i - 1 if i else 0})\n" for i in range(20)
    )
    assert draw_mutants(code, 20, Random(5)) == draw_mutants(code, 20, Random(5))
    firsts = Counter(draw_mutants(code, 1, Random(seed))[0].function for seed in range(60))
    assert 18 <= firsts["tiny"] <= 42  # a fair coin leaves this range for one in a thousand seeds


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("def f(:\n", "not Python"),
        ("def f():\r\n    return 1\r\n", "carriage returns"),
        ("def f():\n    return 1\f\n", "form feeds"),
    ],
)
def test_texts_that_cannot_be_mapped(code, message):
    with pytest.raises(ValueError, match=message):
        SourceMap(code)


def test_a_program_without_a_place_for_a_fault():
    assert draw_mutants("def f():\n    pass\n", 5, Random(0)) == []
