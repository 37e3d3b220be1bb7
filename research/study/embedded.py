"""The figures of the embedded job in README.md: the files copied from a run, and the tables made from them.

``python -m research.study document --run=runs/embedded`` copies the files of a run of configs/embedded.py to
research/results/embedded.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from dreamprm_jax.metrics.statistics import bootstrap_interval, mcnemar
from dreamprm_jax.schema import DataError
from dreamprm_jax.storage import write_text
from dreamprm_jax.tables import csv_text, markdown_table, percent
from research.study.statistics import LEVEL, holm
from research.study.tables import number

KEPT = Path(__file__).resolve().parents[1] / "results" / "embedded"
COPIED = ("table.txt", "strategies.csv", "steps.csv")
ARMS = {
    "orm": "outcome model",
    "raw": "PRM, raw labels",
    "closure": "PRM, `closure` labels",
    "corrected": "PRM, default labels",
}
PAIRS = (("raw", "orm"), ("corrected", "raw"), ("corrected", "closure"), ("raw", "closure"))  # family E
SAMPLES = 10_000

Row = Mapping[str, str]


def take(run: Path, kept: Path = KEPT) -> None:
    """Copies the tables of a finished run, and writes the accuracy of each arm on each problem.

    Raises:
      DataError: if the run has no evaluation, or lacks an arm of the embedded job.
    """
    source = run / "evaluate"
    if not (source / "candidates.csv").exists():
        raise DataError(f"{source}: no evaluation; `dreamprm run --config=configs/embedded.py` makes it")
    candidates = _read(source / "candidates.csv")
    if missing := [arm for arm in ("orm", "raw", "corrected") if arm not in candidates[0]]:
        raise DataError(f"{source}: no arm {', '.join(missing)}; it is no run of configs/embedded.py")
    for name in COPIED:
        write_text(kept / name, (source / name).read_text(encoding="utf-8"))
    write_text(kept / "choices.csv", csv_text(_choices(candidates)))


def _choices(candidates: Sequence[Row]) -> list[dict[str, object]]:
    """One row per problem: the fraction of passing candidates, among all and among those that each arm ranks first."""
    problems: dict[str, list[Row]] = {}
    for row in candidates:
        problems.setdefault(row["problem_id"], []).append(row)
    rows: list[dict[str, object]] = []
    for name, group in problems.items():
        passed = np.array([float(row["passed"]) for row in group])
        made: dict[str, object] = {"problem_id": name, "random": round(float(passed.mean()), 6)}
        for arm in _arms(group[0]):
            numbers = np.array([float(one[arm] or "-inf") for one in group])
            made[arm] = round(float(passed[numbers == numbers.max()].mean()), 6)
        rows.append(made)
    return rows


def _arms(row: Row) -> list[str]:
    return [arm for arm in ARMS if arm in row]


def table() -> str:
    """The first table that the job prints, as a Markdown text block."""
    lines = (KEPT / "table.txt").read_text(encoding="utf-8").splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("method "))
    end = lines.index("", first)
    return "\n".join(["```text", *lines[first:end], "```"])


def differences() -> str:
    """Family E of research/comparisons.md."""
    choices = _read(KEPT / "choices.csv")
    solved = {arm: np.array([float(row[arm]) for row in choices]) for arm in _arms(choices[0])}
    pairs = [pair for pair in PAIRS if solved.keys() >= set(pair)]
    tested = [mcnemar(solved[first], solved[second]).p_value for first, second in pairs]
    p = holm(tested + [float("nan")] * (len(PAIRS) - len(pairs)))  # comparisons of a missing arm are members too
    lines = []
    for (first, second), value in zip(pairs, p, strict=False):
        found = bootstrap_interval(solved[first] - solved[second], SAMPLES, seed=0)
        text = f"{100 * found.estimate:+.1f} [{100 * found.low:+.1f}, {100 * found.high:+.1f}]"
        lines.append([f"{ARMS[first]} - {ARMS[second]}", f"**{text}**" if value < LEVEL else text, f"{value:.3f}"])
    return "\n".join(markdown_table(["best of 8, points", "difference", "p, Holm"], lines))


def answers() -> str:
    """A table of selection methods with their accuracy, and with the step-AUROC of their scores for recoverability."""
    row = {one["method"]: float(one["overall.estimate"]) for one in _read(KEPT / "strategies.csv")}
    steps = {one["key"]: float(one["auroc_recoverable.estimate"]) for one in _read(KEPT / "steps.csv")}
    arms = {arm: f"best of 8 by the {label}" for arm, label in ARMS.items() if arm in row}
    combined = max((name for name in row if name.startswith("public+")), key=row.__getitem__)
    titles = {
        "random": "a random candidate of 8",
        **arms,
        "position": "the step's position alone",
        "logprob": "best of 8 by the policy's mean log-probability, as reported",
        "logprob_exact": "the same, exact",
        "public": "one that passes the public tests",
        combined: "the best PRM's choice among those",
    }
    lines = [
        [title, percent(row[name]) if name in row else "", number(steps[name]) if name in steps else ""]
        for name, title in titles.items()
    ]
    made = "\n".join(markdown_table(["choice", "problems solved, %", "step-AUROC"], lines))
    missing = [f"`{arm}`" for arm in ARMS if arm not in row]
    return made + (f"\n\nNot in the run shown, but in the job: the arm {', '.join(missing)}." if missing else "")


def questions(certain_steps: str, certain_choice: str, label_table: str) -> str:
    """The first table of README.md. The arguments are the study's answers about label corrections."""
    row = {one["method"]: float(one["overall.estimate"]) for one in _read(KEPT / "strategies.csv")}
    best = max((arm for arm in ARMS if arm in row and arm != "orm"), key=row.__getitem__)
    combined = max(value for name, value in row.items() if name.startswith("public+"))
    lines = [
        ["Does a PRM help to choose among programs?",
         f"Yes: {percent(row[best])} % of problems solved by the best of 8, against {percent(row['random'])} % at "
         f"random and {percent(row['orm'])} % with an outcome model."],
        ["Does the paper's label table help?", label_table],
        ["Does any label correction help?", f"For step scores yes: {certain_steps}. For the choice of a program "
         f"{certain_choice}."],
        ["What beats a PRM?", f"Public tests: {percent(row['public'])} % alone, {percent(combined)} % "
         "together with a PRM."],
    ]  # fmt: skip
    return "\n".join(markdown_table(["question", "answer on the embedded job and in the study"], lines))


def _read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
