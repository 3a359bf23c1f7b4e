"""A manifest: tracks, and what is known of them, for every command that takes one.

path,split,group,key,mood
audio/a.flac,train,album 1,C major,calm;warm

A ``.csv`` in UTF-8, or ``.parquet``. Only ``path`` is required; it is relative to the manifest.

split    train, val or test, in any case. Empty: that of the row's group, or none.
group    tracks of one group (an album, an artist) never lie on both sides of a split.
track    for training with variants: rows of one work; see loev_cli/train/data/listing.py.
others   labels.

A file that is named twice is one track if both rows say the same, else an error.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from loev_cli.errors import UsageError, known_names
from loev_cli.storage.bounded import in_one_line

SPLITS = ("train", "val", "test")
SUFFIXES = (".csv", ".parquet")
OWN_COLUMNS = ("path", "split", "group")
TRACK = "track"  # for training with variants: which work a row is a variant of


@dataclass(frozen=True)
class Listed:
    """A track, and what a manifest says of it.

    Attributes:
        path: where the file lies.
        split: one of ``SPLITS``; None where nothing is said.
        group: None where nothing is said.
        labels: column -> cell, stripped, of every other column.
        written: ``path`` as the manifest has it.
        place: "manifest.csv line 3", for messages.
    """

    path: Path
    split: str | None = None
    group: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    written: str = field(default="", compare=False)
    place: str = field(default="", compare=False)

    @property
    def says(self) -> tuple[str | None, str | None, dict[str, str]]:
        """Split, group, and the labels that are not empty."""
        return self.split, self.group, {name: text for name, text in self.labels.items() if text}


def read_rows(paths: Sequence[Path], *, with_labels: bool = True) -> list[Listed]:
    """The tracks of one manifest, or of several as one, each once and in order.

    Raises:
        UsageError: no such file, not a manifest, no ``path`` column, no rows, an unknown split, a
            file named twice with different cells, or a group in two splits.
    """
    rows = [row for path in paths for row in _rows(path, with_labels)]
    if not rows:
        raise UsageError(f"no tracks in {', '.join(map(str, paths))}")
    return _whole_groups(each_once(rows))


def each_once(rows: Iterable[Listed]) -> list[Listed]:
    """Without the second mention of a file, by whatever path.

    Raises:
        UsageError: two rows of one file differ.
    """
    found: dict[str, Listed] = {}
    for row in rows:
        first = found.setdefault(os.path.realpath(row.path), row)
        if first.says != row.says:
            raise UsageError(
                f"{row.place}: {row.path} is also in {first.place}, with different values",
                hint="list each file once",
            )
    return list(found.values())


def _whole_groups(rows: list[Listed]) -> list[Listed]:
    """A row that names no split goes where its group goes."""
    named: dict[str, Listed] = {}
    for row in rows:
        if row.group and row.split:
            first = named.setdefault(row.group, row)
            if first.split != row.split:
                raise UsageError(
                    f"{row.place}: group '{row.group}' is in split '{row.split}', and in "
                    f"'{first.split}' in {first.place}",
                    hint="rows of one group never cross a split",
                )
    return [
        replace(row, split=named[row.group].split) if row.group in named and not row.split else row
        for row in rows
    ]


def _rows(path: Path, with_labels: bool) -> Iterator[Listed]:
    if not path.is_file():
        raise UsageError(f"no manifest {path}")
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise UsageError(f"{path} is not a manifest", hint="a .csv or .parquet with a path column")
    read = _csv_cells(path) if suffix == ".csv" else _parquet_cells(path, with_labels)
    for place, cells in read:
        written, split, group = (cells.get(name, "").strip() for name in OWN_COLUMNS)
        if not written:
            raise UsageError(f"{place}: 'path' is empty")
        if split and split.lower() not in SPLITS:
            raise UsageError(
                f"{place}: unknown split '{split}'",
                hint=known_names(split.lower(), SPLITS, "splits are"),
            )
        yield Listed(
            path.parent / written,
            split.lower() or None,
            group or None,
            {n: text for n, text in cells.items() if with_labels and n not in OWN_COLUMNS},
            written,
            place,
        )


def _csv_cells(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream)
            _check_names(path, reader.fieldnames or ())
            for row in reader:
                place = f"{path} line {reader.line_num}"
                if None in row:
                    raise UsageError(f"{place}: more cells than the header has columns")
                yield place, {name: value or "" for name, value in row.items()}
    except UnicodeDecodeError as error:
        raise UsageError(f"cannot read manifest {path}: it is not UTF-8 ({error})") from error
    except (OSError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"cannot read manifest {path}: {reason}") from error


def _parquet_cells(path: Path, with_labels: bool) -> Iterator[tuple[str, dict[str, str]]]:
    # pyarrow takes as long to import as all else here, and few manifests need it.
    from loev_cli.storage.parquet import PARQUET_ERRORS, names_of, read_table

    try:
        names = names_of(path)
        _check_names(path, names)
        wanted = [name for name in names if with_labels or name in OWN_COLUMNS]
        rows = read_table(path, wanted).to_pylist()
    except PARQUET_ERRORS as error:
        raise UsageError(f"cannot read manifest {path}: {in_one_line(error)}") from error
    for number, row in enumerate(rows, start=1):
        yield f"{path} row {number}", {name: _as_text(value) for name, value in row.items()}


def _as_text(value: Any) -> str:
    if value is None or value != value:  # NaN is how a table of numbers says nothing
        return ""
    if isinstance(value, list | tuple):
        return ";".join(map(str, value))
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _check_names(path: Path, names: Sequence[str]) -> None:
    if "path" not in names:
        raise UsageError(
            f"{path} has no column 'path'", hint=f"it has {', '.join(names) or 'nothing'}"
        )
    twice = [name for name in dict.fromkeys(names) if list(names).count(name) > 1]
    if twice:
        raise UsageError(f"{path} has two columns '{twice[0]}'")
