"""The labels of a manifest's tracks, and the folds to judge them by.

key         "C major", "F# minor", "Bb:min", "Am"                 24 classes
tempo       BPM, above 0                                          scored as a ratio
class       any text                                              one of several
multilabel  texts separated by ; or |                             any of several
number      a number                                              regression

An empty cell is a track without that label; the track is skipped for that label.

split column     train | val | test      one fold; without val, a fifth of the train groups is
no such split    grouped k-fold: fold i tests, fold i + 1 validates, the others train
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loev_cli.errors import UsageError, known_names
from loev_cli.manifest import read_rows
from loev_cli.music_keys import KEYS, parse_key

KINDS = ("key", "tempo", "class", "multilabel", "number")

_SEPARATOR = re.compile(r"[;|]")
_MAX_CLASSES_OF_NUMBERS = 12


@dataclass(frozen=True)
class Column:
    """One label of every track.

    Attributes:
        kind: one of ``KINDS``.
        values: (n,) int64 class, -1 unknown, for ``key`` and ``class``; (n,) float64, NaN unknown,
            for ``tempo`` (BPM) and ``number``; (n, L) float64 of 0 and 1 for ``multilabel``.
        known: (n,) bool.
        classes: what the integers or the L columns stand for.
    """

    name: str
    kind: str
    values: NDArray[Any]
    known: NDArray[np.bool_]
    classes: tuple[str, ...] = ()


def parse_column(name: str, kind: str, cells: Sequence[str], places: Sequence[str]) -> Column:
    """Cells -> labels.

    Args:
        places: the location of each cell, such as "manifest.csv line 3", for messages.

    Raises:
        UsageError: a cell is not of the kind; names its location and column.
    """
    known = np.array([bool(cell.strip()) for cell in cells], dtype=np.bool_)
    if kind in ("tempo", "number"):
        numbers = np.full(len(cells), np.nan)
        for i in np.flatnonzero(known).tolist():
            numbers[i] = _number(cells[i], name, places[i], positive=kind == "tempo")
        return Column(name, kind, numbers, known)
    for i in np.flatnonzero(known).tolist():
        if cells[i].strip().lower() == "nan":
            raise UsageError(
                f"{places[i]}: '{name}' is NaN", hint="leave the cell empty if the value is unknown"
            )
    if kind == "key":
        keys = np.full(len(cells), -1, np.int64)
        for i in np.flatnonzero(known).tolist():
            key = parse_key(cells[i])
            if key is None:
                raise UsageError(
                    f"{places[i]}: '{cells[i]}' in column '{name}' is not a valid key name",
                    hint="for example 'C major', 'F# minor' or 'Bb:min'",
                )
            keys[i] = key
        return Column(name, kind, keys, known, KEYS)
    if kind == "class":
        texts = [cell.strip() for cell in cells]
        classes = sorted({text for text in texts if text})
        index = {text: i for i, text in enumerate(classes)}
        values = np.array([index.get(text, -1) for text in texts], dtype=np.int64)
        return Column(name, kind, values, known, tuple(classes))
    sets = [_members(cell) for cell in cells]
    members = sorted(set().union(*sets))
    table = np.array([[float(m in row) for m in members] for row in sets]).reshape(len(sets), -1)
    return Column(name, "multilabel", table, known, tuple(members))


def recognise(name: str, cells: Sequence[str]) -> str:
    """The kind of a column, inferred from its name and cells."""
    if name.lower() in ("key", "tempo"):
        return name.lower()
    given = [cell.strip() for cell in cells if cell.strip()]
    if all(_looks_like_a_number(cell) for cell in given):
        whole = all(re.fullmatch(r"[+-]?\d+", cell) for cell in given)
        few = len(set(given)) <= _MAX_CLASSES_OF_NUMBERS
        return "class" if whole and few else "number"
    return "multilabel" if any(_SEPARATOR.search(cell) for cell in given) else "class"


def why_useless(column: Column, groups: NDArray[Any]) -> str | None:
    """Why a column cannot be probed, as a predicate of its name; None if it can."""
    values, of = column.values[column.known], groups[column.known]
    if len(values) == 0:
        return "is empty"
    if column.kind == "multilabel":
        varying = values.any(axis=0) & ~values.all(axis=0)
        return None if varying.any() else "is constant"
    distinct = np.unique(values)
    if len(distinct) == 1:
        only = column.classes[distinct[0]] if column.classes else f"{distinct[0]:g}"
        return f"has one value only, '{only}'"
    if column.kind == "class":
        shared = [len(np.unique(of[values == value])) > 1 for value in distinct]
        if sum(shared) < 2:
            return "needs two classes that each occur in more than one group"
    return None


def is_name_of_group(column: Column, groups: NDArray[Any]) -> bool:
    """Whether a number is an id of the groups, which a probe cannot predict for new groups."""
    if column.kind != "number" or len(np.unique(groups)) == len(groups):
        return False
    pairs = {(g, v) for g, v in zip(groups, column.values, strict=True)}
    return len(pairs) == len(np.unique(groups)) == len(np.unique(column.values))


def _members(cell: str) -> set[str]:
    return {part.strip() for part in _SEPARATOR.split(cell) if part.strip()}


def _looks_like_a_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _number(cell: str, name: str, place: str, *, positive: bool) -> float:
    try:
        value = float(cell)
    except ValueError as error:
        raise UsageError(f"{place}: '{cell}' in column '{name}' is not a number") from error
    if math.isnan(value):
        raise UsageError(
            f"{place}: '{name}' is NaN", hint="leave the cell empty if the value is unknown"
        )
    if not math.isfinite(value) or (positive and value <= 0):
        wanted = "a tempo in BPM, above 0" if positive else "a finite number"
        raise UsageError(f"{place}: '{cell}' in column '{name}' is not {wanted}")
    return value


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

    def grouped_by(self, name: str) -> Manifest:
        """Rows that have no group are put together where their cells of a column are equal."""
        cells = self.cells.get(name) or [""] * len(self)
        named = [
            f"{name} {cell}" if cell and group.startswith("\0") else group
            for group, cell in zip(self.groups.tolist(), cells, strict=True)
        ]
        return replace(self, groups=np.array(named, dtype=np.str_))

    def column(self, name: str, kind: str | None = None) -> Column:
        """The labels of one column; its kind is inferred unless given.

        Raises:
            UsageError: no such column or kind, or a cell that is not of the kind.
        """
        if name not in self.cells:
            raise UsageError(
                f"the manifest has no column '{name}'",
                hint=known_names(name, self.cells, "labels:"),
            )
        if kind is not None and kind not in KINDS:
            raise UsageError(f"unknown kind '{kind}' of column '{name}'", hint=", ".join(KINDS))
        cells = self.cells[name]
        return parse_column(name, kind or recognise(name, cells), cells, self.places)

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
            useless = why_useless(column, self.groups)
            if useless is None and not wanted and is_name_of_group(column, self.groups):
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
            + (f", and {len(missing) - 1} more like it" if len(missing) > 1 else ""),
            hint="paths are relative to the manifest",
        )


DEFAULT_N_FOLDS = 5
MIN_N_FOLDS = 3
_VAL_SHARE = 0.2


@dataclass(frozen=True)
class Fold:
    """Rows to train on, to choose the regularization on, and to test on."""

    train: NDArray[np.int64]
    val: NDArray[np.int64]
    test: NDArray[np.int64]

    def only(self, known: NDArray[np.bool_]) -> Fold:
        """Without the rows that have no label."""
        return Fold(*(rows[known[rows]] for rows in (self.train, self.val, self.test)))


@dataclass(frozen=True)
class Splits:
    """The folds, with a description of how they were made."""

    folds: tuple[Fold, ...]
    description: str
    notes: tuple[str, ...] = ()

    @property
    def judged(self) -> NDArray[np.int64]:
        """The test rows of all folds, sorted."""
        return np.sort(np.concatenate([fold.test for fold in self.folds]))


def split(manifest: Manifest, *, n_folds: int | None = None, seed: int = 0) -> Splits:
    """The manifest's own split if it has one with train and test, else cross-validation.

    Args:
        n_folds: forces cross-validation; at least 3. None: 5 if the manifest has no split.

    Raises:
        UsageError: fewer groups than folds, or a split whose train rows are in one group.
    """
    if n_folds is not None and n_folds < MIN_N_FOLDS:
        raise UsageError(
            f"{n_folds} folds are too few",
            hint=f"at least {MIN_N_FOLDS} are needed (train, validation, test)",
        )
    rows = np.arange(len(manifest))
    of = {name: rows[manifest.splits == name] for name in ("train", "val", "test")}
    if n_folds is None and len(of["train"]) and len(of["test"]):
        if len(of["val"]):
            fold = Fold(of["train"], of["val"], of["test"])
            return Splits((fold,), "the manifest's split")
        groups = np.unique(manifest.groups[of["train"]])
        if len(groups) < 2:
            raise UsageError(
                "all train rows are in one group, and there are no val rows",
                hint="add rows with split 'val'",
            )
        held = _shuffled(groups, seed)[: max(1, round(_VAL_SHARE * len(groups)))]
        is_val = np.isin(manifest.groups[of["train"]], held)
        fold = Fold(of["train"][~is_val], of["train"][is_val], of["test"])
        return Splits((fold,), "the manifest's split, a fifth of its train groups for validation")
    notes = []
    if n_folds is None and any(len(part) for part in of.values()):
        lacking = " or ".join(name for name in ("train", "test") if not len(of[name]))
        notes.append(f"the manifest's split has no {lacking} rows, so it is not used")
    k = n_folds or DEFAULT_N_FOLDS
    groups = np.unique(manifest.groups)
    if len(groups) < k:
        what = "tracks" if len(groups) == len(manifest) else "groups of tracks"
        raise UsageError(
            f"{k} folds need {k} {what}, the manifest has {len(groups)}",
            hint=f"--folds {len(groups)}" if len(groups) >= MIN_N_FOLDS else "more tracks",
        )
    fold_of_group = dict(zip(_shuffled(groups, seed), np.arange(len(groups)) % k, strict=True))
    fold_of_row = np.array([fold_of_group[group] for group in manifest.groups])
    folds = [
        Fold(
            train=rows[(fold_of_row != i) & (fold_of_row != (i + 1) % k)],
            val=rows[fold_of_row == (i + 1) % k],
            test=rows[fold_of_row == i],
        )
        for i in range(k)
    ]
    return Splits(tuple(folds), f"{k}-fold cross-validation over groups", tuple(notes))


def _shuffled(groups: NDArray[Any], seed: int) -> NDArray[Any]:
    return groups[np.random.default_rng(seed).permutation(len(groups))]
