"""What selection costs a problem: tokens that the policy writes and the reward model reads, and passes over them.

Tokens are those of the run's own tokenizer (the reward model's); a policy of another vocabulary writes other numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dreamprm_jax.evaluation.judged_candidates import Candidates
from dreamprm_jax.models.tokenizer import load_tokenizer
from dreamprm_jax.runs.paths import Paths


@dataclass(frozen=True)
class TokenCosts:
    """Mean tokens over the problems."""

    program: np.ndarray  # (P,) of one candidate
    statement: np.ndarray  # (P,)

    def policy(self, k: int) -> float:
        """Written for k candidates."""
        return float(k * self.program.mean())

    def reward_model(self, k: int) -> float:
        """Read for k candidates, each with the statement before it, all steps in one pass."""
        return float(k * (self.program + self.statement).mean())


def token_costs(paths: Paths, candidates: Sequence[Candidates]) -> TokenCosts | None:
    """Counts with the tokenizer of the train stage; None where there is none."""
    if not paths.tokenizer().exists():
        return None
    tokenizer = load_tokenizer(paths.tokenizer())

    def lengths(texts: list[str]) -> list[int]:
        clean = [text.encode("utf-8", "replace").decode() for text in texts]
        return [len(encoding.ids) for encoding in tokenizer.encode_batch_fast(clean, add_special_tokens=False)]

    program = [float(np.mean(lengths([program.code for program in one.programs]))) for one in candidates]
    statement = lengths([one.problem.statement for one in candidates])
    return TokenCosts(np.array(program), np.array(statement, dtype=float))
