"""No host module may import jax, directly or indirectly: the host half forks and runs untrusted programs."""

import json
import subprocess
import sys

PACKAGES = (
    "config", "runs", "problems", "cof", "policy", "sandbox", "labeling", "engine", "selection", "search", "metrics",
    "evaluation", "stepbench", "cli",
)  # fmt: skip
MODULES = ("schema", "storage", "user_code", "tables")
STAGES = ("runner", "validation", "generate", "label", "evaluate", "report")  # train and score use the device
FORBIDDEN = ("jax", "jaxlib", "flax", "optax", "orbax")

IMPORT_EACH = """
import importlib, json, sys
importing = {}
for name in json.loads(sys.argv[1]):
    before = set(sys.modules)
    importlib.import_module(name)
    found = {module.split(".")[0] for module in set(sys.modules) - before} & set(json.loads(sys.argv[2]))
    if found:
        importing[name] = sorted(found)
print(json.dumps(importing))
"""


def host_modules(repository) -> list[str]:
    package_folder = repository / "dreamprm_jax"
    files = [package_folder / f"{name}.py" for name in MODULES if (package_folder / f"{name}.py").exists()]
    files += [package_folder / "stages" / f"{name}.py" for name in STAGES]
    for package in PACKAGES:
        files += sorted((repository / "dreamprm_jax" / package).rglob("*.py"))
    names = [".".join(file.relative_to(repository).with_suffix("").parts) for file in files]
    return ["dreamprm_jax", *(name.removesuffix(".__init__") for name in names)]


def test_every_module_of_the_host_half(repository):
    names = host_modules(repository)
    assert len(names) > 50
    assert {"dreamprm_jax.stages.label", "dreamprm_jax.stages.report"} < set(names)
    run = subprocess.run(
        [sys.executable, "-c", IMPORT_EACH, json.dumps(names), json.dumps(FORBIDDEN)],
        capture_output=True, text=True, check=False, cwd=repository,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout) == {}


def test_the_check_notices_jax(repository):
    """The same check finds jax in a device module."""
    run = subprocess.run(
        [sys.executable, "-c", IMPORT_EACH, '["dreamprm_jax.bilevel"]', json.dumps(FORBIDDEN)],
        capture_output=True, text=True, check=True, cwd=repository,
    )  # fmt: skip
    assert set(json.loads(run.stdout)["dreamprm_jax.bilevel"]) >= {"jax", "jaxlib", "optax"}
