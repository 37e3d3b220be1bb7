"""Plain SGD as the trainer's user optimizer, for the arms with ``inner=sgd``."""

import optax

from dreamprm_jax.bilevel import optimizers
from dreamprm_jax.config import TrainConfig
from dreamprm_jax.training.optimizer import learning_rate_schedule


def clipped_sgd(config: TrainConfig) -> optax.GradientTransformation:
    """SGD with the trainer's clipping and schedule."""
    schedule = learning_rate_schedule(config.learning_rate, config.warmup_steps + config.steps)
    return optax.chain(optimizers.clip_by_global_norm(config.clip_norm), optax.sgd(schedule))
