"""The inner optimizer of the released code as the trainer's own: torch's Adam with L2, and a linear schedule."""

import optax

from dreamprm_jax.bilevel import optimizers
from dreamprm_jax.config import TrainConfig


def torch_adam(config: TrainConfig) -> optax.GradientTransformation:
    """Clipping, then L2 that joins the gradient and so the moments; the rate falls linearly to 0 over all steps."""
    schedule = optax.linear_schedule(-config.learning_rate, 0.0, config.warmup_steps + config.steps)
    return optax.chain(
        optimizers.clip_by_global_norm(config.clip_norm),
        optax.add_decayed_weights(config.weight_decay),
        optimizers.scale_by_adam(b2=config.adam_b2),
        optax.scale_by_schedule(schedule),
    )
