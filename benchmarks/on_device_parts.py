"""The parts of ``on_device.py``: one function per part, which yields records (plain values) as they are measured.

The last part, the real training, is in ``on_device_training.py``.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import importlib.util
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]

Record = dict[str, Any]


# ---------------------------------------------------------------- kernels


def kernels(options: argparse.Namespace) -> Iterator[Record]:
    """Errors of every form of attention against plain attention in float32 (value, gradient, tangent), and its time."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from dreamprm_jax.models import fused
    from dreamprm_jax.models.attention import Layout, einsum_attention, reach_of

    shape, heads, groups = ((2, 128), 4, 2) if options.toy else ((2, 2048), 16, 2)
    length = shape[1]
    width = 64 if options.toy else 128
    rng = np.random.default_rng(0)
    segments = np.zeros(shape, np.int32)
    segments[0, : length // 3], segments[0, length // 3 : length - length // 8], segments[1] = 1, 2, 1
    layouts = {"one sequence a row": Layout(), "packed": Layout(jnp.asarray(segments))}

    def arrays(dtype: Any) -> tuple[Any, ...]:
        return tuple(jnp.asarray(rng.standard_normal((*shape, n, width)), dtype) for n in (heads, groups, groups))

    device = fused.platform() if fused.platform() in fused.TARGETS else "tpu"
    interpret = fused.platform() not in fused.TARGETS
    for dtype in (jnp.bfloat16, jnp.float32):
        primals, tangents, cotangent = arrays(dtype), arrays(dtype), arrays(dtype)[0]
        for name, layout in layouts.items():
            wide = tuple(x.astype(jnp.float32) for x in primals)
            plain = functools.partial(einsum_attention, layout=layout)
            with jax.default_matmul_precision("highest"):
                value, pull = jax.vjp(plain, *wide)
                gradient = pull(cotangent.astype(jnp.float32))
                tangent = jax.jvp(plain, wide, tuple(x.astype(jnp.float32) for x in tangents))[1]
            reach = reach_of(layout)
            reach = jnp.full(shape, length, jnp.int32) if reach is None else reach
            for form in ("dual", "splash" if device == "tpu" else "triton", "cudnn"):
                if form == "cudnn" and (fused.platform() != "gpu" or dtype == jnp.float32):
                    continue
                record = {"form": form, "layout": name, "dtype": jnp.dtype(dtype).name, "interpreted": interpret}
                if form == "cudnn":
                    apply = functools.partial(fused.attention, layout=layout, kind="cudnn", chunk=1)
                    apply = functools.partial(apply, derivative="once")
                else:
                    kernel = fused.KERNELS[form](primals[0], device, layout, interpret)
                    assert kernel is not None
                    apply = functools.partial(_with_reach, kernel, reach)
                inputs = (primals, tangents if form == "dual" else cotangent)
                expected = (value, tangent if form == "dual" else gradient)
                yield record | _measured(functools.partial(_errors, form, apply, inputs, expected))


def _errors(form: str, apply: Any, inputs: tuple[Any, Any], expected: tuple[Any, Any]) -> Record:
    """Errors of the value, and of the tangent (dual) or the gradient (other forms)."""
    import jax

    if form == "dual":
        found, moved = jax.jit(functools.partial(jax.jvp, apply))(*inputs)
        return {"value_error": _difference(found, expected[0]), "tangent_error": _difference(moved, expected[1])}
    found, back = jax.jit(functools.partial(_vjp, apply))(*inputs)
    errors = [_difference(a, b) for a, b in zip(back, expected[1], strict=True)]
    return {"value_error": _difference(found, expected[0]), "gradient_error": max(errors)}


def _with_reach(kernel: Any, reach: Any, query: Any, key: Any, value: Any) -> Any:
    return kernel(query, key, value, reach)


def _vjp(function: Any, primals: tuple[Any, ...], cotangent: Any) -> tuple[Any, Any]:
    import jax

    value, pull = jax.vjp(function, *primals)
    return value, pull(cotangent)


def _difference(found: Any, expected: Any) -> float:
    """The largest difference divided by the largest expected number."""
    import jax.numpy as jnp

    return float(jnp.abs(found.astype(jnp.float32) - expected).max() / jnp.abs(expected).max())


# ---------------------------------------------------------------- training steps


def steps_3b(options: argparse.Namespace) -> Iterator[Record]:
    """The configuration of the paper: LoRA r=8, plain and bi-level steps with each of the exact methods."""
    changes = {"remat": "dots", "attention": "auto"}
    methods = ("mixed", "mixed, one forward pass less", "reverse", "finite_difference")
    yield from _steps(options, "qwen2_5_coder_3b", changes, methods)
    if not options.toy:  # on a CPU, auto makes the same choice
        yield from _steps(options, "qwen2_5_coder_3b", changes | {"attention": "chunked"}, ("mixed",))
    yield from _steps(options, "qwen2_5_coder_3b", changes | {"remat": "full"}, ("mixed",))


def steps_1b(options: argparse.Namespace) -> Iterator[Record]:
    """The shape of Llama 3.2 1B, fully trained: bfloat16 parameters with float32 master weights."""
    shape = {
        "vocab_size": 128256, "hidden_size": 2048, "intermediate_size": 8192, "num_layers": 16, "num_heads": 32,
        "num_kv_heads": 8, "head_dim": 64, "qkv_bias": False, "lora": None,
    }  # fmt: skip
    changes = shape | {"remat": "dots", "attention": "auto"}
    methods = ("mixed", "mixed, one forward pass less", "reverse")
    yield from _steps(options, "qwen2_5_coder_3b", changes, methods, {"master_weights": True})
    if not options.toy:
        changes |= {"attention": "chunked"}
        yield from _steps(options, "qwen2_5_coder_3b", changes, ("mixed",), {"master_weights": True})


def _steps(
    options: argparse.Namespace,
    name: str,
    changes: dict[str, Any],
    methods: tuple[str, ...],
    train: dict[str, Any] | None = None,
) -> Iterator[Record]:
    import step as step_benchmark

    from dreamprm_jax.models.decoder import decoder_config

    config = step_benchmark.read_config(str(REPOSITORY / "configs" / f"{name}.py"))
    model = dataclasses.replace(decoder_config(dataclasses.replace(config.model, weights="")), **changes)
    settings = dataclasses.replace(config.train, **(train or {}))
    if options.toy:
        shape = (64, 32, 64, 2, 2, 1, 16)  # as in DecoderConfig, vocabulary to width of a head
        names = (field.name for field in dataclasses.fields(model))
        model = dataclasses.replace(model, **dict(zip(names, shape, strict=False)), dtype="float32")
        meta = dataclasses.replace(settings.meta, batch_size=2)
        settings = dataclasses.replace(settings, row_tokens=32, batch_size=2, meta=meta)
    peak = step_benchmark.device_peak()
    for place, method in enumerate(methods):
        name, _, reuse = method.partition(", ")
        meta = dataclasses.replace(settings.meta, method=name, reuse_forward=bool(reuse))
        with_method = dataclasses.replace(settings, meta=meta)
        run = dataclasses.replace(config, train=with_method)
        for step in ("plain step", "bi-level step")[place > 0 :]:  # the plain step is the same for all methods
            record = {"step": step, "method": method, "remat": model.remat, "attention": model.attention}
            record |= {"rows": settings.batch_size, "row_tokens": settings.row_tokens, "adapters": bool(model.lora)}
            measure = functools.partial(step_benchmark.measure, run, model, options.count, peak, step)
            yield record | _measured(lambda measure=measure: next(measure()))


def _measured(measure: Callable[[], Record]) -> Record:
    """The measurement, or the error if the device or compiler fails (mostly for memory), so that the rest runs."""
    try:
        return measure()
    except Exception as error:
        return {"error": f"{type(error).__name__}: {str(error)[:500]}"}


# ---------------------------------------------------------------- attention


def attention(options: argparse.Namespace) -> Iterator[Record]:
    """Seconds of a layer's attention: forward, forward and backward, forward mode."""
    import jax
    import jax.numpy as jnp

    from dreamprm_jax.models import fused
    from dreamprm_jax.models.attention import Layout

    shapes = [(2, 128, 4, 2, 64)] if options.toy else [(8, 2048, 16, 2, 128), (2, 4096, 28, 4, 128)]
    for batch, length, heads, groups, width in shapes:
        keys = jax.random.split(jax.random.key(0), 3)
        inputs = tuple(
            jax.random.normal(key, (batch, length, count, width), jnp.bfloat16)
            for key, count in zip(keys, (heads, groups, groups), strict=True)
        )
        segments = jnp.broadcast_to(jnp.arange(length) // (length // 2), (batch, length)) + 1
        runs = {
            ("einsum", "any"): ("forward", "backward", "tangent"),
            ("chunked", "any"): ("forward", "backward", "tangent"),
            ("auto", "none"): ("forward",),
            ("auto", "once"): ("backward",),
            ("auto", "forward"): ("tangent",),
            ("cudnn", "once"): ("forward", "backward"),
        }
        for (kind, derivative), passes in runs.items():
            if kind == "cudnn" and fused.platform() != "gpu":
                continue
            for name in passes:
                record = {"kind": kind, "pass": name, "form": fused.choose(kind, derivative, fused.platform())}
                record |= {"batch": batch, "length": length, "heads": heads, "kv_heads": groups}
                attend = functools.partial(
                    fused.attention, layout=Layout(segments), kind=kind, chunk=256, derivative=derivative
                )
                run = jax.jit(functools.partial(_PASSES[name], attend))
                yield record | _measured(lambda run=run, inputs=inputs: {"seconds": _seconds(run, inputs)})


def _forward(attend: Any, *inputs: Any) -> Any:
    return attend(*inputs)


def _backward(attend: Any, *inputs: Any) -> Any:
    return _vjp(attend, inputs, inputs[0])


def _tangent(attend: Any, *inputs: Any) -> Any:
    import jax

    return jax.jvp(attend, inputs, inputs)


_PASSES = {"forward": _forward, "backward": _backward, "tangent": _tangent}


def _seconds(run: Any, inputs: tuple[Any, ...], count: int = 10) -> float:
    """Median seconds of ``count`` calls, after two warm-up calls."""
    import jax

    times = []
    for _ in range(count + 2):
        start = time.perf_counter()
        jax.block_until_ready(run(*inputs))
        times.append(time.perf_counter() - start)
    return sorted(times[2:])[count // 2]


# ---------------------------------------------------------------- scoring


def scoring(options: argparse.Namespace) -> Iterator[Record]:
    """Program tokens per second for candidates that share a statement: packed, one program or one prefix per row."""
    import jax
    import numpy as np
    import scoring as scoring_benchmark

    from dreamprm_jax.config import MeshConfig
    from dreamprm_jax.models.decoder import DecoderConfig
    from dreamprm_jax.models.reward import init_params
    from dreamprm_jax.scoring.scorer import Reading, Scorer
    from dreamprm_jax.training.mesh import make_mesh

    problems, candidates, statement, step_tokens = (2, 2, 20, 5) if options.toy else (64, 8, 500, 60)
    shape = (64, 32, 64, 2, 2, 1, 16) if options.toy else (49152, 576, 1536, 30, 9, 3, 64)
    model = DecoderConfig(*shape, dtype="float32" if options.toy else "bfloat16", attention="auto")
    params = jax.jit(lambda key: init_params(model, key))(jax.random.key(0))
    rng = np.random.default_rng(0)
    items = []
    for _ in range(problems):
        prompt = rng.integers(0, shape[0], statement)
        for _ in range(candidates):
            lengths = rng.integers(step_tokens // 2, 2 * step_tokens, 4)
            tokens = np.concatenate([prompt, rng.integers(0, shape[0], lengths.sum())]).astype(np.int32)
            items.append(Reading(tokens, statement + np.cumsum(lengths) - 1))
    count = sum(len(item.tokens) - statement for item in items)
    scorer = Scorer(model, make_mesh(MeshConfig()), params, 8192, 1024 if options.toy else 65536)
    whole = scoring_benchmark.padded(scorer.model, params)
    ways = {
        "packed": scorer.logits,
        "a program a row": whole,
        "a prefix a row": scoring_benchmark.prefix_by_prefix(whole),
    }
    reference: list[Any] = []

    def timed(way: Any) -> Record:
        values = np.concatenate(way(items))  # compiles
        reference.append(values)
        start = time.perf_counter()
        way(items)
        taken = time.perf_counter() - start
        difference = float(np.abs(values - reference[0]).max())
        return {"seconds": taken, "tokens_per_second": count / taken, "largest_difference": difference}

    for name, way in ways.items():
        record = {"way": name, "programs": len(items), "program_tokens": int(count), "parameters": "135M shape"}
        yield record | _measured(functools.partial(timed, way))
    if importlib.util.find_spec("torch") and importlib.util.find_spec("transformers"):
        record = {"way": "transformers, a program a row", "programs": len(items), "program_tokens": int(count)}
        yield record | _measured(functools.partial(_transformers, options, items, shape, int(count)))


def _transformers(options: argparse.Namespace, items: list[Any], shape: tuple[int, ...], count: int) -> Record:
    """The same programs scored by transformers on torch, one program per row, sorted by length."""
    import torch
    from transformers import LlamaConfig, LlamaModel

    names = (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
    )
    config = LlamaConfig(**dict(zip(names, shape, strict=False)), head_dim=shape[6])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = LlamaModel(config).to(device, torch.bfloat16 if device == "cuda" else torch.float32).eval()
    ordered = sorted(items, key=lambda item: len(item.tokens))
    budget = 1024 if options.toy else 65536

    def run() -> None:
        start = 0
        while start < len(ordered):
            stop = start + max(1, budget // len(ordered[min(start + budget // 512, len(ordered) - 1)].tokens))
            rows = ordered[start:stop]
            length = max(len(row.tokens) for row in rows)
            tokens = torch.zeros(len(rows), length, dtype=torch.long)
            mask = torch.zeros_like(tokens)
            for place, item in enumerate(rows):
                tokens[place, : len(item.tokens)] = torch.from_numpy(item.tokens.astype("int64"))
                mask[place, : len(item.tokens)] = 1
            with torch.inference_mode():
                model(tokens.to(device), attention_mask=mask.to(device)).last_hidden_state[:, 0, 0].float().cpu()
            start = stop

    run()
    start = time.perf_counter()
    run()
    taken = time.perf_counter() - start
    return {"device": device, "seconds": taken, "tokens_per_second": count / taken}
