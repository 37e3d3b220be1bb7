"""Arms parsed from text, and the tables over seeds."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from dreamprm_jax.config import ModelConfig, defaults, freeze
from dreamprm_jax.models.decoder import decoder_config
from dreamprm_jax.schema import DataError
from dreamprm_jax.training.feed import Batch
from research.study.arms import parse_arm
from research.study.fit import Extras, Fitter, Recipe, aggregate_logits
from research.study.plots import differences
from research.study.regimes import REGIMES, regime
from research.study.settings import freeze_study, study_defaults
from research.study.tables import markdown, paired


def test_an_arm_is_read_and_named_by_what_differs():
    arm = parse_arm("label_table:phase=retrain,rate=0.30,meta=held_out,unroll=2")
    assert (arm.rate, arm.unroll, arm.phase, arm.learned) == (0.3, 2, "retrain", True)
    assert arm.name == "label_table:rate=0.3,unroll=2,phase=retrain"  # held_out is the default
    assert parse_arm(arm.name) == arm
    assert not parse_arm("raw:outcomes=0").outcomes
    assert parse_arm("release_weight_table:frozen=1").frozen
    assert parse_arm("label_table:two_stages=1,outer=sum").name == "label_table:outer=sum,two_stages=1"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("magic", "no labeling 'magic'"),
        ("raw:speed=3", "'speed=3' is no KEY=VALUE with a key among outcomes, target"),
        ("label_table:rate=fast", "rate='fast' is no float"),
        ("label_table:meta=other", "meta must be one of same, held_out, clean_steps"),
        ("label_table:start=label_table", "start='label_table' is no fixed labeling"),
        ("label_table:unroll=0", "unroll must be at least 1"),
        ("stored", "no labeling 'stored'"),
        ("weight_table:phase=retrain", "there is nothing to retrain on"),
        ("raw:unroll=2", "unroll has no effect on raw"),
        ("label_table:clean=1", "clean has no effect on label_table"),
        ("raw:frozen=1", "frozen has no effect on raw"),
        ("raw:outer=mean", "outer has no effect on raw"),
        ("release_weight_table:rate=0.1", "rate has no effect on release_weight_table"),
        ("label_table:meta=clean_steps,outer=mean", "outer=mean has no effect with meta=clean_steps"),
        ("raw:mask=1", "mask must be at least 0 and below 1"),
        ("label_table:value_head=1", "value_head has no effect on label_table"),
        ("nait:clean=1", "clean has no effect on nait"),
        ("undetected_fault_online:clean=1", "clean has no effect on undetected_fault_online"),
    ],
)
def test_a_wrong_arm_says_what_is_wrong(text, message):
    with pytest.raises(DataError, match=message):
        parse_arm(text)


def test_extras_of_the_loss():
    """Extras without effect equal the plain training. A second head learns its own labels."""
    model = decoder_config(ModelConfig(vocab_size=20, hidden_size=16, intermediate_size=32, num_layers=1, num_heads=2,
                                       num_kv_heads=2, max_length=128))  # fmt: skip
    labels = np.array([[[0.5, 1.0], [0.0, 0.5]]] * 3, np.float32)  # [steps, B, S]
    index = np.tile(np.array([3, 7], np.int32), (3, 2, 1))
    last = np.tile(np.array([False, True]), (3, 2, 1))
    tokens = np.random.default_rng(0).integers(1, 20, (3, 2, 128), np.int32)
    ones, share = np.ones((3, 2, 128), np.int32), np.ones((3, 2), np.float32)
    positions = np.tile(np.arange(128, dtype=np.int32), (3, 2, 1))
    data = Batch(tokens, positions, ones, index, ~last, index * 0, labels, last, labels, share, share)

    def fitted(values=None, **extras):
        fitter = Fitter(model, Recipe(steps=3).train_config(), Extras(**extras))
        return fitter.fit(fitter.start(0), data, values=values).params

    plain = fitted()
    np.testing.assert_allclose(fitted(mask=1e-9)["head"]["kernel"], plain["head"]["kernel"], rtol=1e-4)
    assert np.abs(fitted(mask=0.5)["head"]["kernel"] - plain["head"]["kernel"]).max() > 1e-4
    assert np.abs(fitted(certainty=True)["head"]["kernel"] - plain["head"]["kernel"]).max() > 1e-4
    both = fitted(1.0 - labels, value_head=True)
    assert np.abs(both["value_head"]["kernel"]).max() > 1e-4
    assert both["value_head"]["bias"] != both["head"]["bias"]


def test_settings_are_checked():
    for field, value, message in (
        ("arms", ("em",), "config.baseline: 'raw' is none of config.arms"),
        ("regimes", ("k3",), "no regime 'k3'; choose among k1"),
        ("seeds", (1, 1), "config.seeds: at least one, none twice"),
        ("warm_share", 1.0, "config.warm_share=1.0"),
    ):
        config = study_defaults()
        config[field] = value
        with pytest.raises(DataError, match=message):
            freeze_study(config)


def test_a_regime_s_name_says_rollouts_and_repair():
    found = regime("weak_tests_k1_repair5")
    assert (found.rollouts, found.repair, found.judge_tests) == (1, 0.05, 1)
    assert regime("k16_repair20").rollouts == 16
    assert regime("k4").repair == 0.0
    assert regime("k4") is REGIMES["k4"]
    for wrong in ("k4_repair", "k4_repair101", "k4_k0", "magic_k4"):
        with pytest.raises(DataError, match=f"no regime '{wrong}'"):
            regime(wrong)


BEST = ("best_of_n_last", "best_of_n_mean", "best_of_n_sum_log_odds")


def rows(values):
    return [
        {"regime": "k1", "seed": seed, "arm": arm, "random": 0.4, "oracle": 0.9}
        | dict.fromkeys(("step_auroc", "first_error_f1", *BEST), float(value))
        for arm, by_seed in values.items()
        for seed, value in enumerate(by_seed)
    ]


def test_differences_are_paired_by_seed():
    rng = np.random.default_rng(0)
    base = rng.uniform(0.6, 0.8, 6)
    other = base + rng.normal(0.05, 0.01, 6)
    found = paired(rows({"raw": base, "em": other[:5]}), "k1", "em", "raw", "step_auroc")
    test = stats.ttest_rel(other[:5], base[:5]).confidence_interval(0.95)
    assert (found.seeds, found.mean) == (5, pytest.approx(np.mean(other[:5] - base[:5])))
    assert (found.low, found.high) == (pytest.approx(test.low), pytest.approx(test.high))
    table = markdown(rows({"raw": base, "em": other}), "raw")
    here = table[table.index("### k1") :]
    assert here.index("`em`") < here.index("`raw`")  # the better arm comes first
    assert found.text().startswith(f"+.{round(1000 * found.mean):03d} [+.0")
    assert differences(rows({"raw": base, "em": other}), "raw").axes[0].get_title(loc="left") == "k1"


def test_old_names_of_labelings_are_read_with_a_warning():
    with pytest.warns(FutureWarning, match="'hidden_fault' is now called 'undetected_fault'"):
        assert parse_arm("label_table:start=hidden_fault") == parse_arm("label_table:start=undetected_fault")
    config = defaults()
    config.train.arms, config.train.labels.method = ("raw", "hidden_fault"), "hidden_fault_online"
    with pytest.warns(FutureWarning, match=r"config.train.labels.method: 'hidden_fault_online' is now called"):
        train = freeze(config).train
    assert (train.arms, train.labels.method) == (("raw", "undetected_fault"), "undetected_fault_online")


def test_the_outer_loss_reads_the_mean_or_sum_of_each_program_s_logits():
    logits = jnp.array([[1.0, 2.0, 6.0, -1.0, 5.0, 9.0]])
    last = jnp.array([[False, False, True, False, True, False]])
    batch = Batch(*[None] * len(Batch._fields))._replace(outcome_mask=last)
    mean, total = (np.asarray(aggregate_logits(logits, batch, outer))[0, [2, 4]] for outer in ("mean", "sum"))
    np.testing.assert_allclose(mean, [3.0, 2.0])
    np.testing.assert_allclose(total, [9.0, 4.0])
