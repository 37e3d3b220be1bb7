"""The cost of labels: the policy's requests and tokens, with and without a prefix cache, and the judged programs.

A program of S steps and L tokens after a prompt of P tokens has S - 1 prefixes to roll out (the last step's label is
the program's own outcome). Steps are assumed to be equally long, so the i-th prefix has i L / S tokens and its
completion (S - i) L / S. The K completions of a prefix are one request.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from dreamprm_jax.config import Config
from dreamprm_jax.schema import DataError


@dataclass(frozen=True)
class Assumptions:
    """Assumptions that are not among the settings; each is an option of the command."""

    problems: int  # of the train window
    meta_problems: int
    test_problems: int
    functions: float  # steps of a program
    program_tokens: float
    prompt_tokens: float  # instructions and statement
    distinct: float  # share of the completions of a program that are distinct and run
    judge_seconds: float  # CPU time of a program with all its tests
    decode_rate: float  # tokens/s that one accelerator of the policy generates, over all requests
    prompt_rate: float  # tokens/s of prompts that are not in its cache


@dataclass(frozen=True)
class LabelCost:
    """Counts, tokens and hours."""

    programs: float
    prefixes: float
    rollouts: float
    requests: float
    prompt_tokens: float  # of all requests
    computed_tokens: float  # the part of them that a server with a prefix cache computes
    generated_tokens: float
    judged: float
    judge_hours: float  # CPU core hours
    policy_hours: float  # accelerator hours


def label_cost(config: Config, assumed: Assumptions) -> LabelCost:
    """The cost of the stages ``generate`` and ``label``.

    ``adaptive`` is counted at its limit, ``rollouts`` per prefix. ``binary_search`` is counted at log2(steps) prefixes
    of every program, although it skips programs that pass.

    Raises:
      DataError: if an assumption is out of range.
    """
    for name in ("functions", "program_tokens", "prompt_tokens", "judge_seconds", "decode_rate", "prompt_rate"):
        if getattr(assumed, name) <= 0:
            raise DataError(f"--{name.replace('_', '-')}={getattr(assumed, name):g}: must be above 0")
    if not 0 < assumed.distinct <= 1:
        raise DataError(f"--distinct={assumed.distinct:g}: must be above 0 and at most 1")
    settings, length, prompt = config.label, assumed.program_tokens, assumed.prompt_tokens
    steps = max(1.0, assumed.functions)
    learners, written = assumed.problems + assumed.meta_problems, config.generate
    train = assumed.problems * written.train_programs
    programs = learners * written.train_programs + assumed.test_problems * written.test_programs
    looked_at = math.log2(steps) if settings.strategy == "binary_search" else steps - 1
    rollouts = train * looked_at * settings.rollouts
    problems, own = learners + assumed.test_problems, not written.candidates  # one request per problem
    # With a prefix cache, the prompt and the program are computed once per program: its prefixes extend each other.
    computed = own * problems * prompt + train * (prompt + length * (steps - 1) / steps) * (looked_at > 0)
    generated = own * programs * length + rollouts * length / 2
    judged = programs + rollouts * assumed.distinct * settings.judge_share
    return LabelCost(
        programs=programs,
        prefixes=train * looked_at,
        rollouts=rollouts,
        requests=own * problems + train * looked_at,
        prompt_tokens=own * problems * prompt + train * looked_at * (prompt + length / 2),
        computed_tokens=computed,
        generated_tokens=generated,
        judged=judged,
        judge_hours=judged * assumed.judge_seconds / 3600,
        policy_hours=(generated / assumed.decode_rate + computed / assumed.prompt_rate) / 3600,
    )
