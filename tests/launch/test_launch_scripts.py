"""Help, errors and dry runs of the launch scripts, and their loops with a fake cloud."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest

SCRIPTS = (
    "local.sh", "test.sh", "local_multiprocess.sh", "slurm.sbatch", "tpu_vm.sh", "tpu_worker.sh", "xpk.sh",
    "label_on_ray.sh", "test_lower_bounds.sh", "test_pythons.sh",
)  # fmt: skip
CONFIG = "--config=configs/qwen2_5_coder_7b.py"
TPU = (
    "--name=prm",
    "--zone=us-east5-a",
    "--type=v5p-16",
    "--share=10.0.0.2:/runs",
    CONFIG,
    "--workdir=/mnt/dreamprm/7b",
)
XPK = (
    "--workload=prm", "--cluster=c1", "--project=my-project", "--zone=us-east5-a", "--type=v5p-16", "--storage=runs",
    "--image=us-docker.pkg.dev/my-project/dreamprm/dreamprm:tpu", CONFIG, "--workdir=/runs/7b",
)  # fmt: skip
SLURM = ("--nodes=2", "--gpus-per-node=4", "--", CONFIG, "--workdir=/shared/7b")
RAY = ("--server=http://vllm:8000/v1", "--workers=8", CONFIG, "--workdir=/shared/7b")


def commands(output: str) -> list[list[str]]:
    """The commands that a script printed, parsed as in a shell."""
    lines = [line.removeprefix("+ ") for line in output.splitlines() if line.startswith("+ ")]
    return [subprocess.run(["bash", "-c", f"printf '%s\\0' {line}"], capture_output=True, text=True, check=True)
            .stdout.split("\0")[:-1] for line in lines]  # fmt: skip


def test_every_script_is_known_here(repository):
    here = {path.name for path in (repository / "launch").iterdir() if path.suffix in (".sh", ".sbatch")}
    assert here - {"env.sh", "functions.sh"} == set(SCRIPTS)


def test_shellcheck_is_clean(repository):
    shellcheck = shutil.which("shellcheck", path=f"{sys.prefix}/bin:{os.environ['PATH']}")
    if shellcheck is None:
        pytest.skip("shellcheck is not installed (extra [dev])")
    scripts = sorted((repository / "launch").glob("*.s*h"), key=str)
    result = subprocess.run([shellcheck, *map(str, scripts)], capture_output=True, text=True, check=False)
    assert len(scripts) == len(SCRIPTS) + 2  # and the files that they source
    assert (result.returncode, result.stdout) == (0, "")


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_says_how_to_call_it(launch, repository, script):
    path = repository / "launch" / script
    assert subprocess.run(["bash", "-n", str(path)], check=False).returncode == 0
    for option in ("--help", "-h"):
        result = launch(script, "--some=thing", option)
        assert (result.returncode, result.stderr) == (0, "")
        assert f"bash launch/{script}" in result.stdout
        assert "#" not in result.stdout.replace("'#", "")  # the comment without its # marks
    options = set(re.findall(r"^ +(--[a-z-]+)(?:=\*)?\)", path.read_text(), re.MULTILINE))
    assert {option for option in options if option not in result.stdout} <= {"--config", "--workdir"}


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        ("local_multiprocess.sh", ("--processes=0", CONFIG), "--processes=0: must be a whole number from 1 to 64"),
        ("local_multiprocess.sh", ("--devices=x", CONFIG), "--devices=x: must be a whole number"),
        ("local_multiprocess.sh", ("--port=80", CONFIG), "--port=80: must be a whole number from 1024"),
        ("local_multiprocess.sh", (), "--config is missing"),
        ("local_multiprocess.sh", ("--config=nowhere.py",), "--config: nowhere.py: no such file"),
        ("local_multiprocess.sh", (CONFIG, "--proceses=2"), "unknown argument --proceses=2"),
        ("local_multiprocess.sh", (CONFIG, "--config.distributed.mode=off"), "this script sets config.distributed"),
        ("slurm.sbatch", ("--nodes=2", CONFIG), "dreamprm's arguments must follow a --"),
        ("slurm.sbatch", ("--nodes=2", "--gpus-per-node=4"), "no -- followed by the arguments"),
        ("slurm.sbatch", ("-n8", *SLURM), "this script requests one task per GPU"),
        ("slurm.sbatch", ("--gres=gpu:4", *SLURM), "this script requests one task per GPU"),
        ("slurm.sbatch", ("--partition", *SLURM[:1], "x", *SLURM[1:]), "options must have the form --name=value"),
        ("slurm.sbatch", SLURM[1:], "--nodes=: must be a whole number"),
        ("slurm.sbatch", (*SLURM[:4], "--workdir=runs/x"), "--workdir=runs/x: must be an absolute path"),
        ("slurm.sbatch", (*SLURM[:4], "--workdir=/tmp/x"), "that folder is each machine's own"),
        ("slurm.sbatch", SLURM[:4], "--workdir is missing"),
        ("tpu_vm.sh", TPU[1:], "--name is missing, such as --name=my-run"),
        ("tpu_vm.sh", (*TPU, "--zone=us-east5"), "--zone=us-east5: must look like us-east5-a"),
        ("tpu_vm.sh", (*TPU, "--type=v5p-12"), "--type=v5p-12: v5p sizes are multiples of 8 cores"),
        ("tpu_vm.sh", (*TPU, "--type=v6e-12"), "--type=v6e-12: v6e comes with 1, 4, 8"),
        ("tpu_vm.sh", (*TPU, "--type=h100-8"), "--type=h100-8: must look like v5p-16"),
        ("tpu_vm.sh", (*TPU, "--slices=0"), "--slices=0: must be a whole number from 1"),
        ("tpu_vm.sh", (*TPU, "--spot", "--reserved"), "--spot and --reserved exclude each other"),
        ("tpu_vm.sh", (*TPU, "--share=/runs"), "--share=/runs: must look like 10.0.0.2:/runs"),
        ("tpu_vm.sh", (*TPU, "--workdir=gs://bucket/x"), "the stages write through the file system"),
        ("tpu_vm.sh", (*TPU, "--workdir=/home/x"), "--workdir=/home/x: must lie in /mnt/dreamprm"),
        ("tpu_vm.sh", (*TPU, "--config=/etc/hostname"), "--config=/etc/hostname: must lie in"),
        ("tpu_worker.sh", (CONFIG,), f"the share={CONFIG}: must look like"),
        ("xpk.sh", (*XPK, "--image=dreamprm"), "--image=dreamprm: must look like REGISTRY/PATH:TAG"),
        ("xpk.sh", (*XPK, "--priority=urgent"), "--priority=urgent: must look like medium"),
        ("xpk.sh", (*XPK, "--workload=My_Run"), "--workload=My_Run: must look like my-run"),
        ("xpk.sh", (*XPK, "--workdir=/runs"), "--workdir=/runs: must lie in a folder of the storage"),
        ("xpk.sh", (*XPK, "--restarts=-1"), "--restarts=-1: must be a whole number"),
        ("label_on_ray.sh", (*RAY, "--server=vllm:8000"), "--server=vllm:8000: must look like http://HOST:8000/v1"),
        ("label_on_ray.sh", RAY[1:], "--server is missing"),
        ("label_on_ray.sh", (*RAY, "--workers=none"), "--workers=none: must be a whole number"),
        ("label_on_ray.sh", (*RAY, "score"), "score: the stages of this script are generate and label"),
    ],
)  # fmt: skip
def test_bad_settings_are_refused(launch, script, arguments, message):
    result = launch(script, *arguments, PATH="/usr/bin:/bin")
    assert result.returncode == 2
    assert result.stderr.startswith("launch: error: ")
    assert message in result.stderr
    assert "+ " not in result.stdout  # nothing was executed


def test_settings_are_checked_before_machines_are_asked_for(launch):
    result = launch("tpu_vm.sh", *TPU, "--slices=3", "--dry-run", checked=True)
    assert result.returncode == 2
    assert result.stderr == (
        "launch: error: train.mesh data=1 x fsdp=8 x tensor=1 does not fit 24 devices: set one axis to -1 to take what "
        "is left\n"
    )
    assert result.stdout == ""


def test_check_settings(repository, capsys, monkeypatch):
    monkeypatch.syspath_prepend(str(repository / "launch"))
    monkeypatch.chdir(repository)
    from check_settings import main

    seven = ("--devices=8", "train", CONFIG)
    assert main([*seven]) == 0
    assert capsys.readouterr().out == (
        "launch: settings checked: train: 8 devices as data 1 x fsdp 8 x tensor 1, 16 rows a step\n"
    )
    for arguments, message in (
        (
            [*seven, "--config.train.batchsize=8"],
            "config: no field 'train.batchsize'; did you mean 'train.batch_size'?",
        ),
        (
            [*seven, "--config.train.meta.batch_size=4"],
            "config.train.meta.batch_size / accumulation=4 must be a multiple",
        ),
        ([*seven, "--config.train.accumulation=4"], "config.train.batch_size / accumulation=4 must be a multiple"),
        ([*seven, "--config.train.steps=0"], "config.train.steps=0: must be at least 1"),
        ([*seven, "--config.train.arms=('rwa',)"], "rwa"),
        (["--devices=1", "label", CONFIG, "--config.policy.model="], "config.policy.model is empty"),
    ):
        assert main(arguments) == 2
        assert message in capsys.readouterr().err
    assert main(["--devices=1", "label", CONFIG]) == 0


# ---------------------------------------------------------------- dry runs


def test_slurm_dry_run(launch):
    result = launch(
        "slurm.sbatch", "--partition=gpu", "--time=4:00:00", "--dry-run", *SLURM, "--config.train.arms=('raw',)"
    )
    assert result.returncode == 0
    (command,) = commands(result.stdout)
    repository = command[-5].removesuffix("/launch/slurm.sbatch")
    assert command == [
        "sbatch", "--output=/shared/7b/slurm-%j.log", "--nodes=2", "--partition=gpu", "--time=4:00:00",
        "--gpus-per-node=4", "--ntasks-per-node=4", f"--export=ALL,DREAMPRM_REPO={repository}",
        f"{repository}/launch/slurm.sbatch", "train", CONFIG, "--workdir=/shared/7b", "--config.train.arms=('raw',)",
    ]  # fmt: skip
    (command,) = commands(launch("slurm.sbatch", "--nodes=3", "--gpus-per-node=0", "--dry-run", *SLURM[2:]).stdout)
    assert {"--nodes=3", "--ntasks-per-node=1"} <= set(command)


def test_local_multiprocess_dry_run(launch):
    result = launch("local_multiprocess.sh", "--dry-run", "--processes=3", "--port=2222", "score", CONFIG)
    assert result.returncode == 0
    run = commands(result.stdout)
    assert [command[-1] for command in run] == [f"--config.distributed.process_id={index}" for index in range(3)]
    assert run[0][0] == "XLA_FLAGS=--xla_force_host_platform_device_count=2"
    assert run[1][2:] == [
        "score", CONFIG, "--config.distributed.mode=explicit",
        "--config.distributed.coordinator_address=127.0.0.1:2222", "--config.distributed.num_processes=3",
        "--config.distributed.process_id=1",
    ]  # fmt: skip


def test_label_on_ray_dry_run(launch):
    result = launch("label_on_ray.sh", "--dry-run", *RAY)
    assert result.returncode == 0
    generate, label = (command[1:] for command in commands(result.stdout))
    settings = [CONFIG, "--workdir=/shared/7b", "--config.policy.base_url=http://vllm:8000/v1"]
    assert generate == ["generate", *settings]
    assert label == [
        "label", *settings, "--config.engine.executor=ray", "--config.engine.address=auto", "--config.engine.workers=8",
    ]  # fmt: skip


def test_tpu_vm_dry_run_and_what_its_workers_do(launch):
    result = launch("tpu_vm.sh", *TPU, "--spot", "--slices=2", "--dry-run", "--config.train.arms=('raw',)")
    assert result.returncode == 0
    _, create, scp, ssh, delete = commands(result.stdout)
    assert create == [
        "gcloud", "compute", "tpus", "queued-resources", "create", "prm", "--zone=us-east5-a", "--node-count=2",
        "--node-prefix=prm", "--accelerator-type=v5p-16", "--runtime-version=v2-alpha-tpuv5", "--spot", "--async",
    ]  # fmt: skip
    everywhere = {"--node=all", "--worker=all", "--batch-size=all"}
    assert everywhere < set(scp)
    assert everywhere < set(ssh)
    assert delete[4:] == ["delete", "prm", "--zone=us-east5-a", "--force", "--quiet"]
    # tpu_worker.sh accepts the command that ssh passes to the workers' shell.
    remote = shlex.split(ssh[-1].removeprefix("--command="))
    script = remote.index("~/dreamprm/launch/tpu_worker.sh")
    worker = launch("tpu_worker.sh", "--dry-run", *remote[script + 1 :])
    assert worker.returncode == 0
    *_, mount, train = commands(worker.stdout)
    assert mount == ["sudo", "mount", "-t", "nfs", "-o", "hard", "10.0.0.2:/runs", "/mnt/dreamprm"]
    assert train[2:] == [
        "train", CONFIG, "--workdir=/mnt/dreamprm/7b", "--config.train.arms=('raw',)", "--config.distributed.mode=auto",
    ]  # fmt: skip


def test_gcloud_knows_the_commands(launch, tmp_path):
    if shutil.which("gcloud") is None:
        pytest.skip("gcloud is not installed; it checks the commands without a network")
    printed = launch("tpu_vm.sh", *TPU, "--project=my-project", "--reserved", "--dry-run").stdout
    lines = [line.removeprefix("+ ") for line in printed.splitlines() if line.startswith("+ gcloud")]
    assert len(lines) == 4
    for line in lines:
        verdict = subprocess.run(
            ["gcloud", "meta", "lint-gcloud-commands", f"--command-string={line}"],
            env={**os.environ, "CLOUDSDK_CONFIG": str(tmp_path)}, capture_output=True, text=True, check=False,
        ).stdout  # fmt: skip
        assert [row.get("error_message") for row in json.loads(verdict)] == [None]


def test_xpk_dry_run(launch, tmp_path):
    result = launch("xpk.sh", *XPK, "--slices=2", "--dry-run", PATH="/usr/bin:/bin")
    assert result.returncode == 0
    (command,) = commands(result.stdout)
    assert command[:3] == ["xpk", "workload", "create"]
    assert {"--tpu-type=v5p-16", "--num-slices=2", "--max-restarts=50"} < set(command)
    assert command[-1] == (
        f"--command=JAX_COMPILATION_CACHE_DIR=/runs/xla exec dreamprm train {CONFIG} --workdir=/runs/7b "
        "--config.distributed.mode=auto"
    )


def test_xpk_itself_takes_the_command(launch, tmp_path):
    if shutil.which("xpk") is None:
        pytest.skip("xpk is not installed (pip install xpk, in an environment of its own); its dry run asks no cloud")
    yaml = pytest.importorskip("yaml")
    result = launch("xpk.sh", *XPK, "--slices=2", "--dry-run", HOME=str(tmp_path))
    assert result.returncode == 0, result.stderr
    text = result.stdout[result.stdout.index("apiVersion: jobset") :]
    jobset = yaml.safe_load(text[: text.index("\n\n[XPK]")])
    (job,) = jobset["spec"]["replicatedJobs"]
    assert (job["replicas"], job["template"]["spec"]["parallelism"]) == (2, 2)
    assert jobset["spec"]["failurePolicy"]["maxRestarts"] == 50


# ---------------------------------------------------------------- the spot loop

CLOUD = """
# Answers like gcloud: states from a list, exit statuses of ssh from another, and a record of what was asked.
verb="$4"
next() { line="$(head -n 1 "$1")"; [ "$(wc -l <"$1")" -lt 2 ] || sed -i 1d "$1"; echo "$line"; }
[ "$verb" = describe ] || echo "$verb" >>LOG
case "$verb" in
  describe) next STATES ;;
  ssh) exit "$(next STATUSES)" ;;
