"""Replays programs that were written elsewhere (LiveCodeBench outputs, JSONL, our Parquet) as a policy's answers."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

from dreamprm_jax.policy.protocol import Completion, CompletionRequest, PolicyError
from dreamprm_jax.problems.candidates import read_candidates
from dreamprm_jax.schema import content_hash


class ReplayPolicy:
    """Answers from a file, in the file's order.

    A prefix is answered with those saved programs that begin with it: real continuations, but only as many as there
    are. Temperature and seed have no effect.
    """

    def __init__(self, path: Path):
        """Reads the file. Raises DataError where it is missing or malformed."""
        self.path = path
        self.name = f"replay:{path.name}"
        found = read_candidates(path)
        rows = [(candidate.program, candidate.program.code) for candidate in found.usable]
        rows += [(candidate.program, "") for candidate in found.unusable]  # as an answer without a program
        self._codes: dict[str, list[str]] = defaultdict(list)
        for program, code in sorted(rows, key=lambda row: row[0].sample_index):
            self._codes[program.problem_id].append(code)

    def complete(self, request: CompletionRequest) -> list[Completion]:
        """The first ``n`` saved programs. Raises PolicyError where the file has fewer."""
        saved = self._codes.get(request.problem.problem_id, [])
        codes = [code for code in saved if code.startswith(request.prefix)]
        if len(codes) < request.n:
            which = " that begin with the prefix" if request.prefix else ""
            raise PolicyError(
                f"{self.path}: has {len(codes)} program(s) for problem {request.problem.problem_id}{which}, "
                f"{request.n} wanted; ask for fewer, or use a policy that can write"
            )
        return [Completion(code, "stop", forced=True) for code in codes[: request.n]]

    def answers_digest(self, problem_id: str) -> str:
        """Hash of all saved programs for a problem: what any answer for it depends on."""
        return content_hash(*self._codes.get(problem_id, []), digits=16)

    def sampling(self, temperature: float) -> dict[str, Any]:
        """The file; how its programs were sampled is not known."""
        return {"file": self.path.name}

    def close(self) -> None:
        """Nothing to release."""
