"""The reference pages of settings and commands, made from the code: a hook of mkdocs (mkdocs.yml).

    python docs/reference.py settings.md    # prints a page; commands.md is the other

Settings come from the fields and the metadata of the config dataclasses, commands from the parsers of `dreamprm`.
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import re
import sys
from collections.abc import Iterable, Iterator
from typing import Any, Literal, get_args, get_origin, get_type_hints

from dreamprm_jax.cli.registry import OTHER_COMMANDS, STAGE_COMMANDS, Command, parser_of
from dreamprm_jax.config import Config, SettingInfo, leaves

READS = {
    "path": "a path, whose content counts",
    "problem_ids": "a file or folder of problem ids, whose content counts",
    "tokenizer": "a file or tokenizer folder, whose template counts",
    "function": "FILE.py:FUNCTION, whose file counts",
}
SETTINGS_HEAD = """\
# Settings

A config file sets them ([quickstart.md](quickstart.md)), and `--config.NAME=VALUE` on the command line overrides single
ones. A finished stage runs again only when a setting that it reads has changed; settings marked *no output* never cause
that. Where a setting names a file, a change of the file's content counts as a change of the setting.
"""
COMMANDS_HEAD = """\
# Commands

Every command prints its options, and the settings that it reads with their values, for `--help`. The exit status is 0
for success, 1 where the work failed and 2 for bad input or usage.
"""


def settings_page() -> str:
    """The page of all settings, one table a section."""
    hints = dict(_types(Config))
    groups: dict[str, list[list[str]]] = {}
    for name, value, info in leaves(Config()):
        section = name.partition(".")[0] if "." in name else ""
        values = ", ".join(filter(None, [_kind(hints[name]), *_limits(info)]))
        notes = "" if info.affects_output else " *(no output)*"
        groups.setdefault(section, []).append([f"`{name}`", f"`{value!r}`", values, info.help + notes])
    parts = [SETTINGS_HEAD]
    for section, rows in groups.items():
        if section:
            used = [
                f"[{one.name}](commands.md#{_anchor(one)})" for one in _commands() if section in (one.sections or ())
            ]
            described = inspect.getdoc(type(getattr(Config(), section))) or ""
            parts.append(f"## {section}\n\n{_markdown(described)}\n\nRead by {', '.join(used)}.\n")
        else:
            parts.append("## The run\n")
        parts.append(_table(["setting", "default", "values", "meaning"], rows))
    return "\n".join(parts)


def commands_page() -> str:
    """The page of all commands, one table of options each."""
    parts = [COMMANDS_HEAD]
    for command in _commands():
        parser = parser_of(command)
        parts.append(f"## {_title(command)} {{#{_anchor(command)}}}\n\n{_markdown(parser.description or '')}\n")
        parts += _options(parser)
        if command.sections:
            links = [f"[{one}](settings.md#{one})" for one in sorted(command.sections - {"seed"})]
            parts.append(f"Settings: {', '.join(links)}.\n")
    return "\n".join(parts)


def _commands() -> Iterator[Command]:
    yield from STAGE_COMMANDS.values()
    yield from OTHER_COMMANDS.values()


def _title(command: Command) -> str:
    stage = " --config=FILE" if command.name in OTHER_COMMANDS and command is STAGE_COMMANDS.get(command.name) else ""
    return f"dreamprm {command.name}{stage}"


def _anchor(command: Command) -> str:
    return command.name if command is STAGE_COMMANDS.get(command.name, command) else f"{command.name}-files"


def _options(parser: argparse.ArgumentParser) -> Iterator[str]:
    """The tables of a parser and of its subcommands. argparse has no public way to list its options."""
    formatter = parser._get_formatter()
    for group in parser._action_groups:
        rows = []
        for action in group._group_actions:
            if (
                isinstance(action, argparse._SubParsersAction | argparse._HelpAction)
                or action.help is argparse.SUPPRESS
            ):
                continue
            text = formatter._expand_help(action) if action.help else ""
            text += f" One of {', '.join(f'`{one}`' for one in action.choices)}." if action.choices else ""
            needed = "required. " if action.required and action.option_strings else ""
            default = action.default if action.default not in (None, "", False, argparse.SUPPRESS) else None
            shown = "" if default is None else f"`{default}`"
            rows.append([f"`{formatter._format_action_invocation(action)}`", shown, needed + text])
        if rows:
            own = group.title not in ("positional arguments", "options")
            described = f" {_linked(group.description)}." if group.description else ""
            yield (f"{group.title}:{described}\n\n" if own else "") + _table(["option", "default", "meaning"], rows)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for one in action.choices.values():
                yield f"### {one.prog}\n\n{_markdown(one.description or '')}\n"
                yield from _options(one)


def _types(cls: type, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, type) of every field of nested dataclasses."""
    hints = get_type_hints(cls)
    for field in dataclasses.fields(cls):
        kind = hints[field.name]
        if dataclasses.is_dataclass(kind):
            yield from _types(kind, f"{prefix}{field.name}.")  # type: ignore[arg-type]
        else:
            yield prefix + field.name, kind


def _kind(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(f"`{one}`" for one in get_args(kind))
    if get_origin(kind) is tuple:
        return f"tuple, each item {_kind(get_args(kind)[0])}"
    return {"str": "text", "int": "integer", "float": "number", "bool": "true or false"}.get(kind.__name__, str(kind))


def _limits(info: SettingInfo) -> Iterable[str]:
    limits = (("at least", info.minimum), ("above", info.above), ("at most", info.maximum))
    yield from (f"{word} {limit:g}" for word, limit in limits if limit is not None)
    if info.nonempty:
        yield "not empty"
    if info.reads:
        yield READS[info.reads]


def _markdown(text: str) -> str:
    """A docstring as Markdown: paragraphs on one line each, indented blocks as code."""
    parts = []
    for block in inspect.cleandoc(text.replace("``", "`")).split("\n\n"):
        indented = all(line.startswith("  ") for line in block.splitlines())
        parts.append(f"```\n{inspect.cleandoc(block)}\n```" if indented else " ".join(block.split()))
    return _linked("\n\n".join(parts))


def _linked(text: str) -> str:
    """With each page of docs/ that it names as a link."""
    return re.sub(r"docs/(\w+\.md)", r"[\1](\1)", text)


def _table(head: list[str], rows: list[list[str]]) -> str:
    texts = [[_linked(" ".join(cell.replace("|", "\\|").split())) for cell in row] for row in rows]
    cells = [head, ["---"] * len(head), *texts]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells) + "\n"


PAGES = {"settings.md": settings_page, "commands.md": commands_page}


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages to the site (mkdocs calls it)."""
    from mkdocs.structure.files import File

    for name, page in PAGES.items():
        files.append(File.generated(config, name, content=page()))
    return files


def on_page_content(html: str, page: Any, config: Any, files: Any) -> str:
    """Lets the links of a notebook lead to the pages of the site; mkdocs does that for Markdown alone."""
    if not page.file.src_uri.endswith(".ipynb"):
        return html
    html = re.sub(r'href="\.\./(\w+)\.md"', r'href="../../\1/"', html)
    return html.replace('href="../examples/', 'href="../../examples/')


if __name__ == "__main__":
    print(PAGES[sys.argv[1]]())
