"""The YAML files and the Dockerfile: field names are valid, and the names match each other and the scripts."""

from __future__ import annotations

import math
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

yaml = pytest.importorskip("yaml", reason="PyYAML is not installed (extra [dev])")
jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed (extra [dev])")

INT, STR, BOOL = {"type": "integer", "minimum": 0}, {"type": "string", "minLength": 1}, {"type": "boolean"}


def record(required: str, **properties: Any) -> dict[str, Any]:
    """The schema of an object with these fields and no others."""
    return {"type": "object", "required": required.split(), "properties": properties, "additionalProperties": False}


def items(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": schema, "minItems": 1}


# Written by hand from the definitions of Kubernetes, JobSet, KubeRay and Kueue, with only the fields used here.
MAP = {"type": "object", "additionalProperties": STR}
META = record(
    "name", name={"type": "string", "pattern": "^[a-z0-9.-]{1,63}$"}, namespace=STR, labels=MAP, annotations=MAP
)
QUANTITY = {"anyOf": [INT, {"type": "string", "pattern": "^[0-9]+(m|Mi|Gi)?$"}]}
QUANTITIES = {"type": "object", "additionalProperties": QUANTITY}
SECURITY = record(
    "", privileged=BOOL, runAsUser=INT, runAsNonRoot=BOOL, fsGroup=INT, allowPrivilegeEscalation=BOOL,
    capabilities=record("drop", drop=items(STR)),
    seccompProfile=record("type", type={"enum": ["RuntimeDefault", "Localhost", "Unconfined"]}),
)  # fmt: skip
CONTAINER = record(
    "name image", name=STR, image=STR, command=items(STR), args=items(STR), securityContext=SECURITY,
    env=items(record("name value", name=STR, value=STR)),
    ports=items(record("containerPort", containerPort=INT, name={"type": "string", "maxLength": 15})),
    resources=record("limits", limits=QUANTITIES, requests=QUANTITIES),
    volumeMounts=items(record("name mountPath", name=STR, mountPath=STR)),
    readinessProbe=record("httpGet", httpGet=record("path port", path=STR, port=STR), periodSeconds=INT),
)  # fmt: skip
VOLUME = record(
    "name", name=STR, emptyDir=record("", medium={"enum": ["Memory"]}, sizeLimit=QUANTITY),
    persistentVolumeClaim=record("claimName", claimName=STR),
)  # fmt: skip
TOLERATION = record("key operator", key=STR, operator={"enum": ["Exists", "Equal"]}, effect=STR, value=STR)
POD = record(
    "containers", containers=items(CONTAINER), volumes=items(VOLUME), tolerations=items(TOLERATION), nodeSelector=MAP,
    restartPolicy={"enum": ["Never", "OnFailure", "Always"]}, terminationGracePeriodSeconds=INT, hostNetwork=BOOL,
    dnsPolicy={"enum": ["ClusterFirst", "ClusterFirstWithHostNet"]}, securityContext=SECURITY,
)  # fmt: skip
TEMPLATE = record("spec", spec=POD, metadata=record("labels", labels=MAP))
JOB = record(
    "template parallelism completions", parallelism=INT, completions=INT, completionMode={"enum": ["Indexed"]},
    backoffLimit=INT, template=TEMPLATE,
    podFailurePolicy=record("rules", rules=items(record(
        "action onExitCodes", action={"enum": ["FailJob", "Ignore", "Count", "FailIndex"]},
        onExitCodes=record("operator values", containerName=STR, operator={"enum": ["In", "NotIn"]}, values=items(INT)),
    ))),
)  # fmt: skip
ACTIONS = ["FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts", "RestartJob"]
JOBSET = record(
    "replicatedJobs failurePolicy",
    replicatedJobs=items(record("name template", name=STR, replicas=INT, template=record("spec", spec=JOB))),
    failurePolicy=record("maxRestarts", maxRestarts=INT, rules=items(record(
        "action name", name={"type": "string", "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$"},
        action={"enum": ACTIONS}, onJobFailureReasons=items({"enum": ["PodFailurePolicy", "BackoffLimitExceeded"]}),
    ))),
)  # fmt: skip
GROUP = {"rayStartParams": MAP, "template": TEMPLATE}
RAYJOB = record(
    "entrypoint rayClusterSpec", entrypoint=STR, backoffLimit=INT, shutdownAfterJobFinishes=BOOL,
    ttlSecondsAfterFinished=INT,
    rayClusterSpec=record(
        "headGroupSpec rayVersion", rayVersion=STR, enableInTreeAutoscaling=BOOL,
        autoscalerOptions=record("", idleTimeoutSeconds=INT), headGroupSpec=record("template", **GROUP),
        workerGroupSpecs=items(record(
            "groupName template", **GROUP, groupName=STR, replicas=INT, minReplicas=INT, maxReplicas=INT,
        )),
    ),
)  # fmt: skip
FLAVORS = items(
    record("name resources", name=STR, resources=items(record("name nominalQuota", name=STR, nominalQuota=INT)))
)
KINDS = {
    ("jobset.x-k8s.io/v1alpha2", "JobSet"): JOBSET,
    ("ray.io/v1", "RayJob"): RAYJOB,
    ("apps/v1", "Deployment"): record(
        "selector template", replicas=INT, selector=record("matchLabels", matchLabels=MAP), template=TEMPLATE,
        strategy=record("type", type={"enum": ["Recreate", "RollingUpdate"]}),
    ),
    ("v1", "Service"): record(
        "selector ports", selector=MAP, ports=items(record("name port targetPort", name=STR, port=INT, targetPort=STR))
    ),
    ("kueue.x-k8s.io/v1beta2", "ResourceFlavor"): record("nodeLabels", nodeLabels=MAP),
    ("kueue.x-k8s.io/v1beta2", "LocalQueue"): record("clusterQueue", clusterQueue=STR),
    ("kueue.x-k8s.io/v1beta2", "ClusterQueue"): record(
        "resourceGroups", namespaceSelector={"type": "object"},
        resourceGroups=items(record("coveredResources flavors", coveredResources=items(STR), flavors=FLAVORS)),
    ),
}  # fmt: skip


@pytest.fixture
def documents(repository: Path):
    """The objects of a file, by kind."""

    def read(name: str) -> dict[str, dict[str, Any]]:
        loaded = yaml.safe_load_all((repository / "launch" / name).read_text(encoding="utf-8"))
        return {document["kind"]: document for document in loaded}

    return read


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("jobset.yaml", {"JobSet"}),
        ("kueue.yaml", {"ResourceFlavor", "ClusterQueue", "LocalQueue"}),
        ("kuberay.yaml", {"RayJob", "Deployment", "Service"}),
    ],
)
def test_objects_have_the_fields_of_their_kind(documents, name, kinds):
    found = documents(name)
    assert set(found) == kinds
    for document in found.values():
        kind = KINDS[document["apiVersion"], document["kind"]]
        jsonschema.validate(
            document, record("apiVersion kind metadata spec", apiVersion=STR, kind=STR, metadata=META, spec=kind)
        )


