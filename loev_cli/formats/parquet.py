"""``.parquet``: the tables of :mod:`loev_cli.formats.tables`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from loev_cli.errors import needs_extra
from loev_cli.formats.base import EmbeddingFile, Row, RowWriter, Target
from loev_cli.formats.meta import Meta, damaged, not_ours

with needs_extra("reading or writing .parquet", "parquet"):
    import pyarrow as pa
    import pyarrow.parquet as pq

    from loev_cli.formats.tables import TableColumns, Tabulator, embedding_file, meta_of, rows_of
    from loev_cli.storage.parquet import PARQUET_ERRORS, check_size, read_table

_READ_N_RECORDS = 1024


class Writer(RowWriter):
    """Writes a row group whenever enough records have come together."""

    def __init__(self, target: Target, meta: Meta) -> None:
        super().__init__(target, meta)
        self._tabulator = Tabulator(meta)
        self._parquet = pq.ParquetWriter(
            target.stream, self._tabulator.schema, compression="zstd", use_dictionary=["path"]
        )

    def _add(self, row: Row) -> None:
        self._write(self._tabulator.add(row))

    def _finish(self) -> None:
        self._write(self._tabulator.flush())
        self._parquet.close()

    def _discard(self) -> None:
        # Closing writes a footer, which may fail where writing failed before.
        try:
            self._parquet.close()
        except (OSError, ValueError):
            return

    def _write(self, table: pa.Table | None) -> None:
        if table is not None:
            self._parquet.write_table(table)


def read(path: Path) -> EmbeddingFile:
    """See :func:`loev_cli.formats.read`."""
    meta = read_meta(path)
    try:
        return embedding_file(read_table(path), meta)
    except PARQUET_ERRORS as error:
        raise damaged(path, error) from error


def rows(path: Path) -> Iterator[Row]:
    """See :func:`loev_cli.formats.rows`."""
    meta = read_meta(path)
    try:
        # Unless told not to, it keeps every row group that was read until it is closed.
        with path.open("rb") as stream, pq.ParquetFile(stream, pre_buffer=False) as file:
            check_size(path, file)
            yield from rows_of(file.iter_batches(_READ_N_RECORDS), meta)
    except PARQUET_ERRORS as error:
        raise damaged(path, error) from error


def read_meta(path: Path) -> Meta:
    """See :func:`loev_cli.formats.read_meta`."""
    try:
        schema = pq.read_schema(path)
    except PARQUET_ERRORS as error:
        raise not_ours(str(path)) from error
    return meta_of(schema, name=str(path))


class Columns(TableColumns):
    """See :class:`loev_cli.formats.Columns`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        meta = read_meta(path)
        super().__init__(meta, pq.read_schema(path))

    def _read(self, names: Sequence[str]) -> pa.Table:
        return read_table(self._path, names)

    def load(self, name: str) -> NDArray[Any]:
        try:
            return super().load(name)
        except PARQUET_ERRORS as error:
            raise damaged(self._path, error) from error
