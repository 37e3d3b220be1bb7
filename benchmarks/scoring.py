"""Scoring candidates: packed prefix trees against one forward a program and one forward a prefix (the authors' way).

    python benchmarks/scoring.py [--rounds=3] [--problems=24] [--smollm2=2] [--lcb=FOLDER]

Workloads: (a) real: LiveCodeBench problems with one program each; (b) real, 8 candidates: each of those statements
with eight of the programs (its own and seven others'); (c) procedural: 120 problems with 8 candidates of the simulated
policy; (d) real statements with the procedural programs, which have functions, as Chain-of-Function programs do. Tokens
are counted on all of each workload; time, and the largest difference of a step's logit, on a sample of ``--problems``
problems. The three ways read the same tokens with the same model and attention, in batches of as many tokens; their
rounds are interleaved. CPU time is the process's, all threads.

The model is random, of 0.9 M parameters on SmolLM2's tokenizer; with --smollm2=N the pretrained SmolLM2-135M reads N
problems of each workload too.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from tokenizers import Tokenizer

from dreamprm_jax.config import MeshConfig, ModelConfig
from dreamprm_jax.models import pretrained
from dreamprm_jax.models.decoder import DecoderConfig
from dreamprm_jax.models.reward import Params, init_params, step_logits
from dreamprm_jax.models.smollm2 import smollm2_folder
from dreamprm_jax.models.tokenizer import encode_prompt, encode_steps
from dreamprm_jax.policy.protocol import CompletionRequest
from dreamprm_jax.policy.simulated import SimulatedPolicy
from dreamprm_jax.problems.candidates import read_candidates
from dreamprm_jax.problems.problem_files import load_problems
from dreamprm_jax.problems.procedural.compose import compose
from dreamprm_jax.schema import Problem
from dreamprm_jax.scoring.packing import pack
from dreamprm_jax.scoring.scorer import Reading, Scorer
from dreamprm_jax.training.mesh import make_mesh

MAX_LENGTH = 2048
ROW_TOKENS = 8192
BATCH_TOKENS = 16384
SHARED = Path(__file__).resolve().parents[2] / "shared" / "data" / "livecodebench"

Group = tuple[Problem, list[str]]  # a problem and its candidates
Way = Callable[[Sequence[Reading]], list[np.ndarray]]


@dataclass(frozen=True)
class Workload:
    """What is to be scored: readings by problem."""

    name: str
    problems: list[list[Reading]]

    @property
    def readings(self) -> list[Reading]:
        """Of all problems."""
        return [reading for problem in self.problems for reading in problem]

    def sample(self, count: int) -> list[Reading]:
        """Of ``count`` problems, evenly taken."""
        places = np.unique(np.linspace(0, len(self.problems) - 1, count).astype(int))
        return [reading for place in places for reading in self.problems[place]]


# ---------------------------------------------------------------- workloads


def workloads(folder: Path, tokenizer: Tokenizer) -> list[Workload]:
    """The real ones where their files are, and the procedural one."""
    procedural = procedural_groups()
    groups: list[tuple[str, list[Group]]] = []
    if (folder / "problems.jsonl").exists():
        problems = {p.problem_id: p for p in load_problems(str(folder / "problems.jsonl"), "release_v6")}
        programs = [c.program for c in read_candidates(folder / "candidates_o1_mini.json").usable]
        rng = np.random.default_rng(0)
        real = [(problems[program.problem_id], [program.code]) for program in programs]
        eight = [(p, [*own, *(programs[i].code for i in rng.choice(len(programs), 7, False))]) for p, own in real]
        functions = [(problem, codes) for (problem, _), (_, codes) in zip(real[::7], procedural, strict=False)]
        groups = [("a real, 1 candidate", real), ("b real, 8", eight)]
        last = [("d real statement, functions, 8", functions)]
    else:
        print(f"{folder}: not there; the workloads of real problems are left out")
        last = []
    return [
        Workload(name, [read for problem, codes in rows if (read := readings(tokenizer, problem, codes))])
        for name, rows in [*groups, ("c procedural, 8", procedural), *last]
    ]


def procedural_groups() -> list[Group]:
    """120 problems with eight candidates each."""
    made = [(problem, c) for _, problem, c in compose(0, {"train": 1, "meta": 1, "test": 120}, private_tests=1)][2:]
    policy = SimulatedPolicy({problem.problem_id: composition for problem, composition in made})
    return [(p, [c.code for c in policy.complete(CompletionRequest(p, "", 8, 0.2, 0))]) for p, _ in made]


def readings(tokenizer: Tokenizer, problem: Problem, codes: list[str]) -> list[Reading]:
    """The readings of a problem's candidates, those that fit ``MAX_LENGTH``."""
    prompt = encode_prompt(tokenizer, problem)
    result = []
    for code in codes:
        steps = encode_steps(tokenizer, code)
        ends = len(prompt) + np.cumsum([len(step) for step in steps]) - 1
        if ends[-1] < MAX_LENGTH:
            result.append(Reading(np.concatenate([prompt, *steps]), ends))
    return result


