"""Compares our form of the released code's second stage with betty: a checkout of the release, or betty-ml."""

import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.study.release import ReleaseSettings, clip_weights, linear_rate, second_stage

SETTINGS = ReleaseSettings(iterations=192, rising=20, learning_rate=1e-2, meta_learning_rate=5e-2, clip_norm=0.05)
SAMPLES, WIDTH = 40, 5


def toy():
    """Features, labels and the order of the samples. Some samples are never drawn."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(SAMPLES, WIDTH)), rng.uniform(size=SAMPLES)
    outer_x, outer_y = rng.normal(size=(24, WIDTH)), rng.integers(0, 2, 24).astype(float)
    order = rng.integers(0, SAMPLES - 10, SETTINGS.iterations)
    return x, y, outer_x, outer_y, order, rng.normal(size=WIDTH) * 0.3


def ours():
    x, y, outer_x, outer_y, order, start = toy()
    with jax.enable_x64(True):

        def inner_loss(theta, weights, sample):
            score = jax.nn.sigmoid(x_[sample] @ theta["w"] + theta["b"])
            return clip_weights(weights[sample]) * (score - (0.9 * y_[sample] + 0.05)) ** 2

        def outer_loss(theta, sample):
            return (jax.nn.sigmoid(sample[0] @ theta["w"] + theta["b"]) - sample[1]) ** 2

        x_, y_ = jnp.asarray(x), jnp.asarray(y)
        theta = {"w": jnp.asarray(start), "b": jnp.zeros(())}
        inner = jnp.asarray(order).reshape(-1, SETTINGS.accumulation)
        outer = (jnp.asarray(outer_x), jnp.asarray(outer_y))
        theta, weights = second_stage(inner_loss, outer_loss, theta, jnp.ones(SAMPLES), inner, outer, SETTINGS)
        return np.asarray(theta["w"]), np.asarray(theta["b"]), np.asarray(weights)


def betty():
    """The same toy problem, trained by betty's engine."""
    torch = pytest.importorskip("torch")
    sys.modules.setdefault("wandb", types.ModuleType("wandb"))  # betty imports it, but no logger is requested
    pytest.importorskip("betty", reason="needs betty-ml, or a checkout of the release on PYTHONPATH")
    from betty import hypergradient
    from betty.configs import Config, EngineConfig
    from betty.engine import Engine
    from betty.problems import ImplicitProblem

    darts = hypergradient.jvp_fn_mapping["darts"]

    def and_back(vector, curr, prev, sync):
        """Restores theta. Release 0.2 of betty-ml leaves it shifted; the betty of the released code does not."""
        saved = [leaf.detach().clone() for leaf in curr.trainable_parameters()]
        found = darts(vector, curr, prev, sync)
        with torch.no_grad():
            for leaf, value in zip(curr.trainable_parameters(), saved, strict=True):
                leaf.copy_(value)
        return found

    x, y, outer_x, outer_y, order, start = (torch.from_numpy(np.asarray(part)) for part in toy())

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.w, self.b = torch.nn.Parameter(start.clone()), torch.nn.Parameter(torch.zeros((), dtype=torch.float64))

        def forward(self, features):
            return torch.sigmoid(features @ self.w + self.b)

    class Table(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weights = torch.nn.Parameter(torch.ones(SAMPLES, dtype=torch.float64))

        def forward(self, index):
            return torch.clamp(self.weights[index], 0.0, 2.0)

    class Finetune(ImplicitProblem):
        def training_step(self, batch):
            (index,) = batch
            losses = (self.module(x[index]) - (0.9 * y[index] + 0.05)) ** 2
            return torch.mean(self.reweight(index) * losses)

    class Reweight(ImplicitProblem):
        def training_step(self, batch):
            (index,) = batch
            return torch.mean((self.finetune(outer_x[index]) - outer_y[index]) ** 2)

    def loader(indices):
        return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(indices), batch_size=1)

    plain = {"darts_preconditioned": False} if "darts_preconditioned" in Config.__dataclass_fields__ else {}
    model, table = Model(), Table()
    optimizer = torch.optim.Adam(model.parameters(), lr=SETTINGS.learning_rate, weight_decay=SETTINGS.weight_decay)

    def share(done):
        if done < SETTINGS.rising:
            return done / SETTINGS.rising
        return max(0.0, (SETTINGS.iterations - done) / (SETTINGS.iterations - SETTINGS.rising))

    finetune = Finetune(
        name="finetune",
        module=model,
        optimizer=optimizer,
        scheduler=torch.optim.lr_scheduler.LambdaLR(optimizer, share),
        train_data_loader=loader(order),
        config=Config(
            type="darts", retain_graph=True, unroll_steps=1, gradient_clipping=SETTINGS.clip_norm,
            gradient_accumulation=SETTINGS.accumulation, **plain,
        ),
    )  # fmt: skip
    reweight = Reweight(
        name="reweight",
        module=table,
        optimizer=torch.optim.Adam(
            table.parameters(), lr=SETTINGS.meta_learning_rate, weight_decay=SETTINGS.meta_weight_decay
        ),
        train_data_loader=loader(torch.arange(len(outer_y))),
        config=Config(type="darts", gradient_accumulation=SETTINGS.accumulation, **plain),
    )
    links = {"l2u": {finetune: [reweight]}, "u2l": {reweight: [finetune]}}
    engine = Engine(
        config=EngineConfig(train_iters=SETTINGS.iterations, valid_step=10**9),
        problems=[reweight, finetune],
        dependencies=links,
    )
    hypergradient.jvp_fn_mapping["darts"] = and_back
    try:
        engine.run()
    finally:
        hypergradient.jvp_fn_mapping["darts"] = darts
    return model.w.detach().numpy(), model.b.detach().numpy(), table.weights.detach().numpy()


@pytest.mark.filterwarnings("ignore")
def test_it_is_what_betty_does():
    theirs = betty()
    for mine, other in zip(ours(), theirs, strict=True):
        np.testing.assert_allclose(mine, other, atol=1e-4)
    assert np.abs(theirs[2][: SAMPLES - 10] - theirs[2][-1]).max() > 1e-2  # the hypergradients changed some weights


def test_weights_that_no_sample_touched_move_as_well():
    weights = ours()[2]
    untouched = weights[-10:]
    np.testing.assert_allclose(untouched, untouched[0])
    updates = SETTINGS.iterations // SETTINGS.accumulation**2
    # Adam makes a full step even for a tiny decay.
    assert untouched[0] == pytest.approx(1 - SETTINGS.meta_learning_rate * updates, abs=2e-3)


def test_the_rate_rises_and_falls_over_iterations():
    rates = [float(linear_rate(ReleaseSettings(), jnp.float32(i))) for i in (8, 128, 251, 10_000)]
    assert rates == pytest.approx([1e-4 * 7 / 250, 1e-4 * 127 / 250, 1e-4, 1e-4 / 9750], rel=1e-4)
