"""The records exchanged between stages, and their Arrow schema.

Every record is a frozen dataclass, and ``arrow_schema(cls)`` derives the Parquet schema from its annotations, so column
names are defined only here. Text offsets are Python string indices (Unicode code points).
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import json
import types
import typing
from typing import Any, Literal

import pyarrow as pa

Difficulty = Literal["easy", "medium", "hard"]
Granularity = Literal["function", "class", "block", "line"]  # definition of a step (cof.splitter)


class DataError(ValueError):
    """Invalid input. The message names the file, row and field, and the remedy."""


class Verdict(enum.StrEnum):
    """The judge's verdict on one program. The last two are not labels and never count as failures."""

    AC = "AC"  # accepted: every test passed
    WA = "WA"  # wrong answer
    TLE = "TLE"  # time limit exceeded
    MLE = "MLE"  # memory limit exceeded
    OLE = "OLE"  # output limit exceeded
    RE = "RE"  # runtime error
    CE = "CE"  # does not compile
    SANDBOX_ERROR = "SANDBOX_ERROR"  # error of the judge: retried, then reported
    INVALID_TASK = "INVALID_TASK"  # error of the task: no tests, malformed tests

    @classmethod
    def _missing_(cls, value: object) -> Verdict:
        raise ValueError(f"verdict {value!r} is none of {', '.join(cls)}")

    @property
    def is_label(self) -> bool:
        """Whether this verdict is about the program, not about the judge or the task."""
        return self not in (Verdict.SANDBOX_ERROR, Verdict.INVALID_TASK)


def _added(default: Any) -> Any:
    """A field that is missing in files written by earlier versions."""
    return dataclasses.field(default=default, metadata={"added": True})


@dataclasses.dataclass(frozen=True)
class TestCase:
    """One test: input and expected output; for a "code" test, only the code (``sandbox.code_tests``)."""

    __test__ = False  # not a pytest class

    input: str
    output: str
    testtype: Literal["stdin", "functional", "code"] = "stdin"  # LiveCodeBench's two types, and "code"


@dataclasses.dataclass(frozen=True)
class Problem:
    """One programming problem: the fields of a LiveCodeBench row, without the hidden tests."""

    problem_id: str
    title: str
    statement: str
    platform: str
    contest_id: str
    contest_date: str  # ISO 8601
    difficulty: str
    starter_code: str = ""
    func_name: str | None = None  # set for function-call problems
    public_tests: tuple[TestCase, ...] = ()
    checker: str = _added("")  # as sandbox.checker, or a program that defines check; "": the setting's value
    cpu_seconds: float = _added(0.0)  # limit of one test; 0: the setting's value
    memory_bytes: int = _added(0)  # limit of one test; 0: the setting's value
    reference_seconds: float = _added(0.0)  # CPU time of a correct program on its slowest test; 0: unknown


@dataclasses.dataclass(frozen=True)
class ProblemTests:
    """The hidden tests of one problem. Only stages that judge read them, because all together may be gigabytes."""

    problem_id: str
    private_tests: tuple[TestCase, ...] = ()


@dataclasses.dataclass(frozen=True)
class TestedProblem(Problem):
    """A problem with its hidden tests, as read from a source and before it is stored."""

    __test__ = False

    private_tests: tuple[TestCase, ...] = ()

    @property
    def tests(self) -> tuple[TestCase, ...]:
        """All tests in judging order: public before private."""
        return self.public_tests + self.private_tests

    def split(self) -> tuple[Problem, ProblemTests]:
        """The two records in which the problem is stored."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(Problem)}
        return Problem(**fields), ProblemTests(self.problem_id, self.private_tests)


@dataclasses.dataclass(frozen=True)
class Program:
    """One complete candidate program for one problem."""

    problem_id: str
    program_hash: str
    sample_index: int
    code: str
    policy: str  # name of the policy that wrote it
    sampling: str  # JSON: temperature, seed, prompt version, ...

    @classmethod
    def make(cls, problem_id: str, code: str, sample_index: int, policy: str, sampling: dict[str, Any]) -> Program:
        """Creates the record with its content hash."""
        return cls(problem_id, program_hash(problem_id, code), sample_index, code, policy, canonical_json(sampling))


@dataclasses.dataclass(frozen=True, slots=True)
class Step:
    """One span of a program. Consecutive steps concatenate to the program, byte for byte."""

    index: int
    start: int  # string offset
    end: int
    name: str  # qualified name of the function, "" outside functions


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The judge's verdict on one complete program: the clean label."""

    problem_id: str
    program_hash: str
    verdict: Verdict
    tests_passed: int  # tests passed before the first failure
    tests_total: int
    error: str  # short, safe text; "" when accepted
    cpu_seconds: float
    mode: str  # "faithful" | "lcb"
    tier: str  # the enforced sandbox tier

    @property
    def passed(self) -> bool:
        """True only for AC."""
        return self.verdict is Verdict.AC


