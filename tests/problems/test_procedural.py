"""The procedural benchmark: windows, tests, primitives, and its intended properties."""

import itertools
import random
import subprocess
import sys

import pytest

from dreamprm_jax.problems.procedural.compose import (
    DIFFICULTY_STAGES,
    PRIMITIVES,
    PUBLIC_TESTS,
    Composition,
    compose,
    held_out_stages,
    phrase,
    run_form,
)
from dreamprm_jax.problems.procedural.inputs import integers, words
from dreamprm_jax.problems.procedural.mistakes import Plan, form_probabilities, plan_probabilities, plans
from dreamprm_jax.problems.procedural.truth import Valuer
from dreamprm_jax.problems.procedural.writing import Written
from dreamprm_jax.sandbox.compare import output_mismatch
from dreamprm_jax.schema import content_hash

COUNTS = {"train": 50, "meta": 50, "test": 50}
PARAMETERS = [
    (name, k)
    for name, p in PRIMITIVES.items()
    for k in (range(p.parameter[0], p.parameter[1] + 1) if p.parameter else [0])
]


def test_the_texts_are_those_that_results_were_made_with():
    """The texts are data: if a word or its spelling changes, other programs are drawn and no committed result repeats.

    Whoever changes them on purpose must generate research/results and the README's tables again.
    """
    fields = [(p.name, p.phrases, p.functions, p.forms, p.parameter) for p in PRIMITIVES.values()]
    assert content_hash(repr(fields), digits=16) == "cc9563b987ea3380"


def test_windows_share_no_composition(benchmark):
    seen = {window: {c.names for w, _, c in benchmark if w == window} for window in COUNTS}
    assert {window: len(names) for window, names in seen.items()} == COUNTS
    assert not seen["train"] & seen["test"]
    assert not seen["meta"] & seen["test"]
    assert not seen["train"] & seen["meta"]
    assert len({problem.problem_id for _, problem, _ in benchmark}) == 150


def test_dates_fall_in_the_default_windows(benchmark):
    dates = {window: [p.contest_date for w, p, _ in benchmark if w == window] for window in COUNTS}
    assert max(dates["train"] + dates["meta"]) < "2024-08-01"
    assert min(dates["test"]) >= "2025-02-01"


