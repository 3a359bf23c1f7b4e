"""``.lance``: a Lance dataset, which is a folder, of the tables of :mod:`loev_cli.formats.tables`.

Rows are collected in an unnamed file beside the output and become the dataset in the end, since
Lance wants to be given them and not to wait for them. Nothing is held in memory.

Beside what Lance wrote lies ``loev.json``, the sizes and CRC-32 of those files: Lance and Arrow do
not check theirs, and a damaged one may end the whole process. Files that Lance adds later, such as
an index, are not in it.
"""

from __future__ import annotations

import contextlib
import json
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from loev_cli.errors import needs_extra
from loev_cli.formats.base import EmbeddingFile, Row, RowWriter
from loev_cli.formats.meta import Meta, damaged, not_ours
from loev_cli.storage.atomic import AtomicFolder
from loev_cli.storage.bounded import DATA_ERRORS, parse_json, read_bytes

with needs_extra("a .lance file", "db"):
    import lance
    import pyarrow as pa

    from loev_cli.formats.tables import TableColumns, Tabulator, embedding_file, meta_of, rows_of

_VERSIONS_FOLDER = "_versions"
_CHECKSUMS_FILE = "loev.json"
_CHUNK_N_BYTES = 1 << 20
_READ_N_RECORDS = 1024
_READ_AHEAD_N_BYTES = 32 << 20  # Lance reads 2 GB ahead of who is slow
_ERRORS = (*DATA_ERRORS, OSError, RuntimeError, pa.ArrowException)
_MAX_LIST_N_BYTES = 64 << 20


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
        files = {name: _checksum(self._folder / name) for name in _names(self._folder)}
        (self._folder / _CHECKSUMS_FILE).write_text(json.dumps(files, indent=1) + "\n")

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
    """See :func:`loev_cli.formats.read`."""
    meta = read_meta(path)
    with _reading(path):
        return embedding_file(lance.dataset(str(path)).to_table(), meta)


def rows(path: Path) -> Iterator[Row]:
    """See :func:`loev_cli.formats.rows`."""
    meta = read_meta(path)
    with _reading(path):
        batches = lance.dataset(str(path)).to_batches(
            batch_size=_READ_N_RECORDS, io_buffer_size=_READ_AHEAD_N_BYTES
        )
        yield from rows_of(batches, meta)


def read_meta(path: Path) -> Meta:
    """See :func:`loev_cli.formats.read_meta`."""
    if not (path / _VERSIONS_FOLDER).is_dir():
        raise not_ours(str(path))
    with _reading(path):
        _check(path)
        schema = lance.dataset(str(path)).schema
    return meta_of(schema, name=str(path))


class Columns(TableColumns):
    """See :class:`loev_cli.formats.Columns`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        meta = read_meta(path)
        with _reading(path):
            self._dataset = lance.dataset(str(path))
        super().__init__(meta, self._dataset.schema)

    def _read(self, names: Sequence[str]) -> pa.Table:
        return self._dataset.to_table(columns=list(names))

    def load(self, name: str) -> NDArray[Any]:
        with _reading(self._path):
            return super().load(name)


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except _ERRORS as error:
        raise damaged(path, error) from error
    except BaseException as error:
        # A panic of Lance's Rust code is not an Exception, and its class cannot be imported.
        if type(error).__name__ != "PanicException":
            raise
        raise damaged(path, error) from error


def _check(path: Path) -> None:
    """Raises OSError or ValueError where a file is not as it was written."""
    listed = path / _CHECKSUMS_FILE
    if not listed.is_file():  # a dataset that somebody else's program copied or made
        return
    for name, checksum in dict(parse_json(read_bytes(listed, _MAX_LIST_N_BYTES))).items():
        file = path / name
        if file.is_file() and _checksum(file) != checksum:
            raise ValueError(f"{name} was modified since it was written")


def _names(folder: Path) -> list[str]:
    files = (file for file in folder.rglob("*") if file.is_file())
    return sorted(file.relative_to(folder).as_posix() for file in files)


def _checksum(file: Path) -> list[int]:
    """Size and CRC-32."""
    n_bytes, checksum = 0, 0
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK_N_BYTES):
            n_bytes += len(chunk)
            checksum = zlib.crc32(chunk, checksum)
    return [n_bytes, checksum]
