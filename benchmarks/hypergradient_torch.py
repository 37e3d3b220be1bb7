"""The torch libraries that hypergradient.py and hypergradient_peers.py compare with, each through its own functions.

    pip install torch optree graphviz && pip install --no-deps --ignore-requires-python betty-ml torchopt higher

torchopt and higher unroll K steps of Adam and keep the whole graph. betty-ml evaluates at theta_K on the last inner
batch: ``darts`` is what the released code of DreamPRM-Code uses, ``sama`` adds a preconditioner.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import hypergradient_problem as problem
import numpy as np
import torch
from betty.hypergradient import cg, darts, neumann, sama

Call = Callable[[], np.ndarray]
BETTY = {"betty darts": darts, "betty sama": sama}


class World:
    """The decoder, its weights and phi in torch."""

    def __init__(self, weights: dict[str, Any], frozen: dict[str, Any], phi: Any) -> None:
        self.weights, self.frozen = ({n: w for n, w in part.items() if w is not None} for part in (weights, frozen))
        self.frozen, self.phi = tensors(self.frozen), torch.from_numpy(np.array(phi)).requires_grad_()

    def params(self) -> list[torch.Tensor]:
        """Fresh leaves, in the order of the names."""
        return [leaf.requires_grad_() for leaf in tensors(self.weights).values()]

    def loss(self, params: Any, batch: Any) -> torch.Tensor:
        """The inner loss with soft labels sigmoid(phi_i), or the outer loss if the batch contains the truth."""
        whole = dict(zip(self.weights, params, strict=True)) | self.frozen
        scores = problem.logits(torch, whole, batch["tokens"], problem.Size.heads)
        labels = batch["truth"] if "truth" in batch else torch.sigmoid(self.phi[batch["index"]])
        return problem.binary_cross_entropy(torch, scores, labels)

    def plain(self, params: Any, optimizer: Any, batch: Any, clip: float | None = None) -> Callable[[], None]:
        """One plain training step."""

        def step() -> None:
            optimizer.zero_grad()
            self.loss(params, batch).backward(inputs=params)
            if clip is not None:
                torch.nn.utils.clip_grad_norm_(params, clip)
            optimizer.step()

        return step

    def betty(self, name: str, params: Any, batch: Any, meta: Any, optimizer: Any) -> np.ndarray:
        """betty-ml's hypergradient where its engine computes it: after the inner steps, on the last batch."""
        v = torch.autograd.grad(self.loss(params, meta), params)
        lower = lower_problem(params, lambda: self.loss(params, batch), optimizer)
        upper = SimpleNamespace(trainable_parameters=lambda: [self.phi])
        return BETTY[name](v, lower, upper, False)[0].numpy()


class Window(World):
    """A world with the batches of the K steps."""

    def __init__(self, case: Any) -> None:
        super().__init__(case.params, {}, case.phi)
        self.case, self.batches, self.meta = case, [tensors(batch) for batch in case.batches], tensors(case.meta)

    def trained(self, steps: int) -> tuple[list[torch.Tensor], torch.optim.Adam]:
        """Parameters and Adam after the first steps."""
        params = self.params()
        optimizer = torch.optim.Adam(params, self.case.rate, eps=self.case.eps)
        for batch in self.batches[:steps]:
            self.plain(params, optimizer, batch)()
        return params, optimizer

    def window(self, unroll: int) -> tuple[int, list[Any]]:
        """(steps before, batches of the K steps)."""
        return self.case.warm, self.batches[self.case.warm : self.case.warm + unroll]


def torchopt_unrolled(world: Window, unroll: int) -> Call:
    """``torchopt.adam``, functional."""
    import torchopt

    warm, batches = world.window(unroll)
    optimizer = torchopt.adam(world.case.rate, eps=world.case.eps)
    start = tuple(world.params())
    state = optimizer.init(start)

    def step(params: Any, state: Any, batch: Any, create_graph: bool) -> tuple[Any, Any]:
        gradients = torch.autograd.grad(world.loss(params, batch), params, create_graph=create_graph)
        updates, state = optimizer.update(gradients, state, params=params, inplace=False)
        return torchopt.apply_updates(params, updates, inplace=False), state

    for batch in world.batches[:warm]:
        start, state = step(start, state, batch, False)
        start = tuple(leaf.detach().requires_grad_() for leaf in start)

    def call() -> np.ndarray:
        params, inner_state = start, state
        for batch in batches:
            params, inner_state = step(params, inner_state, batch, True)
        return torch.autograd.grad(world.loss(params, world.meta), world.phi)[0].numpy()

    return call


def higher_unrolled(world: Window, unroll: int) -> Call:
    """``higher``'s Adam, which copies the state of torch's."""
    import higher

    warm, batches = world.window(unroll)
    start, optimizer = world.trained(warm)

    def call() -> np.ndarray:
        unrolled = higher.get_diff_optim(optimizer, start)
        params = start
        for batch in batches:
            params = unrolled.step(world.loss(params, batch), params=params)
        return torch.autograd.grad(world.loss(params, world.meta), world.phi)[0].numpy()

    return call