@dataclasses.dataclass(frozen=True)
class StepLabel:
    """The Monte-Carlo estimate of one step: how often completions of the prefix up to ``end`` pass all tests."""

    problem_id: str
    program_hash: str
    step_index: int
    start: int
    end: int
    passes: int
    rollouts: int  # judged rollouts: passes + failures
    infrastructure_errors: int  # rollouts without a label, because of an error of the sandbox or the server
    unforced: int  # rollouts that were shown the prefix but not forced to continue it (chat-only servers)
    posterior_alpha: float  # Beta posterior of the pass rate
    posterior_beta: float
    policy: str
    sampling: str
    mode: str
    tier: str
    config_hash: str
    strategy: str = "fixed"  # allocation of the rollouts: ``LabelConfig.strategy``
    asked: int = 0  # rollouts requested from the policy at this prefix
    borrowed: int = 0  # judged rollouts of earlier prefixes that pass through this prefix
    borrowed_passes: int = 0
    judged: int = 0  # distinct programs of this prefix's rollouts that were judged
    unjudged: int = 0  # rollouts deliberately left without a verdict (``LabelConfig.judge_share``); not in ``rollouts``
    singles: int = 0  # judged rollouts whose program no other rollout produced
    single_passes: int = 0
    seed: int = 0  # seed of the first request for this prefix

    @property
    def mean(self) -> float:
        """passes / rollouts, the paper's soft label: Math-Shepherd's soft estimation (NaN without rollouts)."""
        return self.passes / self.rollouts if self.rollouts else float("nan")

    @property
    def hard(self) -> float:
        """1 if a rollout passed, else 0: Math-Shepherd's hard estimation (NaN without rollouts)."""
        return float(self.passes > 0) if self.rollouts else float("nan")


@dataclasses.dataclass(frozen=True)
class StepTruth:
    """Exact truth of one step on the procedural benchmark, for evaluation and oracle labelings only."""

    problem_id: str
    program_hash: str
    step_index: int
    value: float  # probability that the policy's completion of the prefix passes all tests
    recoverable: bool  # whether any completion passes
    wrong: bool  # whether this step itself is a wrong variant
    first_wrong: int  # index of the program's first wrong step, -1 if none


@dataclasses.dataclass(frozen=True)
class Score:
    """A reward model's scores of one program, one logit per step."""

    problem_id: str
    program_hash: str
    step_logits: tuple[float, ...]
    step_scores: tuple[float, ...]  # sigmoid of the logits
    model: str  # name of the arm or model
    checkpoint: str  # identity of the weights


@dataclasses.dataclass(frozen=True)
class CorrectedLabel:
    """One step's label before and after correction, with its provenance."""

    problem_id: str
    program_hash: str
    step_index: int
    raw: float  # the Monte-Carlo estimate that training started from
    corrected: float
    method: str  # the correction method


@dataclasses.dataclass(frozen=True)
class Skip:
    """A row that a stage skipped, and the reason."""

    source: str
    row: str
    reason: str


# ---------------------------------------------------------------- hashes


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces, so that equal values have equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def content_hash(*parts: str, digits: int = 32) -> str:
    """Hexadecimal SHA-256 of the length-prefixed parts, truncated to ``digits`` characters."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()[:digits]


def program_hash(problem_id: str, code: str) -> str:
    """The key of a program: a hash of its problem id and code."""
    return content_hash(problem_id, code)


# ---------------------------------------------------------------- Arrow


def _arrow_type(annotation: Any) -> pa.DataType:
    scalars = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
    if annotation in scalars:
        return scalars[annotation]
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal or (isinstance(annotation, type) and issubclass(annotation, enum.Enum)):
        return pa.string()
    if origin in (typing.Union, types.UnionType):
        return _arrow_type(next(a for a in args if a is not type(None)))
    if origin is tuple:
        return pa.list_(_arrow_type(args[0]))
    if dataclasses.is_dataclass(annotation):
        return pa.struct(list(arrow_schema(typing.cast(type, annotation))))
    raise TypeError(f"no Arrow type for {annotation!r}")


def _is_optional(annotation: Any) -> bool:
    return type(None) in typing.get_args(annotation)


def arrow_schema(cls: type) -> pa.Schema:
    """The Parquet schema of a record class."""
    hints = typing.get_type_hints(cls)
    return pa.schema(
        [
            pa.field(field.name, _arrow_type(hints[field.name]), nullable=_is_optional(hints[field.name]))
            for field in dataclasses.fields(cls)
        ]
    )
