"""``.lance``: a Lance dataset, which is a folder, of the tables of :mod:`loev_cli.writers.tables`.

Rows are collected in an unnamed file beside the output and become the dataset in the end, since
Lance wants to be given them and not to wait for them. Nothing is held in memory.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from loev_cli.errors import UsageError, needs_extra
from loev_cli.writers.atomic import AtomicFolder
from loev_cli.writers.base import EmbeddingFile, Row, RowWriter
from loev_cli.writers.meta import Meta
from loev_cli.writers.tables import Tabulator, embedding_file, meta_of, rows_of

with needs_extra("a .lance file", "db"):
    import lance

_READ_N_RECORDS = 1024
_ERRORS = (OSError, KeyError, ValueError, RuntimeError, pa.ArrowException)


class Writer(RowWriter):
    """Appends tables to the unnamed file, and makes the dataset of them in the end."""

    def __init__(self, target: AtomicFolder, meta: Meta) -> None:
        super().__init__(target, meta)
        self._folder = target.folder
        self._tabulator = Tabulator(meta)
        self._spool = pa.ipc.new_stream(target.stream, self._tabulator.schema)

    def _add(self, row: Row) -> None:
        self._write(self._tabulator.add(row))

    def _finish(self) -> None:
        self._write(self._tabulator.flush())
        self._spool.close()
        self._target.stream.seek(0)
        try:
            lance.write_dataset(pa.ipc.open_stream(self._target.stream), str(self._folder))
        except (ValueError, RuntimeError) as error:
            raise OSError(str(error)) from error

    def _discard(self) -> None:
        # Closing writes an end, which may fail where writing failed before.
        try:
            self._spool.close()
        except (OSError, ValueError):
            return

    def _write(self, table: pa.Table | None) -> None:
        if table is not None:
            self._spool.write_table(table)


def read(path: Path) -> EmbeddingFile:
    """See :func:`loev_cli.writers.read`."""
    meta = read_meta(path)
    with _reading(path):
        return embedding_file(lance.dataset(str(path)).to_table(), meta)


def rows(path: Path) -> Iterator[Row]:
    """See :func:`loev_cli.writers.rows`."""
    meta = read_meta(path)
    with _reading(path):
        batches = lance.dataset(str(path)).to_batches(batch_size=_READ_N_RECORDS)
        yield from rows_of(batches, meta)


def read_meta(path: Path) -> Meta:
    """See :func:`loev_cli.writers.read_meta`."""
    with _reading(path, what="not a loev embedding file, or damaged"):
        schema = lance.dataset(str(path)).schema
    return meta_of(schema, name=str(path))


@contextlib.contextmanager
def _reading(path: Path, *, what: str = "damaged") -> Iterator[None]:
    try:
        yield
    except _ERRORS as error:
        raise UsageError(f"{path} is {what}: {_in_short(error)}") from error
    except BaseException as error:
        # A panic of Lance's Rust code, which damaged files bring about, is no Exception, and its
        # class cannot be imported.
        if type(error).__name__ != "PanicException":
            raise
        raise UsageError(f"{path} is {what}: {_in_short(error)}") from error


def _in_short(error: BaseException) -> str:
    """One line, without the places in Lance's source."""
    return " ".join(str(error).split(", /home/")[0].split())
