"""Monte-Carlo labels of the train window: rolls out the prefixes of every program and creates the label rows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dreamprm_jax.config import Config
from dreamprm_jax.engine.run import make_executor, run_units
from dreamprm_jax.labeling.rollouts.estimate import ProgramEstimate
from dreamprm_jax.labeling.rollouts.rows import step_labels
from dreamprm_jax.labeling.rollouts.work import EstimateFactory, shares
from dreamprm_jax.labeling.window import problems_by_id, unique_programs
from dreamprm_jax.policy.factory import make_policy
from dreamprm_jax.policy.protocol import MEAN_LOG_PROBABILITY
from dreamprm_jax.policy.replay import ReplayPolicy
from dreamprm_jax.problems.hidden_tests import HiddenTests
from dreamprm_jax.runs.fingerprint import effective_settings, fingerprint
from dreamprm_jax.runs.input_digests import InputDigests
from dreamprm_jax.runs.journal import Journal
from dreamprm_jax.runs.paths import Paths
from dreamprm_jax.schema import DataError, Outcome, Program, StepLabel, canonical_json, content_hash
from dreamprm_jax.storage import iterate_records

ATTEMPTS = 3  # maximum number of attempts for a program if the sandbox fails on its rollouts


class PrefixRollouts:
    """The estimates of the train window's programs; each program is a unit of work."""

    def __init__(self, config: Config, paths: Paths, tests: HiddenTests, journal: Journal) -> None:
        """Reads problems and outcomes. ``journal`` maps unit keys to estimates."""
        self.config, self.paths, self.journal = config, paths, journal
        self._tests = tests
        self._problems = problems_by_id(paths, "train")
        self._outcomes = {row.program_hash: row for row in iterate_records(paths.outcomes("train"), Outcome)}
        settings = effective_settings(config, {"seed", "policy", "label", "sandbox"}, InputDigests(paths.root))
        self._replay = ReplayPolicy(Path(config.policy.path)) if config.policy.kind == "replay" else None
        if self._replay is not None:
            del settings["policy.path"]  # the key contains the digest of the problem's answers instead
        self._settings = canonical_json(settings)

    def _key(self, program: Program) -> str:
        """The key of a program's unit: a hash of everything that the estimate depends on."""
        problem, verdict = self._problems[program.problem_id], self._outcomes[program.program_hash].verdict
        statement = canonical_json([problem.title, problem.statement, problem.starter_code, problem.func_name])
        answers = "" if self._replay is None else self._replay.answers_digest(problem.problem_id)
        depends = content_hash(verdict, statement, self._tests.digest(problem), self._settings, answers, digits=16)
        return f"{program.program_hash}/{depends}"

    def run(self) -> None:
        """Executes the units that are not in the journal, in the engine's workers.

        Raises:
          DataError: if the policy or the sandbox failed on some programs, after all others are done.
        """
        config, folder = self.config, self.paths.stage("label")
        if config.label.count_program:
            self._check_counts_as_rollouts()
        settings, children, threads = shares(config)
        factory = EstimateFactory(config, self.paths.compositions(), self.paths.hidden_tests(), folder, children)

        def units() -> Iterator[tuple[str, Any]]:
            for program in unique_programs(self.paths, "train"):
                verdict = self._outcomes[program.program_hash].verdict
                yield self._key(program), (self._problems[program.problem_id], program, verdict)

        with Journal(folder / "attempts.journal") as attempts:

            def find_error(key: str, value: Any) -> str | None:
                """Rejects an estimate with sandbox errors, so that the next run repeats it (``ATTEMPTS`` in all)."""
                errors = ProgramEstimate.from_json(value).sandbox_errors
                attempt = next(n for n in range(1, ATTEMPTS + 1) if f"{key}/{n}" not in attempts)
                if not errors or attempt == ATTEMPTS:
                    return None  # accept the estimate; its missing verdicts are counted
                attempts.put(f"{key}/{attempt}", value)
                return f"the sandbox failed on {errors} rollouts (attempt {attempt} of {ATTEMPTS})"

            run_units(
                units(),
                make_executor(settings, factory, threads),
                self.journal,
                planned=len(self._outcomes),
                done=sum(self._key(program) in self.journal for program in unique_programs(self.paths, "train")),
                description="roll out prefixes",
                unit="program",
                grace_seconds=config.engine.grace_seconds,
                find_error=find_error,
            )

    def rows(self) -> Iterator[StepLabel]:
        """The step labels of all programs, in the order of the programs."""
        policy = make_policy(
            self.config.policy, compositions=self.paths.compositions(), folder=self.paths.stage("label")
        )
        name, sampling = policy.name, canonical_json(policy.sampling(self.config.label.temperature))
        policy.close()
        digest = fingerprint(self.config, "label", self.paths.root)
        for program in unique_programs(self.paths, "train"):
            estimate = ProgramEstimate.from_json(self.journal.get(self._key(program)) or [])
            outcome = self._outcomes[program.program_hash]
            yield from step_labels(self.config.label, program, outcome, estimate, name, sampling, digest)

    def _check_counts_as_rollouts(self) -> None:
        """Raises DataError unless every program was sampled from the same distribution as its rollouts."""
        config, paths = self.config, self.paths
        policy = make_policy(config.policy, compositions=paths.compositions(), folder=paths.stage("label"))
        wanted = canonical_json(policy.sampling(config.label.temperature))
        policy.close()
        for program in unique_programs(paths, "train"):
            drawn = {
                k: v for k, v in json.loads(program.sampling).items() if k != MEAN_LOG_PROBABILITY
            }  # the mean log-probability is a property of the answer
            if (program.policy, canonical_json(drawn)) != (policy.name, wanted):
                raise DataError(
                    f"config.label.count_program: program {program.program_hash} is by {program.policy} with "
                    f"{program.sampling}, rollouts are by {policy.name} with {wanted}; they must be the same: "
                    "set config.generate.temperature and config.label.temperature alike, or count_program=False"
                )
