"""Arms by labeling: the labels that each trains on. All arms run, share their warm-ups and write their labels."""

import dataclasses
import json
import math
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dreamprm_jax.config import LabelsConfig
from dreamprm_jax.labeling.correction.methods import LEARNED, LabelSource, fixed_labels
from dreamprm_jax.runs.paths import Paths
from dreamprm_jax.runs.stage_folder import DONE
from dreamprm_jax.schema import CorrectedLabel, DataError, Outcome, StepLabel
from dreamprm_jax.stages.runner import run_stage
from dreamprm_jax.storage import read_records
from dreamprm_jax.training.arms import arm_plans, make_parametrisation
from dreamprm_jax.training.losses import elementwise_loss
from dreamprm_jax.training.optimizer import make_optimizer


def test_plans_name_start_loss_and_warm_up(tiny_config):
    settings = dataclasses.replace(
        tiny_config.train, arms=("orm", "raw", "gce", "table_on_em", "corrected"), labels=LabelsConfig("em"), loss="mse"
    )
    assert not settings.meta.held_out
    found = [
        (plan.arm, plan.labeling, plan.start, plan.loss, plan.warmup, plan.learned) for plan in arm_plans(settings)
    ]
    assert found == [
        ("raw", "raw", "raw", "mse", "warmup", False),
        ("gce", "gce", "gce", "gce", "warmup_gce", False),
        ("table_on_em", "table_on_em", "em", "mse", "warmup_em", True),
        ("corrected", "em", "em", "mse", "warmup_em", False),
    ]
    # Only the learned labelings reserve the meta programs' outcomes for the outer problem, so their warm-up differs.
    apart = dataclasses.replace(settings, meta=dataclasses.replace(settings.meta, held_out=True))
    assert [plan.warmup for plan in arm_plans(apart)] == ["warmup", "warmup_gce", "warmup_em_held_out", "warmup_em"]


