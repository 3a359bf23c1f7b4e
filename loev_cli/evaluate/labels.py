"""The cells of a manifest's column -> labels: the five kinds, their spelling and detection.

key         "C major", "F# minor", "Bb:min", "Am"                 24 classes
tempo       BPM, above 0                                          scored as a ratio
class       any text                                              one of several
multilabel  texts separated by ; or |                             any of several
number      a number                                              regression

An empty cell is a track without that label; the track is skipped for that label.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loev_cli.errors import UsageError
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
