"""Settings of the host half: problems, policy, candidates, labels, sandbox, engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dreamprm_jax.config.setting import setting
from dreamprm_jax.schema import Granularity


@dataclass(frozen=True)
class ProblemsConfig:
    """Where problems come from and which contest dates train and test."""

    source: Literal["procedural", "livecodebench", "file", "codeio", "humaneval", "leetcode"] = setting(
        "procedural",
        "Where problems come from. livecodebench and file read problems.path; the windows of livecodebench are drawn "
        "by contest date, those of all others by a hash of the ids. codeio, humaneval and leetcode are read from "
        "installed packages; the error names the package where one is missing.",
    )
    exclude: str = setting(
        "",
        "Problems to leave out: a StepBench folder, a Parquet file with problem_id, or ids, one a line.",
        reads="problem_ids",
    )
    path: str = setting(
        "livecodebench/code_generation_lite",
        "livecodebench, file: a local file or folder in any form of docs/problems.md, or the id of LiveCodeBench's "
        "dataset on the hub.",
        reads="path",
    )
    strict: bool = setting(
        False,
        "livecodebench, file: a row that cannot be used ends the run. Otherwise it is left out, counted and named in "
        "skipped_problems.csv of the generate stage.",
        affects_output=False,
    )
    release: str = setting(
        "release_v6", "livecodebench: the release windows to read (release_v1 to release_v6, v3, v2_v4)."
    )
    max_private_test_bytes: int = setting(
        512 << 20, "livecodebench: the most bytes that one row's packed tests may inflate to.", minimum=1
    )
    train_before: str = setting("2024-08-01", "Training problems have a contest date before this (ISO 8601).")
    test_from: str = setting("2025-02-01", "Test problems have a contest date from this on (ISO 8601).")
    train_count: int = setting(
        200, "Number of training problems; not read for livecodebench, which has dates.", minimum=1
    )
    meta_count: int = setting(
        100, "Number of meta problems, whose programs give outcomes but no step labels.", minimum=1
    )
    test_count: int = setting(100, "Number of test problems; not read for livecodebench, which has dates.", minimum=1)
    private_tests: int = setting(5, "procedural: hidden tests of a problem, besides two public ones.", minimum=1)
    held_out: Literal["compositions", "mistakes", "primitives"] = setting(
        "compositions",
        "procedural: what test problems have that no training problem has. mistakes: also the wrong forms of every "
        "function; primitives: also at least one stage.",
    )
    made_tests: int = setting(
        12, "codeio: tests of a problem, made by running its reference in the sandbox.", minimum=1
    )


@dataclass(frozen=True)
class PolicyConfig:
    """Who writes programs and completes prefixes."""

    kind: Literal["simulated", "server", "replay"] = setting(
        "simulated",
        "simulated: writes procedural programs with known mistake rates. server: an OpenAI-compatible server. "
        "replay: programs from a file.",
    )
    wrong_rate_scale: float = setting(1.0, "simulated: multiplies every primitive's mistake rate.", minimum=0.0)
    base_url: str = setting("http://127.0.0.1:8000/v1", "server: its address.", affects_output=False)
    model: str = setting("", "server: the model's name.")
    api_key_env: str = setting(
        "OPENAI_API_KEY", "server: the environment variable that holds the key.", affects_output=False
    )
    chat_template: str = setting(
        "", "server: path of a Jinja file or of a tokenizer folder; empty for the ChatML form.", reads="tokenizer"
    )
    continuation: Literal["completions", "chat"] = setting(
        "completions", "server: how a prefix is continued, by /completions or by a prefilled chat message."
    )
    prefix_end: Literal["newline", "before_newline"] = setting(
        "newline",
        "server: whether the text to continue ends after a prefix's last line break or before it. Tokenizers of "
        "GPT-2's kind join a line break with the indentation that follows: take before_newline for them and for steps "
        "inside functions. Answers that do not continue with a line break are drawn again.",
    )
    max_tokens: int = setting(2048, "server: the most tokens of one answer.", minimum=1)
    top_p: float = setting(1.0, "server: nucleus sampling.", above=0.0, maximum=1.0)
    extra_body: str = setting(
        "",
        "server: extra request fields outside the OpenAI API, as a JSON object, such as '{\"top_k\": 20}'. Servers may "
        "have defaults of their own (vLLM: the model's generation_config.json; llama.cpp: top_k 40, min_p 0.05).",
    )
    logprobs: bool = setting(
        False, "server: ask for the log-probabilities of sampled tokens; their mean is stored in the program's row."
    )
    timeout_seconds: float = setting(300.0, "server: the limit of one request.", above=0.0, affects_output=False)
    max_retries: int = setting(5, "server: attempts after a failed request.", minimum=0, affects_output=False)
    outage_seconds: float = setting(
        300.0,
        "server: how long to wait for a server that does not answer: one that is loading, or has gone away.",
        minimum=0.0,
        affects_output=False,
    )
    concurrency: int = setting(16, "server: requests at a time, of each process.", minimum=1, affects_output=False)
    path: str = setting("", "replay: the file of programs.", reads="path")


@dataclass(frozen=True)
class GenerateConfig:
    """Candidate programs per problem."""

    candidates: str = setting(
        "",
        "A file of programs that were written elsewhere (eval_all .json, .jsonl, .parquet), used instead of the "
        "policy's; the policy then writes the rollouts alone. Empty: the policy writes the programs too.",
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
        "What a step is, from the labels to the scores. One prefix is rolled out at the end of each step, so finer "
        "steps cost more rollouts; the simulated policy and its exact truth know functions only.",
    )
    strategy: Literal["fixed", "adaptive", "binary_search"] = setting(
        "fixed",
        "fixed: `rollouts` of every prefix. adaptive: at most `rollouts` times the number of prefixes of a program, "
        "spent where the pass rate is least certain. binary_search: `rollouts` of the prefixes that a search for the "
        "first fatal step visits; the other prefixes get no Monte-Carlo label.",
    )
    rollouts: int = setting(4, "Rollouts of a prefix (K).", minimum=1)
    min_rollouts: int = setting(
        2, "adaptive: rollouts of each prefix before anything is decided, and at a time afterwards.", minimum=1
    )
    max_rollouts: int = setting(16, "adaptive: the most rollouts of one prefix.", minimum=1)
    decided: float = setting(
        0.1, "adaptive: a prefix is finished when its posterior's standard deviation is below this.", above=0.0
    )
    posterior: Literal["model", "beta"] = setting(
        "model",
        "adaptive: whose posterior. model: the value model's, which knows the program's outcome and all its counts, "
        "and assumes a policy that gets most steps right. beta: that of the prefix's own counts.",
    )
    reuse: Literal["none", "text", "code"] = setting(
        "text",
        "Rollouts of an earlier prefix that pass through a later one count for it too. text: if their text does, which "
        "leaves the estimate unbiased. code: up to comments and docstrings, unbiased only if those sway no policy.",
    )
    identical: Literal["text", "code"] = setting(
        "code", "Which completions are judged once. code: those that are equal up to comments and layout."
    )
    judge_share: float = setting(
        1.0,
        "fixed: the share that is judged of the programs that only one rollout wrote, drawn by hash. Most programs are "
        "such, and most of these fail. Below 1, passes / rollouts leans to the repeated ones: use the value model.",
        above=0.0,
        maximum=1.0,
    )
    count_program: bool = setting(
        False, "Count the program itself as one more rollout of its prefixes (same policy, same temperature)."
    )
    temperature: float = setting(0.3, "Sampling temperature of rollouts.", minimum=0.0)
    prior_alpha: float = setting(1.0, "Beta prior of the pass rate: pseudo-passes.", above=0.0)
    prior_beta: float = setting(1.0, "Beta prior of the pass rate: pseudo-failures.", above=0.0)


@dataclass(frozen=True)
class SandboxConfig:
    """How programs are run and judged."""

    mode: Literal["faithful", "lcb"] = setting(
        "faithful", "faithful: a real process. lcb: the verdicts of LiveCodeBench's official evaluator."
    )
    tier: Literal["FULL", "PORTABLE", "EXTERNAL", "UNSAFE"] = setting(
        "PORTABLE", "The isolation that must hold (docs/security.md)."
    )
    workers: int = setting(0, "Programs that run at a time; 0: one a core.", minimum=0, affects_output=False)
    retry_share: float = setting(
        0.25,
        "Share of the workers that try programs again which exceeded their time without a core of their own; 0: no "
        "second try.",
        minimum=0.0,
        maximum=1.0,
    )
    cpu_seconds: float = setting(6.0, "CPU time of one test.", above=0.0)
    wall_seconds: float = setting(12.0, "Wall time of one test.", above=0.0)
    reference_factor: float = setting(
        0.0,
        "CPU time of one test as a multiple of the problem's reference_seconds, which dreamprm convert --verify "
        "measures; at least 1 second. Holds where the problem has that field and no cpu_seconds of its own. 0: not "
        "used.",
        minimum=0.0,
    )
    memory_bytes: int = setting(1 << 30, "Memory of one program.", minimum=1 << 20)
    output_bytes: int = setting(16 << 20, "Output of one test.", minimum=1)
    checker: str = setting(
        "",
        "How answers are compared: words of exact, tokens, unordered, ignore_case, any_of, abs=X, rel=X; or "
        "FILE.py:FUNCTION(input, expected, answer), which runs in the sandbox. A problem's own field checker goes "
        "first. Empty: as the official evaluator does.",
        reads="function",
    )
    packages: tuple[str, ...] = setting(
        ("numpy", "sortedcontainers"),
        "Third-party packages that programs may import, by the names by which they do; a package's dependencies are "
        "named too.",
    )


@dataclass(frozen=True)
class EngineConfig:
    """Who does the work units of the label stage. Changes no output."""

    executor: Literal["local", "ray"] = setting("local", "Processes of this machine, or Ray.")
    workers: int = setting(
        0, "Processes, each with a judge and a policy client; 0: one a core (ray: one a CPU of the cluster).", minimum=0
    )
    threads: int = setting(
        0,
        "Units at a time in a worker; 0: enough for policy.concurrency requests to a server, else 1.",
        minimum=0,
    )
    address: str = setting("", "ray: empty starts a cluster on this machine; auto, HOST:PORT or ray://... joins one.")
    grace_seconds: float = setting(
        3.0,
        "How long units in flight may take to finish after SIGTERM or Ctrl-C; what has not finished is done again.",
        minimum=0.0,
    )
