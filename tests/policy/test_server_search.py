"""Search with the server policy: a real HTTP server that continues prefixes."""

import json
import urllib.request

import numpy as np

from dreamprm_jax.cof.splitter import split_steps
from dreamprm_jax.schema import Problem
from dreamprm_jax.search.algorithms import SearchSettings, ranked
from dreamprm_jax.search.driver import run_searches

PROBLEM = Problem("double", "Double", "Print twice the number.", "x", "c", "2025-01-01", "easy")


def scorer(items):
    """Prefers later steps, and depends on the text length. Any order works for these tests."""
    return [np.array([len(code) % 7 + float(i) for i in range(len(split_steps(code)))]) for _, code in items]


def test_a_beam_has_the_server_continue_prefixes(server):
    policy = server("plain")
    settings = SearchSettings("beam", width=2, expansions=2, tokens=2000)
    ((_, result),) = run_searches([PROBLEM], settings, policy, scorer, lambda texts: [len(t) for t in texts], 0)
    assert 0 < result.tokens <= 2000
    assert len(result.candidates) >= 2
    assert ranked(result.candidates)[0].number == max(one.number for one in result.candidates)
    address = policy.config.base_url.removesuffix("/v1")
    with urllib.request.urlopen(f"{address}/log/{policy.config.model}") as reply:
        prompts = [body["prompt"] for body in json.load(reply)]
    whole, rest = prompts[0], [prompt for prompt in prompts if prompt != prompts[0]]
    first_step = result.candidates[0].code[: split_steps(result.candidates[0].code)[0].end]
    assert rest  # after whole programs, completions of a prefix
    assert all(prompt == whole + first_step for prompt in rest)
