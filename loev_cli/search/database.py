"""A library as a LanceDB database: larger than memory, with one index for all subspaces.

    DIR/tracks.lance        the table "tracks" of a LanceDB database: lancedb.connect(DIR) opens it
      path, duration_s, silent, tags...    as in the embedding file
      invariant, pitch, ...                float32 vectors less their mean: x - c
      loev_units                           float16, all of these at length 1, one after the other
      loev_digest                          hash of the row in the embedding file, to detect changes

The means c are stored in the table's metadata, next to the ``meta`` of the embedding file. Vectors
of a file with windows are the means of its tracks' windows.

From :data:`INDEX_FROM_N_ROWS` rows on ``loev_units`` has an index of a few bits per value (RaBitQ,
Gao et al. 2025). A score is one inner product, of a row's ``loev_units`` with the query's units
times their weights, so this index serves all weights. A search scores all rows by their bits, reads
the vectors of the best few, and ranks these exactly as :mod:`loev_cli.search.library` does.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loev_cli.errors import LoevError, needs_extra
from loev_cli.formats.meta import Meta, damaged, from_json, not_ours
from loev_cli.search.filters import parse_where
from loev_cli.search.find import FileQuery, RowQuery, find_query
from loev_cli.search.library import (
    Hit,
    Query,
    Vectors,
    check_subspace,
    ranked,
    unit,
)
from loev_cli.storage.bounded import DATA_ERRORS, parse_json

with needs_extra("a database", "db"):
    import lance
    import pyarrow as pa

    from loev_cli.formats.tables import column_values

TABLE = "tracks"
DIGEST_COLUMN, UNITS_COLUMN = "loev_digest", "loev_units"
UNITS_INDEX = f"{UNITS_COLUMN}_idx"
META_KEY, CENTERS_KEY = b"loev", b"loev_centers"
INDEX_FROM_N_ROWS = 50_000

# Candidates from the index per requested result, and the minimum.
_CANDIDATES_PER_HIT = 10
_FEWEST_CANDIDATES = 100
_ERRORS = (*DATA_ERRORS, OSError, RuntimeError, pa.ArrowException)


def table_of(folder: Path) -> Path:
    """The path of a database's table."""
    return folder / f"{TABLE}.lance"


def is_database(folder: Path) -> bool:
    """Whether ``loev index`` made the folder."""
    return (table_of(folder) / "_versions").is_dir()


@contextlib.contextmanager
def lance_errors(folder: Path) -> Iterator[None]:
    """Turns whatever Lance raises into one clear error."""
    try:
        yield
    except LoevError:
        raise
    except _ERRORS as error:
        raise damaged(folder, error) from error
    except BaseException as error:
        # A Rust panic in Lance is not an Exception, and its class cannot be imported.
        if type(error).__name__ != "PanicException":
            raise
        raise damaged(folder, error) from error


