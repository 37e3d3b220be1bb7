"""Replays existing programs (any format of ``problems.candidates``) as a policy's answers."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

from dreamprm_jax.policy.protocol import Completion, CompletionRequest, PolicyError
from dreamprm_jax.problems.candidates import Candidate, read_candidates
from dreamprm_jax.schema import DataError, content_hash


class ReplayPolicy:
    """Answers from a file, in the file's order.

    The completions of a prefix are the saved programs that begin with it, so their number is limited. Temperature and
    seed have no effect.
    """

    def __init__(self, path: Path):
        """Reads the file. Raises DataError if it is missing or malformed."""
        self.path = path
        self.name = f"replay:{path.name}"
        found = read_candidates(path)
        if found.problem_ids is None:
            raise DataError(
                f"{path}: names no problem; `dreamprm convert --candidates --problems` writes a file that does"
            )
        unusable = [replace(one, program=replace(one.program, code="")) for one in found.unusable]  # empty answers
        self._saved: dict[str, list[Candidate]] = defaultdict(list)
        for one in sorted([*found.usable, *unusable], key=lambda one: one.program.sample_index):
            self._saved[one.program.problem_id].append(one)

    def complete(self, request: CompletionRequest) -> list[Completion]:
        """The first ``n`` saved programs. Raises PolicyError if the file has fewer."""
        problem = request.problem
        saved = self._saved.get(problem.problem_id, [])
        whole = [problem.starter_code + one.program.code if one.continues else one.program.code for one in saved]
        codes = [code for code in whole if code.startswith(request.prefix)]
        if len(codes) < request.n:
            which = " that begin with the prefix" if request.prefix else ""
            raise PolicyError(
                f"{self.path}: has {len(codes)} program(s) for problem {problem.problem_id}{which}, "
                f"{request.n} wanted; request fewer, or use a policy that can generate programs"
            )
        return [Completion(code, "stop", forced=True) for code in codes[: request.n]]

    def answers_digest(self, problem_id: str) -> str:
        """Hash of all saved programs for a problem, on which its answers depend."""
        return content_hash(*(one.program.code for one in self._saved.get(problem_id, [])), digits=16)

    def sampling(self, temperature: float) -> dict[str, Any]:
        """The file's name; the sampling parameters of its programs are unknown."""
        return {"file": self.path.name}

    def close(self) -> None:
        """Nothing to release."""
