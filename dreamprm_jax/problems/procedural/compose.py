"""Composes primitives into problems with statements and tests. No composition occurs in two windows."""

from __future__ import annotations

import datetime
import functools
import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

from dreamprm_jax.problems.procedural.endings import AGGREGATES, FORMATS
from dreamprm_jax.problems.procedural.inputs import PARSERS
from dreamprm_jax.problems.procedural.primitive import Kind, Primitive
from dreamprm_jax.problems.procedural.stages import INTEGER_STAGES, WORD_STAGES
from dreamprm_jax.schema import DataError, TestCase, TestedProblem

PRIMITIVES = {p.name: p for p in (*PARSERS, *INTEGER_STAGES, *WORD_STAGES, *AGGREGATES, *FORMATS)}
DIFFICULTY_STAGES = {"easy": 1, "medium": 2, "hard": 3}  # stages between parser and aggregate
PUBLIC_TESTS = 2
HeldOut = Literal["compositions", "mistakes", "primitives"]
HELD_OUT_EVERY = 4  # every fourth stage is held out for test problems
MAX_DRAWS = 10_000  # consecutive draws without a new composition, after which a difficulty is exhausted
WINDOW_DATES = {  # first contest date and number of days
    "train": ("2023-05-01", 300),
    "meta": ("2024-03-01", 140),
    "test": ("2025-02-01", 90),
}


@dataclass(frozen=True)
class Composition:
    """The definition of a problem. The simulated policy and the exact truth use it; training never does."""

    problem_id: str
    names: tuple[str, ...]  # primitives in execution order: parse, stages, aggregate, format
    parameters: tuple[int, ...]  # k of each primitive, 0 if it has none
    ability: float  # factor of the policy's mistake rates on this problem
    mistakes: Literal["all", "first", "second"] = "all"  # which half of each primitive's wrong forms the policy uses

    @property
    def primitives(self) -> tuple[Primitive, ...]:
        """The primitives in execution order."""
        return tuple(PRIMITIVES[name] for name in self.names)

    @property
    def length(self) -> int:
        """Number of helper functions."""
        return len(self.names)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Composition:
        """Inverse of ``to_json``."""
        return cls(
            value["problem_id"],
            tuple(value["names"]),
            tuple(value["parameters"]),
            value["ability"],
            value.get("mistakes", "all"),
        )

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return asdict(self)


@functools.cache
def compiled_form(name: str, form: int, parameter: int) -> Any:
    """The compiled function of one form of a primitive. Its source is part of the benchmark, not written by a model."""
    primitive = PRIMITIVES[name]
    body = primitive.forms[form].format(a="values", k=parameter)
    source = "def f(values):\n" + "\n".join("    " + line for line in body.split("\n")) + "\n"
    namespace: dict[str, Any] = {}
    exec(compile(source, f"<{name}/{form}>", "exec"), namespace)
    return namespace["f"]


def run_form(name: str, form: int, parameter: int, value: Any) -> Any:
    """Applies one form to one value. Errors of the form are propagated."""
    return compiled_form(name, form, parameter)(list(value) if isinstance(value, tuple) else value)


def _reference(composition: Composition, text: str) -> str:
    value: Any = text
    for name, parameter in zip(composition.names, composition.parameters, strict=True):
        value = run_form(name, 0, parameter, value)
    return str(value)


def held_out_stages() -> frozenset[str]:
    """The primitives that ``held_out="primitives"`` reserves for test problems: every fourth stage of each kind."""
    return frozenset(p.name for pool in (INTEGER_STAGES, WORD_STAGES) for p in pool[::HELD_OUT_EVERY])


def _choose(rng: random.Random, stages: int, banned: frozenset[str] = frozenset()) -> tuple[str, ...]:
    parser = rng.choice(PARSERS)
    kind: Kind = parser.gives
    chosen = [parser]
    for _ in range(stages):
        pool = [
            p for p in (INTEGER_STAGES if kind == "ints" else WORD_STAGES) if p not in chosen and p.name not in banned
        ]
        chosen.append(rng.choice(pool))
        kind = chosen[-1].gives
    chosen.append(rng.choice([p for p in AGGREGATES if p.takes == kind]))
    chosen.append(rng.choice([p for p in FORMATS if p.takes == chosen[-1].gives]))
    return tuple(p.name for p in chosen)


def _tests(composition: Composition, rng: random.Random, count: int) -> list[TestCase] | None:
    """Distinct inputs with the reference's outputs; None if the composition is degenerate."""
    write = composition.primitives[0].write
    assert write is not None
    tests: dict[str, str] = {}
    for _ in range(20 * count):
        text = write(rng)
        if text not in tests:
            try:
                tests[text] = _reference(composition, text)
            except Exception:  # the reference fails on this input
                return None
        if len(tests) == count:
            break
    if len(tests) < count or len(set(tests.values())) < count // 3:
        return None
    for stage in range(1, composition.length - 2):  # a step without effect would have no defined truth
        without = _dropped(composition, stage)
        if without is not None and all(_same(without, text, output) for text, output in tests.items()):
            return None
    return [TestCase(text, output + "\n") for text, output in tests.items()]


