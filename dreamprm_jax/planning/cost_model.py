"""The cost of a program according to libtpu's compiler: its estimates of every instruction's cycles, summed by part.

A compiled TPU module gives, for each instruction, the cycles that the compiler estimates (``estimated_cycles``). They
are summed here, with the bodies of loops multiplied by their trip counts, and grouped by the part of the model that the
instruction was traced from. No TPU is needed. This is a model and not a measurement: only its ratios are meaningful.

Collectives that run alone have no estimate: their bytes are divided by the bandwidth of the network. Collectives that
overlap with arithmetic (``-start`` and ``-done``) count as zero, as if they were hidden completely.

Pallas kernels are custom calls without an estimate. Their cycles are the number of instruction bundles in the
compiler's schedule of their loops (``KERNEL_CYCLES``), multiplied by the number of blocks that they compute.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from dreamprm_jax.models import fused

CLOCK = 1.75e9  # cycles/s of a v5p core
ICI = 180e9  # bytes/s of a v5p chip: both directions of one axis of the torus (training/chips.py)
COLLECTIVES = re.compile(r" = (.*?) (all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)\(")
BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "f32": 4, "s32": 4, "u32": 4, "f64": 8, "s64": 8}
UNKNOWN = 9e15  # the compiler's value for an instruction without an estimate
CORES = 2  # of a v5p chip; they share a program and the grid of a kernel

# Cycles of a kernel in bfloat16, by head width: for a block of query rows, and for a pair of a row block and a key
# block. From libtpu 0.0.42, computed by ``benchmarks/tpu_cost_model.py``.
KERNEL_CYCLES: dict[str, dict[int, tuple[int, int]]] = {
    "dual_attention": {64: (1693, 3596), 128: (1655, 3461)},
    "forward_attention": {64: (933, 1460), 128: (914, 1433)},
    "splash_mqa_fwd": {64: (0, 6337), 128: (0, 6330)},
    "splash_mqa_dkv": {64: (0, 8668), 128: (0, 8561)},
    "splash_mqa_dq": {64: (0, 6237), 128: (0, 6150)},
}


@dataclass
class Cost:
    """Seconds on one device.

    Attributes:
      parts: seconds by part of the model.
      phases: seconds by phase of the step: inner gradient and update, outer gradient, tangent pass.
      kernels: seconds of custom calls by kernel, also included in ``parts``.
      unknown_loops: number of loops whose trip count was not found; they count once.
    """

    parts: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    phases: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    kernels: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    unknown_loops: int = 0

    @property
    def seconds(self) -> float:
        """Seconds of the whole program."""
        return sum(self.parts.values())

    def add(self, other: Cost, times: int = 1) -> None:
        """Adds another program's cost ``times`` times."""
        for mine, theirs in ((self.parts, other.parts), (self.phases, other.phases), (self.kernels, other.kernels)):
            for name, seconds in theirs.items():
                mine[name] += times * seconds
        self.unknown_loops += other.unknown_loops


