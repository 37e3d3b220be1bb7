"""Runs the examples in docs/examples unchanged."""

import importlib.util
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[2] / "docs" / "examples"


def example(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_learned_schedule() -> None:
    constant, learned, rates = example("learned_schedule").main()
    assert learned < 0.4 * constant
    assert float(rates.max() - rates.min()) > 0.05


def test_maml_sinusoid() -> None:
    before, after = example("maml_sinusoid").main(steps=300)
    assert after < 0.8 * before


def test_implicit_ridge() -> None:
    found, grid = example("implicit_ridge").main()
    assert abs(found - grid) < 0.03


def test_distill_digits() -> None:
    real, distilled, images = example("distill_digits").main(windows=100)
    assert images.shape == (10, 64)
    assert distilled > real + 0.2
    assert distilled > 0.8
