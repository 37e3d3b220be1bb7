"""Reward heads on a frozen language model: its features, and heads that learn if the features are informative."""

import dataclasses

import numpy as np
import pytest

from research.study.codeio_features import LAYERS, LanguageModel, StepFeatures, features_of
from research.study.codeio_heads import HeadSettings, _identity, cross_validated, make_folds
from research.study.codeio_measure import comparisons


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A random Llama with a byte tokenizer, as a Hugging Face folder."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    folder = tmp_path_factory.mktemp("llama")
    letters = {letter: index for index, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(letters, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=256, hidden_size=16, intermediate_size=32, num_hidden_layers=max(LAYERS), num_attention_heads=2
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return str(folder)


def test_programs_share_their_beginning_and_are_read_as_if_alone(model):
    reader = LanguageModel(model)
    reader.model = reader.model.float()
    programs = [["def f():\n    return 1\n", "print(f())\n"], ["def f():\n    return 2\n", "print(f())\n"], ["x\n"]]
    tokens = []
    forward = reader.model.model.forward

    def counted(ids, **others):
        tokens.append(ids.shape[1])
        return forward(ids, **others)

    reader.model.model.forward = counted
    together = reader.read("A task.\n", programs)
    assert sum(tokens) < 65 < sum(len("A task.\n" + "".join(steps)) for steps in programs)
    for steps, found in zip(programs, together, strict=True):
        (alone,) = reader.read("A task.\n", [steps])
        assert found.hidden.shape == (len(steps), 2 * 16 * len(LAYERS))
        np.testing.assert_allclose(found.hidden, alone.hidden, atol=1e-4)
        np.testing.assert_allclose(found.logprob, alone.logprob, atol=1e-4)
    np.testing.assert_array_less(together[0].logprob, 0.0)


def test_features_are_kept(model, tmp_path):
    rows = [{"program_hash": name, "prompt": "", "completions": [name, "\n"]} for name in ("ab", "ac")]
    first = features_of(tmp_path, [rows], model)
    stamps = [path.stat().st_mtime_ns for path in tmp_path.iterdir()]
    again = features_of(tmp_path, [rows], model)
    assert [path.stat().st_mtime_ns for path in tmp_path.iterdir()] == stamps
    for name, one in first.items():
        np.testing.assert_array_equal(one.hidden, again[name].hidden)


@pytest.mark.parametrize("arm", ["raw", "undetected_fault_online", "orm"])
def test_heads_find_the_fault_that_the_features_show(arm):
    """Programs of three steps. Half of them have a fatal step, and one feature shows it from that step on."""
    rng = np.random.default_rng(0)
    rows, features, fold = [], [], {}
    for index in range(120):
        fatal = int(rng.integers(0, 3)) if index % 2 else 3
        good = np.arange(3) < fatal
        state = rng.normal(size=(3, 6))
        state[:, 2] = np.where(good, 1.0, -1.0) + 0.3 * rng.normal(size=3)
        labels = good.astype(float)
        if arm == "undetected_fault_online":
            labels = np.where(good, 0.9, 0.1)
        rows.append({"problem_id": str(index), "labels": labels.tolist(), "outcome": bool(good[-1])})
        features.append(StepFeatures(state, rng.normal(size=3)))
        fold[str(index)] = index % 3
    settings = HeadSettings(folds=3, seeds=2, components=4, width=8, steps=60)
    hidden = 0.05 if arm == "undetected_fault_online" else None
    scores = cross_validated(settings, arm, rows, make_folds(settings, rows, features, fold), hidden)
    truth = [dict(row, labels=(np.array(row["labels"]) > 0.5).tolist()) for row in rows]
    noise = [rng.normal(size=3) for _ in rows]
    (found,) = comparisons(truth, {arm: [scores], "noise": [noise]}, [(arm, "noise")], samples=200)
    assert found["low"] > 0.25
    assert found["low"] <= found["difference"] <= found["high"]
    assert found["p"] == pytest.approx(2 / 201)
    (same,) = comparisons(truth, {"noise": [noise]}, [("noise", "noise")], samples=50)
    assert same["difference"] == 0.0
    assert same["p"] == 1.0


def test_results_of_other_settings_are_not_read():
    settings = HeadSettings()
    assert _identity(dataclasses.replace(settings, arms=("raw",), regimes=("k1",))) == _identity(settings)
    assert _identity(dataclasses.replace(settings, width=8)) != _identity(settings)
