"""The sources of step-labeled rows: files and folders, saved data sets, URLs, and the hub."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dreamprm_jax.config import StepDataConfig
from dreamprm_jax.problems.json_rows import ENDINGS, SUFFIXES, numbered_rows, reason_of, row_suffix
from dreamprm_jax.schema import DataError
from dreamprm_jax.storage import parse_json

# The split that a file name contains.
_SPLIT = re.compile(r"(?<![a-z0-9])(train|validation|valid|val|dev|test)(?![a-z0-9])", re.IGNORECASE)


def step_rows(path: str, settings: StepDataConfig, split: str) -> Iterator[tuple[str, Any]]:
    """Yields (where, row) for every row. A row that cannot be parsed is replaced by its DataError.

    Raises:
      DataError: if the source does not exist, cannot be read, or lacks the split.
    """
    place = Path(path)
    saved = any((place / name).is_file() for name in ("state.json", "dataset_dict.json"))
    files = [] if saved else _files(place, split)
    for file in files:
        name = f"{file.relative_to(place)}, " if place.is_dir() else ""
        for number, row in numbered_rows(file):
            where = f"row {number}"
            if isinstance(row, DataError):
                row = DataError(reason_of(row, f"{file}, {where}"))
            yield name + where, row
    if not files:
        if not saved and "://" not in path and (place.exists() or path[:1] in "./~" or path.count("/") != 1):
            raise DataError(f"{path}: no such file, or none of {ENDINGS}, a folder of them, or an id of the hub")
        yield from ((f"row {number}", row) for number, row in enumerate(_data_set(path, saved, settings, split), 1))


def _files(place: Path, split: str) -> list[Path]:
    """The file itself, or the files of a folder. If their names contain several splits, only those of one split."""
    if not place.is_dir():
        return [place] if place.is_file() and place.name.endswith(SUFFIXES) else []
    groups: dict[str, list[Path]] = {}
    for file in sorted(file for file in place.rglob("*") if file.is_file() and file.name.endswith(SUFFIXES)):
        name = _SPLIT.search(str(file.relative_to(place)))
        groups.setdefault(name[0].lower() if name else "train", []).append(file)
    if len(groups) < 2:
        return next(iter(groups.values()), [])
    return groups[_chosen(str(place), list(groups), split)]


def _chosen(path: str, names: Sequence[str], split: str) -> str:
    """The requested split; by default "train", or the only one. Raises DataError if it does not exist."""
    chosen = split or ("train" if "train" in names or len(names) != 1 else names[0])
    if chosen not in names:
        raise DataError(f"{path}: has no split {chosen!r}; choose with --split among {', '.join(names)}")
    return chosen


def _data_set(path: str, saved: bool, settings: StepDataConfig, split: str) -> Iterator[Any]:
    """Streams the rows of a saved ``Dataset``, of a file at a URL, or of a data set of the hub."""
    import datasets

    datasets.disable_progress_bars()
    try:
        if saved:
            found = datasets.load_from_disk(path)
        elif "://" in path:
            # JSON lines are loaded as text, because Arrow would convert labels of mixed types to one type.
            kind = {".parquet": "parquet", ".json": "json"}.get(row_suffix(Path(path)), "text")
            found = datasets.load_dataset(kind, data_files=[path], streaming=True)
        else:
            name, _, revision = path.partition("@")
            revision = revision or settings.revision
            found = datasets.load_dataset(name, settings.subset or None, revision=revision or None, streaming=True)
        if isinstance(found, datasets.DatasetDict | datasets.IterableDatasetDict):
            found = found[_chosen(path, list(map(str, found)), split)]
        for row in found:
            yield _line(row["text"]) if "://" in path and set(row) == {"text"} else row
    except DataError:
        raise
    except Exception as error:  # errors of the library, the hub, Arrow or the system
        cause = error.__cause__ or error
        raise DataError(f"{path}: cannot be read by the package datasets: {type(cause).__name__}: {cause}") from error


def _line(text: str) -> Any:
    try:
        return parse_json(text, "line")
    except DataError as error:
        return error
