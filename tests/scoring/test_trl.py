"""Trains with TRL's PRMTrainer on exported labels, and scores with its model: tokens, labels and scores agree."""

from collections import Counter

import datasets
import numpy as np
import pytest

from dreamprm_jax.cof.splitter import split_steps
from dreamprm_jax.labeling.step_export import export_labels
from dreamprm_jax.labeling.step_files import LabeledSteps
from dreamprm_jax.schema import Program
from dreamprm_jax.scoring.prm import PrmOptions, load_prm
from dreamprm_jax.scoring.scorer import Reading, Scorer
from dreamprm_jax.selection.aggregators import sigmoid

torch = pytest.importorskip("torch", reason="TRL needs torch")
MISSING = "PRMTrainer is not there: pip install --no-deps 'trl==0.29.*' accelerate"
prm_trainer = pytest.importorskip("trl.experimental.prm", reason=MISSING, exc_type=ImportError)

from test_foreign_prm import CODES, PROBLEM, PROMPT, make_model, make_tokenizer  # noqa: E402 (needs torch)

pytestmark = pytest.mark.slow


def test_trl_trains_on_an_export_and_is_scored_as_it_was_trained(tmp_path):
    rows = []
    for code in CODES:
        steps = tuple(code[step.start : step.end] for step in split_steps(code))
        rows.append(LabeledSteps(PROMPT, steps, tuple(float(n % 2 == 0) for n in range(len(steps))), 1.0))
    rows[1] = LabeledSteps(PROMPT, rows[1].steps, (float("nan"),), 1.0)
    counts = export_labels(iter(rows), "trl", 0.5, tmp_path / "labels")
    assert counts["solutions"] == len(CODES)

    make_model(tmp_path / "start", "qwen2", "TokenClassification", num_labels=2)
    tokenizer = make_tokenizer(tmp_path / "start")
    model = torch_model(tmp_path / "start")
    config = prm_trainer.PRMConfig(
        output_dir=str(tmp_path / "out"), max_steps=2, per_device_train_batch_size=3, learning_rate=1e-2,
        report_to="none", use_cpu=True, bf16=False, max_length=None, save_strategy="no", gradient_checkpointing=False,
    )  # fmt: skip
    data = datasets.load_from_disk(tmp_path / "labels")
    trainer = prm_trainer.PRMTrainer(model, config, train_dataset=data, processing_class=tokenizer)
    processed = list(trainer.train_dataset)
    trainer.train()
    trainer.save_model(str(tmp_path / "trained"))
    tokenizer.save_pretrained(tmp_path / "trained")

    prm = load_prm(tmp_path / "trained", PrmOptions())
    assert prm.reader is not None
    assert prm.reader.name == "trl"
    scorer = Scorer(prm.model, prm.mesh, prm.params, 1024, 1024)
    for code, row, seen in zip(CODES, rows, processed, strict=True):
        [(_, tokens, ends)] = prm.read(PROBLEM, [Program.make("p", code, 0, "", {})], Counter())
        np.testing.assert_array_equal(tokens, seen["input_ids"])
        labels = np.full(len(tokens), -100)
        labels[ends] = [-100 if np.isnan(label) else int(label) for label in row.labels]
        np.testing.assert_array_equal(labels, seen["labels"])
        with torch.no_grad():
            logits = trainer.model(input_ids=torch.tensor([seen["input_ids"]])).logits[0]
        [ours] = scorer.logits([Reading(tokens, ends)])
        np.testing.assert_allclose(sigmoid(ours), logits.softmax(-1)[ends, 1].numpy(), atol=1e-4)


def torch_model(folder):
    from transformers import AutoModelForTokenClassification

    return AutoModelForTokenClassification.from_pretrained(folder)
