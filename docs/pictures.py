"""Makes the pictures of the README from a finished run of configs/embedded.py: python docs/pictures.py RUN

Writes pipeline.svg, program.svg (a test candidate with one wrong function that RUN/corrected
notices, colored by its scores) and
best_of_n.svg (the figure of the run's report) into docs/images.
"""

from __future__ import annotations

import html
import shutil
import sys
from pathlib import Path

import dreamprm_jax as dp
from dreamprm_jax.evaluation.report.viewer import color
from dreamprm_jax.runs.paths import Paths
from dreamprm_jax.schema import Outcome, Problem, Program, StepTruth
from dreamprm_jax.storage import read_records, write_text

IMAGES = Path(__file__).parent / "images"
STAGES = (
    ("problems", "with unit tests"),
    ("policy", "writes programs"),
    ("rollouts", "finish each prefix"),
    ("sandbox", "runs the tests"),
    ("PRM", "learns step values"),
    ("best of N", "picks a program"),
)
TEXT = 'font-family="system-ui, sans-serif" fill="#1b1f28"'


def svg(width: int, height: int, parts: list[str]) -> str:
    """An SVG file on a light background, so that it reads on a dark page too."""
    back = f'<rect width="{width}" height="{height}" rx="8" fill="#fbfaf7"/>'
    size = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}>{back}{"".join(parts)}</svg>\n'


def pipeline() -> str:
    """The stages from problems to a choice."""
    parts = []
    for index, (name, text) in enumerate(STAGES):
        left = 12 + index * 140
        parts.append(f'<rect x="{left}" y="18" width="118" height="58" rx="6" fill="#fff" stroke="#1f5f99"/>')
        for y, weight, size, line in ((43, 600, 15, name), (63, 400, 12, text)):
            place = f'x="{left + 59}" y="{y}" text-anchor="middle"'
            parts.append(f'<text {place} {TEXT} font-size="{size}" font-weight="{weight}">{line}</text>')
        if index:
            parts.append(f'<text x="{left - 11}" y="52" text-anchor="middle" {TEXT} font-size="16">→</text>')
    return svg(852, 94, parts)


def program(scored: dp.ScoredProgram) -> str:
    """The code, each step on the color of its score."""
    parts, y = [], 12
    for step in scored.steps:
        lines = step.code.strip("\n").split("\n")
        height = 18 * len(lines) + 10
        box = f'x="12" y="{y}" width="736" height="{height}"'
        parts.append(f'<rect {box} fill="{color(step.score)}" stroke="#dcdad3"/>')
        for number, line in enumerate(lines):
            place = f'x="22" y="{y + 18 + 18 * number}" xml:space="preserve"'
            code = html.escape(line).replace(" ", "\u00a0")
            parts.append(f'<text {place} font-family="monospace" font-size="13" fill="#1b1f28">{code}</text>')
        score = f'x="736" y="{y + 20}" text-anchor="end"'
        parts.append(f'<text {score} {TEXT} font-size="14" font-weight="600">{step.score:.2f}</text>')
        y += height
    return svg(760, y + 12, parts)


def example(paths: Paths, prm: dp.RewardModel) -> dp.ScoredProgram:
    """The first failing test candidate whose third step is the only wrong one, and where the model notices it."""
    problems = {one.problem_id: one for one in read_records(paths.problems("test"), Problem)}
    passed = {one.program_hash: one.passed for one in read_records(paths.outcomes("test"), Outcome)}
    steps: dict[str, list[StepTruth]] = {}
    for row in read_records(paths.truth("test"), StepTruth):
        steps.setdefault(row.program_hash, []).append(row)
    for one in read_records(paths.programs("test"), Program):
        wrong = [row.step_index for row in steps[one.program_hash] if row.wrong]
        if not passed[one.program_hash] and wrong == [2] and len(steps[one.program_hash]) in (4, 5):
            scored = prm.score(problems[one.problem_id], one.code)
            if scored.steps[1].score > 0.7 and scored.steps[2].score < 0.3:
                print(problems[one.problem_id].statement)
                return scored
    raise SystemExit("no such candidate in this run")


if __name__ == "__main__":
    run = Path(sys.argv[1])
    write_text(IMAGES / "pipeline.svg", pipeline())
    write_text(IMAGES / "program.svg", program(example(Paths(run), dp.load_prm(run / "corrected"))))
    shutil.copyfile(run / "report" / "best_of_n.svg", IMAGES / "best_of_n.svg")
