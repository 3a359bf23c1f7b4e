"""Rows <-> Arrow tables, for the formats that hold those: Parquet and Lance.

Without windows there is one record per track; with windows one per window, which repeats its
track's ``path``, ``duration_s``, ``silent``, tags and annotations, and adds ``track`` and
``start_s``. Vectors are fixed-size lists of float32. Annotations that a track does not have are
null. ``meta`` is under ``loev`` in the schema's metadata.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from loev_cli.annotations import COLUMNS
from loev_cli.formats.base import EmbeddingFile, Row, as_column
from loev_cli.formats.meta import (
    Meta,
    annotation_columns,
    from_json,
    keeps_windows,
    not_ours,
    tag_columns,
    to_json,
)

_META_KEY = b"loev"
# Small enough to be held in memory on either side, large enough to be read fast.
_TABLE_N_RECORDS = 4096
_TABLE_N_BYTES = 8 << 20


def schema_of(meta: Meta) -> pa.Schema:
    """The columns of a file with this ``meta``."""
    fields = [("path", pa.string()), ("duration_s", pa.float32()), ("silent", pa.bool_())]
    fields += [(column, pa.string()) for column in tag_columns(meta)]
    fields += [(name, _type_of(name)) for name in annotation_columns(meta)]
    if keeps_windows(meta):
        fields += [("track", pa.int64()), ("start_s", pa.float32())]
    fields += [(name, pa.list_(pa.float32(), dim)) for name, dim in meta["subspaces"].items()]
    return pa.schema(fields, metadata={_META_KEY: to_json(meta)})


def meta_of(schema: pa.Schema, *, name: str) -> Meta:
    """The ``meta`` of the file called ``name``.

    Raises:
        UsageError: it has none, or a newer one.
    """
    metadata = schema.metadata or {}
    if _META_KEY not in metadata:
        raise not_ours(name)
    return from_json(metadata[_META_KEY], name=name)


class Tabulator:
    """Collects rows and makes a table of them whenever enough have come together."""

    def __init__(self, meta: Meta) -> None:
        self.schema = schema_of(meta)
        self._meta = meta
        self._rows: list[Row] = []
        self._n_records = 0
        self._n_tracks = 0
        record_n_bytes = 4 * sum(meta["subspaces"].values())
        self._table_n_records = min(_TABLE_N_RECORDS, max(1, _TABLE_N_BYTES // record_n_bytes))

    def add(self, row: Row) -> pa.Table | None:
        """Take a row; a table of those since the last one, if they are enough."""
        self._rows.append(row)
        self._n_records += 1 if row.start_s is None else len(row.start_s)
        return self.flush() if self._n_records >= self._table_n_records else None

    def flush(self) -> pa.Table | None:
        """A table of the rows since the last one, if there are any."""
        rows, self._rows, self._n_records = self._rows, [], 0
        if not rows:
            return None
        columns = self._columns(rows)
        self._n_tracks += len(rows)
        return pa.Table.from_arrays(
            [columns[field.name].cast(field.type) for field in self.schema], schema=self.schema
        )

    def _columns(self, rows: Sequence[Row]) -> dict[str, pa.Array]:
        counts = [1 if row.start_s is None else len(row.start_s) for row in rows]
        of_record = np.repeat(np.arange(len(rows)), counts)
        row_of = [rows[i] for i in of_record.tolist()]
        columns: dict[str, pa.Array] = {
            "path": pa.array([row.path for row in row_of], pa.string()),
            "duration_s": pa.array([row.duration_s for row in row_of], pa.float32()),
            "silent": pa.array([row.silent for row in row_of], pa.bool_()),
        }
        for column, tag in tag_columns(self._meta).items():
            columns[column] = pa.array([row.tags.get(tag, "") for row in row_of], pa.string())
        for name in annotation_columns(self._meta):
            said = [_or_none(row.annotations[name]) for row in row_of]
            columns[name] = pa.array(said, _type_of(name))
        if keeps_windows(self._meta):
            columns["track"] = pa.array(of_record + self._n_tracks, pa.int64())
            starts = [row.start_s for row in rows if row.start_s is not None]
            columns["start_s"] = pa.array(np.concatenate(starts), pa.float32())
        for name, dim in self._meta["subspaces"].items():
            flat = np.concatenate([row.vectors[name].reshape(-1) for row in rows])
            columns[name] = pa.FixedSizeListArray.from_arrays(pa.array(flat, pa.float32()), dim)
        return columns


def embedding_file(table: pa.Table, meta: Meta) -> EmbeddingFile:
    """A whole file. Raises KeyError, ValueError or ArrowException where the table is damaged."""
    vectors = {name: _matrix(table, name, dim) for name, dim in meta["subspaces"].items()}
    paths = table["path"].to_pylist()
    tags = {tag: table[column].to_pylist() for column, tag in tag_columns(meta).items()}
    annotations = {
        name: as_column(name, table[name].to_pylist()) for name in annotation_columns(meta)
    }
    duration_s, silent = column_values(table["duration_s"]), column_values(table["silent"])
    if not keeps_windows(meta):
        return EmbeddingFile(
            paths, duration_s, silent, vectors, meta, tags=tags, annotations=annotations
        )
    _, first, track = np.unique(
        column_values(table["track"]), return_index=True, return_inverse=True
    )
    return EmbeddingFile(
        paths=[paths[i] for i in first],
        duration_s=duration_s[first],
        silent=silent[first],
        vectors=vectors,
        meta=meta,
        track=track.astype(np.int64, copy=False),
        start_s=column_values(table["start_s"]),
        tags={tag: [texts[i] for i in first] for tag, texts in tags.items()},
        annotations={name: said[first] for name, said in annotations.items()},
    )


def rows_of(batches: Iterable[pa.RecordBatch], meta: Meta) -> Iterator[Row]:
    """The rows of a file's batches, one by one. Raises as :func:`embedding_file`."""
    tables = (pa.Table.from_batches([batch]) for batch in batches)
    if keeps_windows(meta):
        yield from _joined(stretch for table in tables for stretch in _by_track(table, meta))
    else:
        for table in tables:
            yield from _by_record(table, meta)


