"""What judging a program costs: CPU time and memory of this package's judge, of the official evaluator and of a bare
interpreter. With --pressure: verdicts and time where programs sleep, memory is short and workers are killed. With
--memory: the peak memory of ``dreamprm judge`` by the number of programs, judged and resumed.

    python benchmarks/judge.py [--official=LIVECODEBENCH_CHECKOUT] [--peer=CHECKOUT] [--programs=200] [--rounds=5]
    python benchmarks/judge.py --pressure [--programs=200]
    python benchmarks/judge.py --memory [--programs=40000]

Each line is CPU milliseconds (user + system, all processes) for one program with one test and with fifteen tests, the
start-up of whatever serves subtracted, median of interleaved rounds; then the ratio of the official evaluator's cost to
it. The official evaluator is measured where a checkout of https://github.com/LiveCodeBench/LiveCodeBench (commit
28fef95) is given; it needs numpy and tqdm. --peer measures another commit of this package in the same rounds.
Run it on an otherwise idle machine: CPU time rises under load, though less
than the clock.
"""

from __future__ import annotations

import argparse
import contextlib
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
from collections.abc import Callable, Iterator
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
_PRESSURE_ROUNDS = 3
_JUDGE = """
import resource
from dreamprm_jax.cli.main import main
main()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10)
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


@contextlib.contextmanager
def small_machine(workers: int) -> Iterator[None]:
    """Moves this process into a control group in which two of the programs that take memory fit, but not four."""
    base = Path("/sys/fs/cgroup")
    version_2 = (base / "cgroup.controllers").exists()
    base = base if version_2 else base / "memory"
    home = next(line.split(":")[2] for line in Path("/proc/self/cgroup").read_text().splitlines() if "memory" in line)
    group = base / f"dreamprm-benchmark-{os.getpid()}"
    group.mkdir()
    try:
        limit = (240 << 20) + workers * (12 << 20)
        (group / ("memory.max" if version_2 else "memory.limit_in_bytes")).write_text(str(limit))
        (group / "cgroup.procs").write_text(str(os.getpid()))
        yield
    finally:
        (base / home.lstrip("/") / "cgroup.procs").write_text(str(os.getpid()))
        time.sleep(0.2)  # until the workers that were closed have left it
        group.rmdir()


def pressure(programs: int) -> None:
    """Prints the table of verdicts under pressure."""
    print(f"{'under pressure':<16}{'workers':>8}{'seconds':>10}{'no retry':>10}{'ratio':>8}{'wrong':>8}{'lost':>8}")
    for kind in ("sleepers", "memory", "killed"):
        for workers in (2, 8, 16, 32):
            try:
                with small_machine(workers) if kind == "memory" else contextlib.nullcontext():
                    rounds = [
                        [pressure_run(programs, kind, workers, share) for share in (SandboxConfig().retry_share, 0.0)]
                        for _ in range(_PRESSURE_ROUNDS)
                    ]
            except (OSError, StopIteration) as error:
                print(f"{kind:<16}{workers:>8}  no control group can be made here ({error})")
                continue
            ratio = statistics.median(retrying[0] / plain[0] for retrying, plain in rounds)
            seconds, plain = (statistics.median(pair[k][0] for pair in rounds) for k in (0, 1))
            wrong, lost = (sum(pair[0][k] for pair in rounds) for k in (1, 2))
            print(
                f"{kind:<16}{workers:>8}{seconds:>10.1f}{plain:>10.1f}{ratio:>8.2f}{wrong:>8}{lost:>8}",
                flush=True,
            )


def memory(programs: int) -> None:
    """Prints the peak resident memory of ``dreamprm judge``; equal programs come from its cache of verdicts."""
    tests = [{"input": test.input, "output": test.output, "testtype": test.testtype} for test in expected_tests(1)]
    row = dict.fromkeys(("title", "statement", "platform", "contest_id", "contest_date", "difficulty"), "x")
    row |= {"problem_id": "p", "public_tests": tests, "private_tests": []}
    print(f"{'programs':>10}{'judged: MiB':>14}{'resumed: MiB':>14}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "problems.jsonl").write_text(json.dumps(row) + "\n")
        for count in (programs // 20, programs // 4, programs):
            with open(folder / "candidates.jsonl", "w") as handle:
                for index in range(count):
                    handle.write(json.dumps({"problem_id": "p", "code": f"# {index % 50}\n{PROGRAM}"}) + "\n")
            command = [sys.executable, "-c", _JUDGE, "judge", f"--problems={folder}/problems.jsonl"]
            command += [f"--candidates={folder}/candidates.jsonl", f"--output={folder}/verdicts.jsonl"]
            peaks = [
                int(subprocess.run([*command, *more], check=True, capture_output=True, text=True).stdout.split()[-1])
                for more in ([f"--cache={folder}/cache", "--no-resume"], ["--resume"])
            ]
            print(f"{count:>10}" + "".join(f"{peak:>14}" for peak in peaks), flush=True)


def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--official", type=Path, help="checkout of the LiveCodeBench repository")
    parser.add_argument("--peer", type=Path, help="another checkout of this package")
    parser.add_argument("--programs", type=int, default=200, help="a round (the slow peers run a tenth)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pressure", action="store_true", help="verdicts and time under pressure, instead")
    parser.add_argument("--memory", action="store_true", help="peak memory of dreamprm judge, instead")
    options = parser.parse_args()
    if options.pressure or options.memory:
        (pressure if options.pressure else memory)(options.programs)
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
