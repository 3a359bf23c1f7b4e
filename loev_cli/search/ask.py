"""A search session over a file in memory or a database: query text to results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from loev_cli.errors import InputError, LoevError, UsageError
from loev_cli.row_names import path_of_row
from loev_cli.search.find import FileQuery, RowQuery, find_query
from loev_cli.search.library import Library, Vectors, check_subspace, open_library
from loev_cli.search.like_but import Change, move, parse_change
from loev_cli.search.query import Hit, Query, default_weights, search
from loev_cli.search.where import parse_where
from loev_cli.writers import FOLDERS, Meta

if TYPE_CHECKING:
    from loev_cli.search.audio_query import FileEmbedder
    from loev_cli.search.database import Database

_HINT_FROM_N_ROWS = 50_000


@dataclass(frozen=True)
class Answer:
    """The results of one query.

    Attributes:
        query: as given by the user.
        hits: best first.
        durations_s: of each hit's track.
    """

    query: str
    hits: list[Hit]
    durations_s: list[float]


class Gallery(Protocol):
    """The library to search.

    Attributes:
        source: the embedding file or database.
        meta: how its rows were made.
        note: description of the search method.
    """

    source: Path
    meta: Meta
    note: str

    def check_where(self, where: str) -> None:
        """Raises UsageError for a filter that does not parse."""
        ...

    def find(self, text: str) -> RowQuery | FileQuery: ...

    def of_row(self, found: RowQuery) -> Mapping[str, Vectors]:
        """Subspace -> (D,), a query."""
        ...

    def ready(self, vectors: Mapping[str, Vectors]) -> Mapping[str, Vectors]:
        """Model output -> a query."""
        ...

    def raw_of_row(self, found: RowQuery) -> Mapping[str, Vectors]:
        """Subspace -> (D,), raw model outputs."""
        ...

    def value(self, found: RowQuery, column: str) -> Any:
        """The value of a column for a row; None if there is no such column."""
        ...

    def search(self, vectors: Mapping[str, Vectors], query: Query) -> tuple[list[Hit], list[float]]:
        """The hits, and their tracks' durations."""
        ...


class Asker:
    """Answers queries about one library.

    Args:
        gallery: the library.
        query: the parameters of every search; its ``exclude`` is extended.
        change: the shift applied to every query.
        exclude_same_file: exclude the query itself.
        root: audio folder that the rows' paths are relative to.
        model: path of the library's model, to embed audio files; default: by its name.
        device: for embedding.
    """

    def __init__(
        self,
        gallery: Gallery,
        query: Query,
        *,
        change: Change | None = None,
        exclude_same_file: bool = False,
        root: Path | None = None,
        model: str | None = None,
        device: str = "auto",
    ) -> None:
        self.gallery = gallery
        self._query = query
        self._change = change
        self._exclude_same_file = exclude_same_file
        self._root = root
        self._model = model
        self._device = device
        self._ways: list[str] = []
        self._can_embed = True

    @property
    def subspaces(self) -> list[str]:
        return list(self.gallery.meta["subspaces"])

    @property
    def notes(self) -> list[str]:
        """Notes on how the search was done."""
        by = ", ".join(
            name if len(self._query.weights) == 1 and weight > 0 else f"{name}={weight:g}"
            for name, weight in self._query.weights.items()
        )
        return [*self._ways, f"by {by}; {self.gallery.note}"]

    @cached_property
    def _embedder(self) -> FileEmbedder:
        from loev_cli.search.audio_query import (
            FileEmbedder,  # and with it soundfile and onnxruntime
        )

        self._can_embed = False  # until it does
        embedder = FileEmbedder(self.gallery.meta, model=self._model, device=self._device)
        self._can_embed = True
        return embedder

    def ask(self, text: str) -> Answer:
        """Answer one query.

        Raises:
            UsageError: neither a row nor a file, the library's model is not found, or the query
                cannot be shifted.
            InputError: the file is not audio.
        """
        found = self.gallery.find(text)
        if isinstance(found, FileQuery):
            same = found.rows
            vectors = dict(self.gallery.ready(self._embedder.vectors(found.file)))
        else:
            same = frozenset({found.path})
            vectors = dict(self.gallery.of_row(found))
        asked = self._query
        if self._exclude_same_file:
            asked = replace(asked, exclude=asked.exclude | same)
        if self._change is not None:
            asked = self._moved(found, vectors, asked, self._change)
        return Answer(text, *self.gallery.search(vectors, asked))

    def _moved(
        self, found: RowQuery | FileQuery, vectors: dict[str, Vectors], asked: Query, change: Change
    ) -> Query:
        """Shift the vectors in place; returns the query to search with."""
        moved = move(change, _Asked(self.gallery, found), self._audio_of(found), self._vectors_of)
        if moved.how not in self._ways:
            self._ways.append(moved.how)
        vectors |= self.gallery.ready(moved.vectors)
        if moved.where is None:
            return asked
        where = moved.where if asked.where is None else f"({asked.where}) and ({moved.where})"
        rest = {name: w for name, w in asked.weights.items() if name != change.attribute}
        return replace(asked, where=where, weights=rest or default_weights(self.subspaces))

    def _vectors_of(self, file: Path, speed: float) -> Mapping[str, Vectors]:
        return self._embedder.vectors(file, speed)

    def _audio_of(self, found: RowQuery | FileQuery) -> Path | None:
        if isinstance(found, FileQuery):
            return found.file
        file = None if self._root is None else self._root / path_of_row(found.path)
        return file if file is not None and file.is_file() else None

    def can_go_on(self, error: LoevError) -> bool:
        """Whether the next query may succeed."""
        return self._can_embed and isinstance(error, InputError | UsageError)


