"""The notebooks of docs/notebooks: they have no stored outputs and no broken links, and each runs unchanged."""

import json
import re

import pytest
from doc_blocks import REPOSITORY

NOTEBOOKS = sorted((REPOSITORY / "docs" / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_stored_without_outputs_and_linked(path):
    book = json.loads(path.read_text(encoding="utf-8"))
    code = [cell for cell in book["cells"] if cell["cell_type"] == "code"]
    assert code
    assert [cell for cell in code if cell["outputs"] or cell["execution_count"] is not None] == []
    prose = "".join("".join(cell["source"]) for cell in book["cells"] if cell["cell_type"] == "markdown")
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        assert (path.parent / target).exists(), target
    for index in ("docs/README.md", "mkdocs.yml"):
        assert f"notebooks/{path.name}" in (REPOSITORY / index).read_text(encoding="utf-8"), index


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs(path):
    nbclient = pytest.importorskip("nbclient", reason="the extra dev is not installed")
    pytest.importorskip("ipykernel", reason="the extra dev is not installed")
    nbformat = pytest.importorskip("nbformat")
    book = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(path.parent)}}
    nbclient.NotebookClient(book, timeout=600, kernel_name="python3", resources=resources).execute()
    if path.stem == "scoring":
        shown = [output["data"].get("text/html", "") for cell in book.cells for output in cell.get("outputs", [])
                 if output["output_type"] == "execute_result"]  # fmt: skip
        assert sum("background:" in html for html in shown) == 2  # the colored programs