def _dropped(composition: Composition, stage: int) -> Composition | None:
    primitive = composition.primitives[stage]
    if primitive.takes != primitive.gives:
        return None
    keep = [i for i in range(composition.length) if i != stage]
    return Composition(
        composition.problem_id,
        tuple(composition.names[i] for i in keep),
        tuple(composition.parameters[i] for i in keep),
        composition.ability,
    )


def _same(composition: Composition, text: str, output: str) -> bool:
    try:
        return _reference(composition, text) == output
    except Exception:
        return False


def phrase(composition: Composition, position: int, paraphrase: int) -> str:
    """The description of one stage, with its parameter filled in."""
    return composition.primitives[position].phrases[paraphrase].format(k=composition.parameters[position])


def _statement(composition: Composition, rng: random.Random) -> str:
    phrases = [phrase(composition, i, rng.randrange(2)) for i in range(composition.length)]
    opening = rng.choice(("The input is {}.", "You are given {}.", "Read {}."))
    stages = phrases[1:-2]
    links = rng.choice(
        (("First", "then", "after that"), ("Start so:", "next", "finally"), ("Begin as follows:", "then", "next"))
    )
    middle = " ".join(f"{links[i] if i == 0 else links[i].capitalize() + ','} {text}." for i, text in enumerate(stages))
    ending = phrases[-2][0].upper() + phrases[-2][1:] + ". " + phrases[-1][0].upper() + phrases[-1][1:] + "."
    return f"{opening.format(phrases[0])} {middle} {ending}"


def compose(
    seed: int, counts: dict[str, int], private_tests: int, held_out: HeldOut = "compositions"
) -> Iterator[tuple[str, TestedProblem, Composition]]:
    """Generates the benchmark. All compositions are distinct, so no test composition occurs in training.

    Args:
      seed: Seed of the generator.
      counts: Number of problems per window (``train``, ``meta``, ``test``).
      private_tests: Number of hidden tests of a problem, in addition to two public tests.
      held_out: Additional differences between test problems and others. ``mistakes``: their programs have only wrong
        forms that no program of the other windows has. ``primitives``: each has at least one stage that no problem of
        the other windows has.

    Raises:
      DataError: if there are not enough compositions of a difficulty.

    Yields:
      (window, problem, composition), deterministic in the arguments.
    """
    rng = random.Random(f"procedural/{seed}")
    used: set[tuple[str, ...]] = set()
    kept = held_out_stages() if held_out == "primitives" else frozenset()
    serial = 0
    for window, count in counts.items():
        start, days = WINDOW_DATES[window]
        for index in range(count):
            difficulty = ("easy", "medium", "hard")[index % 3]
            for _ in range(MAX_DRAWS):
                names = _choose(rng, DIFFICULTY_STAGES[difficulty], frozenset() if window == "test" else kept)
                if names in used or (kept and window == "test" and kept.isdisjoint(names)):
                    continue
                ranges = [PRIMITIVES[name].parameter for name in names]
                parameters = tuple(rng.randint(*r) if r else 0 for r in ranges)
                half: Literal["all", "first", "second"] = (
                    "all" if held_out != "mistakes" else "second" if window == "test" else "first"
                )
                composition = Composition(
                    f"procedural-{seed}-{serial:05d}", names, parameters, rng.choice((0.6, 1.1, 1.7)), half
                )
                tests = _tests(composition, rng, PUBLIC_TESTS + private_tests)
                if tests is not None:
                    break
            else:
                made = sum(len(names) == DIFFICULTY_STAGES[difficulty] + 3 for names in used)
                raise DataError(
                    f"config.problems: the procedural benchmark has no more {difficulty} problems after {made} of them, "
                    f"and {window}_count={count} needs more; request fewer problems in total"
                )
            used.add(names)
            date = datetime.date.fromisoformat(start) + datetime.timedelta(days=index * days // max(count, 1))
            yield (
                window,
                TestedProblem(
                    problem_id=composition.problem_id,
                    title="Composed task",
                    statement=_statement(composition, rng),
                    platform="procedural",
                    contest_id=f"procedural-{seed}-{window}",
                    contest_date=f"{date.isoformat()}T00:00:00",
                    difficulty=difficulty,
                    public_tests=tuple(tests[:PUBLIC_TESTS]),
                    private_tests=tuple(tests[PUBLIC_TESTS:]),
                ),
                composition,
            )
            serial += 1
