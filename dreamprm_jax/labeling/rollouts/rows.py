"""Converts the tallies of a program's steps to ``schema.StepLabel`` rows."""

from __future__ import annotations

from dreamprm_jax.cof.splitter import split_steps
from dreamprm_jax.config import LabelConfig
from dreamprm_jax.labeling.rollouts.estimate import ProgramEstimate, StepTally
from dreamprm_jax.schema import Outcome, Program, StepLabel


def step_labels(
    settings: LabelConfig,
    program: Program,
    outcome: Outcome,
    estimate: ProgramEstimate,
    policy: str,
    sampling: str,
    digest: str,
) -> list[StepLabel]:
    """The rows of one program. The last step's label is the program's outcome, stored as one rollout."""
    known = outcome.verdict.is_label
    last = StepTally(
        passes=int(outcome.passed), failures=int(known and not outcome.passed), infrastructure_errors=int(not known)
    )
    return [
        StepLabel(
            problem_id=program.problem_id,
            program_hash=program.program_hash,
            step_index=step.index,
            start=step.start,
            end=step.end,
            passes=tally.passes,
            rollouts=tally.passes + tally.failures,
            infrastructure_errors=tally.infrastructure_errors,
            unforced=tally.unforced,
            posterior_alpha=settings.prior_alpha + tally.passes,
            posterior_beta=settings.prior_beta + tally.failures,
            policy=policy,
            sampling=sampling,
            mode=outcome.mode,
            tier=outcome.tier,
            config_hash=digest,
            strategy=settings.strategy + ("+program" if settings.count_program else ""),
            asked=tally.asked,
            borrowed=tally.borrowed,
            borrowed_passes=tally.borrowed_passes,
            judged=tally.judged,
            unjudged=tally.unjudged,
            singles=tally.singles,
            single_passes=tally.single_passes,
            seed=tally.seed,
        )
        for step, tally in zip(split_steps(program.code, settings.granularity), (*estimate.steps, last), strict=True)
    ]
