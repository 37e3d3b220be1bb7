"""The replay policy, and the choice of a policy by the factory."""

from __future__ import annotations

import json

import pytest

from dreamprm_jax.config import PolicyConfig
from dreamprm_jax.policy.factory import make_policy
from dreamprm_jax.policy.protocol import Completion, CompletionRequest, PolicyError
from dreamprm_jax.schema import DataError, Problem

A, B = "def main():\n    pass\nmain()\n", "def main():\n    pass\n\ndef f(): pass\n"


def request(problem_id: str, n: int, prefix: str = "") -> CompletionRequest:
    return CompletionRequest(Problem(problem_id, "", "", "", "", "2024-01-01", "easy"), prefix, n, 0.2, 0)


@pytest.fixture
def path(tmp_path):
    rows = [
        {"question_id": "p", "code_list": [A, "'\ud800'", B]},
        {"question_id": "q", "output_list": [f"So:\n```\n{B}```"]},
    ]
    file = tmp_path / "outputs.json"
    file.write_text(json.dumps(rows))
    return file


def test_saved_programs_come_back_in_order(path):
    policy = make_policy(PolicyConfig(kind="replay", path=str(path)))
    assert [c.code for c in policy.complete(request("p", 3))] == [A, "", B]
    assert policy.complete(request("q", 1)) == [Completion(B, "stop", True)]
    assert (policy.name, policy.sampling(0.2)) == ("replay:outputs.json", {"file": "outputs.json"})
    policy.close()


def test_a_prefix_is_answered_by_programs_that_begin_with_it(path):
    policy = make_policy(PolicyConfig(kind="replay", path=str(path)))
    assert [c.code for c in policy.complete(request("p", 1, "def main():\n    pass\n\n"))] == [B]
    with pytest.raises(PolicyError, match=r"has 1 program\(s\) for problem p that begin with the prefix, 2 wanted"):
        policy.complete(request("p", 2, "def main():\n    pass\n\n"))


def test_what_the_file_lacks_is_an_error(path):
    policy = make_policy(PolicyConfig(kind="replay", path=str(path)))
    with pytest.raises(PolicyError, match=r"has 0 program\(s\) for problem r, 1 wanted"):
        policy.complete(request("r", 1))
    with pytest.raises(DataError, match=r"policy\.path is empty"):
        make_policy(PolicyConfig(kind="replay"))
    with pytest.raises(DataError, match="no such file"):
        make_policy(PolicyConfig(kind="replay", path=str(path.with_name("none.json"))))


def test_the_simulated_policy_needs_its_compositions(tmp_path):
    with pytest.raises(DataError, match="knows only the procedural benchmark"):
        make_policy(PolicyConfig(kind="simulated"))
    with pytest.raises(DataError, match="no such file"):
        make_policy(PolicyConfig(kind="simulated"), compositions=tmp_path / "compositions.json")
