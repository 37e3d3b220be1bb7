"""CodeI/O references with wrong variants of their functions, and verdicts on all combinations of variants.

A program is a choice of one variant for each function: the reference's own function, or one of a few StepBench mutants
of it that fail a test. All combinations are judged in the sandbox. The exact value of a prefix is therefore a weighted
sum over the table of verdicts, and a rollout of the prefix is a draw from that table.
"""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int
from tqdm import tqdm

from dreamprm_jax.cof.splitter import split_steps
from dreamprm_jax.config import SandboxConfig
from dreamprm_jax.problems import codeio
from dreamprm_jax.runs.journal import Journal
from dreamprm_jax.sandbox import Judge, JudgeTask
from dreamprm_jax.schema import TestCase, Verdict, content_hash, program_hash
from dreamprm_jax.stepbench.make import Tally, usable_references
from dreamprm_jax.stepbench.trial import Tried, close_enough, new_judge

_FORMAT = "codeio-variants-1"  # change it when a program could get another verdict
_PLAUSIBLE = (Verdict.WA, Verdict.RE)  # in order of preference; without TLE, which costs the time limit in every run


@dataclass(frozen=True)
class Limits:
    """Limits of the problems and their variants."""

    problems: int = 180
    functions: int = 3  # minimum number of functions of a problem
    wrong_variants: int = 2  # maximum number of wrong variants per function
    combinations: int = 64  # maximum number of combinations per problem


@dataclass(frozen=True)
class Variants:
    """The variants of one problem. Variant 0 of each step is the reference's own text."""

    problem_id: str
    texts: tuple[tuple[str, ...], ...]  # texts of the variants of each step
    tests: int  # number of tests
    tests_passed: Int[np.ndarray, "*variants"]  # tests before the first failure; one axis per step, over its variants
    operators: tuple[tuple[str, ...], ...] = ()  # mutation operator of each variant, "" for the reference's own text

    def program(self, choice: Sequence[int]) -> str:
        """The text of the combination with variant ``choice[i]`` in step i."""
        return "".join(texts[index] for texts, index in zip(self.texts, choice, strict=True))

    def hash(self, choice: Sequence[int]) -> str:
        """The ``program_hash`` of a combination."""
        return program_hash(self.problem_id, self.program(choice))

    def passed(self, tests: int = 0) -> Bool[np.ndarray, "*variants"]:
        """Whether each combination passes the first ``tests`` tests; 0: all."""
        return self.tests_passed >= min(tests or self.tests, self.tests)

    def recoverable(self, choice: Sequence[int]) -> Bool[np.ndarray, " steps"]:
        """For each step: whether any combination with the same variants up to this step passes all tests."""
        passed = self.passed()
        return np.array([passed[tuple(choice[: step + 1])].any() for step in range(len(choice))])

    def chances(
        self, choice: Sequence[int], weights: Sequence[Float[np.ndarray, " variants"]], tests: int = 0
    ) -> Float[np.ndarray, " steps"]:
        """For each step: the pass probability of its prefix if all later variants are drawn with ``weights``."""
        table = self.passed(tests).astype(float)
        found = []
        for step in range(len(choice) - 1, -1, -1):
            found.append(float(table[tuple(choice[: step + 1])]))
            table = table @ weights[step]
        return np.clip(found[::-1], 0.0, 1.0)

    def redefined(
        self, choice: Sequence[int], weights: Sequence[Float[np.ndarray, " variants"]], tests: int = 0
    ) -> Float[np.ndarray, " steps"]:
        """``chances`` of completions that first define one function of the prefix again, drawn uniformly.

        In Python the later definition is used, so such a rollout is the combination with that variant drawn again.
        """
        found = []
        for step in range(len(choice)):
            drawn = []
            for again in range(step + 1):
                others = [(*choice[:again], variant, *choice[again + 1 :]) for variant in range(len(weights[again]))]
                values = [self.chances(other, weights, tests)[step] for other in others]
                drawn.append(float(weights[again] @ np.array(values)))
            found.append(np.mean(drawn))
        return np.array(found)


@dataclass
class LeftOut:
    """Counts of what is left out of the study, by reason."""

    tally: Tally  # references that are left out before variants are chosen
    problems: Counter[str] = field(default_factory=Counter)
    variants: Counter[str] = field(default_factory=Counter)


