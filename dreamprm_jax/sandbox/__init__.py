"""Runs untrusted programs and judges them."""

from dreamprm_jax.sandbox.judge import Judge
from dreamprm_jax.sandbox.records import Checker, JudgeResult, JudgeTask, Limits, SandboxUnavailable

__all__ = ["Checker", "Judge", "JudgeResult", "JudgeTask", "Limits", "SandboxUnavailable"]
