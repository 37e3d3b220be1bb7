"""Run by test_planning.py in a process with 8 CPU devices. Measures the communication of compiled steps, and the memory
of one replica compiled alone and together with others.

Prints JSON with three parts: the bytes gathered and reduced by the plain and the bi-level step, for each layout; the
temporaries in GB, for each number of devices; and the arguments in GB, as planned and as compiled.
"""

import dataclasses
import json
import math
import re

import jax
from planning_toy import CONFIG, LORA

from dreamprm_jax.config import MeshConfig
from dreamprm_jax.models.decoder import decoder_config
from dreamprm_jax.planning.inspect import GB, compile_step, training_steps
from dreamprm_jax.planning.memory import step_memory
from dreamprm_jax.planning.roofline import Layout
from dreamprm_jax.training.chips import CHIPS
from dreamprm_jax.training.mesh import make_mesh

COLLECTIVE = re.compile(r"= (.*?) (all-gather|all-reduce|reduce-scatter)(?:-start)?\(")
CALLS = re.compile(r"(?:calls|to_apply|condition|body|true_computation|false_computation)=%?([\w.\-]+)")
TRIPS = re.compile(r'known_trip_count":\{"n":"(\d+)"')


def size(shapes: str) -> int:
    return sum(4 * math.prod(map(int, dims.split(","))) for dims in re.findall(r"f32\[([\d,]+)\]", shapes))


def collectives(text: str) -> dict[str, int]:
    """Bytes of float32 results for each kind of collective. Loops count once per trip; all branches are counted."""
    bodies: dict[str, list[str]] = {}
    entry = name = ""
    for line in text.splitlines():
        if head := re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{$", line):
            name = head[2]
            bodies[name], entry = [], name if head[1] else entry
        elif name:
            bodies[name].append(line)
    totals = {"all-gather": 0, "all-reduce": 0}

    def walk(name: str, times: int) -> None:
        for line in bodies.get(name, ()):
            if found := COLLECTIVE.search(line):
                totals[found[2]] += times * size(found[1])
                continue
            trips = TRIPS.search(line) if " while(" in line else None
            called = CALLS.findall(line)
            if branches := re.search(r"branch_computations=\{(.*?)\}", line):
                called += [part.strip().lstrip("%") for part in branches[1].split(",")]
            for other in called:
                walk(other, times * (int(trips[1]) if trips else 1))

    walk(entry, 1)
    return totals


def moved(config, layout: Layout) -> list[dict[str, int]]:
    """The collectives of the plain step and of the bi-level step."""
    config = dataclasses.replace(
        config, train=dataclasses.replace(config.train, mesh=MeshConfig(*dataclasses.astuple(layout)))
    )
    mesh = make_mesh(config.train.mesh, jax.devices()[: layout.data * layout.fsdp * layout.tensor])
    model = decoder_config(config.model)
    return [collectives(compile_step(step, model, mesh).as_text()) for step in training_steps(config, model, mesh)]


def memory() -> dict[str, float]:
    layout, model, devices = Layout(4, 2, 1), decoder_config(CONFIG.model), jax.devices()
    config = dataclasses.replace(CONFIG, train=dataclasses.replace(CONFIG.train, mesh=MeshConfig(4, 2, 1)))
    few, all_ = (step_memory(CONFIG, model, layout, CHIPS["v5p"], devices[:count]) for count in (2, 8))
    mesh = make_mesh(config.train.mesh, devices)
    compiled = compile_step(training_steps(config, model, mesh)[-1], model, mesh).memory_analysis()
    arguments = {"arguments": few.state, "compiled arguments": compiled.argument_size_in_bytes / GB}
    return {"2": few.temporaries, "8": all_.temporaries, **arguments}


if __name__ == "__main__":
    report = {
        "fsdp": moved(CONFIG, Layout(1, 4, 1)),
        "tensor": moved(CONFIG, Layout(1, 1, 4)),
        "data": moved(CONFIG, Layout(4, 1, 1)),
        "fsdp, lora": moved(LORA, Layout(1, 4, 1)),
    }
    print(json.dumps({"moved": report, "memory": memory()}))