def test_the_schemas_refuse(documents):
    jobset = documents("jobset.yaml")["JobSet"]
    jobset["spec"]["failurePolicy"]["maxRestart"] = jobset["spec"]["failurePolicy"].pop("maxRestarts")
    with pytest.raises(jsonschema.ValidationError, match="maxRestart"):
        jsonschema.validate(jobset["spec"], JOBSET)


def test_jobset_fits_its_slices_its_queue_and_the_trainer(documents, repository, monkeypatch, capsys):
    jobset = documents("jobset.yaml")["JobSet"]
    (group,) = jobset["spec"]["replicatedJobs"]
    job = group["template"]["spec"]
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    topology = pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"]
    chips = math.prod(int(size) for size in topology.split("x"))
    assert job["parallelism"] == job["completions"]
    assert job["parallelism"] * container["resources"]["limits"]["google.com/tpu"] == chips
    # All or nothing: the loss of one pod ends the job, and the set starts again. Bad settings (status 2) end the set.
    assert (job["backoffLimit"], pod["restartPolicy"]) == (0, "Never")
    assert jobset["spec"]["failurePolicy"]["maxRestarts"] > 0
    assert job["podFailurePolicy"]["rules"][0]["onExitCodes"] == {
        "containerName": container["name"],
        "operator": "In",
        "values": [2],
    }

    queue = documents("kueue.yaml")
    assert jobset["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == queue["LocalQueue"]["metadata"]["name"]
    assert queue["LocalQueue"]["spec"]["clusterQueue"] == queue["ClusterQueue"]["metadata"]["name"]
    (flavor,) = queue["ClusterQueue"]["spec"]["resourceGroups"][0]["flavors"]
    assert flavor["name"] == queue["ResourceFlavor"]["metadata"]["name"]
    assert flavor["resources"][0]["nominalQuota"] >= group["replicas"] * chips
    assert queue["ResourceFlavor"]["spec"]["nodeLabels"].items() <= pod["nodeSelector"].items()

    monkeypatch.syspath_prepend(str(repository / "launch"))
    monkeypatch.chdir(repository)
    from check_settings import main

    settings = [
        argument for argument in container["args"] if not argument.startswith(("--workdir", "--config.distributed"))
    ]
    assert main([f"--devices={group['replicas'] * chips}", container["command"][1], *settings]) == 0
    assert "16 devices as data 2 x fsdp 8" in capsys.readouterr().out
    mounts = [mount["mountPath"] for mount in container["volumeMounts"]]
    variables = {variable["name"]: variable["value"] for variable in container["env"]}
    workdir = next(argument.split("=")[1] for argument in container["args"] if argument.startswith("--workdir"))
    for path in (workdir, variables["JAX_COMPILATION_CACHE_DIR"]):
        assert any(path.startswith(f"{mount}/") for mount in mounts)
    environment = (repository / "launch" / "env.sh").read_text(encoding="utf-8")
    flags = environment.split("TPU_FLAGS=(")[1].split("\n)")[0]
    assert variables["LIBTPU_INIT_ARGS"].split() == re.findall(r"^  (--xla_\S+)$", flags, re.MULTILINE)


def test_kuberay_job_is_a_call_of_the_script(documents, launch):
    objects = documents("kuberay.yaml")
    job, server = objects["RayJob"]["spec"], objects["Service"]
    words = shlex.split(job["entrypoint"])
    assert words[:2] == ["bash", "/app/launch/label_on_ray.sh"]
    result = launch("label_on_ray.sh", "--dry-run", *words[2:])
    assert result.returncode == 0
    address = next(word for word in words if word.startswith("--server="))
    assert address == f"--server=http://{server['metadata']['name']}:{server['spec']['ports'][0]['port']}/v1"
    assert server["spec"]["selector"] == objects["Deployment"]["spec"]["template"]["metadata"]["labels"]
    (workers,) = job["rayClusterSpec"]["workerGroupSpecs"]
    cpus = int(workers["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"])
    assert f"--workers={workers['maxReplicas'] * cpus}" in words
    head, worker = (group["template"]["spec"] for group in (job["rayClusterSpec"]["headGroupSpec"], workers))
    assert head["volumes"] == worker["volumes"]
    for pod in (head, worker):  # the judge needs an ordinary user without capabilities
        assert pod["securityContext"]["runAsNonRoot"]
        (container,) = pod["containers"]
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert not container["securityContext"]["allowPrivilegeEscalation"]
        assert container["image"] == head["containers"][0]["image"]


def test_ray_takes_the_cluster_as_it_is(repository, launch):
    text = (repository / "launch" / "ray.yaml").read_text(encoding="utf-8")
    cluster = yaml.safe_load(text)
    assert cluster["setup_commands"] == []  # Ray's default would install another Ray
    share = next(line for line in cluster["initialization_commands"] if "mount -t nfs" in line)
    assert share in cluster["available_node_types"]["vllm"]["initialization_commands"]
    call = re.search(r"bash launch/label_on_ray.sh (.+?)'", re.sub(r" \\\n#", "", text)).group(1)
    arguments = shlex.split(call.replace("$(cat /mnt/dreamprm/vllm_host)", "10.0.0.3"))
    assert launch("label_on_ray.sh", "--dry-run", *arguments).returncode == 0
    pytest.importorskip("ray", reason="the extra [ray] is not installed")
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(cluster)
    validate_config(prepared)
    assert prepared["available_node_types"]["judge"]["max_workers"] * 32 >= 256
    cluster["available_node_types"]["judge"]["max_worker"] = 3
    with pytest.raises(jsonschema.ValidationError, match="max_worker"):
        validate_config(cluster)


def test_dockerfile(repository):
    lines = (repository / "launch" / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", "").splitlines()
    steps = [line.split(maxsplit=1) for line in lines if line and not line.startswith(("#", " "))]
    assert [step[0] for step in steps][:2] == ["ARG", "FROM"]
    arguments = {step[1].split("=")[0] for step in steps if step[0] == "ARG"}
    assert arguments == {"PYTHON", "DEVICE", "EXTRAS", "RUN_AS"}
    assert ["USER", "${RUN_AS}"] in steps
    assert ["ARG", "RUN_AS=1000"] in steps
    install = next(step[1] for step in steps if "jax[tpu]" in step[1])
    assert set(re.findall(r"(\w+)\) jax=", install)) == {"cpu", "gpu", "tpu"}
    # The copied files exist, and are not excluded from the build context.
    ignored = (repository / ".dockerignore").read_text(encoding="utf-8").splitlines()
    for step in steps:
        for source in step[1].split()[:-1] if step[0] == "COPY" else []:
            if source == ".":
                continue
            assert list(repository.glob(source))
            assert f"!{source.split('/')[0].removesuffix('*')}" in ignored
