"""A searchable library: the rows and columns of an embedding file or a database.

Search uses the cosine similarity of centered vectors. For the stored vectors x of a subspace,

    center  c = the mean of all rows' x; 0 in a library of fewer than 10 distinct tracks
    length  |x - c|
    vector  (x - c) / |x - c|, which is what :attr:`Library.vectors` holds; 0 where x = c

so the similarity of two tracks, the cosine about the mean, is the dot product of their vectors.
A file with a vector per window is searched by the mean of each track's windows. In several
subspaces,

    score = sum of weight * similarity / sum of |weight|

over those that have a weight: 1 is the same in all of them, 0 unrelated. A negative weight asks for
dissimilar tracks in that subspace. Scores are rounded to 9 decimals, so that rounding errors do not
affect the order; ties are sorted by path.
"""

from __future__ import annotations

import heapq
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loev_cli.annotations import Annotator
from loev_cli.defaults import INVARIANT, N_HITS, SUBSPACE_OF
from loev_cli.errors import UsageError, known_names
from loev_cli.formats import (
    AUDIO_ROOT,
    FOLDERS,
    SPACE,
    Columns,
    Meta,
    Row,
    as_column,
    keeps_windows,
    open_columns,
    read_meta,
    rows,
)
from loev_cli.formats.meta import POOLED
from loev_cli.music_keys import camelot, parse_key
from loev_cli.row_names import path_of_row
from loev_cli.search.filters import Mask, parse_where
from loev_cli.search.find import FileQuery, RowQuery, find_query
from loev_cli.windows import MeanPool

Vectors = NDArray[np.float32]

# The mean of a few tracks is a poor estimate, and the model has already subtracted the mean of its
# training data. Copies count once: centering nothing but copies of one track would leave noise.
_FEWEST_FOR_A_MEAN = 10
# Cosine distance below which two vectors are equal up to rounding.
_SAME = 1e-5
_SHORTEST = 1e-12
_BLOCK_N_ROWS = 8192
_DISTINCT_N_ROWS = 128  # looked through at once; nearly always the first ones suffice
_SCORED_N_ROWS = 16384  # at once
_DECIMALS = 9
_HINT_FROM_N_ROWS = 50_000  # to make an index
_N_LOOKED_FOR = 100
# What lists show of a track -> the column that has it.
LABELS = {
    "title": "tag_title",
    "artist": "tag_artist",
    "key": "key",
    "camelot": "key",
    "bpm": "bpm",
}
# What a user may call a subspace.
_OTHER_NAMES = {**SUBSPACE_OF, "bpm": SUBSPACE_OF["tempo"], "overall": INVARIANT}


@dataclass(frozen=True)
class Subspace:
    """One subspace of N tracks, ready for search; see the module's text.

    Attributes:
        vectors: (N, D) float32, of length 1, or 0 where a row lies at the center.
        lengths: (N,) float32, the distance of each row from the center.
        center: (D,) float32.
    """

    vectors: Vectors
    lengths: Vectors
    center: Vectors

    def ready(self, x: Vectors) -> Vectors:
        """Model outputs (D,) or (n, D) -> centered unit vectors as in :attr:`vectors`."""
        return unit(np.atleast_2d(x), self.center)[0].reshape(x.shape)

    def raw(self, rows: Any) -> Vectors:
        """Rows (n,), or one row, as stored in the file: (n, D), or (D,)."""
        lengths = np.asarray(self.lengths[rows])
        return np.asarray(self.vectors[rows] * lengths[..., None] + self.center, np.float32)


