"""Settings of the host stages: problems, policy, candidates, labels, sandbox, engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dreamprm_jax.config.setting import LONGEST, MOST_BYTES, setting
from dreamprm_jax.schema import Granularity


@dataclass(frozen=True)
class ProblemsConfig:
    """The source of the problems, and their split into training, meta and test windows."""

    source: Literal["procedural", "livecodebench", "file", "codeio", "humaneval", "leetcode"] = setting(
        "procedural",
        "Source of the problems. livecodebench and file read problems.path; livecodebench is split into windows by "
        "contest date, all others by a hash of the ids. codeio, humaneval and leetcode are read from installed "
        "packages; an error names a missing package.",
    )
    exclude: str = setting(
        "",
        "Problems to exclude: a StepBench folder, a Parquet file with the column problem_id, or a text file with one "
        "id per line.",
        reads="problem_ids",
    )
    path: str = setting(
        "livecodebench/code_generation_lite",
        "livecodebench, file: a local file or folder in any format of docs/problems.md, or the id of LiveCodeBench's "
        "dataset on the Hugging Face Hub.",
        reads="path",
    )
    strict: bool = setting(
        False,
        "livecodebench, file: whether an unusable row ends the run. Otherwise it is skipped, counted and listed in "
        "skipped_problems.csv of the generate stage.",
        affects_output=False,
    )
    release: str = setting(
        "release_v6", "livecodebench: the release windows to read (release_v1 to release_v6, v3, v2_v4)."
    )
    max_private_test_bytes: int = setting(
        512 << 20, "livecodebench: maximum decompressed size of one row's hidden tests, in bytes.", minimum=1
    )
    train_before: str = setting("2024-08-01", "Training problems have a contest date before this (ISO 8601).")
    test_from: str = setting("2025-02-01", "Test problems have this contest date or a later one (ISO 8601).")
    train_count: int = setting(
        200, "Number of training problems; ignored for livecodebench, which is split by date.", minimum=1
    )
    meta_count: int = setting(
        100, "Number of meta problems, whose programs have outcomes but no step labels.", minimum=1
    )
    test_count: int = setting(100, "Number of test problems; ignored for livecodebench.", minimum=1)
    private_tests: int = setting(5, "procedural: hidden tests of a problem, besides two public ones.", minimum=1)
    held_out: Literal["compositions", "mistakes", "primitives"] = setting(
        "compositions",
        "procedural: what occurs only in test problems: their compositions; with mistakes, also the wrong variants of "
        "every function; with primitives, also at least one primitive of each problem.",
    )
    made_tests: int = setting(
        12, "codeio: tests of a problem, made by running its reference solution in the sandbox.", minimum=3
    )


@dataclass(frozen=True)
class PolicyConfig:
    """The policy, which writes programs and completes prefixes."""

    kind: Literal["simulated", "server", "replay"] = setting(
        "simulated",
        "simulated: writes procedural programs with known mistake rates. server: an OpenAI-compatible server. "
        "replay: programs from a file.",
    )
    wrong_rate_scale: float = setting(1.0, "simulated: multiplies every primitive's mistake rate.", minimum=0.0)
    base_url: str = setting("http://127.0.0.1:8000/v1", "server: base URL of the API.", affects_output=False)
    model: str = setting("", "server: name of the model.")
    api_key_env: str = setting("OPENAI_API_KEY", "server: environment variable with the API key.", affects_output=False)
    chat_template: str = setting(
        "", "server: path of a Jinja file or of a tokenizer folder; empty for ChatML.", reads="tokenizer"
    )
    continuation: Literal["completions", "chat"] = setting(
        "completions", "server: how a prefix is continued, by /completions or by a prefilled chat message."
    )
    prefix_end: Literal["newline", "before_newline"] = setting(
        "newline",
        "server: whether the prompt ends after or before the prefix's last line break. GPT-2-style tokenizers merge a "
        "line break with the indentation after it: use before_newline for them and for steps inside functions. Answers "
        "that then do not start with a line break are sampled again.",
    )
    max_tokens: int = setting(2048, "server: maximum tokens of one answer.", minimum=1)
    top_p: float = setting(1.0, "server: top-p of nucleus sampling.", above=0.0, maximum=1.0)
    extra_body: str = setting(
        "",
        "server: extra request fields outside the OpenAI API, as a JSON object, such as '{\"top_k\": 20}'. Servers may "
        "have defaults of their own (vLLM: the model's generation_config.json; llama.cpp: top_k 40, min_p 0.05).",
    )
    logprobs: bool = setting(
        False, "server: request log-probabilities of the sampled tokens; their mean is stored in the program's row."
    )
    timeout_seconds: float = setting(
        300.0, "server: time limit of one request.", above=0.0, maximum=LONGEST, affects_output=False
    )
    max_retries: int = setting(5, "server: maximum retries of a failed request.", minimum=0, affects_output=False)
    outage_seconds: float = setting(
        300.0,
        "server: how long to wait for a server that does not respond, for example while it loads or restarts.",
        minimum=0.0,
        maximum=LONGEST,
        affects_output=False,
    )
    concurrency: int = setting(16, "server: concurrent requests of each process.", minimum=1, affects_output=False)
    path: str = setting("", "replay: the file of programs.", reads="path")


@dataclass(frozen=True)
class GenerateConfig:
    """The candidate programs of each problem."""

    candidates: str = setting(
        "",
        "A file of existing programs (eval_all .json, .jsonl, .parquet), used instead of the policy's; the policy then "
        "writes only the rollouts. Empty: the policy writes the programs too.",
        reads="path",
    )
    train_programs: int = setting(3, "Programs for each train and meta problem.", minimum=1)
    test_programs: int = setting(8, "Programs for each test problem.", minimum=1)
    temperature: float = setting(0.2, "Sampling temperature.", minimum=0.0)


@dataclass(frozen=True)
class LabelConfig:
    """Monte-Carlo labels: rollouts of each prefix."""

    granularity: Granularity = setting(
        "function",
        "The kind of step in all stages. One prefix is rolled out at the end of each step, so finer steps cost more "
        "rollouts; the simulated policy and its exact truth support functions only.",
    )
    strategy: Literal["fixed", "adaptive", "binary_search"] = setting(
        "fixed",
        "fixed: `rollouts` for every prefix. adaptive: at most `rollouts` times the number of prefixes of a program, "
        "allocated to the least certain pass rates. binary_search: `rollouts` for the prefixes that a binary search "
        "for the first fatal step visits; the other prefixes get no Monte-Carlo label.",
    )
    rollouts: int = setting(4, "Rollouts of a prefix (K).", minimum=1)
    min_rollouts: int = setting(
        2, "adaptive: initial rollouts of each prefix, and the rollouts of each further allocation.", minimum=1
    )
    max_rollouts: int = setting(16, "adaptive: maximum rollouts of one prefix.", minimum=1)
    decided: float = setting(
        0.1, "adaptive: a prefix is finished when its posterior's standard deviation is below this.", above=0.0
    )
    posterior: Literal["model", "beta"] = setting(
        "model",
        "adaptive: the posterior of a pass rate. model: that of the value model, given the program's outcome and all "
        "its counts; it assumes a policy that gets most steps right. beta: given the prefix's own counts only.",
    )
    reuse: Literal["none", "text", "code"] = setting(
        "text",
        "Whether rollouts of an earlier prefix that pass through a later one also count for it. text: if the text is "
        "equal, which keeps the estimate unbiased. code: if it is equal up to comments and docstrings, which is "
        "unbiased only if these do not influence the policy.",
    )
    identical: Literal["text", "code"] = setting(
        "code", "Which completions are judged only once: equal text, or equal code up to comments and layout."
    )
    judge_share: float = setting(
        1.0,
        "fixed: fraction of the programs written by only one rollout that is judged, chosen by hash. Most programs "
        "are of this kind, and most of these fail. Below 1, passes / rollouts is biased towards repeated programs: use "
        "the value model.",
        above=0.0,
        maximum=1.0,
    )
    count_program: bool = setting(
        False, "Count the program itself as one more rollout of its prefixes (same policy, same temperature)."
    )
    temperature: float = setting(0.3, "Sampling temperature of rollouts.", minimum=0.0)
    prior_alpha: float = setting(1.0, "Beta prior of the pass rate: pseudo-passes.", above=0.0, maximum=1e9)
    prior_beta: float = setting(1.0, "Beta prior of the pass rate: pseudo-failures.", above=0.0, maximum=1e9)


@dataclass(frozen=True)
class SandboxConfig:
    """Execution and judging of programs."""

    mode: Literal["faithful", "lcb"] = setting(
        "faithful", "faithful: a real process. lcb: the verdicts of LiveCodeBench's official evaluator."
    )
    tier: Literal["FULL", "PORTABLE", "EXTERNAL", "UNSAFE"] = setting(
        "PORTABLE", "The required isolation (docs/security.md)."
    )
    workers: int = setting(0, "Concurrently running programs; 0: one per core.", minimum=0, affects_output=False)
    retry_share: float = setting(
        0.25,
        "Fraction of the workers that retry programs which exceeded their time limit while sharing a core; 0: no "
        "retries.",
        minimum=0.0,
        maximum=1.0,
    )
    cpu_seconds: float = setting(6.0, "CPU time of one test.", above=0.0, maximum=LONGEST)
    wall_seconds: float = setting(12.0, "Wall time of one test.", above=0.0, maximum=LONGEST)
    reference_factor: float = setting(
        0.0,
        "CPU time of one test as a multiple of the problem's reference_seconds, which dreamprm convert --verify "
        "measures; at least 1 second. Applies to problems with that field and without cpu_seconds. 0: not used.",
        minimum=0.0,
    )
    memory_bytes: int = setting(1 << 30, "Memory of one program.", minimum=1 << 20, maximum=MOST_BYTES)
    output_bytes: int = setting(16 << 20, "Output of one test.", minimum=1, maximum=MOST_BYTES)
    checker: str = setting(
        "",
        "Comparison of answers: words among exact, tokens, unordered, ignore_case, any_of, abs=X, rel=X; or "
        "FILE.py:FUNCTION(input, expected, answer), which runs in the sandbox. A problem's field checker takes "
        "precedence. Empty: as in the official evaluator.",
        reads="function",
    )
    packages: tuple[str, ...] = setting(
        ("numpy", "sortedcontainers"),
        "Import names of third-party packages that programs may import, including their dependencies.",
    )


@dataclass(frozen=True)
class EngineConfig:
    """Execution of the label stage's work units. Has no effect on the output."""

    executor: Literal["local", "ray"] = setting("local", "local: processes on this machine. ray: a Ray cluster.")
    workers: int = setting(
        0, "Processes, each with a judge and a policy client; 0: one per core (ray: per CPU of the cluster).", minimum=0
    )
    threads: int = setting(
        0,
        "Concurrent units in a worker; 0: enough for policy.concurrency requests to a server, otherwise 1.",
        minimum=0,
    )
    address: str = setting("", "ray: empty starts a cluster on this machine; auto, HOST:PORT or ray://... joins one.")
    grace_seconds: float = setting(
        3.0,
        "Seconds that units in flight may take after SIGTERM or Ctrl-C; unfinished units are repeated by the next run.",
        minimum=0.0,
        maximum=LONGEST,
    )