esac
"""


@pytest.mark.parametrize(
    ("states", "statuses", "asked", "status", "said"),
    [
        # The TPUs are available at once, and the run finishes.
        (["", "ACTIVE"], [0], "create scp ssh delete", 0, "deleting prm"),
        # The request waits and is preempted. It is sent again, and the run continues.
        (
            ["", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE", "SUSPENDING", "", "ACTIVE"], [255, 0],
            "create scp ssh delete create scp ssh delete", 0, "attempt 2 of 20",
        ),
        # A request of an earlier call exists and is used.
        (["ACTIVE"], [0], "scp ssh delete", 0, "deleting prm"),
        # Bad input, a crash on active TPUs, a failed request: no second attempt, and no TPUs remain.
        (["", "ACTIVE"], [2], "create scp ssh delete", 2, "invalid settings or input, see above"),
        (["", "ACTIVE"], [1], "create scp ssh delete", 2, "the TPUs are still active; it is not tried again"),
        (["", "FAILED"], [0], "create delete", 2, "the request for 1 x v5p-16 failed"),
        # The run is saved and stopped, but the TPUs remain (maintenance): the same TPUs are used again.
        (["", "ACTIVE"], [143, 0], "create scp ssh scp ssh delete", 0, "attempt 2 of 20"),
    ],
)  # fmt: skip
def test_tpu_vm_asks_again_after_a_preemption_alone(launch, tools, tmp_path, states, statuses, asked, status, said):
    for name, lines in (("states", states), ("statuses", statuses)):
        (tmp_path / name).write_text("".join(f"{line}\n" for line in lines))
    log = tmp_path / "log"
    script = CLOUD.replace("LOG", str(log)).replace("STATES", str(tmp_path / "states"))
    tools("gcloud", script.replace("STATUSES", str(tmp_path / "statuses")))
    result = launch("tpu_vm.sh", *TPU, "--spot", DREAMPRM_POLL_SECONDS="0", DREAMPRM_SETTLE_SECONDS="0")
    assert log.read_text().split() == asked.split()
    assert result.returncode == status
    assert said in result.stdout + result.stderr


def test_tpu_vm_gives_up_and_keeps(launch, tools, tmp_path):
    (tmp_path / "states").write_text("\nACTIVE\nSUSPENDED\n")
    log = tmp_path / "log"
    tools(
        "gcloud",
        CLOUD.replace("LOG", str(log)).replace("STATES", str(tmp_path / "states")).replace("$(next STATUSES)", "255"),
    )
    result = launch("tpu_vm.sh", *TPU, "--attempts=1", "--keep", DREAMPRM_POLL_SECONDS="0", DREAMPRM_SETTLE_SECONDS="0")
    assert result.returncode == 2
    assert "not finished after 1 attempts; run the same command again" in result.stderr
    assert "is kept and still costs money" in result.stdout
    # The request is deleted, because it is of no use any more.
    assert log.read_text().split() == ["create", "scp", "ssh", "delete"]
