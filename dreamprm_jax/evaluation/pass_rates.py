"""Metrics of judged candidate files: pass@1 by group, verdicts, steps, agreement with the file's own verdicts."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from dreamprm_jax.evaluation.judged_candidates import DIFFICULTIES
from dreamprm_jax.evaluation.output import skip_counts
from dreamprm_jax.metrics.statistics import bootstrap_interval, pass_at_k
from dreamprm_jax.schema import Problem, Skip, Verdict
from dreamprm_jax.selection.best_of_n import powers_of_two
from dreamprm_jax.tables import ABSENT, percent, percent_interval, text_table, without_intervals

_CONFUSION = (
    ("ours_pass_file_pass", True, True),
    ("ours_pass_file_fail", True, False),
    ("ours_fail_file_pass", False, True),
    ("ours_fail_file_fail", False, False),
)
_SHOWN = 10  # maximum number of program names to print; results.json contains all


@dataclass(frozen=True)
class Judged:
    """One candidate and its verdict."""

    problem: Problem
    sample_index: int
    verdict: Verdict | None  # None: not judged, because its code is empty or cannot be stored; counts as failed
    file_passed: bool | None
    steps: int
    has_tests: bool

    @property
    def counts(self) -> bool:
        """Whether it counts in pass@1; failures of the judge and tasks without tests do not."""
        return self.has_tests if self.verdict is None else self.verdict.is_label

    @property
    def passed(self) -> bool:
        """Whether it passed all tests."""
        return self.verdict is Verdict.AC


def summarize(judged: Sequence[Judged], skips: Sequence[Skip], samples: int, seed: int) -> dict[str, Any]:
    """All metrics of the candidates whose problem is known, JSON-ready; the 95% intervals resample problems."""
    verdicts = Counter(ABSENT if one.verdict is None else one.verdict.value for one in judged)
    step_counts = Counter(one.steps for one in judged)
    return {
        "candidates": len(judged),
        "problems": len({one.problem.problem_id for one in judged}),
        "pass_at_1": {
            "all": _pass_at_1(judged, samples, seed),
            "difficulty": _by_group(judged, lambda problem: problem.difficulty, samples, seed),
            "platform": _by_group(judged, lambda problem: problem.platform, samples, seed),
        },
        "pass_at_k": _pass_at_k(judged, samples, seed),
        "verdicts": {name: verdicts[name] for name in [*(v.value for v in Verdict), ABSENT] if verdicts[name]},
        "steps": {
            "programs": sum(step_counts.values()),
            "steps": sum(count * programs for count, programs in step_counts.items()),
            "programs_by_steps": {str(count): step_counts[count] for count in sorted(step_counts)},
        },
        "agreement": _agreement(judged),
        "skips": skip_counts(skips),
    }


def _pass_at_1(judged: Sequence[Judged], samples: int, seed: int) -> dict[str, Any]:
    """pass@1: the mean over problems of the fraction of candidates that passed, by our and by the file's verdicts."""
    groups: dict[str, list[Judged]] = defaultdict(list)
    for one in judged:
        if one.counts:
            groups[one.problem.problem_id].append(one)
    if not groups:
        return {"problems": 0, "candidates": 0, "estimate": None, "low": None, "high": None, "file": None}
    shares = np.array([np.mean([one.passed for one in group]) for group in groups.values()])
    file = [[one.file_passed for one in group] for group in groups.values()]
    known = all(passed is not None for passes in file for passed in passes)
    return {
        "problems": len(groups),
        "candidates": sum(len(group) for group in groups.values()),
        **without_intervals(asdict(bootstrap_interval(shares, samples, seed)), len(groups)),
        "file": float(np.mean([np.mean(passes) for passes in file])) if known else None,  # type: ignore[arg-type]
    }


def _pass_at_k(judged: Sequence[Judged], samples: int, seed: int) -> dict[str, Any]:
    """Unbiased pass@k at k = 1, 2, 4, 5, 8, 10, ..., up to the smallest number of candidates of a problem."""
    groups: dict[str, list[bool]] = defaultdict(list)
    for one in judged:
        if one.counts:
            groups[one.problem.problem_id].append(one.passed)
    if not groups:
        return {}
    total = np.array([len(group) for group in groups.values()])
    correct = np.array([sum(group) for group in groups.values()])
    points = sorted({*powers_of_two(int(total.min())), *(k for k in (5, 10, 25, 50, 100) if k <= total.min())})
    found = {str(k): asdict(bootstrap_interval(pass_at_k(total, correct, k), samples, seed)) for k in points}
    return without_intervals(found, len(groups))