class Database:
    """A searchable database, and its columns as those of an embedding file, in order of the paths
    (see :class:`loev_cli.formats.Columns`).

    Attributes:
        source: its folder.
        meta: of the embedding file it was made from.
        centers: subspace -> (D,), subtracted from the vectors.
        columns: name -> (0,) array of the column's type, for filters.
        names: of the columns and the subspaces.
        n_rows: how many tracks it has.
        is_indexed: whether it has an index, for :meth:`search`; one of loev before November 2026
            has none that counts, and is compared whole until ``loev index`` writes it anew.

    Raises:
        UsageError: not a database, damaged, or of a newer format.
    """

    def __init__(self, folder: Path) -> None:
        self.source = folder
        if not is_database(folder):
            raise not_ours(str(folder))
        with lance_errors(folder):
            self.table = lance.dataset(str(table_of(folder)))
            metadata = self.table.schema.metadata or {}
            if META_KEY not in metadata or CENTERS_KEY not in metadata:
                raise not_ours(str(folder))
            self.meta: Meta = from_json(metadata[META_KEY], name=str(folder))
            self.centers = centers_of(metadata[CENTERS_KEY])
            self.n_rows: int = self.table.count_rows()
            self.is_indexed = UNITS_INDEX in {index.name for index in self.table.describe_indices()}
        hidden = {*self.centers, DIGEST_COLUMN, UNITS_COLUMN}
        self.columns: dict[str, NDArray[Any]] = {
            field.name: _example(field.type)
            for field in self.table.schema
            if field.name not in hidden
        }
        self.names = (*self.columns, *self.centers)

    @property
    def note(self) -> str:
        """How it is searched."""
        return f"approximate, by the index of {self.n_rows} tracks; --exact compares all"

    def load(self, name: str) -> NDArray[Any]:
        """A column (N,), or a subspace (N, D) as the model gave it."""
        with lance_errors(self.source):
            table = self.table.to_table(columns=[name])
            if name in self.centers:
                x = matrix(table, name)[self._order]
                x += self.centers[name]
                return x
            return column_values(table[name])[self._order]

    def find(self, text: str) -> RowQuery | FileQuery:
        """Resolve a query; see :func:`find_query`."""
        if self._row_at(text, ["path"]).num_rows:
            return RowQuery(text, -1)
        return find_query(text, sorted(self._paths), self.source)

    def query_of(self, found: RowQuery) -> dict[str, Vectors]:
        """Subspace -> (D,) of a row, for :meth:`search`."""
        row = self._row_at(found.path, list(self.centers))
        return {name: matrix(row, name)[0] for name in self.centers}

    def raw_of(self, found: RowQuery) -> dict[str, Vectors]:
        """The same as the model gave it."""
        return {name: x + self.centers[name] for name, x in self.query_of(found).items()}

    def value(self, found: RowQuery, column: str) -> Any:
        """The value of a column for a row; None if there is no such column."""
        if column not in self.columns:
            return None
        return self._row_at(found.path, [column])[column][0].as_py()

    def ready(self, vectors: Mapping[str, Vectors]) -> dict[str, Vectors]:
        """Subspace -> (D,) as the model gives it -> for :meth:`search`."""
        return {name: np.asarray(x - self.centers[name], np.float32) for name, x in vectors.items()}

    def search(self, vectors: Mapping[str, Vectors], query: Query) -> list[Hit]:
        """The best candidates of the index, ranked exactly.

        Args:
            vectors: subspace -> (D,), from :meth:`query_of` or :meth:`ready`.

        Raises:
            UsageError: an unknown subspace or column, or a filter that does not parse.
        """
        for name in query.weights:
            check_subspace(name, self.centers, self.source)
        where = None
        if query.where is not None:
            where = parse_where(query.where, self.columns).sql
        asked = units({name: vectors[name][None] for name in self.centers}, query.shares)[0]
        n = max(_CANDIDATES_PER_HIT * query.k, _FEWEST_CANDIDATES) + len(query.exclude)
        with lance_errors(self.source):
            found = self.table.scanner(
                columns=["path", "duration_s", *self.centers, "_distance"],
                nearest={
                    "column": UNITS_COLUMN,
                    "q": asked,
                    "k": n,
                    "metric": "dot",
                    "search_effort": 1.0,  # all partitions
                    "query_parallelism": -1,  # on all cores
                },
                filter=where,
                prefilter=True,
            ).to_table()
        allowed = [path not in query.exclude for path in found["path"].to_pylist()]
        found = found.filter(pa.array(allowed, pa.bool_()))
        paths, seconds = found["path"].to_pylist(), column_values(found["duration_s"])
        matrices = {name: matrix(found, name) for name in vectors}
        hits = ranked(paths, seconds, matrices, vectors, query, np.arange(found.num_rows))
        return [replace(hit, row=-1) for hit in hits]

    def _row_at(self, path: str, columns: list[str]) -> pa.Table:
        with lance_errors(self.source):
            return self.table.to_table(columns=columns, filter=paths_filter([path]))

    @cached_property
    def _paths(self) -> list[str]:
        with lance_errors(self.source):
            paths: list[str] = self.table.to_table(columns=["path"])["path"].to_pylist()
        return paths

    @cached_property
    def _order(self) -> NDArray[np.int64]:
        paths = self._paths
        return np.array(sorted(range(len(paths)), key=paths.__getitem__), np.int64)


def paths_filter(paths: Sequence[str]) -> str:
    """SQL: the path is one of these."""
    quoted = ", ".join("'" + path.replace("'", "''") + "'" for path in paths)
    return f"path IN ({quoted})"


def matrix(table: pa.Table, name: str) -> Vectors:
    """A column of vectors, (n, D); a writable copy."""
    column = table[name].combine_chunks()
    return np.array(column.flatten(), np.float32).reshape(len(table), column.type.list_size)


def units(centered: Mapping[str, Vectors], shares: Mapping[str, float] | None = None) -> Vectors:
    """Subspace -> (n, D) less the mean -> (n, d): all at length 1, or their share, side by side.

    d is the sum of all D, rounded up to a multiple of 8 with zeros, which the index needs.
    """
    parts = [
        unit(x, np.zeros(x.shape[1], np.float32))[0]
        * np.float32(1 if shares is None else shares.get(name, 0))
        for name, x in centered.items()
    ]
    both = np.concatenate(parts, axis=1)
    return np.pad(both, ((0, 0), (0, -both.shape[1] % 8)))


def centers_of(text: bytes) -> dict[str, Vectors]:
    """The means from a table's metadata."""
    return {name: np.array(values, np.float32) for name, values in parse_json(text).items()}


def centers_text(centers: Mapping[str, Vectors]) -> bytes:
    """The means for a table's metadata."""
    return json.dumps({name: center.tolist() for name, center in centers.items()}).encode()


def _example(kind: pa.DataType) -> NDArray[Any]:
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return np.zeros(0, object)
    return np.zeros(0, kind.to_pandas_dtype())
