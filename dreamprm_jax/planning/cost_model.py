"""What libtpu's compiler thinks a program costs: its own estimate of every instruction's cycles, summed by part.

A compiled TPU module names, for each instruction, the cycles that the compiler schedules for (``estimated_cycles``).
They are summed here, the bodies of loops times their trip counts, and grouped by the part of the model that the
instruction was traced from. No TPU is needed. It is a model, not a measurement: ratios within it are what counts.

Kernels written in Pallas are custom calls without an estimate. Their time is taken from ``kernel_efficiency``: the
arithmetic that they declare over the peak, divided by the share of the matrix unit's cycles in the schedule that the
compiler made of their loop (``benchmarks/tpu_cost_model.py --kernels`` reads it from the compiler's own dump).
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

CLOCK = 1.75e9  # cycles/s of a v5p core
PARTS = ("projections", "attention", "optimizer", "embedding", "head", "norms", "collectives", "other")
COLLECTIVES = re.compile(r" (all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)")
UNKNOWN = 9e15  # the compiler's mark of an instruction that it has no estimate of


@dataclass
class Cost:
    """Seconds of one device.

    Attributes:
      parts: by part of the model.
      kernels: seconds of custom calls by kernel, already part of ``parts``.
      unknown_loops: loops whose trip count was not found; they count once.
    """

    parts: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    kernels: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    unknown_loops: int = 0

    @property
    def seconds(self) -> float:
        """Of the whole program."""
        return sum(self.parts.values())

    def add(self, other: Cost, times: int = 1) -> None:
        """Adds another program's cost, ``times`` over."""
        for mine, theirs in ((self.parts, other.parts), (self.kernels, other.kernels)):
            for name, seconds in theirs.items():
                mine[name] += times * seconds
        self.unknown_loops += other.unknown_loops


def module_cost(text: str, kernel_seconds: Mapping[str, float]) -> Cost:
    """Sums a compiled module (``compiled.as_text()``).

    Args:
      text: of the module, with libtpu's backend configs.
      kernel_seconds: seconds of one call of each Pallas kernel, by a part of its instruction's name.
    """
    return _Module(text, kernel_seconds).cost()


class _Module:
    def __init__(self, text: str, kernel_seconds: Mapping[str, float]) -> None:
        self.kernel_seconds = kernel_seconds
        self.computations: dict[str, list[str]] = {}
        self.done: dict[str, Cost] = {}
        current: list[str] = []
        self.entry = ""
        for line in text.splitlines():
            if match := re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{\s*$", line):
                current = self.computations[match[2]] = []
                self.entry = match[2] if match[1] else self.entry
            else:
                current.append(line)

    def cost(self) -> Cost:
        """Of the entry computation."""
        return self._total(self.entry)

    def _total(self, name: str) -> Cost:
        if name in self.done:
            return self.done[name]
        found = Cost()
        for line in self.computations.get(name, []):
            if match := re.search(r" while\(.*body=%?([\w.\-]+)", line):
                trips = self._trips(line)
                found.unknown_loops += trips == 0
                found.add(self._total(match[1]), trips or 1)
            elif " conditional(" in line:
                branches = re.search(r"branch_computations=\{([^}]*)\}", line)
                names = branches[1].split(",") if branches else re.findall(r"(?:true|false)_computation=([%\w.\-]+)", line)
                found.add(max((self._total(n.strip().lstrip("%")) for n in names), key=lambda cost: cost.seconds))
            elif match := re.search(r" call\(.*to_apply=%?([\w.\-]+)", line):
                found.add(self._total(match[1]))
            elif match := re.search(r'estimated_cycles":"(\d+)"', line):
                if int(match[1]) < UNKNOWN:
                    found.parts[part_of(line)] += int(match[1]) / CLOCK
            elif " custom-call(" in line:
                for kernel, seconds in self.kernel_seconds.items():
                    if kernel in line.split(" = ")[0]:
                        found.parts["attention"] += seconds
                        found.kernels[kernel] += seconds
                        break
        self.done[name] = found
        return found

    def _trips(self, line: str) -> int:
        """Of a loop: known to the compiler, or the constant that its condition compares with. 0: not found."""
        if match := re.search(r'known_trip_count":\{"n":"(\d+)"', line):
            return int(match[1])
        condition = re.search(r"condition=%?([\w.\-]+)", line)
        lines = self.computations.get(condition[1], []) if condition else []
        constants = [int(n) for part in lines for n in re.findall(r"constant\((\d+)\)", part)]
        return max((n for n in constants if 1 < n < 4096), default=0)


def part_of(line: str) -> str:
    """The part of the model that an instruction belongs to, by the name that it was traced under."""
    match = re.search(r'op_name="([^"]*)"', line)
    name = match[1] if match else ""
    if COLLECTIVES.search(line):
        return "collectives"
    if re.search(r"/(q|k|v|o|gate|up|down)/", name):
        return "projections"
    if "bkgtu" in name or re.search(r"layers(/closed_call)?/(while|attention|checkpoint)", name) or "splash" in name:
        return "attention"
    if "norm" in name and "decoder" in name:
        return "norms"
    if "_take" in name or "embedding" in name:
        return "embedding"
    if "/head/" in name:
        return "head"
    return "other" if "decoder" in name or not name else "optimizer"


def metadata_kernels(text: str) -> dict[str, int]:
    """Pallas kernels of a module: the calls in its text (not times loops) by name. To see that they are in it."""
    names = re.findall(r"%([\w.\-]+) = [^\n]*? custom-call\([^\n]*tpu_custom_call", text)
    return {name: names.count(name) for name in set(names)}


def as_json(cost: Cost) -> str:
    """For reports."""
    return json.dumps({"seconds": cost.seconds, "parts": dict(cost.parts), "kernels": dict(cost.kernels)})