def _by_group(judged: Sequence[Judged], key: Callable[[Problem], str], samples: int, seed: int) -> dict[str, Any]:
    names = {key(one.problem) for one in judged}
    ordered = [name for name in DIFFICULTIES if name in names] + sorted(names - set(DIFFICULTIES))
    return {name: _pass_at_1([one for one in judged if key(one.problem) == name], samples, seed) for name in ordered}


def _agreement(judged: Sequence[Judged]) -> dict[str, Any] | None:
    """Confusion matrix of our verdicts and the file's, over candidates that have both; None if the file has none."""
    both = [one for one in judged if one.verdict is not None and one.counts and one.file_passed is not None]
    if not any(one.file_passed is not None for one in judged):
        return None
    counts = {
        name: sum(one.passed is ours and one.file_passed is theirs for one in both) for name, ours, theirs in _CONFUSION
    }
    return {
        "compared": len(both),
        **counts,
        "ours_fail_file_pass_programs": [
            f"{one.problem.problem_id}, sample {one.sample_index}: {one.verdict}"
            for one in both
            if one.file_passed and not one.passed
        ],
    }


# ---------------------------------------------------------------- text


def summary_text(results: Mapping[str, Any]) -> str:
    """The printed tables."""
    parts = [_pass_table(results["pass_at_1"])]
    if len(results["pass_at_k"]) > 1:
        parts.append(_pass_at_k_table(results["pass_at_k"]))
    parts += [_verdict_line(results["verdicts"]), _step_line(results["steps"])]
    if results["agreement"] is not None:
        parts.append(_agreement_table(results["agreement"]))
    if results["skips"]:
        lines = [f"  {row['count']} x {row['source']}: {row['reason']}" for row in results["skips"]]
        parts.append("left out:\n" + "\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _pass_table(figures: Mapping[str, Any]) -> str:
    rows = [("all", figures["all"])]
    for group in ("difficulty", "platform"):
        rows += [(f"{group}: {name}", row) for name, row in figures[group].items()]
    return text_table(
        ["pass@1", "problems", "programs", "ours", "95%", "file's"],
        [
            [
                name,
                str(row["problems"]),
                str(row["candidates"]),
                percent(row["estimate"]),
                percent_interval(row),
                percent(row["file"]),
            ]
            for name, row in rows
        ],
    )


def _pass_at_k_table(figures: Mapping[str, Any]) -> str:
    rows = [[f"pass@{k}", percent(row["estimate"]), percent_interval(row)] for k, row in figures.items()]
    return text_table(["unbiased", "ours", "95%"], rows)


def _verdict_line(verdicts: Mapping[str, int]) -> str:
    names = [f"{count} {'not judged' if name == ABSENT else name}" for name, count in verdicts.items()]
    return "verdicts: " + ", ".join(names)


def _step_line(steps: Mapping[str, Any]) -> str:
    counts = ", ".join(f"{programs} of {count}" for count, programs in steps["programs_by_steps"].items())
    return (
        f"steps: {steps['programs']} programs split into {steps['steps']} function steps, which concatenate to the "
        f"programs byte for byte\n  programs by number of steps: {counts}"
    )


def _agreement_table(agreement: Mapping[str, Any]) -> str:
    table = text_table(
        [f"agreement ({agreement['compared']} programs)", "file: pass", "file: fail"],
        [
            ["ours: pass", str(agreement["ours_pass_file_pass"]), str(agreement["ours_pass_file_fail"])],
            ["ours: fail", str(agreement["ours_fail_file_pass"]), str(agreement["ours_fail_file_fail"])],
        ],
    )
    note = (
        "  pass here, fail in the file: expected if the problems file has fewer tests than the file's verdicts used\n"
        "  fail here, pass in the file: check the tests and the limits"
    )
    names = agreement["ours_fail_file_pass_programs"]
    if names:
        shown = "; ".join(names[:_SHOWN]) + (f"; and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
        note += f": {shown}"
    return f"{table}\n{note}"
