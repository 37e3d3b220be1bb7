"""``dreamprm export``: one trained arm as a Hugging Face folder, adapters merged, tokenizer beside it."""

from __future__ import annotations

from pathlib import Path

from dreamprm_jax.models.hf_export import TRAINED_SEPARATOR, export_model
from dreamprm_jax.models.pretrained import model_config, weights_folder
from dreamprm_jax.models.tokenizer import record_splitting, splits_special_tokens
from dreamprm_jax.runs.trained import TrainedArm
from dreamprm_jax.schema import DataError
from dreamprm_jax.training.mesh import make_mesh
from dreamprm_jax.training.parameters import frozen_params, trained_params


def export(arm: TrainedArm, output: Path) -> Path:
    """Writes the model of an arm's last checkpoint to ``output``.

    Raises:
      DataError: if the folder holds anything already.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise DataError(f"--output={output}: exists and is not an empty folder; name a new one, nothing is overwritten")
    config = arm.config
    model, mesh = model_config(config.model), make_mesh(config.train.mesh)
    _, params = trained_params(model, mesh, arm.checkpoints, frozen_params(config, model, mesh))
    # Pretrained weights come with the whole tokenizer folder: its special tokens and chat template go along.
    tokenizer = weights_folder(config.model.weights) if config.model.weights else arm.tokenizer
    extra = {TRAINED_SEPARATOR: config.train.step_data.separator} if config.train.step_data.path else {}
    export_model(model, params, output, tokenizer, extra=extra)
    if splits_special_tokens(arm.tokenizer):
        record_splitting(output / arm.tokenizer.name)
    return output
