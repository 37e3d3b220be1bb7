"""The pages agree with the package: no broken links; the error messages and files that they name exist."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from doc_blocks import REPOSITORY, documents

NAMES = [str(path.relative_to(REPOSITORY)) for path in documents()]


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name):
    document = REPOSITORY / name
    text = re.sub(r"^```.*?^```$", "", document.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"[a-z]+:|#", target):
            assert (document.parent / target.partition("#")[0]).exists(), f"{name}: {target}"


def test_every_page_is_found_from_an_index():
    indices = [REPOSITORY / "docs" / "README.md", REPOSITORY / "README.md"]
    linked = {name for index in indices for name in re.findall(r"[(/](\w+\.md)\)", index.read_text(encoding="utf-8"))}
    assert {path.name for path in (REPOSITORY / "docs").glob("*.md")} - linked - {"README.md"} == set()


def test_the_messages_of_operations_are_those_of_the_sources():
    """Each fragment in the first column of the message table is part of one string literal, or of adjacent literals."""
    sources = "\n".join(path.read_text(encoding="utf-8") for path in (REPOSITORY / "dreamprm_jax").rglob("*.py"))
    sources = re.sub(r"[\"']\s*\n\s*f?[\"']", "", sources)
    page = (REPOSITORY / "docs" / "operations.md").read_text(encoding="utf-8")
    table = page.partition("| the message says |")[2].partition("\n\n")[0]
    fragments = [part for row in table.splitlines()[2:] for part in re.findall(r"`([^`]+)`", row.split("|")[1])]
    assert len(fragments) > 25
    assert [fragment for fragment in fragments if fragment not in sources] == []


@pytest.mark.parametrize("name", ["docs/security.md", "docs/extending.md", "docs/faq.md", "CONTRIBUTING.md"])
def test_files_that_are_named_exist(name):
    text = (REPOSITORY / name).read_text(encoding="utf-8")
    for file in re.findall(r"`((?:[a-z_]+/)+[a-z_]+\.(?:py|md))`", text):
        assert any((REPOSITORY / root / file).exists() for root in ("", "dreamprm_jax")), f"{name}: {file}"


def test_the_readme_is_short_and_its_pictures_are_there():
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert len(re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL).split()) <= 900  # comments mark the generated tables
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text)
    assert [(REPOSITORY / name).read_text().startswith(("<svg", "<?xml")) for name in pictures] == [True] * 3


def test_the_python_of_the_readme_uses_names_that_exist():
    import dreamprm_jax as dp

    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    code = text.partition("```python\n")[2].partition("```")[0]
    assert 0 < len(code.splitlines()) <= 8
    names = set(re.findall(r"\bdp\.(\w+)", code))
    assert names <= set(dp.__all__)
    assert names >= {"extract", "split", "judge", "load_prm"}


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs", reason="the extra docs is not installed")
    pytest.importorskip("mkdocstrings")
    pytest.importorskip("mkdocs_jupyter")
    build = ["bash", "docs/build.sh", "--site-dir", str(tmp_path / "site")]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(build, cwd=REPOSITORY, capture_output=True, text=True, env=os.environ | {"PATH": path})
    assert done.returncode == 0, done.stderr[-2000:]
    for page, words in (
        ("api", "load_prm"),
        ("settings", "train.meta.learning_rate"),
        ("commands", "--max-characters"),
    ):
        assert words in (tmp_path / "site" / page / "index.html").read_text(encoding="utf-8"), page
    for notebook in (tmp_path / "site" / "notebooks").glob("*/index.html"):
        for target in re.findall(r'href="(\.\./[^"#]+)"', notebook.read_text(encoding="utf-8")):
            assert (notebook.parent / target).exists(), f"{notebook.parent.name}: {target}"
    assert (tmp_path / "site" / "notebooks" / "scoring" / "index.html").exists()