@dataclass(frozen=True)
class _Asked:
    """A query as :mod:`loev_cli.search.like_but` takes it."""

    gallery: Gallery
    found: RowQuery | FileQuery

    @property
    def meta(self) -> Meta:
        return self.gallery.meta

    def raw(self) -> Mapping[str, Vectors]:
        assert isinstance(self.found, RowQuery)  # files are embedded instead
        return self.gallery.raw_of_row(self.found)

    def value(self, column: str) -> Any:
        return self.gallery.value(self.found, column) if isinstance(self.found, RowQuery) else None


class _InMemory:
    """A library that is searched exhaustively."""

    def __init__(self, library: Library) -> None:
        self.library = library
        self.source, self.meta = library.source, library.meta
        n = len(library)
        self.note = f"exact, all {n} tracks compared" + (
            "; 'loev index' makes this faster" if n >= _HINT_FROM_N_ROWS else ""
        )

    def check_where(self, where: str) -> None:
        parse_where(where, self.library.columns)

    def find(self, text: str) -> RowQuery | FileQuery:
        return find_query(text, self.library.paths, self.source)

    def of_row(self, found: RowQuery) -> Mapping[str, Vectors]:
        return self.library.of_row(found.row)

    def ready(self, vectors: Mapping[str, Vectors]) -> Mapping[str, Vectors]:
        return self.library.ready(vectors)

    def raw_of_row(self, found: RowQuery) -> Mapping[str, Vectors]:
        return {name: space.raw(found.row) for name, space in self.library.subspaces.items()}

    def value(self, found: RowQuery, column: str) -> Any:
        columns = self.library.columns
        return columns[column].tolist()[found.row] if column in columns else None

    def search(self, vectors: Mapping[str, Vectors], query: Query) -> tuple[list[Hit], list[float]]:
        hits = search(self.library, vectors, query)
        seconds = self.library.columns["duration_s"]
        return hits, [float(seconds[hit.row]) for hit in hits]


class _Indexed:
    """A database that is searched by its indexes."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.source, self.meta = database.source, database.meta
        self.note = f"approximate, by the index of {database.n_rows} tracks; --exact compares all"

    def check_where(self, where: str) -> None:
        parse_where(where, self.database.columns)

    def find(self, text: str) -> RowQuery | FileQuery:
        return self.database.find(text)

    def of_row(self, found: RowQuery) -> Mapping[str, Vectors]:
        return self.database.of_path(found.path)

    def ready(self, vectors: Mapping[str, Vectors]) -> Mapping[str, Vectors]:
        return self.database.ready(vectors)

    def raw_of_row(self, found: RowQuery) -> Mapping[str, Vectors]:
        centres = self.database.centres
        return {name: x + centres[name] for name, x in self.of_row(found).items()}

    def value(self, found: RowQuery, column: str) -> Any:
        return self.database.value(found.path, column)

    def search(self, vectors: Mapping[str, Vectors], query: Query) -> tuple[list[Hit], list[float]]:
        return self.database.search(vectors, query)


def open_gallery(source: Path, *, exact: bool = False) -> Gallery:
    """A database with indexes is searched by them, everything else exactly.

    Raises:
        UsageError: no such library, or a damaged one.
    """
    if not exact and source.is_dir() and source.suffix.lower() not in FOLDERS:
        from loev_cli.search.database import Database

        database = Database(source)
        if database.is_indexed:
            return _Indexed(database)
    return _InMemory(open_library(source))


def open_asker(
    source: Path,
    *,
    weights: Mapping[str, float] | None = None,
    k: int,
    where: str | None = None,
    like_but: str | None = None,
    exclude_same_file: bool = False,
    exact: bool = False,
    root: Path | None = None,
    model: str | None = None,
    device: str = "auto",
) -> Asker:
    """Open a library and check the search options.

    Raises:
        UsageError: no such library, or options that do not fit it.
    """
    change = None if like_but is None else parse_change(like_but)
    gallery = open_gallery(source, exact=exact)
    subspaces = gallery.meta["subspaces"]
    if weights is None:  # equal weights for the rest
        weights = dict.fromkeys(subspaces, 1.0) if change else default_weights(subspaces)
    for name in weights:
        check_subspace(name, subspaces, source)
    if where is not None:
        gallery.check_where(where)
    return Asker(
        gallery,
        Query(weights, k, where),
        change=change,
        exclude_same_file=exclude_same_file,
        root=root,
        model=model,
        device=device,
    )