def test_same_seed_same_rows_in_any_process(benchmark):
    script = (
        "from dreamprm_jax.problems.procedural.compose import compose\n"
        "from dreamprm_jax.schema import content_hash\n"
        f"print(content_hash(*(repr(row) for row in compose(0, {COUNTS}, private_tests=5))))"
    )
    digest = content_hash(*(repr(row) for row in benchmark))
    for hash_seed in ("1", "2"):
        run = subprocess.run(
            [sys.executable, "-c", script],
            env={"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert run.stdout.strip() == digest
    assert content_hash(*(repr(row) for row in compose(1, COUNTS, private_tests=5))) != digest


def test_problems_are_well_formed(benchmark):
    for index, (_, problem, composition) in enumerate(benchmark):
        assert problem.difficulty == ("easy", "medium", "hard")[index % 50 % 3]
        assert composition.length == DIFFICULTY_STAGES[problem.difficulty] + 3
        assert len(problem.public_tests) == PUBLIC_TESTS
        assert len(problem.private_tests) == 5
        assert len({test.input for test in problem.tests}) == 7
        assert len({test.output for test in problem.tests}) >= 2
        assert all(test.testtype == "stdin" and test.output.endswith("\n") for test in problem.tests)
        assert "{" not in problem.statement
        assert problem.statement.endswith(".")
        for position in range(composition.length):
            said = [phrase(composition, position, paraphrase) for paraphrase in (0, 1)]
            assert any(text[1:] in problem.statement for text in said), (problem.statement, said)


def test_composition_survives_json(benchmark):
    for _, _, composition in benchmark[:10]:
        assert Composition.from_json(composition.to_json()) == composition


def test_types_of_neighbors_fit(benchmark):
    for _, _, composition in benchmark:
        primitives = composition.primitives
        assert [p.role for p in primitives if p.role in ("parse", "aggregate", "format")] == [
            "parse", "aggregate", "format",
        ]  # fmt: skip
        assert all(a.gives == b.takes for a, b in itertools.pairwise(primitives))


def inputs_of(name: str, k: int) -> list:
    """Inputs for a primitive: texts in its own format, or short lists and values, including empty ones."""
    primitive, rng = PRIMITIVES[name], random.Random(f"{name}/{k}")
    if primitive.write is not None:
        return [primitive.write(rng) for _ in range(200)]
    lists = {"ints": integers, "words": words}
    if primitive.takes in lists:
        return [[], *(lists[primitive.takes](rng) for _ in range(200))]
    return list(range(-40, 200)) if primitive.takes == "int" else ["-", "*abc", *words(rng), *words(rng)]


def result(name: str, form: int, k: int, value: object) -> object:
    try:
        return run_form(name, form, k, value)
    except Exception as error:
        return type(error)


@pytest.mark.parametrize(("name", "k"), PARAMETERS)
def test_right_form_works_and_every_wrong_form_differs(name, k):
    primitive = PRIMITIVES[name]
    values = inputs_of(name, k)
    kinds = {"ints": list, "words": list, "int": int, "word": str}
    right = [run_form(name, 0, k, value) for value in values]
    assert {type(value) for value in right} == {kinds[primitive.gives]}
    for form in range(1, len(primitive.forms)):
        got = [result(name, form, k, value) for value in values]
        if primitive.role == "format":  # printed values must differ for the judge, which compares decimals by value
            assert any(output_mismatch(f"{a}\n", f"{b}\n") for a, b in zip(got, right, strict=True)), form
        else:
            assert any(type(a) is not type(b) or a != b for a, b in zip(got, right, strict=True)), form


def test_names_are_unambiguous():
    names = [name for primitive in PRIMITIVES.values() for name in primitive.functions]
    assert len(set(names)) == len(names)
    called = {
        name for p in PRIMITIVES.values() for form in p.forms for name in names if f"{name}(" in form.replace(".", " ")
    }
    assert not called
    for primitive in PRIMITIVES.values():
        assert len(set(primitive.forms)) == len(primitive.forms)
        assert all('"' not in text for text in primitive.phrases)
        assert all(("{k}" in text) == (primitive.parameter is not None) for text in primitive.phrases)


def test_probabilities_of_mistakes(benchmark):
    for _, _, composition in benchmark[:30]:
        options = plans(composition)
        assert options[0] == Plan(tuple(range(composition.length)))
        assert sum(plan.is_right(composition) for plan in options) == 1
        assert len(set(options)) == len(options)
        for scale in (0.0, 1.0, 9.0):
            assert sum(plan_probabilities(composition, scale)) == pytest.approx(1.0)
            for position, primitive in enumerate(composition.primitives):
                chances = form_probabilities(composition, position, scale)
                assert len(chances) == len(primitive.forms)
                assert sum(chances) == pytest.approx(1.0)
                assert 1 - chances[0] == pytest.approx(min(0.7, primitive.wrong_rate() * composition.ability * scale))


def test_qualities(benchmark):
    """A pass rate near .4, a best-of-8 oracle near .93, and some wrong variants of one function that pass the tests."""
    rates, slipped = [], []
    for _, problem, composition in benchmark:
        valuer = Valuer(composition, problem, 1.0)
        rates.append(valuer.value(Written(None, (), False))[0])
        right = Plan(tuple(range(composition.length)))
        for position, primitive in enumerate(composition.primitives):
            for form in range(1, len(primitive.forms)):
                forms = [form if i == position else 0 for i in range(composition.length)]
                slipped.append(valuer.value(Written(right, tuple(forms), True))[0])
    assert 0.33 < sum(rates) / len(rates) < 0.5
    assert sum(1 - (1 - rate) ** 8 for rate in rates) / len(rates) > 0.88
    assert 0.1 < sum(slipped) / len(slipped) < 0.3
    by_difficulty = [sum(rates[i] for i in range(150) if i % 50 % 3 == level) for level in range(3)]
    assert by_difficulty[0] > by_difficulty[1] > by_difficulty[2]


def test_test_problems_may_hold_out_mistakes_or_primitives():
    counts = {"train": 60, "meta": 12, "test": 60}

    def seen(held_out):
        forms, names = {"train": set(), "test": set()}, {"train": set(), "test": set()}
        for window, _, one in compose(0, counts, 5, held_out):
            half = "test" if window == "test" else "train"
            names[half] |= set(one.names)
            for place, name in enumerate(one.names):
                chances = form_probabilities(one, place, 1.0)
                assert sum(chances) == pytest.approx(1.0)
                forms[half] |= {(name, form) for form, chance in enumerate(chances) if form and chance > 0}
            if held_out == "primitives" and window == "test":
                assert held_out_stages() & set(one.names)
            assert Composition.from_json(one.to_json()) == one
        return forms, names

    forms, _ = seen("mistakes")
    assert not forms["train"] & forms["test"]
    assert min(len(forms["train"]), len(forms["test"])) > 20
    _, names = seen("primitives")
    assert not held_out_stages() & names["train"]
    plain, _ = seen("compositions")
    assert len(plain["train"] & plain["test"]) > 40
