"""Makes a page of tables from the measurements of ``on_device.py``.

    python benchmarks/device_figures.py DIR [DIR...] [--output=FILE]

Each DIR is the output folder of one run. Parts that a run did not reach are left out.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TITLES = {
    "kernels": "Kernels against plain attention in float32: the largest difference over the largest number",
    "steps_3b": "Training steps, Qwen2.5-Coder-3B's shape, LoRA r=8",
    "steps_1b": "Training steps, Llama 3.2 1B's shape, every parameter",
    "attention": "Attention of one layer, milliseconds",
    "scoring": "Scoring, SmolLM2-135M's shape",
    "training": "A short training of SmolLM2-135M",
}
HEAD = """# Figures of accelerators

Measured by `python benchmarks/on_device.py --minutes=8 --output=DIR` on the device that each section names, and made
into tables by `python benchmarks/device_figures.py DIR`. Random weights, except in the training part.
"""
BLANK = "-"


def table(columns: list[str], rows: list[list[str]]) -> Iterator[str]:
    """A Markdown table."""
    yield "| " + " | ".join(columns) + " |"
    yield "|" + "---|" * len(columns)
    yield from ("| " + " | ".join(row) + " |" for row in rows)


def _number(record: dict[str, Any], name: str, form: str = ".3g", scale: float = 1.0) -> str:
    return format(scale * record[name], form) if record.get(name) else BLANK


def _kernels(records: list[dict[str, Any]]) -> Iterator[str]:
    rows = [
        [
            r["form"],
            r["layout"],
            r["dtype"],
            *(_number(r, f"{what}_error", ".1e") for what in ("value", "gradient", "tangent")),
        ]
        for r in records
        if "error" not in r
    ]
    yield from table(["form", "rows", "dtype", "value", "gradient", "tangent"], rows)


def _steps(records: list[dict[str, Any]]) -> Iterator[str]:
    plain = {(r["remat"], r["attention"]): r["seconds"] for r in records if r.get("step") == "plain step"}
    rows = []
    for r in (r for r in records if "error" not in r):
        first_order = r["step"] == "plain step"
        base = plain.get((r["remat"], r["attention"]))
        ratio = f"{r['seconds'] / base:.2f}" if base else BLANK
        name = "plain" if first_order else f"bi-level, {r['method']}"
        figures = [_number(r, "seconds"), ratio, _number(r, "tokens_per_second", ",.0f"), _number(r, "mfu", ".1f", 100)]
        rows.append([name, r["attention"], r["remat"], *figures, _number(r, "gigabytes", ".1f")])
    yield from table(["step", "attention", "remat", "seconds", "times plain", "tokens/s", "MFU, %", "GB"], rows)


def _attention(records: list[dict[str, Any]]) -> Iterator[str]:
    passes = ("forward", "backward", "tangent")
    found: dict[tuple[str, str], dict[str, str]] = {}
    for r in (r for r in records if "error" not in r):
        shape = f"{r['batch']} x {r['length']}, {r['heads']} / {r['kv_heads']} heads"
        found.setdefault((shape, r["form"]), {})[r["pass"]] = _number(r, "seconds", ".2f", 1e3)
    rows = [[*key, *(cells.get(name, BLANK) for name in passes)] for key, cells in found.items()]
    yield from table(["shape", "form", "forward", "forward and backward", "forward mode"], rows)


def _scoring(records: list[dict[str, Any]]) -> Iterator[str]:
    rows = [
        [
            r["way"],
            _number(r, "tokens_per_second", ",.0f"),
            _number(r, "seconds"),
            _number(r, "largest_difference", ".1e"),
        ]
        for r in records
        if "error" not in r
    ]
    yield from table(["way", "program tokens/s", "seconds", "largest difference of a logit"], rows)


def _training(records: list[dict[str, Any]]) -> Iterator[str]:
    stages = ", ".join(f"{r['stage']} {r['seconds']:.0f} s" for r in records if "stage" in r)
    if scorers := {r["scorer"]: r for r in records if "scorer" in r}:  # on real code: the last measurement of each
        keys = ("step_auroc", "first_error_f1", "best_of_8_gain")
        rows = [[name, *(_number(r, key, ".3f") for key in keys)] for name, r in scorers.items()]
        yield from table(["scorer", "step-AUROC", "first-error F1", "best of 8, above a random one"], rows)
        return
    yield f"Stages: {stages}."
    yield ""
    rows = [
        [r["arm"], str(r["lines"]), _number(r["first"], "inner_loss"), _number(r["last"], "inner_loss")]
        for r in records
        if "arm" in r
    ]
    yield from table(["arm", "lines of the log", "first loss", "last loss"], rows)


PARTS = {
    "kernels": _kernels,
    "steps_3b": _steps,
    "steps_1b": _steps,
    "attention": _attention,
    "scoring": _scoring,
    "training": _training,
}


def section(folder: Path) -> Iterator[str]:
    """One run."""
    parts = {name: json.loads(path.read_text()) for name in PARTS if (path := folder / f"{name}.json").exists()}
    if not parts:
        raise SystemExit(f"{folder}: holds no results of on_device.py")
    first = next(iter(parts.values()))
    toy = " (toy size: no figures of worth)" if first["toy"] else ""
    yield f"\n## {first['device']}, jax {first['jax']}{toy}"
    for name, part in parts.items():
        unfinished = "" if part["complete"] else " (not finished within its time)"
        yield f"\n### {TITLES[name]}{unfinished}\n"
        yield from PARTS[name](part["records"])
        for record in part["records"]:
            if "error" in record:
                what = ", ".join(f"{key} {value}" for key, value in record.items() if key != "error")
                yield f"\nFailed: {what}: `{record['error'].splitlines()[-1][:200]}`"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="output of on_device.py")
    parser.add_argument("--output", type=Path, help="file to write; default: print")
    options = parser.parse_args()
    text = "\n".join([HEAD.rstrip(), *(line for folder in options.folders for line in section(folder))]) + "\n"
    if options.output:
        options.output.write_text(text)
    else:
        print(text, end="")


if __name__ == "__main__":
    main()
