"""The plan as text: every figure beside the assumption that it rests on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def lines(plan: dict[str, Any]) -> Iterator[str]:
    """The plan of ``planning.plan.make_plan``, a few lines a topic."""
    yield from _training(plan)
    yield from _memory(plan)
    yield from _time(plan)
    yield from _labels(plan["labels"], plan["label_assumptions"])


def _training(plan: dict[str, Any]) -> Iterator[str]:
    model, chips, mesh = plan["model"], plan["chips"], plan["mesh"]
    yield f"model      {model['source']}: {model['parameters']:,} parameters, {model['trainable']:,} trainable"
    domains = f" in {chips['domains']} {_domain(chips)}s" if chips["domains"] > 1 else ""
    yield (
        f"chips      {chips['count']:,} {chips['name']}{domains}: {chips['peak_flops'] / 1e12:.0f} TFLOP/s, "
        f"{chips['memory_gb']:g} GB each"
    )
    yield "mesh       " + " x ".join(f"{axis}={size}" for axis, size in mesh.items())
    meshes = " ".join(f"--config.train.mesh.{axis}={size}" for axis, size in mesh.items())
    yield f"           {meshes} --config.model.remat={plan['remat']}"


def _domain(chips: dict[str, Any]) -> str:
    return "node" if chips["is_gpu"] else "slice"


def _memory(plan: dict[str, Any]) -> Iterator[str]:
    memory = plan["memory"]
    rows = [
        ("parameters", memory["parameters"], ""),
        ("optimizer", memory["optimizer"], ""),
        ("label table", memory["label_table"], "with its optimizer"),
        ("batch", memory["batch"], ""),
    ]
    if memory["bound"]:
        share = 1 - (memory["most"] - memory["least"]) / memory["temporaries"]
        note = f"by the CPU compiler in float32, a bound: bfloat16 on the chip takes {100 * share:.0f} to 100% of it"
    else:
        note = f"by the compiler for {memory['compiler']}"
    rows.append(("temporaries", memory["temporaries"], f"{note}; a gradient is {memory['gradients']:.2f}"))
    yield f"\n{'GB a chip':<18}{'':>9}"
    yield from (f"  {name:<16}{size:>9.2f}  {text}".rstrip() for name, size, text in rows)
    verdict = {"yes": "fits", "maybe": "may fit", "no": "DOES NOT FIT"}[memory["fits"]]
    if memory["bound"] and memory["fits"] == "maybe":
        verdict += " (ask the chip's own compiler: --topology, for TPUs)"
    span = f"{memory['least']:.1f} to {memory['most']:.1f}" if memory["bound"] else f"{memory['most']:.1f}"
    usable = 100 * memory["usable"] / plan["chips"]["memory_gb"]
    yield f"  {'in all':<16}{span:>9}  {verdict} {memory['usable']:.1f} GB ({usable:.0f}% of the chip's)"
    if plan["advice"]:
        yield "less memory:"
        yield from (f"  {text}" for text in plan["advice"])


def _time(plan: dict[str, Any]) -> Iterator[str]:
    yield (
        f"\n{'seconds a step':<18}{'PFLOP':>9}{'compute':>9}{'memory':>9}{'fsdp':>8}{'tensor':>8}{'data':>8}"
        f"{'step':>18}{'of the peak':>13}{'tokens/s':>11}"
    )
    for kind, step in plan["steps"].items():
        parts, (low, high) = step["parts"], step["seconds"]
        data = parts["data_fast"] + parts["data_slow"]
        share = "-".join(f"{100 * s:.0f}" for s in step["share_of_peak"])
        yield (
            f"  {kind:<16}{step['flops'] / 1e15:>9.3g}{parts['compute']:>9.3g}{parts['memory']:>9.2g}"
            f"{parts['fsdp']:>8.2g}{parts['tensor']:>8.2g}{data:>8.2g}{f'{low:.3g} to {high:.3g}':>18}{share + '%':>13}"
            f"{step['tokens'] / high:>11,.0f}"
        )
    chips, (low, high), price = plan["chips"], plan["hours"], plan["price"]
    if plan["memory"]["seconds"] is not None:
        yield f"step: {list(plan['steps'])[-1]} by libtpu's cost model, others by their FLOPs; its parts are a roofline"
    yield (
        f"assumed: matrix products reach {100 * plan['efficiency']:.0f}% of the peak; collectives are hidden "
        "(first figure) or not hidden at all (second)"
    )
    yield (
        f"         {chips['fast_bandwidth'] / 1e9:g} GB/s per chip inside a {_domain(chips)}, "
        f"{chips['slow_bandwidth'] / 1e9:g} between; compilation, checkpoints, measurements and waiting not counted"
    )
    counts = ", ".join(f"{step['steps']:,} {kind}" for kind, step in plan["steps"].items() if step["steps"])
    yield f"\ntraining   {counts} steps of all arms: {low:.3g} to {high:.3g} hours"
    yield (
        f"           {low * chips['count']:,.1f} to {high * chips['count']:,.1f} chip-hours; at "
        f"${plan['chip_price']:.2f} each ${price[0]:,.0f} to ${price[1]:,.0f}"
    )


def _labels(cost: dict[str, Any], assumed: dict[str, Any]) -> Iterator[str]:
    yield (
        f"\nlabels     {assumed['problems']:,} + {assumed['meta_problems']:,} + {assumed['test_problems']:,} problems "
        f"(train, meta, test), {cost['programs']:,.0f} programs, {cost['prefixes']:,.0f} prefixes, "
        f"{cost['rollouts']:,.0f} rollouts"
    )
    saved = 1 - cost["computed_tokens"] / cost["prompt_tokens"] if cost["prompt_tokens"] else 0.0
    yield f"  {'tokens generated':<22}{cost['generated_tokens']:>16,.0f}"
    yield (
        f"  {'tokens prompted':<22}{cost['prompt_tokens']:>16,.0f}  in {cost['requests']:,.0f} requests; "
        f"a prefix cache leaves {cost['computed_tokens']:,.0f} to compute ({100 * saved:.0f}% less)"
    )
    yield f"  {'policy, GPU hours':<22}{cost['policy_hours']:>16,.2f}  ${cost['policy_price']:,.2f}"
    yield f"  {'programs judged':<22}{cost['judged']:>16,.0f}"
    yield f"  {'judge, CPU core hours':<22}{cost['judge_hours']:>16,.2f}"
    yield (
        f"assumed: {assumed['functions']:g} functions and {assumed['program_tokens']:g} tokens per program, "
        f"{assumed['prompt_tokens']:g} tokens per prompt; "
        f"{100 * assumed['distinct']:.0f}% of the completions are distinct and run"
    )
    yield (
        f"         {assumed['judge_seconds']:g} CPU seconds per program; a GPU of the policy generates "
        f"{assumed['decode_rate']:,.0f} tokens/s and reads {assumed['prompt_rate']:,.0f}, at "
        f"${assumed['policy_price']:.2f} an hour"
    )