class _Lazy(Mapping[str, Any]):
    """A mapping whose values are loaded on first access."""

    def __init__(self, names: Iterable[str], load: Callable[[str], Any]) -> None:
        self._names = tuple(names)
        self._load = cache(load)

    def __getitem__(self, name: str) -> Any:
        if name not in self._names:
            raise KeyError(name)
        return self._load(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._names


@dataclass(frozen=True)
class Query:
    """The parameters of a search.

    Attributes:
        weights: subspace -> nonzero weight; negative: dissimilar.
        k: maximum number of results.
        where: a filter on columns, see :mod:`loev_cli.search.filters`.
        exclude: paths to exclude from the results.

    Raises:
        UsageError: no weight, one that is 0 or not finite, or ``k`` below 1.
    """

    weights: Mapping[str, float]
    k: int = N_HITS
    where: str | None = None
    exclude: frozenset[str] = field(default_factory=frozenset)

    def __post_init__(self) -> None:
        if self.k < 1:
            raise UsageError(f"k must be at least 1, got {self.k}")
        if not self.weights:
            raise UsageError("no subspace selected", hint="for example --by tempo")
        for name, weight in self.weights.items():
            if not math.isfinite(weight) or weight == 0:
                raise UsageError(
                    f"the weight of '{name}' is {weight:g}",
                    hint="weights must be finite and nonzero",
                )

    @property
    def shares(self) -> dict[str, float]:
        """Subspace -> weight / sum of |weight|."""
        total = sum(abs(weight) for weight in self.weights.values())
        return {name: weight / total for name, weight in self.weights.items()}


@dataclass(frozen=True)
class Hit:
    """One result.

    Attributes:
        rank: from 1 on.
        path: its row name.
        row: of the library; -1 in a database, which has only paths.
        score: see the module's text, in [-1, 1].
        distances: subspace -> cosine distance to the query, 1 - similarity: 0 the same direction,
            1 unrelated, 2 opposite; for every subspace the query has a vector of.
        duration_s: length of the track.
    """

    rank: int
    path: str
    row: int
    score: float
    distances: dict[str, float]
    duration_s: float


@dataclass(frozen=True)
class Library:
    """N tracks to search in. Subspaces and columns are loaded on first access.

    Attributes:
        source: the embedding file or database.
        paths: N row names, sorted.
        subspaces: name -> :class:`Subspace`, in the model's order.
        columns: name -> (N,): ``path``, ``duration_s``, ``silent``, tags as the file names them
            (``tag_title``), and further columns of the file (``bpm``, ``key``).
        meta: how it was made.
        windows: of a file with windows, M of all tracks together: ``track`` (M,), ``start_s`` (M,)
            and subspace -> (M, D) as the model gives it; else empty.
        annotator: what the annotations among the columns were read by, if by :func:`annotated`.
    """

    source: Path
    paths: list[str]
    subspaces: Mapping[str, Subspace]
    columns: Mapping[str, NDArray[Any]]
    meta: Meta
    windows: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    annotator: Annotator | None = None

    def __len__(self) -> int:
        return len(self.paths)

    @cached_property
    def vectors(self) -> Mapping[str, Vectors]:
        """Subspace -> (N, D) float32, rows of length 1 about the mean, or 0; the dot product of two
        rows is their similarity."""
        return _Lazy(self.subspaces, lambda name: self.subspaces[name].vectors)

    @cached_property
    def row_of(self) -> dict[str, int]:
        """Path -> row."""
        return {path: row for row, path in enumerate(self.paths)}

    @property
    def note(self) -> str:
        """How it is searched."""
        n = len(self)
        faster = "; 'loev index' makes this faster" if n >= _HINT_FROM_N_ROWS else ""
        return f"exact, all {n} tracks compared{faster}"

    def check_subspace(self, name: str) -> None:
        """Raises UsageError, naming the nearest, unless there is a subspace called ``name``."""
        check_subspace(name, self.subspaces, self.source)

    def mask(self, where: str | None) -> Mask:
        """(N,): which tracks match a filter; without one, all.

        Raises:
            UsageError: the filter does not parse.
        """
        if where is None:
            return np.ones(len(self), np.bool_)
        return parse_where(where, self.columns).mask()

    def find(self, text: str) -> RowQuery | FileQuery:
        """Resolve a query; see :func:`find_query`."""
        return find_query(text, self.paths, self.source)

    def of_row(self, row: int) -> dict[str, Vectors]:
        """Subspace -> vector (D,) of a row, as in :attr:`vectors`: a query."""
        return {name: self.vectors[name][row] for name in self.vectors}

    def query_of(self, found: RowQuery) -> dict[str, Vectors]:
        """The same of a row that was found."""
        return self.of_row(found.row)

    def raw_of(self, found: RowQuery) -> dict[str, Vectors]:
        """Subspace -> (D,), as the model gave it."""
        return {name: space.raw(found.row) for name, space in self.subspaces.items()}

    def ready(self, vectors: Mapping[str, Vectors]) -> dict[str, Vectors]:
        """Subspace -> (D,) as the model gives it -> as :attr:`vectors` holds rows: a query."""
        return {name: self.subspaces[name].ready(x) for name, x in vectors.items()}

    def value(self, found: RowQuery, column: str) -> Any:
        """The value of a column for a row; None if there is no such column."""
        return self.columns[column].tolist()[found.row] if column in self.columns else None

    def labels_of(self, row: int) -> dict[str, Any]:
        """What is known of a row; see :func:`labels`."""
        known = {name: self.columns[name] for name in LABELS.values() if name in self.columns}
        return labels({name: values[row : row + 1].tolist()[0] for name, values in known.items()})

    def distance(self, name: str, first: int, second: int) -> float:
        """Cosine distance of two rows in a subspace, rounded to 6 decimals."""
        x = self.vectors[name]
        dot = float(np.dot(x[first].astype(np.float64), x[second].astype(np.float64)))
        return round(float(np.clip(1 - dot, 0, 2)), 6)

    def search(self, vectors: Mapping[str, Vectors], query: Query) -> list[Hit]:
        """The ``query.k`` rows of highest score among those that pass the filter, best first.

        Exact: the rows, and their order, of a loop over all of them in float64.

        Args:
            vectors: subspace -> (D,), the query vectors, prepared like :attr:`vectors`: a row of
                it (:meth:`of_row`), or a prepared model output (:meth:`ready`). Subspaces without
                a weight are only used for the distances.

        Raises:
            UsageError: an unknown subspace or column, or a filter that does not parse.
        """
        for name in (*query.weights, *vectors):
            self.check_subspace(name)
        missing = [name for name in query.weights if name not in vectors]
        if missing:
            raise UsageError(f"the query has no vector of '{missing[0]}'")
        allowed = self.mask(query.where)
        for path in query.exclude:
            if path in self.row_of:
                allowed[self.row_of[path]] = False
        rows = self._candidates(vectors, query, np.flatnonzero(allowed))
        return ranked(self.paths, self.columns["duration_s"], self.vectors, vectors, query, rows)

    def _candidates(
        self, vectors: Mapping[str, Vectors], query: Query, rows: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Rows that certainly include the best: by float32 scores, with an error margin."""
        if len(rows) <= query.k:
            return rows
        everything = len(rows) == len(self)
        scores = np.empty(len(rows), np.float32)
        for start in range(0, len(rows), _SCORED_N_ROWS):
            block = slice(start, start + _SCORED_N_ROWS)
            some = block if everything else rows[block]
            scores[block] = sum(
                np.float32(share) * (self.vectors[name][some] @ vectors[name])
                for name, share in query.shares.items()
            )
        longest = max(len(vectors[name]) for name in query.weights)
        margin = 4 * longest * np.finfo(np.float32).eps
        kth = np.partition(scores, len(scores) - query.k)[len(scores) - query.k]
        return np.asarray(rows[scores >= kth - margin])


def labels(values: Mapping[str, Any]) -> dict[str, Any]:
    """Column -> value of a track -> its title, artist, key, Camelot code and bpm.

    Those of which there is a column; None where the value is missing.
    """
    shown: dict[str, Any] = {}
    for label, column in LABELS.items():
        if column not in values:
            continue
        value = values[column]
        if label == "camelot":
            key = parse_key(value) if isinstance(value, str) else None
            value = None if key is None else camelot(key)
        elif isinstance(value, float):
            value = round(value, 2) if math.isfinite(value) else None
        shown[label] = value if value != "" else None
    return shown


def check_subspace(name: str, known: Iterable[str], source: Path) -> None:
    """Raises UsageError, naming the nearest, unless ``name`` is among the known subspaces."""
    if name not in known:
        raise UsageError(
            f"{source} has no subspace '{name}'",
            hint=known_names(_OTHER_NAMES.get(name, name), known),
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
        from loev_cli.search.database import Database

        return library_of(path, Database(path))
    return library_of(path, open_columns(path))


def audio_root(source: Path, meta: Meta, paths: Sequence[str]) -> Path | None:
    """The folder that paths of rows are relative to: the one that was embedded, that of the
    embedding file, or the current one, whichever has most of a sample of them; None: none of them.
    """
    sample = paths[:: max(1, len(paths) // _N_LOOKED_FOR)]
    embedded = meta.get(AUDIO_ROOT)
    roots = [source.absolute().parent, Path.cwd()]
    if isinstance(embedded, str):
        roots.insert(0, Path(path_of_row(embedded)))
    n_found = [
        sum(os.path.isfile(root / path_of_row(path)) for path in sample)  # noqa: PTH113
        for root in roots
    ]
    best = int(np.argmax(n_found))
    return roots[best] if n_found[best] else None


def library_of(source: Path, columns: Columns) -> Library:
    """The library of some columns. Raises as :func:`open_library`."""
    if SPACE in columns.meta:
        raise UsageError(f"{source} holds exported vectors", hint="search the embedding file")
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

    subspaces: Mapping[str, Subspace] = _Lazy(columns.meta["subspaces"], load_subspace)
    not_of_tracks = {*subspaces, "track", "start_s"}
    described = [name for name in columns.names if name not in not_of_tracks]
    return Library(
        source=source,
        paths=paths,
        subspaces=subspaces,
        columns=_Lazy(described, columns.load),
        meta=columns.meta,
        windows=_Lazy([*subspaces, "track", "start_s"], columns.load) if windows else {},
    )


def annotated(library: Library, annotator: Annotator) -> Library:
    """The library with what the readouts of its model say of its vectors, instead of the
    annotations that its file may have."""

    @cache
    def answers() -> dict[str, NDArray[Any]]:
        spaces = {name: library.subspaces[name] for name in annotator.subspaces}
        said = [
            annotator.answer({name: x.raw(row) for name, x in spaces.items()}, silent=bool(silent))
            for row, silent in enumerate(library.columns["silent"])
        ]
        return {name: as_column(name, [each[name] for each in said]) for name in annotator.columns}

    def load(name: str) -> NDArray[Any]:
        return answers()[name] if name in annotator.columns else library.columns[name]

    names = dict.fromkeys((*library.columns, *annotator.columns))
    return replace(library, columns=_Lazy(names, load), annotator=annotator)


def subspace_of(x: Vectors, name: str, center: Vectors | None = None) -> Subspace:
    """Vectors (N, D) as the file has them -> ready for search.

    Args:
        name: for the error.
        center: (D,); default as the module's text says.

    Raises:
        UsageError: they hold NaN or infinite values.
    """
    if center is None:
        centering = Centering(x.shape[1], name)
        centering.add(x)
        center = centering.center
    vectors, lengths = unit(x, center)
    if not np.isfinite(lengths).all():
        raise UsageError(f"{name} holds NaN or infinite values")
    return Subspace(vectors, lengths, center)


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
        rest, lengths = unit(x, np.zeros(x.shape[1], np.float32))
        rest = rest[lengths > _SHORTEST]
        for each in self._found:
            rest = rest[rest @ each < 1 - _SAME]
        while len(rest) and not self.enough_for_a_mean:
            self._found.append(rest[0])
            rest = rest[rest @ rest[0] < 1 - _SAME]


class Centering:
    """The center of a subspace's N rows, which come a few at a time.

    Args:
        dim: D of the subspace.
        name: for the error.

    Attributes:
        total: (D,) float64, the sum of the rows.
    """

    def __init__(self, dim: int, name: str) -> None:
        self.total = np.zeros(dim)
        self._n_rows = 0
        self._name = name
        self._distinct = Distinct()

    def add(self, x: Vectors) -> None:
        """Model outputs (n, D)."""
        with np.errstate(invalid="ignore", over="ignore"):
            self.total += x.sum(axis=0, dtype=np.float64)
        self._n_rows += len(x)
        if not np.isfinite(self.total).all():
            return
        for start in range(0, len(x), _DISTINCT_N_ROWS):
            if self._distinct.enough_for_a_mean:
                break
            self._distinct.add(x[start : start + _DISTINCT_N_ROWS])

    @property
    def center(self) -> Vectors:
        """(D,), as the module's text says.

        Raises:
            UsageError: the rows hold NaN or infinite values.
        """
        if not np.isfinite(self.total).all():
            raise UsageError(f"{self._name} holds NaN or infinite values")
        if not self._distinct.enough_for_a_mean:
            return np.zeros(len(self.total), np.float32)
        return (self.total / self._n_rows).astype(np.float32)


def pooled_rows(emb: Path) -> Iterator[Row]:
    """The rows of a file, a few at a time, those with windows as their means. Raises as
    :func:`loev_cli.formats.rows`."""
    windows = keeps_windows(read_meta(emb))
    for row in rows(emb):
        if not windows:
            yield row
            continue
        pool = MeanPool()
        for i in range(len(next(iter(row.vectors.values())))):
            pool.add({name: x[i] for name, x in row.vectors.items()})
        yield replace(row, vectors=pool.mean(), start_s=None)


def pooled_meta(meta: Meta) -> Meta:
    """The ``meta`` of a file with these rows."""
    return {**meta, "pooling": POOLED}


def unit(x: Vectors, center: Vectors) -> tuple[Vectors, Vectors]:
    """(N, D), (D,) -> (x - center) at length 1, and the lengths (N,)."""
    vectors = np.empty(x.shape, np.float32)
    lengths = np.empty(len(x), np.float32)
    for start in range(0, len(x), _BLOCK_N_ROWS):  # blocks fit in the CPU cache
        block = slice(start, start + _BLOCK_N_ROWS)
        moved = x[block] - center
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


def ranked(
    paths: Sequence[str],
    durations_s: NDArray[Any],
    matrices: Mapping[str, Vectors],
    vectors: Mapping[str, Vectors],
    query: Query,
    rows: NDArray[np.int64],
) -> list[Hit]:
    """The best of some rows, scored in float64. ``matrices``: subspace -> (N, D)."""
    similarity = {name: _cosine(matrices[name][rows], vector) for name, vector in vectors.items()}
    weighted = np.zeros(len(rows))
    for name, share in query.shares.items():
        weighted += share * similarity[name]
    scores = np.round(weighted, _DECIMALS) + 0.0  # no -0
    indices = rows.tolist()
    best = heapq.nsmallest(
        query.k, range(len(indices)), key=lambda i: (-scores[i], paths[indices[i]])
    )
    return [
        Hit(
            rank=rank,
            path=paths[indices[i]],
            row=indices[i],
            score=float(scores[i]),
            distances={
                name: float(np.round(np.clip(1 - s[i], 0, 2), _DECIMALS)) + 0.0
                for name, s in similarity.items()
            },
            duration_s=float(durations_s[indices[i]]),
        )
        for rank, i in enumerate(best, start=1)
    ]


def _cosine(matrix: Vectors, vector: Vectors) -> NDArray[np.float64]:
    """(n, D), (D,) -> (n,) in float64; 0 where one of the two is 0."""
    x, y = matrix.astype(np.float64), vector.astype(np.float64)
    lengths = np.linalg.norm(x, axis=1) * np.linalg.norm(y)
    dots = np.einsum("nd,d->n", x, y)
    return np.asarray(np.divide(dots, lengths, out=np.zeros_like(dots), where=lengths > 0))


def parse_weights(text: str) -> dict[str, float]:
    """``invariant=1,pitch=-0.3`` -> subspace -> weight.

    Raises:
        UsageError: invalid syntax, or a duplicate subspace.
    """
    weights: dict[str, float] = {}
    for part in text.split(","):
        name, equals, number = (piece.strip() for piece in part.partition("="))
        try:
            weight = float(number)
        except ValueError:
            equals = ""
            weight = 0.0
        if not name or not equals:
            raise UsageError(
                f"weights '{text}': '{part.strip()}' is not SUBSPACE=NUMBER",
                hint="for example --weights invariant=1,pitch=-0.3",
            )
        if name in weights:
            raise UsageError(f"weights '{text}' name '{name}' twice")
        weights[name] = weight
    return weights


def default_weights(subspaces: Iterable[str]) -> dict[str, float]:
    """The default weights: ``invariant``, or the first subspace."""
    names = list(subspaces)
    name = INVARIANT if INVARIANT in names else names[0]
    return {name: 1.0}
