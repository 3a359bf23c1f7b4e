"""Tracks as shown on the page: names, columns, and values to color the map by."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loev_cli.errors import UsageError, known_names
from loev_cli.explore.audio_files import AudioFiles, NotServedError, is_playable
from loev_cli.music_keys import KEYS, fifths, is_minor, parse_key
from loev_cli.search.library import Library

FOLDER = "folder"  # derived from the paths, not a column of the file
N_CLASSES = 11  # the rest is merged into one class
_KEY_SHARE = 0.8
# Around the circle of fifths from C, major keys first.
_WHEEL = sorted(range(len(KEYS)), key=lambda key: (is_minor(key), fifths(key)))


@dataclass(frozen=True)
class Coloring:
    """A column prepared for coloring N points.

    Attributes:
        kind: ``number``; ``class``, with values that index ``labels``; or ``key``, with values 0 to
            11 for major keys around the circle of fifths from C and 12 to 23 for their relative
            minors.
        values: (N,) float32, NaN if unknown.
        labels: of a class or key, one per value.
        counts: number of tracks per label.
        low, high: color range of a number: the 2nd and 98th percentile.
    """

    kind: str
    values: NDArray[np.float32]
    labels: list[str] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    low: float | None = None
    high: float | None = None

    @property
    def head(self) -> dict[str, Any]:
        """All but the values, as JSON."""
        return {
            "kind": self.kind,
            "labels": self.labels,
            "counts": self.counts,
            "low": self.low,
            "high": self.high,
            "n_unknown": int(np.isnan(self.values).sum()),
        }


@dataclass(frozen=True)
class Tracks:
    """The rows of a library as the page shows them."""

    library: Library
    files: AudioFiles

    def describe(self, row: int) -> dict[str, Any]:
        """One row, as JSON: names, whether it can be played, and its columns."""
        path = self.library.paths[row]
        named = PurePosixPath(path)
        columns = {name: _plain(self._columns[name][row]) for name in self._columns}
        title, artist = columns.get("tag_title"), columns.get("tag_artist")
        described = {
            "row": row,
            "path": path,
            "title": title or named.stem or path,
            "subtitle": artist or ("" if str(named.parent) == "." else str(named.parent)),
            "columns": {name: x for name, x in columns.items() if x is not None and x != ""},
        }
        try:
            file = self.files.find(row)
        except NotServedError as error:
            return described | {"audio": None, "why": str(error)}
        return described | {"audio": "file" if is_playable(file) else "preview", "why": None}

    def find(self, text: str, n: int) -> list[int]:
        """Up to ``n`` rows whose path or tags contain every word of ``text``, ignoring case."""
        words = text.lower().split()
        found: list[int] = []
        if not words:
            return found
        for row, searched in enumerate(self._searched):
            if all(word in searched for word in words):
                found.append(row)
                if len(found) == n:
                    break
        return found

    @property
    def color_names(self) -> list[str]:
        """The columns that can color the map."""
        names = [name for name in self._columns if not _is_id(name)]
        has_folders = any("/" in path for path in self.library.paths)
        return [*names, *([FOLDER] if has_folders and FOLDER not in names else [])]

    def coloring(self, name: str) -> Coloring:
        """A column, or the folders, prepared for coloring.

        Raises:
            UsageError: no such column.
        """
        if name not in self.color_names:
            hint = known_names(name, self.color_names, "there are")
            raise UsageError(f"no column '{name}'", hint=hint)
        if name == FOLDER and name not in self._columns:
            return _of_texts([_folder_of(path) for path in self.library.paths])
        values = self._columns[name]
        if values.dtype.kind in "fiu":
            return _of_numbers(values.astype(np.float64))
        if values.dtype.kind == "b":
            return _of_texts(["yes" if value else "no" for value in values])
        texts = [text if isinstance(text, str) else "" for text in values.tolist()]
        return _of_keys(texts) or _of_texts(texts)

    @cached_property
    def _columns(self) -> dict[str, NDArray[Any]]:
        columns = {name: self.library.columns[name] for name in self.library.columns}
        return {
            name: values
            for name, values in columns.items()
            if name != "path" and values.shape == (len(self.library),)
        }

    @cached_property
    def _searched(self) -> list[str]:
        """(N,) searchable lower-case text of every row."""
        parts: list[Iterable[str]] = [self.library.paths]
        for name in ("tag_title", "tag_artist", "tag_album"):
            if name in self._columns:
                parts.append(str(text) for text in self._columns[name].tolist())
        return ["\n".join(texts).lower() for texts in zip(*parts, strict=True)]


def _of_numbers(values: NDArray[np.float64]) -> Coloring:
    values = np.where(np.isfinite(values), values, np.nan)
    known = values[~np.isnan(values)]
    low, high = np.percentile(known, [2, 98]) if len(known) else (0.0, 0.0)
    return Coloring("number", values.astype(np.float32), low=float(low), high=float(high))


def _of_keys(texts: list[str]) -> Coloring | None:
    """None if most values are not keys."""
    parsed = {text: parse_key(text) for text in set(texts)}
    known = [text for text in texts if text]
    if sum(parsed[text] is not None for text in known) < max(1.0, _KEY_SHARE * len(known)):
        return None
    keys = [parsed[text] for text in texts]
    places = {text: wheel_place(text) for text in parsed}
    values = np.array([places[text] for text in texts], np.float32)  # NaN for None
    counts = Counter(keys)
    return Coloring("key", values, [KEYS[key] for key in _WHEEL], [counts[key] for key in _WHEEL])


def wheel_place(text: str) -> int | None:
    """The color of a key; see :class:`Coloring`. None if the text is no key."""
    key = parse_key(text)
    return None if key is None else _WHEEL.index(key)


def _of_texts(texts: list[str]) -> Coloring:
    """The most frequent texts are separate classes, the rest is one."""
    counts = Counter(text for text in texts if text)
    common = sorted(counts, key=lambda text: (-counts[text], text))
    labels = common[:N_CLASSES]
    of_label = [counts[label] for label in labels]
    code = {label: i for i, label in enumerate(labels)}
    if len(common) > len(labels):
        rest = common[N_CLASSES:]
        labels = [*labels, f"{len(rest)} others"]
        of_label.append(sum(counts[text] for text in rest))
    values = [code.get(text, len(code)) if text else math.nan for text in texts]
    return Coloring("class", np.array(values, np.float32), labels, of_label)


def _folder_of(path: str) -> str:
    parent = str(PurePosixPath(path).parent)
    return "" if parent == "." else parent


def _is_id(name: str) -> bool:
    return name in ("tag_title", "tag_isrc") or "musicbrainz" in name or name.endswith("_id")


def _plain(value: Any) -> Any:
    """A JSON-compatible cell; None if unknown."""
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, float):
        return round(value, 3) if math.isfinite(value) else None
    return value if isinstance(value, bool | int | str) else None