def read_variants(
    root: Path, limits: Limits, seed: int, sandbox: SandboxConfig, tasks: list[codeio.Task] | None = None
) -> tuple[list[Variants], LeftOut]:
    """Creates tests, mutants and all combinations, and judges them. Resumes an interrupted call.

    Args:
      root: folder of the journals.
      limits: limits of the problems and their variants.
      seed: seed of the test inputs, the mutants and the order of the problems.
      sandbox: isolation tier and number of workers.
      tasks: source tasks; None uses those of the installed package.

    Returns:
      At most ``limits.problems`` problems, and the counts of what was left out.

    Raises:
      DataError: if the package is missing, or another process uses the folder.
    """
    everything = codeio.read_tasks() if tasks is None else tasks
    left_out = LeftOut(Tally(len(everything), codeio.content_identity(everything)))
    found: list[Variants] = []
    with contextlib.ExitStack() as stack:
        tests, verdicts, tables = (
            stack.enter_context(Journal(root / f"{name}.journal")) for name in ("tests", "verdicts", "combinations")
        )
        judge = stack.enter_context(new_judge(sandbox))
        bar = stack.enter_context(tqdm(total=limits.problems, desc="run all combinations", unit="problem"))
        references = usable_references(everything, seed, sandbox, tests, verdicts, left_out.tally, limits.functions)
        for tried in references:
            texts, operators = _choose(tried, limits, left_out)
            table = _judged(texts, tried.tests, judge, tables) if texts else None
            if texts and table is None:
                left_out.problems["the sandbox itself failed"] += 1
            if texts and table is not None:
                found.append(Variants(tried.task.task_id, texts, len(tried.tests), table, operators))
                bar.update()
            if len(found) == limits.problems:
                break
    return found, left_out


Texts = tuple[tuple[str, ...], ...]


def _choose(tried: Tried, limits: Limits, left_out: LeftOut) -> tuple[Texts, Texts]:
    """The variants of every step and their operators; empty if there are too few variants or too many combinations."""
    code = tried.task.reference
    steps = split_steps(code)
    texts = [[code[step.start : step.end]] for step in steps]
    operators = [[""] for _ in steps]
    kinds = Counter(str(verdict) for _, verdict in tried.mutants if verdict not in _PLAUSIBLE)
    left_out.variants.update({f"drawn mutants judged {kind}": count for kind, count in kinds.items()})
    wrong = [(mutant, verdict) for mutant, verdict in tried.failing() if verdict in _PLAUSIBLE]
    for mutant, _ in sorted(wrong, key=lambda pair: _PLAUSIBLE.index(pair[1])):
        if len(texts[mutant.step]) > limits.wrong_variants:
            left_out.variants[f"failing mutants beyond {limits.wrong_variants} of a function"] += 1
        else:
            step = split_steps(mutant.code)[mutant.step]
            texts[mutant.step].append(mutant.code[step.start : step.end])
            operators[mutant.step].append(mutant.edit.operator)
    if sum(len(variants) > 1 for variants in texts) < 2:
        left_out.problems["fewer than two functions with a fault that a test shows"] += 1
        return (), ()
    while math.prod(map(len, texts)) > limits.combinations:
        most = max(range(len(texts)), key=lambda step: len(texts[step]))
        richest = texts[most]
        if len(richest) <= 2:
            left_out.problems[f"more than {limits.combinations} combinations, with one wrong variant a function"] += 1
            return (), ()
        richest.pop()
        operators[most].pop()
        left_out.variants[f"to have at most {limits.combinations} combinations"] += 1
    return tuple(map(tuple, texts)), tuple(map(tuple, operators))


def _judged(
    texts: tuple[tuple[str, ...], ...], tests: tuple[TestCase, ...], judge: Judge, journal: Journal
) -> Int[np.ndarray, "*variants"] | None:
    """Number of tests passed by every combination; None if the sandbox itself failed (the next run tries again)."""
    shape = tuple(map(len, texts))
    cases = [text for test in tests for text in (test.input, test.output)]
    key = content_hash(_FORMAT, str(shape), *(text for variants in texts for text in variants), *cases)
    if key not in journal:
        results = list(judge.evaluate(_combinations(texts, tests)))
        if not all(result.verdict.is_label for result in results):
            return None
        journal.put(key, [result.tests_passed for result in results])
    return np.array(journal.get(key)).reshape(shape)


def _combinations(texts: tuple[tuple[str, ...], ...], tests: tuple[TestCase, ...]) -> Iterator[JudgeTask]:
    for choice in np.ndindex(*map(len, texts)):
        code = "".join(variants[index] for variants, index in zip(texts, choice, strict=True))
        yield JudgeTask(str(choice), code, tests, codeio.ENTRY_POINT, close_enough, _FORMAT)
