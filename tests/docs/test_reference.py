"""The generated reference pages contain every setting and every option, and have no broken links."""

import importlib.util
import re

import pytest
from doc_blocks import REPOSITORY
from test_commands import shown_help

from dreamprm_jax.cli.registry import OTHER_COMMANDS, STAGE_COMMANDS
from dreamprm_jax.config import Config, leaves

SPEC = importlib.util.spec_from_file_location("reference", REPOSITORY / "docs" / "reference.py")
reference = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(reference)
PAGES = {name: page() for name, page in reference.PAGES.items()}


def rows(text):
    """The cells of each table row, without the header rows."""
    cells = [re.split(r"(?<!\\) \| ", line.strip("| ")) for line in text.splitlines() if line.startswith("| `")]
    return {row[0].strip("`"): row[1:] for row in cells}


def test_every_setting_has_its_default_values_and_help():
    table = rows(PAGES["settings.md"])
    assert list(table) == [name for name, _, _ in leaves(Config())]
    for name, value, info in leaves(Config()):
        default, values, meaning = table[name]
        assert default.replace("\\|", "|") == f"`{value!r}`"
        assert values
        assert re.sub(r"\[(\w+\.md)\]\(\1\)", r"docs/\1", meaning).startswith(info.help.replace("|", "\\|"))
    assert table["train.steps"][1].startswith("integer, at least ")
    assert "one of `simulated`, `server`, `replay`" in table["policy.kind"][1]


@pytest.mark.parametrize("name", sorted({*STAGE_COMMANDS, *OTHER_COMMANDS}))
def test_every_option_that_help_prints_has_a_row(name):
    for with_config in {name in STAGE_COMMANDS, name not in OTHER_COMMANDS}:
        anchor = f"{name}-files" if name in STAGE_COMMANDS and not with_config else name
        part = PAGES["commands.md"].partition(f"{{#{anchor}}}")[2].partition("\n## ")[0]
        options = shown_help(name, scored=with_config).partition("\nsettings, ")[0]
        flags = set(re.findall(r"^  (--[a-z-]+)", options, re.MULTILINE))
        assert part
        assert flags <= {key.split()[0].strip(",") for key in rows(part)}
        assert flags or "### " in part


def test_links_between_the_pages_lead_somewhere():
    anchors = {name: set(re.findall(r"^## (\w+)$|\{#([\w-]+)\}", text, re.MULTILINE)) for name, text in PAGES.items()}
    found = 0
    for text in PAGES.values():
        for page, anchor in re.findall(r"\]\((\w+\.md)#?([\w-]*)\)", text):
            found += 1
            if page in PAGES:
                assert any(anchor in pair for pair in anchors[page]), f"{page}#{anchor}"
            else:
                assert (REPOSITORY / "docs" / page).exists(), page
    assert found > 50
