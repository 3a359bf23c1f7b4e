"""The labels of a manifest's tracks, column by column."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loev_cli.errors import UsageError, did_you_mean
from loev_cli.evaluate import labels
from loev_cli.evaluate.labels import Column
from loev_cli.manifest import read_rows


@dataclass(frozen=True)
class Manifest:
    """n tracks, in the order of the manifest or manifests.

    Attributes:
        paths: as they are written.
        files: the resolved paths.
        places: "manifest.csv line 3", for messages.
        splits: (n,) str, empty if not given.
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
        """The labels of one column; its kind is inferred unless given.

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
        """The labels to evaluate, and notes on those left out.

        Args:
            wanted: ``name`` or ``name:kind``; if empty, every usable column.
            needed: whether having no column is an error.

        Raises:
            UsageError: as :meth:`column`; a requested column, or ``key`` or ``tempo``, that
                cannot be probed; no column at all.
        """
        asked = [part.partition(":") for part in wanted] or [(name, "", "") for name in self.cells]
        columns, notes = [], []
        for name, _, kind in asked:
            column = self.column(name, kind or None)
            useless = labels.why_useless(column, self.groups)
            if useless is None and not wanted and labels.is_name_of_group(column, self.groups):
                useless = "only identifies the groups"
            if useless is None:
                columns.append(column)
            elif wanted or column.kind in ("key", "tempo"):
                raise UsageError(
                    f"column '{name}' {useless}, so it cannot be probed",
                    hint="select the columns to use with --label",
                )
            else:
                notes.append(f"column '{name}' left out: it {useless}")
        if needed and not columns:
            raise UsageError(
                "the manifest has no label column to evaluate",
                hint="add key, tempo, or a column of your own",
            )
        return columns, notes


def read_manifests(paths: Sequence[Path]) -> Manifest:
    """One manifest, or several as one: columns that only one of them has are empty in the others.

    Raises:
        UsageError: as :func:`loev_cli.manifest.read_rows`.
    """
    rows = read_rows(paths)
    names = dict.fromkeys(name for row in rows for name in row.labels)
    # A manifest's group names cannot contain NUL.
    groups = [row.group or f"\0{i}" for i, row in enumerate(rows)]
    return Manifest(
        paths=[row.written for row in rows],
        files=[row.path for row in rows],
        places=[row.place for row in rows],
        splits=np.array([row.split or "" for row in rows], dtype=np.str_),
        groups=np.array(groups, dtype=np.str_),
        cells={name: [row.labels.get(name, "") for row in rows] for name in names},
    )


def check_files(manifest: Manifest) -> None:
    """Check that every file exists.

    Raises:
        UsageError: a file is missing; names the first and counts the others.
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
