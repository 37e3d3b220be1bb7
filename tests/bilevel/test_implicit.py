"""Compares implicit differentiation and SAMA with reference values; imports the package with only jax and optax."""

import subprocess
import sys
from typing import Any

import bilevel_toy as toy
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dreamprm_jax.bilevel import CG, Neumann, make_meta_gradient


def ridge(seed: int = 0) -> tuple[Any, ...]:
    """Training data (X, y) and validation data (X', y')."""
    rng = np.random.default_rng(seed)
    return tuple(jnp.asarray(rng.normal(size=shape)) for shape in ((20, 4), (20,), (15, 4), (15,)))


def inner(params: jax.Array, phi: jax.Array, batch: Any) -> jax.Array:
    x, y = batch
    return 0.5 * jnp.mean(jnp.square(x @ params - y)) + 0.5 * jnp.exp(phi) * jnp.sum(jnp.square(params))


def outer(params: jax.Array, batch: Any) -> jax.Array:
    x, y = batch
    return 0.5 * jnp.mean(jnp.square(x @ params - y))


@pytest.mark.parametrize("solver", [CG(tolerance=1e-14), Neumann(0.5, iterations=300)], ids=["cg", "neumann"])
def test_the_closed_form_of_ridge_regression(solver: Any) -> None:
    """d L_out(w(phi)) / d phi with w = (X'X / n + e^phi)^-1 X'y / n, to 1e-8; and a warm start from its solution."""
    with jax.enable_x64(True):
        x, y, x_held, y_held = ridge()
        phi = jnp.asarray(-1.0)

        def best(phi: jax.Array) -> jax.Array:
            return jnp.linalg.solve(x.T @ x / len(x) + jnp.exp(phi) * jnp.eye(4), x.T @ y / len(x))

        exact = jax.grad(lambda phi: outer(best(phi), (x_held, y_held)))(phi)
        optimizer = optax.sgd(0.1)
        run = make_meta_gradient(inner, outer, optimizer, method="implicit", solver=solver)
        data = (x[None, None], y[None, None]), (x_held[None], y_held[None])
        found = run(best(phi), optimizer.init(best(phi)), phi, *data)
        assert float(found.hypergradient) == pytest.approx(float(exact), rel=1e-8)
        one = CG(iterations=1) if isinstance(solver, CG) else Neumann(0.5, iterations=1)
        warm = make_meta_gradient(inner, outer, optimizer, method="implicit", solver=one)
        again = warm(best(phi), optimizer.init(best(phi)), phi, *data, solution=found.solution)
        assert float(again.hypergradient) == pytest.approx(float(exact), rel=1e-8)
        cold = warm(best(phi), optimizer.init(best(phi)), phi, *data)
        assert abs(float(cold.hypergradient / exact) - 1) > 1e-4


@pytest.mark.parametrize("unroll", [1, 3])
def test_sama_is_near_exact_where_first_order_is_not(unroll: int) -> None:
    optimizer = toy.OPTIMIZERS["adam"]()
    with jax.enable_x64(True):
        state = toy.warm_state(optimizer, toy.params())
        point = (toy.params(), state, toy.phi(), toy.inner_batch(unroll), toy.outer_batch())

        def found(method: Any) -> Any:
            return jax.jit(make_meta_gradient(toy.inner_loss, toy.outer_loss, optimizer, method=method))(*point)

        exact, sama, first = found("mixed"), found("sama"), found("first_order")
        assert toy.relative_error(sama.params, exact.params) < 1e-12
        if unroll == 1:
            assert toy.cosine(sama.hypergradient, exact.hypergradient) > 0.95
            assert toy.cosine(sama.hypergradient, exact.hypergradient) > toy.cosine(
                first.hypergradient, exact.hypergradient
            )


def test_it_imports_with_jax_and_optax_alone() -> None:
    """Blocks every installed third-party package that jax and optax do not need."""
    code = """
import sys, jax, optax
class Blocked:
    def find_spec(self, name, path=None, target=None):
        top = name.split(".")[0]
        if top == "dreamprm_jax" and not (name == top or name.startswith("dreamprm_jax.bilevel")):
            raise ImportError(name)
        if top not in sys.stdlib_module_names and top != "dreamprm_jax" and top not in known:
            raise ImportError(name)
known = {name.split(".")[0] for name in sys.modules}
sys.meta_path.insert(0, Blocked())
assert "jaxtyping" not in known and "flax" not in known
import jax.numpy as jnp
from dreamprm_jax.bilevel import make_meta_gradient
run = make_meta_gradient(lambda w, phi, x: jnp.mean((w - phi) ** 2 * x), lambda w, x: jnp.mean(w * x), optax.sgd(0.1))
w = jnp.ones(2)
print(run(w, optax.sgd(0.1).init(w), w, jnp.ones((1, 1, 2)), jnp.ones((1, 2))).hypergradient)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[0.05 0.05]"
