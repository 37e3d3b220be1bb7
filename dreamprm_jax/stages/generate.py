"""The generate stage: the problems of each window, and the policy's candidate programs for them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from dreamprm_jax.config import Config
from dreamprm_jax.policy.factory import make_policy
from dreamprm_jax.policy.generation import ask_for_candidates
from dreamprm_jax.policy.protocol import MEAN_LOG_PROBABILITY, CompletionRequest, request_seed
from dreamprm_jax.policy.replay import ReplayPolicy
from dreamprm_jax.problems.source import WINDOWS, load_windows
from dreamprm_jax.runs.fingerprint import effective_settings
from dreamprm_jax.runs.input_digests import InputDigests
from dreamprm_jax.runs.journal import Journal
from dreamprm_jax.runs.paths import Paths
from dreamprm_jax.runs.server_usage import spent
from dreamprm_jax.schema import DataError, Problem, Program, canonical_json, content_hash
from dreamprm_jax.storage import read_records, write_json, write_records


def generate(config: Config, paths: Paths) -> dict[str, int]:
    """Writes the problems, their hidden tests, and the candidate programs of every window.

    Returns:
      Counts: problems, programs, skipped candidates by reason, and the usage of a policy's server.

    Raises:
      DataError: if the policy failed on some problems (running again requests only those), or cannot be used.
    """
    folder = paths.stage("generate")
    windows = _problems(config, paths)
    policy = (
        ReplayPolicy(Path(config.generate.candidates))
        if config.generate.candidates
        else make_policy(config.policy, compositions=paths.compositions(), folder=folder)
    )
    requests = {window: [_request(config, window, problem) for problem in rows] for window, rows in windows.items()}
    key = _journal_key(config, paths)
    counts: Counter[str] = Counter()
    try:
        with Journal(folder / "candidates.journal") as journal:
            all_requests = [request for of_window in requests.values() for request in of_window]
            ask_for_candidates(policy, all_requests, key, journal, config.policy.concurrency)
            sampling = policy.sampling(config.generate.temperature)
            for window, of_window in requests.items():
                programs = []
                for request in of_window:
                    for index, (code, log_probability, fault) in enumerate(journal.get(key(request)) or []):
                        if fault:
                            counts[f"candidates without an answer: {fault.split(':')[0]}"] += 1
                            continue
                        counts["empty candidates"] += not code.strip()  # kept: the judge rejects them
                        extra = {} if log_probability is None else {MEAN_LOG_PROBABILITY: log_probability}
                        problem_id = request.problem.problem_id
                        programs.append(Program.make(problem_id, code, index, policy.name, sampling | extra))
                counts[f"{window} problems"] = len(of_window)
                counts[f"{window} programs"] = write_records(paths.programs(window), Program, programs)
    finally:
        policy.close()
    if not sum(counts[f"{window} programs"] for window in WINDOWS):
        raise DataError("the policy gave no answer to any problem: " + ", ".join(f"{n} {k}" for k, n in counts.items()))
    return dict(counts) | spent(folder)


def _problems(config: Config, paths: Paths) -> dict[str, list[Problem]]:
    """Problems by window, read from their source in the first run and from the stage's files afterwards."""
    files = [paths.problems(window) for window in WINDOWS]
    if not all(path.exists() for path in files):
        windows, compositions = load_windows(config, paths.hidden_tests(), cache=paths.stage("generate"))
        write_json(paths.compositions(), [composition.to_json() for composition in compositions])
        for window, problems in windows.items():
            write_records(paths.problems(window), Problem, problems)
    return {window: read_records(paths.problems(window), Problem) for window in WINDOWS}


def _request(config: Config, window: str, problem: Problem) -> CompletionRequest:
    count = config.generate.test_programs if window == "test" else config.generate.train_programs
    seed = request_seed(config.seed, "candidates", problem.problem_id)
    return CompletionRequest(problem, "", count, config.generate.temperature, seed)


def _journal_key(config: Config, paths: Paths) -> Callable[[CompletionRequest], str]:
    """A function from requests to journal keys: hashes of the problem, the policy and the sampling parameters."""
    settings = effective_settings(config, {"policy", "generate"}, InputDigests(paths.root))
    policy = canonical_json(
        {name: value for name, value in settings.items() if name.startswith("policy.") or name == "generate.candidates"}
    )

    def key(request: CompletionRequest) -> str:
        problem = canonical_json(asdict(request.problem))
        return content_hash(problem, policy, f"{request.n} {request.temperature} {request.seed}")

    return key
