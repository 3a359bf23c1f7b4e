"""DATA as typed -> the audio files it means, each once, with a manifest's split and group.

folder             searched, sorted
files.txt          one path a line, relative to the list; also .lst, .m3u, .m3u8
manifest.csv       column path, relative to the manifest; optional columns split and group
manifest.parquet   the same
"""

from __future__ import annotations

import codecs
import csv
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from loev_cli import audio
from loev_cli.errors import UsageError, did_you_mean
from loev_cli.files.bounded import in_one_line

SPLITS = ("train", "val", "test")
_LIST_SUFFIXES = (".txt", ".lst", ".m3u", ".m3u8")


@dataclass(frozen=True)
class Listed:
    """A file to train on, and what a manifest says about it.

    Attributes:
        split: ``train``, ``val`` or ``test``; None where nothing is said. ``test`` is neither
            trained nor validated on.
        group: tracks of one group (an album, an artist) never lie on both sides of a split.
    """

    path: Path
    split: str | None = None
    group: str | None = None


def listing(data: str) -> list[Listed]:
    """The audio files that DATA means, in its order; a file that is named twice is one track.

    Raises:
        UsageError: nothing there, no audio in it, a manifest without ``path`` column, with an
            unknown split, or with a file or a group in two splits.
    """
    path = Path(data)
    suffix = path.suffix.lower()
    if path.is_dir():
        named: Iterable[Listed] = (Listed(source.file) for source in audio.find([data]))
    elif not path.is_file():
        raise UsageError(f"no such folder or file: {data}")
    elif suffix in (".csv", ".parquet"):
        named = _of_manifest(path, _csv_rows(path) if suffix == ".csv" else _parquet_rows(path))
    elif suffix in _LIST_SUFFIXES:
        named = _of_list(path)
    else:
        raise UsageError(
            f"{data} is neither a folder, a manifest (.csv, .parquet) nor a list of paths (.txt)"
        )
    listed = _each_once(named)
    if not listed:
        raise UsageError(f"no audio files in {data}")
    return _whole_groups(listed, data)


def _of_list(path: Path) -> Iterator[Listed]:
    try:
        lines = path.read_bytes().removeprefix(codecs.BOM_UTF8).splitlines()
    except OSError as error:
        raise UsageError(f"cannot read list {path}: {error.strerror}") from error
    for line in lines:
        if line.strip() and not line.startswith(b"#"):
            yield Listed(path.parent / os.fsdecode(line))


def _csv_rows(path: Path) -> Iterator[Mapping[str, Any]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            rows = csv.DictReader(stream)
            _require_path_column(path, rows.fieldnames or ())
            yield from rows
    except OSError as error:
        raise UsageError(f"cannot read manifest {path}: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"manifest {path} is no CSV in UTF-8: {error}") from error


def _parquet_rows(path: Path) -> Iterator[Mapping[str, Any]]:
    # pyarrow takes as long to import as all else here, and few manifests need it.
    from loev_cli.files.parquet import PARQUET_ERRORS, names_of, read_table

    try:
        columns = names_of(path)
        _require_path_column(path, columns)
        wanted = [name for name in ("path", "split", "group") if name in columns]
        rows: list[Mapping[str, Any]] = read_table(path, wanted).to_pylist()
    except PARQUET_ERRORS as error:
        raise UsageError(f"cannot read manifest {path}: {in_one_line(error)}") from error
    yield from rows


def _require_path_column(manifest: Path, columns: Iterable[str]) -> None:
    if "path" not in columns:
        raise UsageError(
            f"manifest {manifest} has no 'path' column",
            hint=f"it has: {', '.join(columns) or 'nothing'}",
        )


def _of_manifest(manifest: Path, rows: Iterable[Mapping[str, Any]]) -> Iterator[Listed]:
    for i, row in enumerate(rows, start=1):
        path, split, group = (_text(row.get(name)) for name in ("path", "split", "group"))
        if path is None:
            raise UsageError(f"manifest {manifest}: row {i} has no path")
        if split is not None and split not in SPLITS:
            raise UsageError(
                f"manifest {manifest}: row {i} has the split '{split}'",
                hint=f"{did_you_mean(split, SPLITS)}splits are {', '.join(SPLITS)}",
            )
        yield Listed(manifest.parent / path, split, group)


def _text(value: Any) -> str | None:
    """A cell as text; None if there is nothing in it."""
    if value is None or value != value:  # NaN is how a Parquet file says nothing
        return None
    return str(value).strip() or None


def _each_once(named: Iterable[Listed]) -> list[Listed]:
    """Without the second mention of a file, by any of its names."""
    found: dict[str, Listed] = {}
    for item in named:
        first = found.setdefault(os.path.realpath(item.path), item)
        if (first.split, first.group) != (item.split, item.group):
            raise UsageError(f"{item.path} is named twice, with different split or group")
    return list(found.values())


def _whole_groups(listed: list[Listed], data: str) -> list[Listed]:
    """A row that names no split goes where its group goes."""
    split_of: dict[str, str] = {}
    for item in listed:
        if item.group and item.split:
            split = split_of.setdefault(item.group, item.split)
            if split != item.split:
                raise UsageError(
                    f"manifest {data}: group '{item.group}' is in {split} and in {item.split}",
                    hint="rows of one group never cross a split",
                )
    return [
        replace(item, split=split_of.get(item.group)) if item.group and not item.split else item
        for item in listed
    ]
