"""A searchable library: the rows and columns of an embedding file or a database.

Search uses the cosine similarity of centered vectors. For the stored vectors x of a subspace,

    center  c = the mean of all rows' x; 0 in a library of fewer than 10 distinct tracks
    length  |x - c|
    vector  (x - c) / |x - c|, which is what :attr:`Library.vectors` holds; 0 where x = c

so the similarity of two tracks, the cosine about the mean, is the dot product of their vectors.
A file with a vector per window is searched by the mean of each track's windows.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loev_cli.errors import UsageError, did_you_mean
from loev_cli.writers import FOLDERS, Columns, Meta, keeps_windows, open_columns

Vectors = NDArray[np.float32]

# The mean of a few tracks is a poor estimate, and the model has already subtracted the mean of its
# training data. Copies count once: centering nothing but copies of one track would leave noise.
_FEWEST_FOR_A_MEAN = 10
# Cosine distance below which two vectors are equal up to rounding.
_SAME = 1e-5
_SHORTEST = 1e-12
_BLOCK_N_ROWS = 8192


@dataclass(frozen=True)
class Subspace:
    """One subspace of N tracks, ready for search; see the module's text.

    Attributes:
        vectors: (N, D) float32, of length 1, or 0 where a row lies at the center.
        lengths: (N,) float32, the distance of each row from the center.
        centre: (D,) float32.
    """

    vectors: Vectors
    lengths: Vectors
    centre: Vectors

    def ready(self, x: Vectors) -> Vectors:
        """Model outputs (D,) or (n, D) -> centered unit vectors as in :attr:`vectors`."""
        return _unit(np.atleast_2d(x), self.centre)[0].reshape(x.shape)

    def raw(self, rows: Any) -> Vectors:
        """Rows (n,), or one row, as stored in the file: (n, D), or (D,)."""
        lengths = np.asarray(self.lengths[rows])
        return np.asarray(self.vectors[rows] * lengths[..., None] + self.centre, np.float32)


class _Lazy(Mapping[str, Any]):
    """A mapping whose values are loaded on first access."""

    def __init__(self, names: tuple[str, ...], load: Callable[[str], Any]) -> None:
        self._names = names
        self._load = load
        self._loaded: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._names:
            raise KeyError(name)
        if name not in self._loaded:
            self._loaded[name] = self._load(name)
        return self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._names


@dataclass(frozen=True)
class Library:
    """N tracks to search in. Subspaces and columns are loaded on first access.

    Attributes:
        source: the embedding file or database.
        paths: N row names, sorted.
        subspaces: name -> :class:`Subspace`, in the model's order.
        vectors: name -> (N, D) float32, rows of length 1 about the mean, or 0; the dot product of
            two rows is their similarity.
        columns: name -> (N,): ``path``, ``duration_s``, ``silent``, tags as the file names them
            (``tag_title``), and further columns of the file (``bpm``, ``key``).
        meta: how it was made.
    """

    source: Path
    paths: list[str]
    subspaces: Mapping[str, Subspace]
    vectors: Mapping[str, Vectors]
    columns: Mapping[str, NDArray[Any]]
    meta: Meta

    def __len__(self) -> int:
        return len(self.paths)

    @cached_property
    def row_of(self) -> dict[str, int]:
        """Path -> row."""
        return {path: row for row, path in enumerate(self.paths)}

    def of_row(self, row: int) -> dict[str, Vectors]:
        """Subspace -> vector (D,) of a row, as in :attr:`vectors`: a query."""
        return {name: self.vectors[name][row] for name in self.vectors}

    def ready(self, vectors: Mapping[str, Vectors]) -> dict[str, Vectors]:
        """Subspace -> (D,) as the model gives it -> as :attr:`vectors` holds rows: a query."""
        return {name: self.subspaces[name].ready(x) for name, x in vectors.items()}

    def check_subspace(self, name: str) -> None:
        """Raises UsageError, naming the nearest, unless there is a subspace called ``name``."""
        check_subspace(name, self.subspaces, self.source)


def check_subspace(name: str, known: Mapping[str, Any], source: Path) -> None:
    """Raises UsageError, naming the nearest, unless ``name`` is among the known subspaces."""
    if name not in known:
        raise UsageError(
            f"{source} has no subspace '{name}'",
            hint=f"{did_you_mean(name, known)}it has {', '.join(known)}",
        )


def open_library(path: str | os.PathLike[str]) -> Library:
    """Open an embedding file, or a database that ``loev index`` made, to search in it.

    Only paths are read now; subspaces and columns on first access.

    Raises:
        UsageError: no such file, not an embedding file, damaged, of a newer format, or without
            rows. On access to a subspace: it holds NaN or infinite values.
    """
    path = Path(path)
    if path.is_dir() and path.suffix.lower() not in FOLDERS:
        from loev_cli.search.database import Columns as DatabaseColumns

        return library_of(path, DatabaseColumns(path))
    return library_of(path, open_columns(path))


def library_of(source: Path, columns: Columns) -> Library:
    """The library of some columns. Raises as :func:`open_library`."""
    paths = [str(path) for path in columns.load("path")]
    if not paths:
        raise UsageError(f"{source} holds no tracks", hint="create embeddings with loev embed")
    windows = keeps_windows(columns.meta)

    def load_subspace(name: str) -> Subspace:
        x = np.asarray(columns.load(name), np.float32)
        if windows:
            x = _track_means(x, columns.load("track"), len(paths))
        if len(x) != len(paths) or x.ndim != 2:
            raise UsageError(f"{source} is damaged: {name} has shape {x.shape}")
        return subspace_of(x, f"{source}: '{name}'")

    subspaces: Mapping[str, Subspace] = _Lazy(tuple(columns.meta["subspaces"]), load_subspace)
    not_of_tracks = {*subspaces, "track", "start_s"}
    described = tuple(name for name in columns.names if name not in not_of_tracks)
    return Library(
        source=source,
        paths=paths,
        subspaces=subspaces,
        vectors=_Lazy(tuple(subspaces), lambda name: subspaces[name].vectors),
        columns=_Lazy(described, columns.load),
        meta=columns.meta,
    )


def subspace_of(x: Vectors, name: str, centre: Vectors | None = None) -> Subspace:
    """Vectors (N, D) as the file has them -> ready for search.

    Args:
        name: for the error.
        centre: (D,); default as the module's text says.

    Raises:
        UsageError: they hold NaN or infinite values.
    """
    if centre is None:
        with np.errstate(invalid="ignore", over="ignore"):
            centre = x.mean(axis=0, dtype=np.float64).astype(np.float32)
        if not np.isfinite(centre).all():
            raise UsageError(f"{name} holds NaN or infinite values")
        distinct = Distinct()
        for start in range(0, len(x), _BLOCK_N_ROWS):
            if distinct.enough_for_a_mean:
                break
            distinct.add(x[start : start + _BLOCK_N_ROWS])
        if not distinct.enough_for_a_mean:
            centre = np.zeros_like(centre)
    vectors, lengths = _unit(x, centre)
    if not np.isfinite(lengths).all():
        raise UsageError(f"{name} holds NaN or infinite values")
    return Subspace(vectors, lengths, centre)


class Distinct:
    """Counts the distinct vectors of a subspace incrementally, up to the number a mean needs."""

    def __init__(self) -> None:
        self._found: list[Vectors] = []

    @property
    def enough_for_a_mean(self) -> bool:
        """Whether there are enough distinct vectors for a meaningful mean."""
        return len(self._found) >= _FEWEST_FOR_A_MEAN

    def add(self, x: Vectors) -> None:
        """Model outputs (n, D). Zero vectors are not counted."""
        rest, lengths = _unit(x, np.zeros(x.shape[1], np.float32))
        rest = rest[lengths > _SHORTEST]
        for each in self._found:
            rest = rest[rest @ each < 1 - _SAME]
        while len(rest) and not self.enough_for_a_mean:
            self._found.append(rest[0])
            rest = rest[rest @ rest[0] < 1 - _SAME]


def _unit(x: Vectors, centre: Vectors) -> tuple[Vectors, Vectors]:
    """(N, D), (D,) -> (x - centre) at length 1, and the lengths (N,)."""
    vectors = np.empty(x.shape, np.float32)
    lengths = np.empty(len(x), np.float32)
    for start in range(0, len(x), _BLOCK_N_ROWS):  # blocks fit in the CPU cache
        block = slice(start, start + _BLOCK_N_ROWS)
        moved = x[block] - centre
        length = np.sqrt(np.einsum("nd,nd->n", moved, moved))
        scale = np.divide(1, length, out=np.zeros_like(length), where=length > _SHORTEST)
        vectors[block] = moved * scale[:, None]
        lengths[block] = length
    return vectors, lengths


def _track_means(x: Vectors, track: NDArray[np.int64], n_tracks: int) -> Vectors:
    """Windows (M, D) -> tracks (N, D), as ``loev embed`` pools them."""
    sums = np.zeros((n_tracks, x.shape[1]))
    np.add.at(sums, track, x)
    counts = np.bincount(track, minlength=n_tracks)
    return (sums / np.maximum(counts, 1)[:, None]).astype(np.float32)
