"""Draws random faults for a program: first the function, then the operator, then the location."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from random import Random

from dreamprm_jax.cof.splitter import split_steps
from dreamprm_jax.schema import Step
from dreamprm_jax.stepbench import expression_faults, statement_faults
from dreamprm_jax.stepbench.faults import Edit, Operator, scope_of
from dreamprm_jax.stepbench.source_map import SourceMap

OPERATORS: dict[str, Operator] = {
    operator.__name__: operator
    for operator in (
        expression_faults.comparison_boundary,
        expression_faults.comparison_negated,
        expression_faults.constant_off_by_one,
        expression_faults.arithmetic_operator,
        expression_faults.swapped_operands,
        expression_faults.swapped_arguments,
        expression_faults.boolean_operator,
        expression_faults.condition_negated,
        expression_faults.range_boundary,
        expression_faults.index_off_by_one,
        expression_faults.wrong_variable,
        expression_faults.function_swapped,
        expression_faults.sort_order,
        statement_faults.statement_removed,
        statement_faults.missing_base_case,
        statement_faults.accumulation_lost,
        statement_faults.loop_control,
        statement_faults.early_return,
        statement_faults.wrong_return,
    )
}


@dataclass(frozen=True)
class Mutant:
    """A program with one fault in one function."""

    code: str
    edit: Edit
    step: int  # index of the step that contains the fault
    function: str


def edits_by_step(code: str, steps: list[Step]) -> dict[int, dict[str, list[Edit]]]:
    """All possible edits: step index -> operator -> edits, in the order of the text.

    Raises:
      ValueError: if ``SourceMap`` cannot parse the program.
    """
    source = SourceMap(code)
    found: dict[int, dict[str, list[Edit]]] = {}
    for function in source.functions():
        scope = scope_of(source, function)
        for node in source.nodes(function):
            for name, operator in OPERATORS.items():
                for edit in operator(source, node, scope):
                    step = next((s.index for s in steps if s.start <= edit.start < s.end), None)
                    if step is not None and edit.end <= steps[step].end:
                        found.setdefault(step, {}).setdefault(name, []).append(edit)
    return found


def draw_mutants(code: str, count: int, rng: Random) -> list[Mutant]:
    """Up to ``count`` different mutants in a random order.

    A step is drawn uniformly, then one of the operators that apply to it, then one of the operator's edits. This way
    neither long functions nor frequent kinds of faults dominate.

    Args:
      code: the program.
      count: maximum number of mutants.
      rng: the random generator.

    Returns:
      Mutants that compile and have the same steps as the program; fewer than ``count`` if there are not enough edits.
    """
    steps = split_steps(code)
    left = edits_by_step(code, steps)
    mutants: list[Mutant] = []
    seen = {code}
    while left and len(mutants) < count:
        step = rng.choice(sorted(left))
        operator = rng.choice(sorted(left[step]))
        places = left[step][operator]
        edit = places.pop(rng.randrange(len(places)))
        if not places:
            del left[step][operator]
            if not left[step]:
                del left[step]
        mutated = edit.apply(code)
        if mutated not in seen and compiles(mutated) and _same_steps(steps, step, split_steps(mutated)):
            seen.add(mutated)
            mutants.append(Mutant(mutated, edit, step, steps[step].name))
    return mutants


def compiles(code: str) -> bool:
    """Whether the text compiles as a Python program. It is not run."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(code, "program", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def _same_steps(before: list[Step], changed: int, after: list[Step]) -> bool:
    """Whether the steps have equal names and, except for the changed step, equal lengths."""
    names = [(step.index, step.name) for step in before] == [(step.index, step.name) for step in after]
    return names and all(
        a.end - a.start == b.end - b.start for a, b in zip(before, after, strict=True) if a.index != changed
    )
