"""dreamprm plan: compares its figures with compiled programs and with counts, and checks its command-line output."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from planning_toy import CONFIG, LORA

from dreamprm_jax.cli import main as cli
from dreamprm_jax.config import Config, GenerateConfig, LabelConfig, MetaConfig, TrainConfig
from dreamprm_jax.models.decoder import decoder_config
from dreamprm_jax.planning.duration import Steps, run_steps
from dreamprm_jax.planning.fleet import make_fleet
from dreamprm_jax.planning.labels import Assumptions, label_cost
from dreamprm_jax.planning.layouts import Batches, kept_elements, layouts, objection, parse_layout, ranked
from dreamprm_jax.planning.memory import step_works
from dreamprm_jax.planning.roofline import Layout, Work, step_time, volume
from dreamprm_jax.schema import DataError
from dreamprm_jax.training import chips
from dreamprm_jax.training.chips import CHIPS

MODEL = decoder_config(CONFIG.model)
LLAMA = dataclasses.replace(
    MODEL, vocab_size=128256, hidden_size=8192, intermediate_size=28672, num_layers=80, num_heads=64, num_kv_heads=8
)
ROWS = Batches((("train.batch_size / train.accumulation", 256),))
WORK = Work(
    flops=1.64e18, bilevel=True, parameters=69_503_041_537, trainable=69_503_041_537, width=2, layers=80,
    stream=(256 * 4096 * 8192,) * 2, micro=(1, 1), remat="full",
)  # fmt: skip


# ---------------------------------------------------------------- chips and meshes


@pytest.mark.parametrize(
    ("chip", "count", "slices", "message"),
    [
        ("v5e", 0, 0, r"--chips=0: must be at least 1"),
        ("v5e", 512, 1, r"--chips=512 --slices=1: must divide .* at most 256 v5e chips"),
        ("v5p", 10, 4, r"--chips=10 --slices=4: must divide"),
        ("h100", 12, 0, r"--chips=12: GPUs come in nodes of 8"),
        ("h100", 16, 2, r"--slices=2: GPUs come in nodes of 8; leave the option out"),
    ],
)
def test_chips_that_do_not_exist_are_refused(chip, count, slices, message):
    with pytest.raises(DataError, match=message):
        make_fleet(CHIPS[chip], count, slices)


def test_fleets_have_as_few_domains_as_hold_them():
    assert make_fleet(CHIPS["v6e"], 4096).domains == 16
    assert make_fleet(CHIPS["v5p"], 4096).domains == 1
    assert make_fleet(CHIPS["h100"], 64).domains == 8
    assert make_fleet(CHIPS["h100"], 4).domain == 4


@pytest.mark.parametrize(
    ("layout", "chip", "count", "why"),
    [
        ((2, 2, 1), "v5e", 8, "is not 8 chips"),
        ((1, 512, 1), "v6e", 512, "data=1 must be a multiple of the 2 slices"),
        ((2, 2048, 1), "v5p", 4096, "fsdp x tensor above 1024"),
        ((1, 1, 16), "h100", 16, "tensor=16 must divide the 8 chips"),
        ((1, 12, 2), "h100", 24, "must divide the model's width"),
        ((512, 1, 1), "v5p", 512, "= 256 rows must be a multiple of data x fsdp = 512"),
        ((1, 256, 1), "h100", 256, None),  # spans several nodes
        ((16, 16, 1), "v6e", 256, None),
    ],
)
def test_meshes_that_cannot_be(layout, chip, count, why):
    found = objection(Layout(*layout), make_fleet(CHIPS[chip], count), LLAMA, ROWS)
    assert found == why if why is None else why in found


def test_ranking_takes_the_fastest_that_fits_and_says_what_a_batch_must_be():
    fleet = make_fleet(CHIPS["v5p"], 256)
    models = [(dataclasses.replace(LLAMA, remat="full"), WORK)]
    best, *others = [found.layout for found in ranked(fleet, models, ROWS, 87e9, 0.5)]
    times = [step_time(WORK, layout, fleet, 0.5).serial for layout in (best, *others)]
    assert best.fsdp * best.tensor >= 32  # to hold 70 billion parameters of 16 bytes, and the gradients
    roomy = ranked(fleet, models, ROWS, 1e15, 0.5)[0].layout
    assert step_time(WORK, roomy, fleet, 0.5).serial == min(times) <= times[0]
    tight = ranked(fleet, models, ROWS, 1.0, 0.5)[0].layout
    assert tight.fsdp * tight.tensor == 256  # nothing fits, so the layout with the smallest memory comes first
    with pytest.raises(DataError, match=r"4096 v5p chips need a batch that divides by 512 .*= 256: take fewer chips"):
        ranked(make_fleet(CHIPS["v5p"], 4096), models, ROWS, 87e9, 0.5)
    assert Layout(2, 4, 1) in list(layouts(make_fleet(CHIPS["v5e"], 8)))
    assert parse_layout("2x16x4") == Layout(2, 16, 4)
    with pytest.raises(DataError, match=r"--mesh=2x16: must be auto, or DATAxFSDPxTENSOR"):
        parse_layout("2x16")


@pytest.mark.parametrize(
    ("memory", "policy"),
    [(1e12, "none"), (2e11, "dots"), (7e10, "offload"), (4.97e10, "attention"), (4.9e10, "full"), (1.0, "full")],
)
def test_the_policy_is_the_fastest_that_fits(memory, policy):
    """The rematerialization policy: the fewer values a policy keeps, the more it recomputes."""
    flops = {"none": 3.0, "dots": 3.1, "offload": 3.1, "attention": 3.9, "full": 4.0}
    models, fleet, layout = [], make_fleet(CHIPS["v5p"], 256), Layout(1, 256, 1)
    for remat, count in flops.items():
        model = dataclasses.replace(LLAMA, remat=remat)
        offloaded = kept_elements(model)[1] * 2 * 256 * 4096
        models.append((model, dataclasses.replace(WORK, remat=remat, flops=count * 4e17, offloaded=offloaded)))
    found = ranked(fleet, models, ROWS, memory, 0.5, layout)
    assert found[0].model.remat == policy
    assert len(found) == 5


def test_transfers_to_the_host_take_time():
    fleet, layout = make_fleet(CHIPS["v5p"], 256), Layout(1, 256, 1)
    work = dataclasses.replace(WORK, remat="offload", offloaded=256 * 10**9)
    extra = step_time(work, layout, fleet, 0.5).memory - step_time(WORK, layout, fleet, 0.5).memory
    assert extra == pytest.approx(2 * 80 * 2e9 / 16e9)  # written and read: 80 layers of 10^9 elements per chip


# ---------------------------------------------------------------- communication and duration of a step


def test_works_count_parameters_and_flops():
    plain, bilevel = step_works(CONFIG, MODEL)
    layer = 2 * 128 * 128 + 2 * 128 * 64 + 3 * 128 * 384 + 2 * 128
    assert plain.parameters == plain.trainable == 256 * 128 + 6 * layer + 128 + 128 + 1
    tokens = 16 * 128
    products = 8 * tokens * 6 * (layer - 256)  # forward, recomputation, and two for the gradients: 2 FLOPs each
    assert 1.0 < plain.flops / products < 1.25  # the rest is attention scores
    assert 2.6 < bilevel.flops / plain.flops < 3.0
    assert bilevel.stream == (tokens * 128,) * 2
    lora = step_works(LORA, decoder_config(LORA.model))[0]
    assert lora.trainable == 6 * 2 * (2 * (128 + 128) + 2 * (128 + 64)) + 129
    assert lora.flops < 0.8 * plain.flops  # frozen kernels have no gradients


def test_roofline_by_hand():
    fleet = make_fleet(CHIPS["v6e"], 1024, 4)
    time = step_time(WORK, Layout(8, 32, 4), fleet, 0.5)
    weights = 69_503_041_537 * 2
    assert time.compute == pytest.approx(1.64e18 / 1024 / 459e12)
    assert time.fsdp == pytest.approx((6 + 2) * weights / 4 * 31 / 32 / 180e9)
    assert time.tensor == pytest.approx(2 * 22 * 80 * 4096 * 8192 * 2 * 3 / 4 / 180e9)
    # Each of four slices has two replicas. They reduce within the slice, then each sends its half to other slices.
    assert time.data_fast == pytest.approx(2 * 2 * weights / 128 * 1 / 2 / 180e9)
    assert time.data_slow == pytest.approx(2 * 2 * weights / 128 / 2 * 3 / 4 / 12.5e9)
    assert time.overlapped == max(time.compute, time.network)
    assert time.serial == pytest.approx(time.compute + time.network)
    nodes = make_fleet(CHIPS["h100"], 64)
    inside = step_time(WORK, Layout(8, 8, 1), nodes, 0.5)
    across = step_time(WORK, Layout(1, 64, 1), nodes, 0.5)
    assert across.fsdp / inside.fsdp == pytest.approx((63 / 64 / 400e9) / (7 / 8 / 450e9))
    assert across.data_slow == 0.0 < inside.data_slow


@pytest.mark.slow
def test_volumes_and_memory_are_those_of_compiled_programs():
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("plan_process.py"))],
        env=os.environ | {"XLA_FLAGS": flags}, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads(done.stdout.splitlines()[-1])
    meshes = {
        "fsdp": Layout(1, 4, 1),
        "tensor": Layout(1, 1, 4),
        "data": Layout(4, 1, 1),
        "fsdp, lora": Layout(1, 4, 1),
    }
    for name, layout in meshes.items():
        config = LORA if "lora" in name else CONFIG
        for work, got in zip(step_works(config, decoder_config(config.model)), report["moved"][name], strict=True):
            wanted, place = volume(work, layout), (name, work.bilevel)
            if "fsdp" in name:
                assert got["all-gather"] == pytest.approx(wanted.gathered, rel=0.15), place
            if name == "fsdp":
                assert got["all-reduce"] == pytest.approx(wanted.reduced, rel=0.15), place
            if name == "tensor":
                assert got["all-reduce"] == pytest.approx(wanted.stream, rel=0.15), place
            if name == "data":
                assert got["all-reduce"] == pytest.approx(wanted.shards, rel=0.15), place
    memory = report["memory"]
    # The devices of one replica predict the memory of four replicas.
    assert memory["2"] == pytest.approx(memory["8"], rel=0.1)
    assert memory["arguments"] == pytest.approx(memory["compiled arguments"], rel=0.001)


# ---------------------------------------------------------------- the run, and its labels


def test_steps_of_a_run_are_those_of_its_arms():
    arms = ("orm", "raw", "label_table")
    assert run_steps(TrainConfig(arms=arms)) == Steps(plain=600 + 300 + 300, bilevel=300)
    assert run_steps(TrainConfig(arms=arms, meta=MetaConfig(every=2))) == Steps(1200 + 150, 150)
    assert run_steps(TrainConfig(arms=arms, meta=MetaConfig(unroll=2))) == Steps(1200, 300)
    arms = ("raw", "em", "table_on_em", "label_table")
    assert run_steps(TrainConfig(arms=arms, warmup_steps=10, steps=100)) == Steps(2 * 10 + 2 * 100, 200)


def test_label_cost_is_that_of_counting():
    assumed = Assumptions(10, 4, 6, 4, 400, 100, 0.5, 0.1, 1000, 10000)
    config = Config(generate=GenerateConfig(train_programs=3, test_programs=8), label=LabelConfig(rollouts=16))
    cost = label_cost(config, assumed)
    programs, sent, computed, generated, rollouts = 14 * 3 + 6 * 8, 20 * 100, 20 * 100, (14 * 3 + 6 * 8) * 400, 0
    for _ in range(10 * 3):
        cached = 0  # tokens of this program's requests in the server's cache
        for step in (1, 2, 3):
            prefix = 100 + step * 100
            sent, computed, cached = sent + prefix, computed + prefix - cached, prefix
            generated, rollouts = generated + 16 * (400 - step * 100), rollouts + 16
    assert (cost.programs, cost.rollouts, cost.prefixes) == (programs, rollouts, 90)
    assert (cost.prompt_tokens, cost.computed_tokens, cost.generated_tokens) == (sent, computed, generated)
    assert cost.judged == programs + rollouts / 2
    assert cost.judge_hours == pytest.approx(cost.judged * 0.1 / 3600)
    assert cost.policy_hours == pytest.approx((generated / 1000 + computed / 10000) / 3600)

    search = dataclasses.replace(config, label=LabelConfig(rollouts=16, strategy="binary_search"))
    assert label_cost(search, assumed).rollouts == 30 * 2 * 16
    given = dataclasses.replace(config, generate=dataclasses.replace(config.generate, candidates="file.jsonl"))
    assert label_cost(given, assumed).generated_tokens == generated - programs * 400
    assert label_cost(config, dataclasses.replace(assumed, functions=1)).rollouts == 0
    with pytest.raises(DataError, match=r"--distinct=0: must be above 0"):
        label_cost(config, dataclasses.replace(assumed, distinct=0))
    with pytest.raises(DataError, match=r"--decode-rate=0: must be above 0"):
        label_cost(config, dataclasses.replace(assumed, decode_rate=0))


# ---------------------------------------------------------------- the command


@pytest.fixture
def config_file(tmp_path):
    path = tmp_path / "small.py"
    path.write_text(
        "from dreamprm_jax.config import defaults\n"
        "def get_config():\n"
        "    config = defaults()\n"
        "    config.model.update(vocab_size=320, hidden_size=16, intermediate_size=32, num_layers=1, num_heads=2)\n"
        "    config.model.update(num_kv_heads=1, dtype='bfloat16')\n"
        "    config.train.update(batch_size=2, row_tokens=64, arms=('orm', 'raw', 'label_table'))\n"
        "    config.train.meta.batch_size = 2\n"
        "    return config\n",
        encoding="utf-8",
    )
    return path


def plan(capsys, config_file, *options):
    """Runs the command for one chip, which matches the tests' CPU device. Returns (exit status, captured output)."""
    status = cli.main(["plan", f"--config={config_file}", "--chip=v5e", "--chips=1", *options])
    return status, capsys.readouterr()