def _by_record(table: pa.Table, meta: Meta) -> Iterator[Row]:
    paths = table["path"].to_pylist()
    duration_s, silent = table["duration_s"].to_pylist(), table["silent"].to_pylist()
    vectors = {name: _matrix(table, name, dim) for name, dim in meta["subspaces"].items()}
    texts = {tag: table[column].to_pylist() for column, tag in tag_columns(meta).items()}
    said = {name: table[name].to_pylist() for name in annotation_columns(meta)}
    for i, path in enumerate(paths):
        tags = {tag: texts[tag][i] for tag in texts}
        vectors_here = {name: v[i] for name, v in vectors.items()}
        annotations = {name: _or_missing(name, said[name][i]) for name in said}
        yield Row(path, duration_s[i], silent[i], vectors_here, tags=tags, annotations=annotations)


def _by_track(table: pa.Table, meta: Meta) -> Iterator[tuple[int, Row]]:
    """(track, row) for every stretch of windows of one track; a track may go on in the next
    table."""
    track, start_s = column_values(table["track"]), column_values(table["start_s"])
    firsts = [0, *(np.flatnonzero(np.diff(track)) + 1), len(track)]
    vectors = {name: _matrix(table, name, dim) for name, dim in meta["subspaces"].items()}
    tag_of = tag_columns(meta)
    for first, end in itertools.pairwise(firsts):
        yield (
            int(track[first]),
            Row(
                table["path"][first].as_py(),
                table["duration_s"][first].as_py(),
                table["silent"][first].as_py(),
                {name: v[first:end] for name, v in vectors.items()},
                start_s[first:end],
                {tag: table[column][first].as_py() for column, tag in tag_of.items()},
                {c: _or_missing(c, table[c][first].as_py()) for c in annotation_columns(meta)},
            ),
        )


def _joined(stretches: Iterator[tuple[int, Row]]) -> Iterator[Row]:
    for _, group in itertools.groupby(stretches, key=lambda stretch: stretch[0]):
        parts = [row for _, row in group]
        starts = [row.start_s for row in parts if row.start_s is not None]
        vectors = {
            name: np.concatenate([r.vectors[name] for r in parts]) for name in parts[0].vectors
        }
        yield replace(parts[0], vectors=vectors, start_s=np.concatenate(starts))


def _type_of(annotation: str) -> pa.DataType:
    return pa.string() if isinstance(COLUMNS[annotation], str) else pa.float32()


def _or_none(value: float | str) -> float | str | None:
    """A null where there is no value: NaN would count as a number to whoever filters."""
    return None if value != value or value == "" else value


def _or_missing(name: str, value: float | str | None) -> float | str:
    return COLUMNS[name] if value is None else value


class TableColumns(ABC):
    """Columns of a table that is read a column at a time; see :class:`loev_cli.formats.Columns`.

    Where windows are kept, what a table repeats for every window of a track is given once.
    """

    def __init__(self, meta: Meta, schema: pa.Schema) -> None:
        self.meta = meta
        self.names = tuple(schema.names)
        self._per_window = {"track", "start_s", *meta["subspaces"]}
        self._first: NDArray[np.int64] | None = None  # of every track's records

    @abstractmethod
    def _read(self, names: Sequence[str]) -> pa.Table: ...

    def load(self, name: str) -> NDArray[Any]:
        table = self._read([name])
        if name in self.meta["subspaces"]:
            return _matrix(table, name, self.meta["subspaces"][name])
        column = column_values(table[name])
        if name == "track" and keeps_windows(self.meta):  # as an index, whatever it counts from
            return np.asarray(np.unique(column, return_inverse=True)[1], np.int64)
        if not keeps_windows(self.meta) or name in self._per_window:
            return column
        if self._first is None:
            track = column_values(self._read(["track"])["track"])
            self._first = np.asarray(np.unique(track, return_index=True)[1], np.int64)
        return column[self._first]


def _matrix(table: pa.Table, name: str, dim: int) -> NDArray[np.float32]:
    flat = column_values(table[name].combine_chunks().flatten())
    return np.asarray(flat, np.float32).reshape(len(table), dim)


def column_values(column: pa.Array | pa.ChunkedArray) -> NDArray[Any]:
    """A column as it is in NumPy: NaN and empty texts where there is nothing.

    Not by ``to_numpy``, which imports pandas wherever that is installed, a third of a second.
    """
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    kind = array.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return np.array([text or "" for text in array.to_pylist()], dtype=object)
    if pa.types.is_boolean(kind) and not array.null_count:
        return np.from_dlpack(array.cast(pa.uint8())).astype(np.bool_)
    if pa.types.is_floating(kind) and array.null_count:
        array = array.fill_null(math.nan)
    if (pa.types.is_floating(kind) or pa.types.is_integer(kind)) and not array.null_count:
        return np.from_dlpack(array)
    return np.asarray(array.to_numpy(zero_copy_only=False))
