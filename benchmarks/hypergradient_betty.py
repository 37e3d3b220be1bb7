"""betty-ml's hypergradients, called as its engine calls them, at points that JAX reached. Needs torch and betty-ml.

    pip install torch betty-ml

betty-ml evaluates at the parameters after the inner step, on the last inner batch. ``darts`` is what the released code
of DreamPRM-Code uses; ``sama`` (darts with an Adam preconditioner) is in betty-ml's repository, not in release 0.1.1.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import hypergradient_problem as problem
import jax
import numpy as np
import torch
from betty.hypergradient import darts as darts_module

torch_darts = getattr(darts_module, "darts", darts_module)
try:
    from betty.hypergradient.sama import sama as torch_sama
except ImportError:
    torch_sama = None


def betty_methods() -> dict[str, Callable[..., Any]]:
    """The installed hypergradients: (setting, point) -> (() -> hypergradient)."""
    methods = {"betty darts": _method(torch_darts)}
    if torch_sama is not None:
        methods["betty sama"] = _method(torch_sama)
    return methods


def torch_plain_step(setting: Any, point: Any) -> Callable[[], Any]:
    """Forward, backward, clip and AdamW: the unit of betty's time."""
    world = _World(setting, point, point.params)
    optimizer = torch.optim.AdamW(world.trained, lr=1e-9, weight_decay=0.0)

    def step() -> None:
        optimizer.zero_grad()
        world.inner_loss(world.batch).backward()
        torch.nn.utils.clip_grad_norm_(world.trained, 1.0)
        optimizer.step()

    return step


class _World:
    """The same decoder, weights, batches and phi in torch."""

    def __init__(self, setting: Any, point: Any, params: Any) -> None:
        mine = {name: leaf for name, leaf in params.items() if leaf is not None}
        self.params = {name: _tensor(leaf).requires_grad_() for name, leaf in mine.items()}
        self.frozen = {name: _tensor(leaf) for name, leaf in setting.frozen.items() if leaf is not None}
        self.names, self.trained = list(self.params), list(self.params.values())
        self.phi = _tensor(setting.phi()).requires_grad_()
        self.heads = setting.size.heads
        self.batch = {name: _tensor(leaf) for name, leaf in point.batch.items()}
        self.meta = {name: _tensor(leaf) for name, leaf in point.meta.items()}

    def inner_loss(self, batch: Any) -> torch.Tensor:
        """Soft labels sigmoid(phi_i)."""
        scores = problem.logits(torch, self.params | self.frozen, batch["tokens"], self.heads)
        return problem.binary_cross_entropy(torch, scores, torch.sigmoid(self.phi[batch["index"]]))

    def outer_loss(self) -> torch.Tensor:
        """Clean labels."""
        scores = problem.logits(torch, self.params | self.frozen, self.meta["tokens"], self.heads)
        return problem.binary_cross_entropy(torch, scores, self.meta["truth"])


def _method(function: Callable[..., Any]) -> Callable[..., Any]:
    def make(setting: Any, point: Any) -> Callable[[], np.ndarray]:
        world = _World(setting, point, point.after)
        start = [leaf.detach().clone() for leaf in world.trained]
        adam = next(state for state in jax.tree.leaves(point.after_state, is_leaf=_is_adam) if _is_adam(state))
        states = {
            id(leaf): {
                "exp_avg": _tensor(adam.mu[name]),
                "exp_avg_sq": _tensor(adam.nu[name]),
                "last_grad": _tensor(point.inner_gradient[name]),
            }
            for name, leaf in world.params.items()
        }
        group = {"betas": (0.9, 0.999), "eps": 1e-8, "lr": 1.0}
        lower = SimpleNamespace(
            config=SimpleNamespace(
                darts_alpha=0.01, darts_multitask=False, sama_adam_alpha=1.0, sama_multitask=False
            ),  # betty-ml's defaults
            _strategy="default",
            trainable_parameters=lambda: world.trained,
            meta_trainable_parameters=lambda: world.trained,
            training_step_exec=world.inner_loss,
            cur_batch=world.batch,
            optimizer=type("Adam", (), {})(),
            get_opt_param_group_for_param=lambda leaf: group,
            get_opt_state_for_param=lambda leaf: states[id(leaf)],
        )
        upper = SimpleNamespace(trainable_parameters=lambda: [world.phi])

        def call() -> np.ndarray:
            v = torch.autograd.grad(world.outer_loss(), world.trained)
            extra = (False,) if "sync" in function.__code__.co_varnames else ()
            value = function(v, lower, upper, *extra)[0].numpy()
            with torch.no_grad():  # release 0.1.1 leaves the parameters shifted: its last ``add`` is not in place
                for leaf, saved in zip(world.trained, start, strict=True):
                    leaf.copy_(saved)
            return value

        return call

    return make


def _is_adam(state: Any) -> bool:
    return hasattr(state, "mu") and hasattr(state, "nu")


def _tensor(leaf: Any) -> torch.Tensor:
    return torch.from_numpy(np.array(leaf))