def test_a_plan_as_a_table_and_as_json(capsys, config_file, monkeypatch):
    status, printed = plan(capsys, config_file, "--json", "--price=2", "--problems=10")
    found = json.loads(printed.out)
    assert status == 0
    assert found["memory"]["fits"] == "yes"
    assert found["advice"] == []
    parameters = found["model"]["parameters"]
    assert found["memory"]["parameters"] == pytest.approx(4 * parameters / 1e9)
    assert found["memory"]["optimizer"] == pytest.approx(8 * parameters / 1e9, rel=1e-3)
    # On the CPU, the temporaries are only an upper bound for a bfloat16 model.
    assert found["memory"]["least"] < found["memory"]["most"]
    assert [step["steps"] for step in found["steps"].values()] == [1200, 300]
    hours = sum(step["steps"] * step["seconds"][1] for step in found["steps"].values()) / 3600
    assert found["hours"][1] == pytest.approx(hours)
    assert found["price"][1] == pytest.approx(2 * hours)
    assert found["labels"]["rollouts"] == 10 * 3 * 3 * 4

    monkeypatch.setitem(chips.CHIPS, "v5e", dataclasses.replace(CHIPS["v5e"], memory_gb=1e-5))
    status, printed = plan(capsys, config_file, "--config.train.arms=('raw',)")
    assert status == 1
    assert "DOES NOT FIT 0.0 GB" in printed.out
    assert "remat=full" in printed.out  # the policy is selected or recommended
    assert "data=1 x fsdp=1 x tensor=1" in printed.out


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--chip=v9", r"--chip=v9: unknown; choose among v5e, v5p, v6e, a100, h100, h200"),
        ("--efficiency=2", r"--efficiency=2: must be above 0 and at most 1"),
        ("--problems=0", r"--problems=0: must be at least 1"),
        ("--mesh=2x1x1", r"--mesh=2x1x1: data=2 x fsdp=1 x tensor=1 is not 1 chips"),
        ("--config.train.arms=('nothing',)", r"config\.train\.arms: unknown arm 'nothing'"),
        ("--topology=v9:1x1", r"inspect\.topology='v9:1x1': no such TPU topology"),
    ],
)
def test_bad_options_are_named(capsys, config_file, option, message):
    status, printed = plan(capsys, config_file, option)
    assert status == 2
    assert message.replace("\\", "") in printed.err