def module_cost(text: str, kernel_seconds: Mapping[str, float]) -> Cost:
    """The cost of a compiled module.

    Args:
      text: text of the module (``compiled.as_text()``), with libtpu's backend configs.
      kernel_seconds: seconds of each Pallas kernel for one row of the batch, by a part of its instruction's name.
    """
    found = _Module(text, kernel_seconds).cost()
    found.phases["inner"] = found.seconds - sum(found.phases.values())
    return found


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
        """The cost of the entry computation."""
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
                names = (
                    branches[1].split(",") if branches else re.findall(r"(?:true|false)_computation=([%\w.\-]+)", line)
                )
                taken = max((n.strip().lstrip("%") for n in names), key=lambda name: self._total(name).seconds)
                found.add(self._total(taken))
                found.phases[self._phase(taken)] += self._total(taken).seconds
            elif match := re.search(r" call\(.*to_apply=%?([\w.\-]+)", line):
                found.add(self._total(match[1]))
            elif match := COLLECTIVES.search(line):
                found.parts["collectives"] += collective_seconds(match[1], match[2], line)
            elif match := re.search(r'estimated_cycles":"(\d+)"', line):
                if int(match[1]) < UNKNOWN:
                    found.parts[part_of(line)] += int(match[1]) / CLOCK
            elif " custom-call(" in line:
                for kernel, seconds in self.kernel_seconds.items():
                    if kernel in line.split(" = ")[0]:
                        # The shape is rows, heads, tokens, width; a single row on a device has no axis.
                        rows = re.match(r"[^\[]*\[(\d+),\d+,\d+,\d+", line.split(" = ")[1])
                        seconds *= int(rows[1]) if rows else 1
                        found.parts["attention"] += seconds
                        found.kernels[kernel] += seconds
                        break
        self.done[name] = found
        return found

    def _phase(self, name: str) -> str:
        """The phase of a branch, recognized by the derivatives in it and in the computations that it calls."""
        lines = list(self.computations.get(name, []))
        for line in lines:
            for called in re.findall(r"(?:body|to_apply)=%?([\w.\-]+)", line):
                lines.extend(self.computations.get(called, []))
        text = "".join(lines)
        if re.search(r"transpose\(jvp\(\w+\)\)/decoder/", text):
            return "outer"
        return "tangent" if "/decoder/" in text else "inner"

    def _trips(self, line: str) -> int:
        """The trip count of a loop: the compiler's, or the constant in the loop's condition; 0 if not found."""
        if match := re.search(r'known_trip_count":\{"n":"(\d+)"', line):
            return int(match[1])
        condition = re.search(r"condition=%?([\w.\-]+)", line)
        lines = self.computations.get(condition[1], []) if condition else []
        constants = [int(n) for part in lines for n in re.findall(r"constant\((\d+)\)", part)]
        return max((n for n in constants if 1 < n < 4096), default=0)


def collective_seconds(shape: str, kind: str, line: str) -> float:
    """Seconds of a ring collective, by its result's shape. Its bytes cross the network once, or twice (all-reduce)."""
    size = sum(
        math.prod(map(int, filter(None, dims.split(",")))) * BYTES.get(kind_of, 4)
        for kind_of, dims in re.findall(r"\b(pred|[a-z]+\d+)\[([\d,]*)\]", shape)
    )
    sizes = {name: int(count) for name, count in re.findall(r"'(\w+)'=(\d+)", line)}
    named = re.search(r"\] \{([^}]*)\}", line)
    ways = math.prod(sizes[name] for name in re.findall(r"'(\w+)'", named[1])) if named and sizes else 0
    away = (ways - 1) / ways if ways else 1.0
    times = {"all-reduce": 2, "reduce-scatter": ways or 1}.get(kind, 1)
    return times * size * away / ICI


def part_of(line: str) -> str:
    """The part of the model that an instruction belongs to, by the name under which it was traced."""
    match = re.search(r'op_name="([^"]*)"', line)
    name = match[1] if match else ""
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


# ---------------------------------------------------------------- kernels


def kernel_seconds(
    heads: int, width: int, length: int, cycles: Mapping[str, tuple[int, int]] | None = None
) -> dict[str, float]:
    """Seconds of each kernel for one row.

    Args:
      heads: query heads on one device.
      width: width of a head.
      length: tokens of the row.
      cycles: cycles by kernel, as in ``KERNEL_CYCLES``; by default those of the nearest width there.
    """
    if cycles is None:
        cycles = {name: by[min(by, key=lambda known: abs(known - width))] for name, by in KERNEL_CYCLES.items()}
    found = {}
    for name, (start, pair) in cycles.items():
        most = fused.SPLASH_BLOCK if "splash" in name else fused.TARGETS["tpu"].block
        rows, keys = (min(size, length) for size in most)
        blocks = -(-length // rows)
        share = rows * keys / math.prod(most)  # of the work of a full block, if the row is shorter than a block
        found[name] = heads * share * (blocks * start + causal_pairs(blocks * rows, rows, keys) * pair) / CORES / CLOCK
    return found


def causal_pairs(length: int, rows: int, keys: int) -> int:
    """The number of blocks of ``rows`` x ``keys`` scores that contain an entry at or below the diagonal."""
    return sum(-(-stop // keys) for stop in range(rows, length + 1, rows))
