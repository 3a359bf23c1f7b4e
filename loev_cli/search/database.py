"""A library as a LanceDB database: larger than memory, with an index per subspace.

    DIR/tracks.lance        the table "tracks" of a LanceDB database: lancedb.connect(DIR) opens it
      path, duration_s, silent, tags...    as in the embedding file
      invariant, pitch, ...                float32 vectors less their mean: x - c
      loev_digest                          hash of the row in the embedding file, to detect changes

The means c are stored in the table's metadata, next to the ``meta`` of the embedding file. Vectors
of a file with windows are the means of its tracks' windows. From :data:`INDEX_FROM_N_ROWS` rows on
every subspace has an index: IVF with 8-bit scalar quantization, by cosine. A search queries the
index of each weighted subspace for many more candidates than results, reads their vectors, and
ranks them exactly as :mod:`loev_cli.search.library` does. Only the choice of the candidates is
approximate.
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
from loev_cli.search.library import Distinct, Hit, Query, Vectors, check_subspace, ranked
from loev_cli.storage.bounded import DATA_ERRORS, parse_json

with needs_extra("a database", "db"):
    import lance
    import pyarrow as pa

TABLE = "tracks"
DIGEST_COLUMN = "loev_digest"
META_KEY, CENTERS_KEY = b"loev", b"loev_centers"
INDEX_FROM_N_ROWS = 50_000

# Candidates from the index per requested result, and the minimum.
_CANDIDATES_PER_HIT = 5
_FEWEST_CANDIDATES = 50
# With several weights the best result may be far down in every single list.
_CANDIDATES_PER_HIT_MIXED = 200
_FEWEST_CANDIDATES_MIXED = 4000
_READ_AT_ONCE = 300
_MAX_N_READ = 1800
_INDEX_ERROR = 0.005  # of a similarity, due to the 8-bit quantization
# Partitions to probe: share of all, and the minimum.
_PROBED_SHARE = 1 / 20
_FEWEST_PROBES = 20
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


def vector_index_name(subspace: str) -> str:
    return f"{subspace}_idx"


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
            self.indexed = {index.name for index in self.table.describe_indices()}
        vectors = set(self.centers)
        self.columns: dict[str, NDArray[Any]] = {
            field.name: _example(field.type)
            for field in self.table.schema
            if field.name not in vectors and field.name != DIGEST_COLUMN
        }
        self.names = (*self.columns, *self.centers)

    @property
    def is_indexed(self) -> bool:
        """Whether every subspace has an index."""
        return all(vector_index_name(name) in self.indexed for name in self.centers)

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
            column = table[name].combine_chunks()
            if pa.types.is_string(column.type):
                column = column.fill_null("")
            values: NDArray[Any] = column.to_numpy(zero_copy_only=False)
            return values[self._order]

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
        """The best candidates of the indexes, ranked exactly.

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
        with lance_errors(self.source):
            if len(query.weights) > 1:
                return self._mixed(vectors, query, where)
            name, weight = next(iter(query.weights.items()))
            n = max(_CANDIDATES_PER_HIT * query.k, _FEWEST_CANDIDATES) + len(query.exclude)
            columns = ["path", "duration_s", *self.centers]
            return self._ranked(
                self._nearest(name, np.sign(weight) * vectors[name], n, where, columns),
                vectors,
                query,
            )

    def _mixed(self, vectors: Mapping[str, Vectors], query: Query, where: str | None) -> list[Hit]:
        """Several weights: the best sum may be far down in every subspace's own list.

        The threshold algorithm (Fagin, Lotem & Naor, 2003): of a row that one list has and another
        lacks, the other's last similarity bounds what it can have there. Rows are read in order of
        the bounds of their sums, until no bound is above the scores found.
        """
        n = max(_CANDIDATES_PER_HIT_MIXED * query.k, _FEWEST_CANDIDATES_MIXED)
        ids_of, similarity_of = {}, {}
        for name, share in query.shares.items():
            found = self._nearest(name, np.sign(share) * vectors[name], n, where, [])
            ids_of[name] = found["_rowid"].to_numpy()
            similarity_of[name] = 1 - found["_distance"].to_numpy()
        ids = np.unique(np.concatenate(list(ids_of.values())))
        bounds = np.zeros(len(ids))
        for name, share in query.shares.items():
            similarity = np.full(len(ids), similarity_of[name].min(initial=1.0))
            similarity[np.searchsorted(ids, ids_of[name])] = similarity_of[name]
            bounds += abs(share) * similarity
        order = np.argsort(-bounds, kind="stable")[:_MAX_N_READ]
        found = self._take(ids[order[:_READ_AT_ONCE]])
        for start in range(_READ_AT_ONCE, len(order), _READ_AT_ONCE):
            hits = self._ranked(found, vectors, query)
            if len(hits) == query.k and hits[-1].score >= bounds[order[start]] + _INDEX_ERROR:
                break
            more = self._take(ids[order[start : start + _READ_AT_ONCE]])
            found = pa.concat_tables([found, more])
        return self._ranked(found, vectors, query)

    def _ranked(self, found: pa.Table, vectors: Mapping[str, Vectors], query: Query) -> list[Hit]:
        """The best of some rows of the table."""
        allowed = [path not in query.exclude for path in found["path"].to_pylist()]
        found = found.filter(pa.array(allowed, pa.bool_()))
        paths, seconds = found["path"].to_pylist(), found["duration_s"].to_numpy()
        matrices = {name: matrix(found, name) for name in vectors}
        hits = ranked(paths, seconds, matrices, vectors, query, np.arange(found.num_rows))
        return [replace(hit, row=-1) for hit in hits]

    def _nearest(
        self, name: str, vector: Vectors, n: int, where: str | None, columns: list[str]
    ) -> pa.Table:
        n_probes = max(_FEWEST_PROBES, round(self._n_partitions(name) * _PROBED_SHARE))
        return self.table.scanner(
            columns=[*columns, "_distance"],
            nearest={
                "column": name,
                "q": np.asarray(vector, np.float32),
                "k": n,
                "metric": "cosine",
                "minimum_nprobes": n_probes,  # more if a filter leaves too few rows
            },
            filter=where,
            prefilter=True,
            with_row_id=True,
        ).to_table()

    def _take(self, ids: NDArray[np.uint64]) -> pa.Table:
        # The public take() wants positions, which cost a scan to find.
        return self.table._take_rows(ids.tolist(), columns=["path", "duration_s", *self.centers])

    def _n_partitions(self, name: str) -> int:
        if name not in self._partitions:
            statistics = self.table.stats.index_stats(vector_index_name(name))
            self._partitions[name] = max(
                (int(part.get("num_partitions", 1)) for part in statistics["indices"]), default=1
            )
        return self._partitions[name]

    @cached_property
    def _partitions(self) -> dict[str, int]:
        return {}

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


def centers_of(text: bytes) -> dict[str, Vectors]:
    """The means from a table's metadata."""
    return {name: np.array(values, np.float32) for name, values in parse_json(text).items()}


def centers_text(centers: Mapping[str, Vectors]) -> bytes:
    """The means for a table's metadata."""
    return json.dumps({name: center.tolist() for name, center in centers.items()}).encode()


def center_of(total: NDArray[np.float64], n_rows: int, distinct: Distinct) -> Vectors:
    """The mean of rows by their sum (D,); as in :mod:`loev_cli.search.library`."""
    if not distinct.enough_for_a_mean:
        return np.zeros(len(total), np.float32)
    return (total / n_rows).astype(np.float32)


def _example(kind: pa.DataType) -> NDArray[Any]:
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return np.zeros(0, object)
    return np.zeros(0, kind.to_pandas_dtype())