def test_own_optimizer_and_parametrisation_are_checked(tiny_config, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("import optax\n\ndef make(*_):\n    return 7\n\ndef sgd(config):\n    return optax.sgd(0.5)\n")
    own = dataclasses.replace(tiny_config.train, labels=LabelsConfig(f"{file}:make"), optimizer=f"{file}:make")
    plan = arm_plans(dataclasses.replace(own, arms=("corrected",)))[0]
    assert (plan.start, plan.warmup, plan.learned) == ("raw", "warmup", True)
    with pytest.raises(DataError, match=r"labels\.method: .*make gave int, which lacks is_table, init, targets_and"):
        make_parametrisation(plan.labeling, np.ones(1), LabelSource([], {}), own.labels, 0)
    with pytest.raises(DataError, match=r"train\.optimizer: .*make gave int, no GradientTransformation"):
        make_optimizer(own)
    sgd = make_optimizer(dataclasses.replace(own, optimizer=f"{file}:sgd"))
    assert float(sgd.update({"x": jnp.ones(())}, sgd.init({"x": jnp.ones(())}))[0]["x"]) == -0.5


def test_losses_of_one_logit():
    logits, targets = jnp.array([-2.0, 0.3, 4.0]), jnp.array([0.0, 0.25, 1.0])
    p = 1 / (1 + np.exp(-np.asarray(logits, np.float64)))
    t = np.asarray(targets, np.float64)
    np.testing.assert_allclose(elementwise_loss("mse", logits, targets), (p - t) ** 2, rtol=1e-5)
    np.testing.assert_allclose(
        elementwise_loss("gce", logits, targets, 0.7), (t * (1 - p**0.7) + (1 - t) * (1 - (1 - p) ** 0.7)) / 0.7,
        rtol=1e-5,
    )  # fmt: skip
    bce = optax.sigmoid_binary_cross_entropy(logits, targets)
    np.testing.assert_allclose(elementwise_loss("gce", logits, targets, 1e-4), bce, rtol=1e-3)
    np.testing.assert_allclose(elementwise_loss("gce", logits, targets, 1.0), t * (1 - p) + (1 - t) * p, rtol=1e-5)
    for kind in ("bce", "mse", "gce"):
        slopes = jax.vmap(jax.grad(lambda x, kind=kind: elementwise_loss(kind, x, 0.5)))(
            jnp.array([-200.0, 0.0, 200.0])
        )
        assert np.isfinite(np.asarray(slopes)).all()


@pytest.mark.slow
def test_every_labeling_trains_and_leaves_its_labels(tiny_config, tmp_path):
    arms = ("raw", "gce", "em", "undetected_fault_online", "calibrator", "clean", "corrector_net", "table_on_em")
    train = dataclasses.replace(tiny_config.train, warmup_steps=2, steps=2, arms=arms)
    train = dataclasses.replace(train, meta=dataclasses.replace(train.meta, learning_rate=0.5))
    model = dataclasses.replace(tiny_config.model, vocab_size=900)
    settings, paths = dataclasses.replace(tiny_config, train=train, model=model), Paths(tmp_path / "run")
    for stage in ("generate", "label", "train"):
        run_stage(settings, paths.root, stage)
    labels = {arm: read_records(paths.corrected_labels(arm), CorrectedLabel) for arm in arms if arm != "raw"}
    assert not paths.corrected_labels("raw").exists()
    warmups = {path.name for path in paths.stage("train").glob("warmup*")}
    assert warmups == {"warmup"} | {f"warmup_{arm}" for arm in arms[1:] if arm not in LEARNED}
    steps = {(row.program_hash, row.step_index) for row in labels["em"]}
    raw = {(row.program_hash, row.step_index): row.raw for row in labels["em"]}
    for arm, rows in labels.items():
        assert {(row.program_hash, row.step_index) for row in rows} == steps, arm
        assert all(row.method.startswith(arm) and 0.0 <= row.corrected <= 1.0 for row in rows)
    passed = {row.program_hash for row in read_records(paths.outcomes("train"), Outcome) if row.passed}
    online = [row.corrected for row in labels["undetected_fault_online"] if row.program_hash in passed]
    assert online
    assert min(online) > 0.999  # the posterior uses the outcome; the initial evidence does not
    for arm in ("table_on_em", "corrector_net"):
        start = {(r.program_hash, r.step_index): r.corrected for r in labels["em"]} if arm == "table_on_em" else raw
        moved = [abs(row.corrected - start[row.program_hash, row.step_index]) for row in labels[arm]]
        assert max(moved) > 0.03, arm  # the floor alone changes a label by 0.02
    assert labels["table_on_em"][0].method == "table_on_em/from=em/mixed/K=1/learning_rate=0.5"
    last = json.loads((paths.arm("em") / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    assert math.isfinite(last["inner_loss"])

    # Training on the stored labels gives the same metrics as the arm that made the labels.
    stored = LabelsConfig(method="stored", stored=str(paths.corrected_labels("em")))
    again = dataclasses.replace(settings, train=dataclasses.replace(train, arms=("corrected",), labels=stored))
    other = Paths(tmp_path / "again")
    shutil.copytree(paths.root, other.root, ignore=shutil.ignore_patterns("train"))
    run_stage(again, other.root, "train")
    lines = [
        (p.arm(arm) / "metrics.jsonl").read_text(encoding="utf-8") for p, arm in ((other, "corrected"), (paths, "em"))
    ]
    assert lines[0] == lines[1]
    assert json.loads((other.stage("train") / DONE).read_text(encoding="utf-8"))["counts"][
        "steps labeled stored"
    ] == len(steps)


def test_a_corrector_starts_steps_without_rollouts_at_the_prior():
    def row(index, passes, rollouts):
        posterior = (3.0 + passes, 1.0 + rollouts - passes)
        return StepLabel("p", "h", index, 0, 1, passes, rollouts, 0, 0, *posterior, "", "", "faithful", "PORTABLE", "")

    source = LabelSource([row(0, 4, 4), row(1, 0, 0), row(2, 2, 4), row(3, 0, 1)], {})
    raw = fixed_labels("raw", source, LabelsConfig())
    assert np.isnan(raw).tolist() == [False, True, False]
    net = make_parametrisation("corrector_net", raw, source, LabelsConfig(), 0)
    np.testing.assert_allclose(net.labels(net.init(raw), raw), [0.98, 0.75, 0.5], atol=1e-3)
