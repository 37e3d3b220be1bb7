"""The generate stage: problems of each window, and the policy's candidate programs for them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from dreamprm_jax.config import Config
from dreamprm_jax.engine.account import Account
from dreamprm_jax.engine.journal import Journal
from dreamprm_jax.engine.ordered import ordered_map
from dreamprm_jax.policy.factory import make_policy
from dreamprm_jax.policy.protocol import Completion, CompletionRequest, Policy, PolicyError
from dreamprm_jax.policy.replay import ReplayPolicy
from dreamprm_jax.policy.usage import spent
from dreamprm_jax.problems.source import load_windows
from dreamprm_jax.schema import DataError, Problem, Program, content_hash
from dreamprm_jax.storage import write_json, write_records
from dreamprm_jax.workdir import Paths

MEAN_LOG_PROBABILITY = "mean_logprob"  # of a program's tokens under its policy, among its sampling parameters


def request_seed(config_seed: int, *parts: str) -> int:
    """A seed that depends on what is asked, not on when or by which worker."""
    return int(content_hash(str(config_seed), *parts, digits=8), 16) & 0x7FFFFFFF


def generate(config: Config, paths: Paths) -> dict[str, int]:
    """Writes the problems and candidate programs of every window.

    Returns:
      Counts: problems, programs, candidates left out by reason, and what a server was asked for.

    Raises:
      DataError: where the policy failed on some problems (run again to ask it for those alone), or cannot be used.
    """
    windows, compositions = load_windows(config, cache=paths.stage("generate"))
    write_json(paths.compositions(), [composition.to_json() for composition in compositions])
    for window, problems in windows.items():
        write_records(paths.problems(window), Problem, problems)
    counts: Counter[str] = Counter()
    folder = paths.stage("generate")
    written = config.generate.candidates
    policy: Policy = (
        ReplayPolicy(Path(written))
        if written
        else make_policy(config.policy, compositions=paths.compositions(), folder=folder)
    )

    def ask(item: tuple[str, Problem]) -> list[Completion] | PolicyError:
        window, problem = item
        wanted = config.generate.test_programs if window == "test" else config.generate.train_programs
        seed = request_seed(config.seed, "candidates", problem.problem_id)
        try:
            return policy.complete(CompletionRequest(problem, "", wanted, config.generate.temperature, seed))
        except PolicyError as error:
            return error

    try:
        with Journal(folder / "candidates.journal") as journal:
            every = [(window, problem) for window, problems in windows.items() for problem in problems]
            todo = [item for item in every if item[1].problem_id not in journal]
            planned = len({problem.problem_id for _, problem in every})
            with Account(journal, planned, "generate", "problem") as account:
                for (_, problem), answer in ordered_map(ask, todo, config.policy.concurrency):
                    if isinstance(answer, PolicyError):
                        account.add(problem.problem_id, failure=str(answer))
                    else:
                        journal.put(problem.problem_id, [[one.code, one.log_probability, one.fault] for one in answer])
                        account.add(problem.problem_id)
            if account.progress.failed:
                raise DataError(
                    f"the policy failed on {account.progress.failed} problem(s), first "
                    f"{account.progress.first_failure}; "
                    "what it answered is kept: run the same command again to ask for the rest"
                )
            sampling = policy.sampling(config.generate.temperature)
            for window, problems in windows.items():
                programs = []
                for problem in problems:
                    for index, (code, log_probability, *fault) in enumerate(journal.get(problem.problem_id) or []):
                        if any(fault):  # no answer, and so no program
                            counts[f"candidates without an answer: {fault[0].split(':')[0]}"] += 1
                            continue
                        counts["empty candidates"] += not code.strip()  # kept: the judge fails them
                        said = {} if log_probability is None else {MEAN_LOG_PROBABILITY: log_probability}
                        programs.append(Program.make(problem.problem_id, code, index, policy.name, sampling | said))
                counts[f"{window} problems"] = len(problems)
                counts[f"{window} programs"] = write_records(paths.programs(window), Program, programs)
    finally:
        policy.close()
    return dict(counts) | spent(folder)
