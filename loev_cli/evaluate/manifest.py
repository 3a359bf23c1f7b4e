"""A manifest: the tracks to judge on, and what is known of them.

path,key,tempo,split,group,mood
audio/a.flac,C major,120.5,train,album 1,calm;warm

``path`` is relative to the manifest. ``split`` (train, val, test) and ``group`` (rows of one group
never lie on both sides of a split) may be left out; every other column is a label.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loev_cli.errors import UsageError, did_you_mean
from loev_cli.evaluate import labels
from loev_cli.evaluate.labels import Column
from loev_cli.files.bounded import in_one_line

SPLITS = ("train", "val", "test")
_NO_LABELS = ("path", "split", "group")


@dataclass(frozen=True)
class Manifest:
    """n tracks, in the order of the manifest or manifests.

    Attributes:
        paths: as they are written.
        files: where they lie.
        places: "manifest.csv line 3", for messages.
        splits: (n,) str, empty where nothing is said.
        groups: (n,) str; a track without one is a group of its own.
        cells: column -> n texts, without path, split and group.
    """

    paths: list[str]
    files: list[Path]
    places: list[str]
    splits: NDArray[np.str_]
    groups: NDArray[np.str_]
    cells: dict[str, list[str]]

    def __len__(self) -> int:
        return len(self.paths)

    def select(self, rows: Sequence[int] | NDArray[Any]) -> Manifest:
        """Some of the rows, in the order given."""
        return Manifest(
            [self.paths[i] for i in rows],
            [self.files[i] for i in rows],
            [self.places[i] for i in rows],
            self.splits[list(rows)],
            self.groups[list(rows)],
            {name: [cells[i] for i in rows] for name, cells in self.cells.items()},
        )

    def column(self, name: str, kind: str | None = None) -> Column:
        """The labels of one column; its kind is recognised unless given.

        Raises:
            UsageError: no such column or kind, or a cell that is not of the kind.
        """
        if name not in self.cells:
            known = [*self.cells]
            raise UsageError(
                f"the manifest has no column '{name}'",
                hint=f"{did_you_mean(name, known)}it has {', '.join(known) or 'no labels'}",
            )
        if kind is not None and kind not in labels.KINDS:
            raise UsageError(
                f"unknown kind '{kind}' of column '{name}'", hint=", ".join(labels.KINDS)
            )
        cells = self.cells[name]
        return labels.parse_column(name, kind or labels.recognise(name, cells), cells, self.places)

    def columns(
        self, wanted: Sequence[str], *, needed: bool = True
    ) -> tuple[list[Column], list[str]]:
        """The labels to judge by, and notes on those left out.

        Args:
            wanted: ``name`` or ``name:kind``; with none, every column that can be used is.
            needed: whether it is an error that there is none at all.

        Raises:
            UsageError: as :meth:`column`; a column that was asked for, or ``key`` or ``tempo``,
                of which nothing can be learned; no column at all.
        """
        asked = [part.partition(":") for part in wanted] or [(name, "", "") for name in self.cells]
        columns, notes = [], []
        for name, _, kind in asked:
            column = self.column(name, kind or None)
            useless = labels.why_useless(column, self.groups)
            if useless is None and not wanted and labels.is_name_of_group(column, self.groups):
                useless = "only numbers the groups"
            if useless is None:
                columns.append(column)
            elif wanted or column.kind in ("key", "tempo"):
                raise UsageError(
                    f"column '{name}' {useless}, so nothing can be learned of it",
                    hint="name the columns to use with --label",
                )
            else:
                notes.append(f"column '{name}' left out: it {useless}")
        if needed and not columns:
            raise UsageError(
                "the manifest has no column to judge by",
                hint="key, tempo, or a column of your own",
            )
        return columns, notes


def read_manifests(paths: Sequence[Path]) -> Manifest:
    """Read one manifest, or several as one.

    Columns that only one of them has are empty in the others. If some of several manifests have no
    ``split``, their tracks are in none.

    Raises:
        UsageError: no such file, not a manifest, no path column, no rows, an unknown split, a file
            named twice, or a group in two splits.
    """
    read = [(path, *row) for path in paths for row in _rows(path)]
    if not read:
        raise UsageError(f"{', '.join(map(str, paths))}: no tracks in it")
    names = dict.fromkeys(name for _, _, row in read for name in row)
    places = [place for _, place, _ in read]
    named = [row["path"].strip() for _, _, row in read]
    for place, path in zip(places, named, strict=True):
        if not path:
            raise UsageError(f"{place}: 'path' is empty")
    files = [folder.parent / path for (folder, _, _), path in zip(read, named, strict=True)]
    splits = [row.get("split", "").strip().lower() for _, _, row in read]
    groups = [
        row.get("group", "").strip() or f"\0{i}"  # no group of a manifest can be called so
        for i, (_, _, row) in enumerate(read)
    ]
    _check_once(files, places)
    _check_splits(splits, groups, places)
    return Manifest(
        paths=named,
        files=files,
        places=places,
        splits=np.array(splits, dtype=np.str_),
        groups=np.array(groups, dtype=np.str_),
        cells={
            name: [row.get(name, "") for _, _, row in read]
            for name in names
            if name not in _NO_LABELS
        },
    )


def check_files(manifest: Manifest) -> None:
    """Whether every file is there.

    Raises:
        UsageError: naming the first that is not, and how many more.
    """
    missing = [i for i, file in enumerate(manifest.files) if not file.is_file()]
    if missing:
        raise UsageError(
            f"{manifest.places[missing[0]]}: no file {manifest.files[missing[0]]}"
            + _and_more(missing),
            hint="paths are relative to the manifest",
        )


def _and_more(items: Sequence[Any]) -> str:
    return f", and {len(items) - 1} more like it" if len(items) > 1 else ""


def _rows(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """(place, column -> text) of every row."""
    if not path.is_file():
        raise UsageError(f"no manifest {path}")
    suffix = path.suffix.lower()
    if suffix not in (".csv", ".parquet"):
        raise UsageError(f"{path} is no manifest", hint="a .csv or .parquet with a path column")
    yield from _csv_rows(path) if suffix == ".csv" else _parquet_rows(path)


def _csv_rows(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream)
            _check_names(path, reader.fieldnames or ())
            for row in reader:
                place = f"{path} line {reader.line_num}"
                if None in row:
                    raise UsageError(f"{place}: more cells than the header has columns")
                yield place, {name: value or "" for name, value in row.items()}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"cannot read {path}: {reason}") from error


def _parquet_rows(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    from loev_cli.files.parquet import PARQUET_ERRORS, read_table

    try:
        table = read_table(path)
        _check_names(path, table.column_names)
        for number, row in enumerate(table.to_pylist(), start=1):
            yield f"{path} row {number}", {name: _as_text(value) for name, value in row.items()}
    except PARQUET_ERRORS as error:
        raise UsageError(f"cannot read {path}: {in_one_line(error)}") from error


def _as_text(value: Any) -> str:
    if value is None:
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


def _check_once(files: Sequence[Path], places: Sequence[str]) -> None:
    first: dict[Path, str] = {}
    for file, place in zip(files, places, strict=True):
        if file in first:
            raise UsageError(f"{place}: {file} is named before, in {first[file]}")
        first[file] = place


def _check_splits(splits: Sequence[str], groups: Sequence[str], places: Sequence[str]) -> None:
    of_group: dict[str, str] = {}
    for split, group, place in zip(splits, groups, places, strict=True):
        if split and split not in SPLITS:
            raise UsageError(f"{place}: unknown split '{split}'", hint=", ".join(SPLITS))
        if of_group.setdefault(group, split) != split:
            raise UsageError(
                f"{place}: group '{group}' is in split '{split}' and, before, in "
                f"'{of_group[group]}'",
                hint="rows of one group never cross a split",
            )
