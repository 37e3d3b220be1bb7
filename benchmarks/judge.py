"""What judging a program costs: CPU time and memory of this package's judge, of the official evaluator and of a bare
interpreter. With --pressure: verdicts and time where programs sleep, memory is short and workers are killed.

    python benchmarks/judge.py [--official=LIVECODEBENCH_CHECKOUT] [--peer=CHECKOUT] [--programs=200] [--rounds=5]
    python benchmarks/judge.py --pressure [--programs=200]

Each line is CPU milliseconds (user + system, all processes) for one program with one test and with fifteen tests, the
start-up of whatever serves subtracted, median of interleaved rounds; then the ratio of the official evaluator's cost to
it. The official evaluator is measured where a checkout of https://github.com/LiveCodeBench/LiveCodeBench (commit
28fef95) is given; it needs numpy and tqdm. --peer measures another commit of this package in the same rounds.
Run it on an otherwise idle machine: CPU time rises under load, though less
than the clock.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from dreamprm_jax.config import SandboxConfig
from dreamprm_jax.sandbox import Judge, JudgeTask, Limits, SandboxUnavailable
from dreamprm_jax.schema import TestCase

PROGRAM = """import sys
from collections import defaultdict


def count_pairs(values, target):
    \"\"\"Counts the pairs whose sum is the target, by one pass over the values.\"\"\"
    seen = defaultdict(int)
    pairs = 0
    for value in values:
        pairs += seen[target - value]
        seen[value] += 1
    return pairs


def main():
    \"\"\"Reads n, the target and the values; prints the number of pairs.\"\"\"
    data = sys.stdin.read().split()
    n, target = int(data[0]), int(data[1])
    values = list(map(int, data[2 : 2 + n]))
    print(count_pairs(values, target))


if __name__ == "__main__":
    main()
"""
INPUTS = tuple(f"5 {6 + k}\n1 5 {1 + k} 5 9\n" for k in range(15))
OFFICIAL = """
import json, sys
sys.path.insert(0, sys.argv[1])
from lcb_runner.evaluation.compute_code_generation_metrics import check_correctness
work = json.load(sys.stdin)
for _ in range(work["count"]):
    result, _ = check_correctness(work["sample"], work["code"], timeout=6, debug=False)
    assert all(item is True for item in result), result
"""


def expected_tests(count: int) -> tuple[TestCase, ...]:
    """``count`` tests whose expected outputs the program itself gave."""
    tests = []
    for text in INPUTS[:count]:
        done = subprocess.run([sys.executable, "-I", "-c", PROGRAM], input=text, capture_output=True, text=True)
        tests.append(TestCase(text, done.stdout))
    return tuple(tests)


def cpu_seconds() -> float:
    """CPU time of this process and of all children that it has waited for."""
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def judge_cost(mode: str, tier: str, tests: tuple[TestCase, ...], programs: int) -> float:
    """CPU seconds a program."""

    def run(count: int) -> float:
        start = cpu_seconds()
        with Judge(mode, tier) as judge:
            for result in judge.evaluate(JudgeTask(str(index), PROGRAM, tests) for index in range(count)):
                if result.tests_passed != len(tests):
                    raise SystemExit(f"the benchmark's own program fails: {result}")
        return cpu_seconds() - start

    run(1)
    return (run(programs) - run(1)) / (programs - 1)


def peer_cost(checkout: Path, mode: str, tier: str, tests: tuple[TestCase, ...], programs: int) -> float:
    """``judge_cost`` of another checkout of this package."""
    code = f"""
