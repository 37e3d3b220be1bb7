"""All settings of one run, and the settings of scoring, evaluation, search, several processes and ``inspect``."""

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
        2048, "Tokens of a row, rounded up to a power of two; a longer program gets a longer row.", minimum=1
    )
    batch_tokens: int = setting(16384, "Tokens of a batch, on all devices together.", minimum=1)
    chunk: int = setting(
        1024,
        "Programs that are scored and stored together, rounded up to whole problems; processes share a window by "
        "chunks.",
        minimum=1,
        affects_output=False,
    )
    windows: tuple[Literal["train", "meta", "test"], ...] = setting(
        ("test",), "Windows to score; with meta, evaluate.aggregator=auto is chosen on its candidates."
    )


@dataclass(frozen=True)
class EvaluateConfig:
    """Selection and statistics."""

    aggregator: Literal[
        "last", "min", "max", "mean", "product", "product_normalized", "sum_log_odds", "mean_log_odds", "auto"
    ] = setting(
        "sum_log_odds",
        "How the step scores of a PRM become one number. The default goes with the default labels "
        "(docs/label_correction.md). auto: the one that selects best on the meta window, if that has several scored "
        "candidates a problem; else the default, and the tables say so.",
    )
    bootstrap_samples: int = setting(10000, "Bootstrap samples of the intervals.", minimum=1)
    execute: bool = setting(True, "Run the candidates on inputs without their answers, for execution-cluster votes.")
    vote_inputs: int = setting(
        8, "Inputs made for the votes, besides those of the public tests (procedural problems).", minimum=0
    )
    prune_top: int = setting(2, "prune-then-execute: candidates that may be run on the public tests.", minimum=1)


@dataclass(frozen=True)
class SearchConfig:
    """``dreamprm search``: the policy continues the prefixes that the PRM prefers, against best-of-N."""

    methods: tuple[Literal["best_of_n", "beam", "lookahead", "diverse_beam"], ...] = setting(
        ("best_of_n", "beam", "lookahead", "diverse_beam"), "Search methods to compare.", nonempty=True
    )
    width: int = setting(2, "Prefixes kept after a step (diverse_beam: subtrees, each of one prefix).", minimum=1)
    expansions: int = setting(2, "Completions requested for each of them.", minimum=1)
    lookahead: int = setting(2, "Steps beyond the prefix at whose end lookahead reads its value.", minimum=1)
    tokens: int = setting(1200, "Budget of a problem: tokens that the policy writes.", minimum=1)
    judged: int = setting(
        0, "Budget of a problem: candidates run on the public tests at the end; 0: the PRM alone chooses.", minimum=0
    )
    temperature: float = setting(0.8, "Sampling temperature.", minimum=0.0)
    problems: int = setting(0, "The first so many problems of the test window; 0: all.", minimum=0)


@dataclass(frozen=True)
class DistributedConfig:
    """Several processes, one a host, that work on one run in one shared folder (docs/training.md)."""

    mode: Literal["off", "auto", "explicit"] = setting(
        "off",
        "off: one process. auto: jax finds the others (TPU pods, SLURM, Kubernetes, MPI). explicit: by the fields "
        "below.",
    )
    coordinator_address: str = setting("", "explicit: host:port of process 0.")
    num_processes: int = setting(0, "explicit: how many processes there are.", minimum=0)
    process_id: int = setting(-1, "explicit: which of them this is, from 0.", minimum=-1)
    compile_cache: str = setting(
        "",
        "Folder of compiled programs, kept between starts; empty: the one that JAX_COMPILATION_CACHE_DIR names, if "
        "any. Only process 0 writes it, so other hosts need a disk that all of them share.",
    )


@dataclass(frozen=True)
class InspectConfig:
    """``dreamprm inspect``: the target hardware of ahead-of-time compilation; it need not be attached."""

    topology: str = setting(
        "",
        "A TPU topology, such as v5p:2x2x2 (8 chips, a v5p-16) or v5e:16x16*2 (two slices of 256); needs libtpu, no "
        "TPU.",
    )
    devices: int = setting(
        0,
        "Of a topology: its first so many chips, 0 for all. Without one: so many CPU devices, 0 for those of this "
        "machine.",
        minimum=0,
    )
    memory_gb: float = setting(0.0, "Memory of one device, 10^9 bytes; 0: not compared.", minimum=0.0)
    labels: int = setting(100_000, "Rows of the label table.", minimum=1)
    steps_per_row: int = setting(64, "Step slots of a row.", minimum=1)


@dataclass(frozen=True)
class Config:
    """All settings of one run."""

    name: str = setting("run", "Name of the run; its folder is runs/NAME by default.", affects_output=False)
    seed: int = setting(0, "Seed of everything random.", minimum=0)
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