# ---------------------------------------------------------------- three ways


def padded(model: DecoderConfig, params: Params) -> Way:
    """One row a sequence, of the next of 64, 96, 128, 192, ... tokens; batches of one length."""

    def length_of(count: int) -> int:
        size = 64
        while size < count:
            size = size * 3 // 2 if size & (size - 1) == 0 else size // 3 * 4
        return size

    def forward(params: Params, tokens: jax.Array) -> jax.Array:
        everywhere = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
        return step_logits(model, params, tokens, everywhere, None, everywhere)

    compiled = jax.jit(forward)

    def run(items: Sequence[Reading]) -> list[np.ndarray]:
        results: list[np.ndarray] = [np.zeros(0)] * len(items)
        by_length: dict[int, list[int]] = {}
        for index, item in enumerate(items):
            by_length.setdefault(length_of(len(item.tokens)), []).append(index)
        for length, indices in by_length.items():
            rows = max(1, BATCH_TOKENS // length)
            rows = min(rows, 1 << (len(indices) - 1).bit_length())
            for start in range(0, len(indices), rows):
                tokens = np.zeros((rows, length), np.int32)
                chosen = indices[start : start + rows]
                for row, index in enumerate(chosen):
                    tokens[row, : len(items[index].tokens)] = items[index].tokens
                logits = np.asarray(compiled(params, tokens))
                for row, index in enumerate(chosen):
                    results[index] = logits[row, items[index].ends]
        return results

    return run


def prefix_by_prefix(run: Way) -> Way:
    """Every step a forward of its own over the prompt and the program up to there."""

    def each(items: Sequence[Reading]) -> list[np.ndarray]:
        prefixes = [Reading(i.tokens[: end + 1], np.asarray([end])) for i in items for end in i.ends]
        values = iter(np.concatenate(run(prefixes)).tolist())
        return [np.asarray([next(values) for _ in item.ends]) for item in items]

    return each


# ---------------------------------------------------------------- measurements


def count_tokens(workload: Workload) -> tuple[int, int, int, int, int]:
    """Tokens of (prefixes, programs, trees, trees and padding), and shapes of the packed way."""
    items = workload.readings
    batches = pack([item.tokens for item in items], ROW_TOKENS, BATCH_TOKENS)
    return (
        sum(int(np.sum(item.ends + 1)) for item in items),
        sum(len(item.tokens) for item in items),
        sum(packed.distinct for packed in batches),
        sum(packed.tokens.size for packed in batches),
        len({packed.shape for packed in batches}),
    )


def measure(model: DecoderConfig, params: Params, items: list[Reading], rounds: int) -> tuple[list[float], float]:
    """(CPU seconds of: prefixes, programs, packed; the largest difference of a logit)."""
    scorer = Scorer(model, make_mesh(MeshConfig()), params, ROW_TOKENS, BATCH_TOKENS)
    chunked = scorer.model  # the same attention for all
    whole = padded(chunked, params)
    ways: list[Way] = [prefix_by_prefix(whole), whole, scorer.logits]
    results = [way(items) for way in ways]  # compiles
    difference = max(float(np.abs(np.concatenate(other) - np.concatenate(results[2])).max()) for other in results[:2])
    seconds: list[list[float]] = [[] for _ in ways]
    for _ in range(rounds):
        for way, times in zip(ways, seconds, strict=True):
            start = time.process_time()
            way(items)
            times.append(time.process_time() - start)
    return [float(np.median(times)) for times in seconds], difference


def tiny(vocab_size: int) -> DecoderConfig:
    """The embedded job's shape."""
    return DecoderConfig(vocab_size, 128, 384, 2, 4, 2, 32, qkv_bias=True)


def main() -> None:
    """Prints the two tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--problems", type=int, default=24, help="problems of each workload that are timed")
    parser.add_argument("--smollm2", type=int, default=0, help="problems that SmolLM2-135M reads as well")
    parser.add_argument("--lcb", type=Path, default=SHARED, help="folder of problems.jsonl and candidates_o1_mini.json")
    args = parser.parse_args()
    tokenizer = Tokenizer.from_file(str(smollm2_folder() / "tokenizer.json"))
    loads = workloads(args.lcb, tokenizer)

    print("tokens, all of each workload; ratios to packed (distinct tokens, and with padding)\n")
    head = ("workload", "programs", "steps", "per prefix", "per program", "packed", "padding", "shapes")
    print("{:<32}{:>9}{:>8}{:>12}{:>12}{:>11}{:>9}{:>8}   prefix/packed  program/packed".format(*head))
    for load in loads:
        prefixes, programs, distinct, computed, shapes = count_tokens(load)
        items = load.readings
        steps = sum(len(item.ends) for item in items)
        print(
            f"{load.name:<32}{len(items):>9}{steps:>8}{prefixes:>12}{programs:>12}{distinct:>11}"
            f"{1 - distinct / computed:>9.1%}{shapes:>8}   {prefixes / distinct:>5.2f} ({prefixes / computed:.2f})"
            f"    {programs / distinct:>5.2f} ({programs / computed:.2f})",
            flush=True,
        )

    model = tiny(tokenizer.get_vocab_size())
    params = jax.jit(lambda key: init_params(model, key))(jax.random.key(0))
    times(model, params, loads, args.problems, args.rounds, "random model, 2 layers, width 128")
    if args.smollm2:
        settings = ModelConfig(weights="smollm2", max_length=MAX_LENGTH)
        model = pretrained.model_config(settings)
        params = pretrained.make_params(settings, model, jax.random.key(0))
        times(model, params, loads, args.smollm2, 1, "SmolLM2-135M")


def times(model: DecoderConfig, params: Params, loads: list[Workload], problems: int, rounds: int, title: str) -> None:
    """Prints the table of times of one model."""
    scale = 40.0  # logits of the order of one, so that differences show
    params = params | {"head": jax.tree.map(lambda leaf: scale * leaf, params["head"])}
    print(f"\nCPU time, {title}: {problems} problems, median of {rounds} interleaved rounds\n")
    head = ("workload", "programs", "per prefix", "per program", "packed", "largest difference")
    print("{:<32}{:>9}{:>12}{:>13}{:>9}   prefix/packed  program/packed  {}".format(*head))
    for load in loads:
        items = load.sample(problems)
        (prefix, program, packed), difference = measure(model, params, items, rounds)
        print(
            f"{load.name:<32}{len(items):>9}{prefix:>10.2f} s{program:>11.2f} s{packed:>7.2f} s"
            f"{prefix / packed:>16.2f}{program / packed:>16.2f}  {difference:.1e}",
            flush=True,
        )


if __name__ == "__main__":
    main()