import sys; sys.path[:0] = [{str(checkout)!r}, {str(Path(__file__).parent)!r}]
import judge
print(judge.judge_cost({mode!r}, {tier!r}, judge.expected_tests({len(tests)}), {programs}))"""
    done = subprocess.run([sys.executable, "-P", "-c", code], stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout)


def official_cost(checkout: Path, tests: tuple[TestCase, ...], programs: int) -> float:
    """CPU seconds a program of the official evaluator."""
    inputs_outputs = {"inputs": [t.input for t in tests], "outputs": [t.output for t in tests], "fn_name": None}
    sample = {"input_output": json.dumps(inputs_outputs)}

    def run(count: int) -> float:
        start = cpu_seconds()
        with tempfile.TemporaryFile("w+") as log:
            work = json.dumps({"count": count, "sample": sample, "code": PROGRAM})
            done = subprocess.run(
                [sys.executable, "-c", OFFICIAL, str(checkout)], input=work, text=True, stdout=log, stderr=log
            )
            if done.returncode:
                log.seek(0)
                raise SystemExit(f"the official evaluator failed:\n{log.read()[-2000:]}")
        return cpu_seconds() - start

    run(1)
    return (run(programs) - run(1)) / (programs - 1)


def bare_cost(tests: tuple[TestCase, ...], programs: int) -> float:
    """CPU seconds a program of a fresh ``python -I`` for each test."""
    start = cpu_seconds()
    for _ in range(programs):
        for test in tests:
            subprocess.run([sys.executable, "-I", "-c", PROGRAM], input=test.input.encode(), stdout=subprocess.DEVNULL)
    return (cpu_seconds() - start) / programs


def worker_memory() -> tuple[float, float]:
    """(resident, proportional) MiB of one idle worker."""
    with Judge(workers=1, tier="UNSAFE") as judge:
        (pid,) = judge.worker_pids()
        rows = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    sizes = {row.split(":")[0]: int(row.split()[1]) / 1024 for row in rows}
    return sizes["Rss"], sizes["Pss"]


def pressure_tasks(programs: int, kind: str) -> list[tuple[JudgeTask, str]]:
    """Tasks with the verdict that each must get: a tenth sleeps, or takes 100 MiB."""
    special = {
        "sleepers": ("import time\ntime.sleep(60)", "TLE"),
        "memory": ("x = bytearray(b'x') * (100 << 20)\nimport time\ntime.sleep(0.2)\n" + PROGRAM, "AC"),
    }
    tests = expected_tests(1)
    tasks = []
    for index in range(programs):
        code, verdict = special.get(kind, (PROGRAM, "AC")) if index % 10 == 0 else (PROGRAM, "AC")
        tasks.append((JudgeTask(str(index), code, tests), verdict))
    return tasks


def pressure_run(programs: int, kind: str, workers: int, retry_share: float) -> tuple[float, int, int]:
    """Returns (seconds, wrong verdicts, verdicts lost). Kind "killed": a worker is killed each 20 programs."""
    tasks = pressure_tasks(programs, kind)
    wrong = lost = 0
    with Judge(limits=Limits(6.0, 2.0), workers=workers, retry_share=retry_share) as judge:
        start = time.monotonic()
        for index, result in enumerate(judge.evaluate(task for task, _ in tasks)):
            lost += not result.verdict.is_label
            wrong += result.verdict.is_label and result.verdict.value != tasks[index][1]
            if kind == "killed" and index % 20 == 0 and (pids := judge.worker_pids()):
                os.kill(sorted(pids)[index % len(pids)], signal.SIGKILL)
        return time.monotonic() - start, wrong, lost


def pressure(programs: int) -> None:
    """Prints the table of verdicts under pressure."""
    print(f"{'under pressure':<16}{'workers':>8}{'seconds':>10}{'no retry':>10}{'ratio':>8}{'wrong':>8}{'lost':>8}")
    for kind in ("sleepers", "memory", "killed"):
        for workers in (2, 8, 16, 32):
            seconds, wrong, lost = pressure_run(programs, kind, workers, SandboxConfig().retry_share)
            plain, _, _ = pressure_run(programs, kind, workers, 0.0)
            print(
                f"{kind:<16}{workers:>8}{seconds:>10.1f}{plain:>10.1f}{seconds / plain:>8.2f}{wrong:>8}{lost:>8}",
                flush=True,
            )


def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--official", type=Path, help="checkout of the LiveCodeBench repository")
    parser.add_argument("--peer", type=Path, help="another checkout of this package")
    parser.add_argument("--programs", type=int, default=200, help="a round (the slow peers run a tenth)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pressure", action="store_true", help="verdicts and time under pressure, instead")
    options = parser.parse_args()
    if options.pressure:
        pressure(options.programs)
        return
    suites = (expected_tests(1), expected_tests(15))
    measures: dict[str, Callable[[tuple[TestCase, ...]], float]] = {}
    for mode, tier in (("faithful", "UNSAFE"), ("faithful", "PORTABLE"), ("faithful", "FULL"), ("lcb", "PORTABLE")):
        try:
            Judge(mode, tier, workers=1).close()
        except SandboxUnavailable as error:
            print(f"{mode}, {tier}: {error}", file=sys.stderr)
        else:
            measures[f"{mode}, {tier}"] = functools.partial(judge_cost, mode, tier, programs=options.programs)
            if options.peer is not None:
                measures[f"peer's {mode}, {tier}"] = functools.partial(
                    peer_cost, options.peer.resolve(), mode, tier, programs=options.programs
                )
    few = max(2, options.programs // 10)
    measures["python -I for each test"] = functools.partial(bare_cost, programs=few)
    if options.official is not None:
        measures["official evaluator"] = functools.partial(official_cost, options.official, programs=few)
    # Interleaved, so that a machine whose speed drifts treats all alike.
    rounds = [
        {name: [cost(tests) for tests in suites] for name, cost in measures.items()} for _ in range(options.rounds)
    ]
    medians = {name: [statistics.median(r[name][k] for r in rounds) for k in range(len(suites))] for name in measures}
    official = medians.get("official evaluator")
    print(
        f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, Python {sys.version.split()[0]}, {len(rounds)} rounds"
    )
    print(f"{'CPU ms a program':<28}{'1 test':>10}{'15 tests':>10}" + (f"{'official / this':>22}" if official else ""))
    for name, costs in medians.items():
        line = f"{name:<28}" + "".join(f"{1000 * cost:>10.2f}" for cost in costs)
        if official:
            line += "".join(f"{theirs / cost:>10.1f}x" for theirs, cost in zip(official, costs, strict=True))
        print(line)
    for name in ("faithful, PORTABLE", "faithful, FULL"):
        if name in medians and "faithful, UNSAFE" in medians:
            added = [1000 * (r[name][0] - r["faithful, UNSAFE"][0]) for r in rounds]
            print(f"isolation, {name}: {statistics.median(added):+.2f} ms ({min(added):+.2f} to {max(added):+.2f})")
    resident, proportional = worker_memory()
    print(f"memory of an idle worker: {resident:.1f} MiB resident, {proportional:.1f} MiB its share")


if __name__ == "__main__":
    main()
