"""The generate stage: the same rows for the same seed, failures that lose no finished answers, counts."""

import dataclasses
import json

import pytest

from dreamprm_jax.policy.protocol import Completion, PolicyError
from dreamprm_jax.policy.simulated import SimulatedPolicy
from dreamprm_jax.runs.paths import Paths
from dreamprm_jax.schema import DataError, Problem, Program
from dreamprm_jax.stages import generate as generate_stage
from dreamprm_jax.stages.generate import generate, request_seed
from dreamprm_jax.stages.runner import run_stage
from dreamprm_jax.storage import read_records

WINDOWS = ("train", "meta", "test")


def rows(paths):
    return [
        (read_records(paths.problems(window), Problem), read_records(paths.programs(window), Program))
        for window in WINDOWS
    ]


def test_rows_and_counts(tmp_path, tiny_config):
    paths = Paths(tmp_path)
    counts = generate(tiny_config, paths)
    assert counts == {"empty candidates": 0} | {f"{w} problems": 3 for w in WINDOWS} | {
        f"{w} programs": 6 for w in WINDOWS
    }
    for problems, programs in rows(paths):
        assert [p.problem_id for p in programs] == [p.problem_id for p in problems for _ in range(2)]
        assert [p.sample_index for p in programs] == [0, 1] * 3
        assert {p.policy for p in programs} == {"simulated-1"}
        said = [json.loads(p.sampling) for p in programs]
        assert all(one.pop("mean_logprob") < 0 for one in said)
        assert said == [{"temperature": 0.2, "wrong_rate_scale": 1.0}] * 6


def test_same_seed_same_rows_for_any_concurrency(tmp_path, tiny_config):
    for name, concurrency, seed in (("a", 1, 0), ("b", 7, 0), ("c", 1, 1)):
        policy = dataclasses.replace(tiny_config.policy, concurrency=concurrency)
        generate(dataclasses.replace(tiny_config, policy=policy, seed=seed), Paths(tmp_path / name))
    assert rows(Paths(tmp_path / "a")) == rows(Paths(tmp_path / "b"))
    assert rows(Paths(tmp_path / "a")) != rows(Paths(tmp_path / "c"))


def test_request_seed_depends_on_what_is_asked():
    assert request_seed(0, "a", "b") == request_seed(0, "a", "b")
    assert len({request_seed(0, "a", "b"), request_seed(1, "a", "b"), request_seed(0, "ab", "")}) == 3
    assert 0 <= request_seed(5, "x") < 2**31


def test_failed_problems_are_asked_for_again_alone(tmp_path, tiny_config, monkeypatch):
    asked = []

    class Flaky(SimulatedPolicy):
        down = True

        def complete(self, request):
            asked.append(request.problem.problem_id)
            if self.down and request.problem.problem_id.endswith("4"):
                raise PolicyError("rate limit")
            return super().complete(request)

    monkeypatch.setattr(
        generate_stage, "make_policy", lambda config, compositions, folder: Flaky.from_file(compositions)
    )
    with pytest.raises(
        DataError, match=r"failed on 1 problem\(s\), first procedural-0-00004: rate limit; its answers are kept"
    ):
        run_stage(tiny_config, tmp_path, "generate")
    assert len(asked) == 9
    asked.clear()
    monkeypatch.setattr(Flaky, "down", False)
    run_stage(tiny_config, tmp_path, "generate")
    assert asked == ["procedural-0-00004"]
    generate(tiny_config, Paths(tmp_path / "reference"))
    assert rows(Paths(tmp_path)) == rows(Paths(tmp_path / "reference"))


def test_empty_candidates_are_kept_and_counted(tmp_path, tiny_config, monkeypatch):
    class Silent(SimulatedPolicy):
        def complete(self, request):
            return [Completion("" if i else " \n", "length", True) for i in range(request.n)]

    monkeypatch.setattr(
        generate_stage, "make_policy", lambda config, compositions, folder: Silent.from_file(compositions)
    )
    counts = generate(tiny_config, Paths(tmp_path))
    assert counts["empty candidates"] == 18
    assert counts["train programs"] == 6


def test_programs_of_a_file_take_the_place_of_the_policys(tmp_path, tiny_config):
    generate(tiny_config, Paths(tmp_path / "written"))
    rows_of = [row for _, programs in rows(Paths(tmp_path / "written")) for row in programs]
    file = tmp_path / "programs.jsonl"
    file.write_text("".join(json.dumps({"problem_id": r.problem_id, "code": r.code}) + "\n" for r in rows_of))
    settings = dataclasses.replace(
        tiny_config, generate=dataclasses.replace(tiny_config.generate, candidates=str(file))
    )
    generate(settings, Paths(tmp_path / "replayed"))
    replayed = [row for _, programs in rows(Paths(tmp_path / "replayed")) for row in programs]
    assert [row.program_hash for row in replayed] == [row.program_hash for row in rows_of]
    assert {(row.policy, row.sampling) for row in replayed} == {("replay:programs.jsonl", '{"file":"programs.jsonl"}')}
    more = dataclasses.replace(settings, generate=dataclasses.replace(settings.generate, test_programs=3))
    with pytest.raises(DataError, match=r"the policy failed on 3 problem\(s\), first .*programs\.jsonl: has 2 program"):
        generate(more, Paths(tmp_path / "more"))
