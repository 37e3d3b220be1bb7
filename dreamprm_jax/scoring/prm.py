"""Loads a reward model for scoring, from an arm of a run or from a Hugging Face folder."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Int
from tokenizers import Tokenizer

from dreamprm_jax.cof.splitter import split_steps
from dreamprm_jax.config import MeshConfig, ModelConfig
from dreamprm_jax.models import pretrained
from dreamprm_jax.models.decoder import DecoderConfig
from dreamprm_jax.models.hf_config import config_values, read_config
from dreamprm_jax.models.hf_import import load_params
from dreamprm_jax.models.reward import Params
from dreamprm_jax.models.tokenizer import load_tokenizer
from dreamprm_jax.runs.trained import TrainedArm, trained_arm
from dreamprm_jax.schema import DataError, Granularity, Problem, Program, Step
from dreamprm_jax.scoring.forms import FormOptions, FormReader, load_reader, own_reader
from dreamprm_jax.selection.reward_models import arm_aggregator
from dreamprm_jax.storage import read_json
from dreamprm_jax.training.examples import tokenize
from dreamprm_jax.training.export import CARD
from dreamprm_jax.training.mesh import activate, make_mesh, parameter_shardings
from dreamprm_jax.training.parameters import frozen_params, trained_params

FOLDER_MAX_LENGTH = 2048  # default maximum length for a Hugging Face folder, in tokens: the length in the paper


@dataclass(frozen=True)
class PrmOptions:
    """Options for loading a model; None keeps the model's own setting."""

    max_length: int | None = None
    overlong: str | None = None  # drop, raise, truncate_statement
    dtype: str | None = None  # float32, bfloat16
    attention: str | None = None  # chunked, cudnn
    granularity: Granularity | None = None  # definition of a step; default of a folder: as exported, or function
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
    form: FormOptions = dataclasses.field(default_factory=FormOptions)  # input format of a foreign model


@dataclass(frozen=True)
class Prm:
    """A loaded reward model."""

    model: DecoderConfig
    mesh: jax.sharding.Mesh  # the devices of this process
    params: Params
    tokenizer: Tokenizer
    limits: ModelConfig  # settings with max_length and overlong
    granularity: Granularity  # definition of a step
    name: str
    checkpoint: str  # identity of the weights
    reader: FormReader | None = None  # reader of a foreign model; None: the same input as in training

    @property
    def default_aggregator(self) -> str:
        """The default aggregator from step scores to a program's score: the one that evaluation uses."""
        return arm_aggregator(self.checkpoint.partition("/")[0])  # `name` may be a name that the server was given

    def steps(self, code: str) -> list[Step]:
        """The steps of a program that are scored."""
        return self.reader.steps(code, self.granularity) if self.reader else split_steps(code, self.granularity)

    def read(
        self, problem: Problem, programs: Sequence[Program], counts: Counter[str]
    ) -> list[tuple[Program, Int[np.ndarray, " t"], Int[np.ndarray, " s"]]]:
        """(program, tokens, score positions) of one problem's programs, as in ``training.examples.tokenize``."""
        if self.reader:
            return self.reader.read(problem, programs, self.limits, counts, self.granularity)
        return tokenize(self.tokenizer, self.limits, problem, programs, counts, self.granularity)


