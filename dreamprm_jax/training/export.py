"""``dreamprm export``: one trained arm as a Hugging Face folder, adapters merged, tokenizer beside it."""

from __future__ import annotations

from pathlib import Path

from dreamprm_jax.config import Config
from dreamprm_jax.models.hf_export import export_model
from dreamprm_jax.models.pretrained import model_config, weights_folder
from dreamprm_jax.pipeline import require_trained
from dreamprm_jax.schema import DataError
from dreamprm_jax.training.mesh import make_mesh
from dreamprm_jax.training.parameters import frozen_params, trained_params
from dreamprm_jax.training.tokenizer import record_splitting, splits_special_tokens
from dreamprm_jax.workdir import Paths


def export(config: Config, paths: Paths, arm: str, output: Path) -> Path:
    """Writes the model of an arm's last checkpoint to ``output``.

    Raises:
      DataError: if the folder holds anything already, or the arm is not a finished one of these settings.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise DataError(f"--output={output}: is there and not an empty folder; name a new one, nothing is overwritten")
    if arm not in config.train.arms:
        raise DataError(f"--arm={arm}: not among config.train.arms: {', '.join(config.train.arms)}")
    require_trained(config, paths)
    model, mesh = model_config(config.model), make_mesh(config.train.mesh)
    frozen = frozen_params(config, model, mesh)
    _, params = trained_params(model, mesh, paths.arm(arm) / "checkpoints", frozen)
    # Pretrained weights come with the whole tokenizer folder: its special tokens and chat template go along.
    tokenizer = weights_folder(config.model.weights) if config.model.weights else paths.tokenizer()
    export_model(model, params, output, tokenizer)
    if splits_special_tokens(paths.tokenizer()):
        record_splitting(output / paths.tokenizer().name)
    return output