def betty_approximation(name: str) -> Callable[[Window, int], Call]:
    """K plain steps, followed by betty-ml's function at the point where its engine would call it."""

    def make(world: Window, unroll: int) -> Call:
        warm, batches = world.window(unroll)
        start, optimizer = world.trained(warm)
        saved = [leaf.detach().clone() for leaf in start], optimizer.state_dict()
        saved_state = {key: {k: v.clone() for k, v in row.items()} for key, row in saved[1]["state"].items()}

        def call() -> np.ndarray:
            with torch.no_grad():
                for leaf, value in zip(start, saved[0], strict=True):
                    leaf.copy_(value)
            optimizer.load_state_dict(saved[1] | {"state": saved_state})
            for batch in batches:
                world.plain(start, optimizer, batch)()
            for leaf in start:
                optimizer.state[leaf]["last_grad"] = leaf.grad
            return world.betty(name, start, batches[-1], world.meta, optimizer)

        return call

    return make


def betty_at(name: str, setting: Any, point: Any) -> Call:
    """betty-ml's function at a point that JAX reached, with the Adam moments of this point."""
    world = World(point.after, setting.frozen, setting.phi())
    params, batch, meta = world.params(), tensors(point.batch), tensors(point.meta)
    optimizer = torch.optim.Adam(params, lr=1.0)
    adam = next(state for state in point.after_state[1] if hasattr(state, "mu"))
    trees = {"exp_avg": adam.mu, "exp_avg_sq": adam.nu, "last_grad": point.inner_gradient}
    for leaf, key in zip(params, world.weights, strict=True):
        optimizer.state[leaf] = tensors({field: tree[key] for field, tree in trees.items()})
    return lambda: world.betty(name, params, batch, meta, optimizer)


def plain_at(setting: Any, point: Any) -> Callable[[], None]:
    """Forward, backward, clip and AdamW at this point: the unit of betty-ml's times."""
    world = World(point.params, setting.frozen, setting.phi())
    params = world.params()
    optimizer = torch.optim.AdamW(params, lr=1e-9, weight_decay=0.0)
    return world.plain(params, optimizer, tensors(point.batch), clip=1.0)


def lower_problem(params: list[torch.Tensor], loss: Callable[[], torch.Tensor], optimizer: Any, **config: Any) -> Any:
    """The attributes of a problem that betty-ml's functions read, with betty-ml's defaults."""
    usual = {"darts_alpha": 0.01, "darts_multitask": False, "sama_adam_alpha": 1.0, "sama_multitask": False}
    return SimpleNamespace(
        config=SimpleNamespace(**usual | config),
        _strategy="default",
        paths=[],
        parameters=lambda: params,
        trainable_parameters=lambda: params,
        meta_trainable_parameters=lambda: params,
        training_step_exec=lambda batch: loss(),
        cur_batch=None,
        optimizer=optimizer,
        get_opt_param_group_for_param=lambda leaf: optimizer.param_groups[0],
        get_opt_state_for_param=lambda leaf: optimizer.state[leaf],
    )


def ridge(inner: Any, outer: Any, phi: float, best: np.ndarray, steps: int) -> dict[str, float]:
    """d L_out / d phi at the solution of ridge regression, by each library's implicit differentiation."""
    import torchopt

    x, y = (torch.from_numpy(leaf) for leaf in inner)
    held_x, held_y = (torch.from_numpy(leaf) for leaf in outer)

    def penalized(w: Any, phi: Any) -> torch.Tensor:
        return 0.5 * torch.mean((x @ w - y) ** 2) + 0.5 * torch.exp(phi) * torch.sum(w**2)

    def error(w: Any) -> torch.Tensor:
        return 0.5 * torch.mean((held_x @ w - held_y) ** 2)

    found = {}
    for name, method, config in (
        ("betty cg", cg, {"cg_alpha": 1.0, "cg_iterations": steps}),
        ("betty neumann", neumann, {"neumann_alpha": 0.3, "neumann_iterations": 10 * steps}),
    ):
        w, penalty = torch.from_numpy(best.copy()).requires_grad_(), torch.tensor(phi, dtype=x.dtype).requires_grad_()
        v = torch.autograd.grad(error(w), w)
        lower = lower_problem([w], lambda w=w, penalty=penalty: penalized(w, penalty), None, **config)
        found[name] = float(method(v, lower, SimpleNamespace(trainable_parameters=lambda p=penalty: [p]), False)[0])

    solver = torchopt.linear_solve.solve_cg(maxiter=steps, atol=0.0, rtol=1e-14)

    @torchopt.diff.implicit.custom_root(torch.func.grad(penalized, argnums=0), argnums=1, solve=solver)
    def solution(w: Any, phi: Any) -> torch.Tensor:
        return torch.from_numpy(best.copy())

    penalty = torch.tensor(phi, dtype=x.dtype).requires_grad_()
    start = torch.zeros_like(x[0]).requires_grad_()
    found["torchopt cg"] = float(torch.autograd.grad(error(solution(start, penalty)), penalty)[0])
    return found


def peak_memory(call: Callable[[], Any]) -> int:
    """The peak bytes of tensors during the call, above those before it."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        call()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    sizes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return int(np.cumsum(sizes).max())


def tensors(batch: dict[str, Any]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(np.array(leaf)) for name, leaf in batch.items()}


def methods() -> dict[str, Callable[[Window, int], Call]]:
    """Name -> (world, K) -> call."""
    unrolled = {"torchopt": torchopt_unrolled, "higher": higher_unrolled}
    return unrolled | {name: betty_approximation(name) for name in BETTY}
