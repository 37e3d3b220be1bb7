"""All settings of a run, and the sections for scoring, evaluation, search, multi-process runs and ``inspect``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dreamprm_jax.config.data import (
    EngineConfig,
    GenerateConfig,
    LabelConfig,
    PolicyConfig,
    ProblemsConfig,
    SandboxConfig,
)
from dreamprm_jax.config.model import ModelConfig, TrainConfig
from dreamprm_jax.config.setting import section, setting


@dataclass(frozen=True)
class ScoreConfig:
    """Batch scoring: rows of packed programs (``scoring/packing.py``)."""

    row_tokens: int = setting(
        2048, "Tokens of a row, rounded up to a power of two; longer programs get longer rows.", minimum=1
    )
    batch_tokens: int = setting(16384, "Tokens of a batch, over all devices.", minimum=1)
    chunk: int = setting(
        1024,
        "Programs that are scored and stored together, rounded up to whole problems; multiple processes divide a "
        "window by chunks.",
        minimum=1,
        affects_output=False,
    )
    windows: tuple[Literal["train", "meta", "test"], ...] = setting(
        ("test",), "Windows to score; evaluate.aggregator=auto needs meta."
    )


@dataclass(frozen=True)
class EvaluateConfig:
    """Selection and statistics."""

    aggregator: Literal[
        "last", "min", "max", "mean", "product", "product_normalized", "sum_log_odds", "mean_log_odds", "auto"
    ] = setting(
        "sum_log_odds",
        "Function that aggregates the step scores of a program. The default matches the default labels "
        "(docs/label_correction.md). auto: the aggregator that selects best on the meta window, if its problems have "
        "several scored candidates; otherwise the default, with a note in the tables.",
    )
    bootstrap_samples: int = setting(10000, "Bootstrap samples of the intervals.", minimum=1)
    execute: bool = setting(True, "Run the candidates on inputs without answers, for execution-cluster votes.")
    vote_inputs: int = setting(
        8, "Inputs generated for the votes, besides those of the public tests (procedural problems).", minimum=0
    )
    price_prompt: float = setting(
        0.0, "Price of a million prompt tokens of the policy's server, for the cost in the report.", minimum=0.0
    )
    price_completion: float = setting(0.0, "Price of a million completion tokens, as price_prompt.", minimum=0.0)
    prune_top: int = setting(2, "prune-then-execute: candidates that are run on the public tests.", minimum=1)


@dataclass(frozen=True)
class SearchConfig:
    """``dreamprm search``: PRM-guided search over the policy's steps, compared with best-of-N."""

    methods: tuple[Literal["best_of_n", "beam", "lookahead", "diverse_beam"], ...] = setting(
        ("best_of_n", "beam", "lookahead", "diverse_beam"), "Search methods to compare.", nonempty=True
    )
    width: int = setting(2, "Prefixes kept after a step (diverse_beam: subtrees with one prefix each).", minimum=1)
    expansions: int = setting(2, "Completions requested for each prefix.", minimum=1)
    lookahead: int = setting(2, "lookahead: steps after the prefix at whose end its value is read.", minimum=1)
    tokens: int = setting(1200, "Token budget of the policy for each problem.", minimum=1)
    judged: int = setting(
        0, "Candidates of each problem that are run on the public tests at the end; 0: only the PRM selects.", minimum=0
    )
    temperature: float = setting(0.8, "Sampling temperature.", minimum=0.0)
    problems: int = setting(0, "Number of test problems, from the first; 0: all.", minimum=0)


@dataclass(frozen=True)
class DistributedConfig:
    """Multiple processes, one per host, that work on one run in a shared folder (docs/training.md)."""

    mode: Literal["off", "auto", "explicit"] = setting(
        "off",
        "off: one process. auto: jax detects the processes (TPU pods, SLURM, Kubernetes, MPI). explicit: the fields "
        "below.",
    )
    coordinator_address: str = setting("", "explicit: host:port of process 0.")
    num_processes: int = setting(0, "explicit: number of processes.", minimum=0)
    process_id: int = setting(-1, "explicit: rank of this process, from 0.", minimum=-1)
    compile_cache: str = setting(
        "",
        "Folder of the persistent compilation cache; empty: that of JAX_COMPILATION_CACHE_DIR, if set. Only process 0 "
        "writes it, so multiple hosts need a shared disk.",
    )


@dataclass(frozen=True)
class InspectConfig:
    """``dreamprm inspect``: target hardware of ahead-of-time compilation; it need not be attached."""

    topology: str = setting(
        "",
        "TPU topology, such as v5p:2x2x2 (8 chips, a v5p-16) or v5e:16x16*2 (two slices of 256 chips); requires libtpu "
        "but no TPU.",
    )
    devices: int = setting(
        0,
        "Number of chips of the topology, 0 for all; without a topology, number of CPU devices, 0 for those of this "
        "machine.",
        minimum=0,
    )
    memory_gb: float = setting(0.0, "Memory of one device in GB (10^9 bytes); 0: no comparison.", minimum=0.0)
    labels: int = setting(100_000, "Rows of the label table.", minimum=1)
    steps_per_row: int = setting(64, "Step slots per row.", minimum=1)


@dataclass(frozen=True)
class Config:
    """All settings of one run."""

    name: str = setting(
        "run", "Name of the run; its folder is runs/NAME by default.", nonempty=True, affects_output=False
    )
    seed: int = setting(0, "Seed of all random number generators.", minimum=0)
    problems: ProblemsConfig = section(ProblemsConfig)
    policy: PolicyConfig = section(PolicyConfig)
    generate: GenerateConfig = section(GenerateConfig)
    label: LabelConfig = section(LabelConfig)
    sandbox: SandboxConfig = section(SandboxConfig)
    engine: EngineConfig = section(EngineConfig, affects_output=False)
    model: ModelConfig = section(ModelConfig)
    train: TrainConfig = section(TrainConfig)
    score: ScoreConfig = section(ScoreConfig)
    evaluate: EvaluateConfig = section(EvaluateConfig)
    search: SearchConfig = section(SearchConfig)
    distributed: DistributedConfig = section(DistributedConfig, affects_output=False)
    inspect: InspectConfig = section(InspectConfig, affects_output=False)
