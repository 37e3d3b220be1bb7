"""Tasks in the format of CodeI/O, written for the tests: small programs of several functions with input generators."""

from __future__ import annotations

from dreamprm_jax.problems.codeio import Task

_INTEGERS = """\
def generate_inputs(rng: Random) -> dict:
    return {"values": [rng.randint(-20, 20) for _ in range(rng.randint(1, 8))], "limit": rng.randint(1, 9)}
"""
_PROGRAMS = [
    """\
def keep(values, limit):
    return [value for value in values if abs(value) > limit]


def spread(values):
    if not values:
        return 0
    return max(values) - min(values)


def main_solution(values, limit):
    chosen = keep(values, limit)
    return {"count": len(chosen), "spread": spread(chosen)}
""",
    """\
def step(total, value, limit):
    total += value
    if total > limit:
        total = limit
    return total


def main_solution(values, limit):
    total = 0
    history = []
    for value in values:
        total = step(total, value, limit)
        history.append(total)
    return history
""",
    """\
class Counter:
    def __init__(self, limit):
        self.limit = limit
        self.seen = {}

    def add(self, value):
        key = value % self.limit
        self.seen[key] = self.seen.get(key, 0) + 1

    def best(self):
        return sorted(self.seen, key=lambda key: (-self.seen[key], key))


def main_solution(values, limit):
    counter = Counter(limit)
    for value in values:
        counter.add(value)
    return counter.best()
""",
    """\
import math


def mean(values):
    return sum(values) / len(values)


def deviation(values):
    middle = mean(values)
    return math.sqrt(mean([(value - middle) ** 2 for value in values]))


def main_solution(values, limit=3):
    return round(deviation(values) * limit, 3)
""",
]
TASKS = [
    Task(f"codeio/{i:04d}", f"Task {i}.", "Lists in, values out.", code, _INTEGERS, 7)
    for i, code in enumerate(_PROGRAMS)
]


def task(reference: str, generator: str = _INTEGERS, number: int = 9) -> Task:
    """A task with this reference."""
    return Task(f"codeio/{number:04d}", "A task.", "Input and output.", reference, generator, 5)
