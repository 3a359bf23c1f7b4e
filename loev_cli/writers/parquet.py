"""``.parquet``: fixed-size lists of float32, ``meta`` under ``loev`` in the schema's metadata.

Without windows there is one record per track; with windows one per window, which repeats its
track's ``path``, ``duration_s`` and ``silent`` and adds ``track`` and ``start_s``.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from loev_cli.errors import UsageError
from loev_cli.writers.base import EmbeddingFile, Row, RowWriter, Target
from loev_cli.writers.meta import Meta, from_json, keeps_windows, not_ours, to_json

_META_KEY = b"loev"
# Small enough to be held in memory on either side, large enough to be read fast.
_GROUP_N_RECORDS = 4096
_GROUP_N_BYTES = 8 << 20
_READ_N_RECORDS = 1024


class Writer(RowWriter):
    """Writes a row group whenever enough records have come together."""

    def __init__(self, target: Target, meta: Meta) -> None:
        super().__init__(target, meta)
        self._rows: list[Row] = []
        self._n_records = 0
        self._n_tracks = 0
        record_n_bytes = 4 * sum(meta["subspaces"].values())
        self._group_n_records = min(_GROUP_N_RECORDS, max(1, _GROUP_N_BYTES // record_n_bytes))
        self._schema = _schema(meta)
        self._parquet = pq.ParquetWriter(
            target.stream, self._schema, compression="zstd", use_dictionary=["path"]
        )

    def _add(self, row: Row) -> None:
        self._rows.append(row)
        self._n_records += 1 if row.start_s is None else len(row.start_s)
        if self._n_records >= self._group_n_records:
            self._flush()

    def _finish(self) -> None:
        self._flush()
        self._parquet.close()

    def _discard(self) -> None:
        # Closing writes a footer, which may fail where writing failed before.
        try:
            self._parquet.close()
        except (OSError, ValueError):
            return

    def _flush(self) -> None:
        rows, self._rows, self._n_records = self._rows, [], 0
        if not rows:
            return
        counts = [1 if row.start_s is None else len(row.start_s) for row in rows]
        of_record = np.repeat(np.arange(len(rows)), counts)
        columns: dict[str, pa.Array] = {
            "path": pa.array([rows[i].path for i in of_record], pa.string()),
            "duration_s": pa.array([rows[i].duration_s for i in of_record], pa.float32()),
            "silent": pa.array([rows[i].silent for i in of_record], pa.bool_()),
        }
        if self.keeps_windows:
            columns["track"] = pa.array(of_record + self._n_tracks, pa.int64())
            starts = [row.start_s for row in rows if row.start_s is not None]
            columns["start_s"] = pa.array(np.concatenate(starts), pa.float32())
        for name, dim in self.meta["subspaces"].items():
            flat = np.concatenate([row.vectors[name].reshape(-1) for row in rows])
            columns[name] = pa.FixedSizeListArray.from_arrays(pa.array(flat, pa.float32()), dim)
        self._n_tracks += len(rows)
        table = pa.Table.from_arrays(
            [columns[name].cast(self._schema.field(name).type) for name in self._schema.names],
            schema=self._schema,
        )
        self._parquet.write_table(table)


def _schema(meta: Meta) -> pa.Schema:
    fields = [("path", pa.string()), ("duration_s", pa.float32()), ("silent", pa.bool_())]
    if keeps_windows(meta):
        fields += [("track", pa.int64()), ("start_s", pa.float32())]
    fields += [(name, pa.list_(pa.float32(), dim)) for name, dim in meta["subspaces"].items()]
    return pa.schema(fields, metadata={_META_KEY: to_json(meta)})


def read(path: Path) -> EmbeddingFile:
    """See :func:`loev_cli.writers.read`."""
    meta = read_meta(path)
    try:
        # Opened here: given a path, pyarrow reads `key=value` folders in it as columns.
        with path.open("rb") as stream:
            table = pq.read_table(stream)
        vectors = {name: _matrix(table, name, dim) for name, dim in meta["subspaces"].items()}
        paths = table["path"].to_pylist()
        duration_s = table["duration_s"].to_numpy()
        silent = table["silent"].to_numpy()
        if not keeps_windows(meta):
            return EmbeddingFile(paths, duration_s, silent, vectors, meta)
        track = table["track"].to_numpy()
        start_s = table["start_s"].to_numpy()
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:
        raise UsageError(f"{path} is damaged: {error}") from error
    _, first = np.unique(track, return_index=True)
    return EmbeddingFile(
        paths=[paths[i] for i in first],
        duration_s=duration_s[first],
        silent=silent[first],
        vectors=vectors,
        meta=meta,
        track=track,
        start_s=start_s,
    )


def rows(path: Path) -> Iterator[Row]:
    """See :func:`loev_cli.writers.rows`."""
    meta = read_meta(path)
    try:
        with path.open("rb") as stream, pq.ParquetFile(stream) as file:
            batches = (
                pa.Table.from_batches([batch]) for batch in file.iter_batches(_READ_N_RECORDS)
            )
            if keeps_windows(meta):
                yield from _joined(
                    stretch for table in batches for stretch in _by_track(table, meta)
                )
            else:
                for table in batches:
                    yield from _rows_of(table, meta)
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:
        raise UsageError(f"{path} is damaged: {error}") from error


def _rows_of(table: pa.Table, meta: Meta) -> Iterator[Row]:
    paths = table["path"].to_pylist()
    duration_s, silent = table["duration_s"].to_pylist(), table["silent"].to_pylist()
    vectors = {name: _matrix(table, name, dim) for name, dim in meta["subspaces"].items()}
    for i, path in enumerate(paths):
        yield Row(path, duration_s[i], silent[i], {name: v[i] for name, v in vectors.items()})


def _by_track(table: pa.Table, meta: Meta) -> Iterator[tuple[int, Row]]:
    """(track, row) for every stretch of windows of one track; a track may go on in the next
    table."""
    track, start_s = table["track"].to_numpy(), table["start_s"].to_numpy()
    firsts = [0, *(np.flatnonzero(np.diff(track)) + 1), len(track)]
    vectors = {name: _matrix(table, name, dim) for name, dim in meta["subspaces"].items()}
    for first, end in itertools.pairwise(firsts):
        yield (
            int(track[first]),
            Row(
                table["path"][first].as_py(),
                table["duration_s"][first].as_py(),
                table["silent"][first].as_py(),
                {name: v[first:end] for name, v in vectors.items()},
                start_s[first:end],
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


def read_meta(path: Path) -> Meta:
    """See :func:`loev_cli.writers.read_meta`."""
    try:
        metadata = pq.read_schema(path).metadata or {}
    except (OSError, ValueError, pa.ArrowException) as error:
        raise not_ours(str(path)) from error
    if _META_KEY not in metadata:
        raise not_ours(str(path))
    return from_json(metadata[_META_KEY], name=str(path))


def _matrix(table: pa.Table, name: str, dim: int) -> NDArray[np.float32]:
    column = table[name].combine_chunks()
    flat: NDArray[np.float32] = np.asarray(column.flatten(), dtype=np.float32)
    return flat.reshape(len(table), dim)
