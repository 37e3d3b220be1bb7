"""Packaging: the wheel and the sdist are complete, and an installed wheel works outside the repository."""

from __future__ import annotations

import email.parser
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import setuptools
import yaml

from dreamprm_jax import __version__

REPOSITORY = Path(__file__).resolve().parents[1]
SHIPPED = ("dreamprm_jax", "configs", "docs", "launch", "benchmarks", "research", "tests")
DOCUMENTS = ("README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "SECURITY.md")
FILES = ("setup.py", "pyproject.toml", "MANIFEST.in", *DOCUMENTS)
# Modules that `import dreamprm_jax` and --help must not load: they are slow to import or not safe to fork.
HEAVY = {"jax", "jaxlib", "flax", "optax", "orbax", "numpy", "pandas", "pyarrow", "datasets", "transformers", "ray"}
CONFIG = """
from dreamprm_jax.config import defaults


def get_config():
    config = defaults()
    config.problems.train_count = config.problems.meta_count = config.problems.test_count = 2
    config.generate.train_programs = config.generate.test_programs = 1
    config.label.rollouts = 1
    config.engine.workers = config.sandbox.workers = 1
    return config
"""


@pytest.mark.parametrize("script", ["import dreamprm_jax", "from dreamprm_jax.cli.main import main; main(['--help'])"])
def test_import_and_help_load_nothing_heavy(script):
    check = f"import sys; {script}; print('LOADED', *sorted({HEAVY!r} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1].split() == ["LOADED"]


def test_citation_file():
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()  # required by the format
    assert (citation["cff-version"], citation["type"], citation["license"]) == ("1.2.0", "software", "Apache-2.0")
    assert citation["version"] == __version__
    paper = citation["references"][0]
    assert (paper["type"], paper["identifiers"][0]["value"]) == ("article", "arXiv:2512.15000")
    assert [person["family-names"] for person in paper["authors"]] == ["Zhang", "Qin", "Cao", "Xie"]


def test_license_and_changelog():
    license_text = (REPOSITORY / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in license_text
    assert "END OF TERMS AND CONDITIONS" in license_text
    assert f"\n## [{__version__}]" in (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist and the wheel, built from a copy of the sources."""
    if tuple(map(int, setuptools.__version__.split(".")[:2])) < (70, 1):
        pytest.skip(f"setuptools {setuptools.__version__} cannot build wheels without the package wheel; 70.1 can")
    source, output = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in SHIPPED:
        shutil.copytree(REPOSITORY / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy(REPOSITORY / name, source)
    build = (
        "import sys; from setuptools import build_meta as build; folder = sys.argv[1]; "
        "build.build_sdist(folder); build.build_wheel(folder)"  # these change sys.argv
    )
    subprocess.run([sys.executable, "-c", build, str(output)], cwd=source, check=True, capture_output=True)
    return output


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_nothing_else(built):
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = email.parser.Parser().parsestr(archive.read(_named(names, "METADATA")).decode())
        entry_points = archive.read(_named(names, "entry_points.txt")).decode()
    package = {str(file.relative_to(REPOSITORY)) for file in (REPOSITORY / "dreamprm_jax").rglob("*")}
    wanted = {name for name in package if name.endswith((".py", ".html", ".css", ".js", "py.typed"))}
    assert len(wanted) > 150
    assert not any("research" in name for name in names)
    assert {name for name in names if ".dist-info/" not in name} == wanted
    assert "dreamprm = dreamprm_jax.cli.main:script" in entry_points
    assert (metadata["Version"], metadata["License"], metadata["Requires-Python"]) == (
        __version__, "Apache-2.0", ">=3.11",
    )  # fmt: skip
    assert {"ray", "server", "smollm2", "serve", "llamacpp", "wandb", "dev"} <= set(metadata.get_all("Provides-Extra"))
    core = {line.split(">=")[0] for line in metadata.get_all("Requires-Dist") if "extra ==" not in line}
    assert {"jax", "optax", "pyarrow"} <= core
    assert not {"ray", "openai", "torch", "gguf", "aiohttp"} & core
    assert metadata.get_payload().startswith("# dreamprm_jax")
    assert any(name.endswith("licenses/LICENSE") for name in names)


@pytest.mark.slow
def test_the_sdist_holds_the_sources(built):
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for folder in SHIPPED:
        sources = [
            file for file in (REPOSITORY / folder).rglob("*") if file.is_file() and not file.name.startswith(".")
        ]
        missing = {str(file.relative_to(REPOSITORY)) for file in sources if "__pycache__" not in file.parts} - names
        assert not missing
    assert set(FILES) <= names
    assert not [name for name in names if name.endswith(".pyc")]


@pytest.mark.slow
def test_an_installed_wheel_works_outside_the_repository(built, tmp_path):
    """Runs --help, two stages of a config file, and the judge."""
    (wheel,) = built.glob("*.whl")
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:  # installs a pure Python wheel, without pip's metadata
        archive.extractall(site)
    (tmp_path / "mine.py").write_text(CONFIG, encoding="utf-8")

    def dreamprm(*arguments: str) -> str:
        command = [sys.executable, "-P", "-m", "dreamprm_jax.cli", *arguments]
        environment = os.environ | {"PYTHONPATH": str(site)}
        run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stderr
        return run.stdout

    print_location = [sys.executable, "-P", "-c", "import dreamprm_jax; print(dreamprm_jax.__file__)"]
    found = subprocess.run(
        print_location, env=os.environ | {"PYTHONPATH": str(site)}, capture_output=True, text=True, check=True
    )
    assert found.stdout.startswith(str(site))
    assert "usage: dreamprm STAGE" in dreamprm("--help")
    for stage in ("generate", "label"):
        assert f" and wrote runs/run/{stage}: " in dreamprm(stage, "--config=mine.py")
    own = REPOSITORY / "configs" / "data"
    judged = dreamprm(
        "judge", f"--problems={own / 'own_problems.jsonl'}", f"--candidates={own / 'own_candidates.jsonl'}",
        "--output=v.jsonl",
    )  # fmt: skip
    assert "passed 5 of 12 with a verdict" in judged


def test_tool_settings_name_the_oldest_python():
    settings = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    assert settings["tool"]["ruff"]["target-version"] == "py311"
    assert settings["tool"]["mypy"]["python_version"] == "3.11"


def _named(names: set[str], ending: str) -> str:
    return next(name for name in names if name.endswith(f".dist-info/{ending}"))