def load_prm(path: Path, options: PrmOptions) -> Prm:
    """Loads the reward model at ``path`` onto this process's devices.

    Args:
      path: RUN/ARM or RUN/train/ARM, where RUN is the folder of a run whose train stage is done; or the Hugging Face
        folder or hub id of a reward model (``scoring/forms.py``).
      options: overrides of the model's own settings.

    Raises:
      DataError: if there is no such model; names the file.
    """
    if not path.exists() and not path.parent.is_dir():
        if len(path.parts) != 2 or path.is_absolute():
            raise DataError(f"--prm={path}: no such folder")
        path = pretrained.weights_folder(str(path))
    if (path / "config.json").is_file():
        values = read_json(path / "config.json")
        if isinstance(values, dict) and ("model_type" in values or "architectures" in values):
            return _from_folder(path, options)  # reports what is missing
        if isinstance(values, dict) and "train" in values:
            arms = ", ".join(str(path / arm) for arm in values["train"].get("arms", ()))
            raise DataError(f"--prm={path}: is a run with several models; name one of them: {arms}")
    try:
        arm = trained_arm(path)
    except DataError as error:
        raise DataError(f"--prm={error}, or a Hugging Face folder") from error
    return prm_of_arm(arm, options)


def prm_of_arm(arm: TrainedArm, options: PrmOptions) -> Prm:
    """The model of an arm's last checkpoint. Raises DataError if there is none."""
    config = arm.config
    settings = _limited(config.model, options)
    model, mesh = pretrained.model_config(settings), _mesh(options)
    frozen = frozen_params(dataclasses.replace(config, model=settings), model, mesh, scoring=True)
    step, params = trained_params(model, mesh, arm.checkpoints, frozen, scoring=True)
    data = config.train.step_data
    reader = own_reader(data.separator, arm.tokenizer) if data.path else None
    tokenizer = reader.tokenizer if reader else load_tokenizer(arm.tokenizer)
    granularity = options.granularity or config.label.granularity
    name = f"{arm.name}/{step}@{arm.fingerprint}"
    return Prm(model, mesh, params, tokenizer, settings, granularity, arm.name, name, reader)


def _from_folder(folder: Path, options: PrmOptions) -> Prm:
    shape = read_config(folder)
    reader, head, hidden, chosen = load_reader(folder, config_values(folder), options.form)
    length = options.max_length or min(FOLDER_MAX_LENGTH, shape.max_positions)
    settings = _limited(ModelConfig(weights=str(folder)), dataclasses.replace(options, max_length=length))
    # Scoring updates no parameters, so they can have the dtype of the computation.
    settings = dataclasses.replace(settings, param_dtype=settings.dtype)
    model, mesh = pretrained.model_config(settings), _mesh(options)
    model = dataclasses.replace(model, head_hidden=hidden, head_activation="relu" if hidden else "silu")
    with activate(model, mesh):
        params = load_params(model, folder, jax.random.key(0), parameter_shardings(model, mesh), head)
    if reader:
        tokenizer = reader.tokenizer
        pretrained.check_tokenizer(tokenizer, model, folder)
    else:
        tokenizer = pretrained.load_tokenizer(settings, model)
        tokenizer.no_truncation()
        tokenizer.no_padding()
    recorded = read_json(folder / CARD) if (folder / CARD).is_file() else {}  # written by `dreamprm export`
    granularity = options.granularity or recorded.get("granularity", "function")
    identity = f"sha256:{_digest(folder)}" + (f" ({chosen})" if reader else "")
    return Prm(model, mesh, params, tokenizer, settings, granularity, folder.resolve().name, identity, reader)


def _limited(model: ModelConfig, options: PrmOptions) -> ModelConfig:
    given = {name: getattr(options, name) for name in ("max_length", "overlong", "dtype", "attention")}
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    return dataclasses.replace(model, **changes)


def _mesh(options: PrmOptions) -> jax.sharding.Mesh:
    return make_mesh(options.mesh, jax.local_devices())


def _digest(folder: Path) -> str:
    """Hash of a folder's weights, settings and tokenizer: 16 hex digits."""
    digest = hashlib.sha256()
    names = ("*.safetensors", "config.json", "tokenizer*", "vocab.json", "merges.txt", "chat_template*")
    for path in sorted({path for name in names for path in folder.glob(name) if path.is_file()}):
        with open(path, "rb") as handle:
            digest.update(path.name.encode() + hashlib.file_digest(handle, "sha256").digest())
    return digest.hexdigest()[:16]
