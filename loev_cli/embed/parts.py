"""Files of checksummed records: rows that are done, and the index of those in an output.

    file     LOEVROW1 (8 bytes), sha256 of what it belongs to (32 bytes), record, record, ...
    record   length and CRC-32 of the rest (2 x uint32), length of the JSON (uint32),
             JSON: path, size and mtime_ns of the file, duration_s, silent, n_windows, tags,
             annotations,
             then float32, little-endian: the subspaces in the model's order, and start_s

A record is appended by one write, so it is there whole once it is done, whatever happens to the
process; a power failure may tear what was not yet on the disk. A record that does not fit its
checksum, and what follows it, is not read. A file that belongs to something else is not either.
"""

from __future__ import annotations

import errno
import json
import os
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from loev_cli.errors import UsageError
from loev_cli.formats import Row
from loev_cli.storage.bounded import DATA_ERRORS, parse_json
from loev_cli.storage.own import own

_MAGIC = b"LOEVROW1"
_HEADER_N_BYTES = len(_MAGIC) + 32
_RECORD = struct.Struct("<III")
_CHECKED = struct.Struct("<I")  # the part of the record's head that the checksum covers
_MAX_RECORD_N_BYTES = 1 << 31


class Stamp(NamedTuple):
    """What tells a changed file from the one that was embedded."""

    size: int
    mtime_ns: int


class ForeignError(Exception):
    """The file is not a part, or belongs to a run with different settings."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a row's record begins, and of which file it is."""

    path: str
    stamp: Stamp | None
    offset: int


class PartWriter:
    """Appends records to a new file. Raises OSError.

    Args:
        file: must not exist.
        owner: sha256 digest of what the records belong to.
    """

    def __init__(self, file: Path, owner: bytes) -> None:
        self.file = file
        self._descriptor = os.open(
            file, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666
        )
        self._end = 0
        self._append(_MAGIC + owner)

    def add(self, path: str, stamp: Stamp | None, row: Row | None = None) -> Place:
        """Append one record; without a row only the path and the stamp."""
        head: dict[str, Any] = {"path": path}
        if stamp is not None:
            head |= stamp._asdict()
        arrays: list[bytes] = []
        if row is not None:
            n_windows = None if row.start_s is None else len(row.start_s)
            head |= {"duration_s": row.duration_s, "silent": row.silent, "n_windows": n_windows}
            if row.tags:
                head["tags"] = dict(row.tags)
            if row.annotations:
                head["annotations"] = dict(row.annotations)
            arrays = [_to_bytes(vector) for vector in row.vectors.values()]
            if row.start_s is not None:
                arrays.append(_to_bytes(row.start_s))
        text = json.dumps(head, ensure_ascii=False).encode("utf-8", "surrogatepass")
        body = b"".join([_CHECKED.pack(len(text)), text, *arrays])
        place = Place(path, stamp, self._end)
        self._append(_RECORD.pack(len(body), zlib.crc32(body), len(text)) + body[_CHECKED.size :])
        return place

    def sync(self) -> None:
        """Put what was added on the disk."""
        os.fsync(self._descriptor)

    def close(self) -> None:
        os.close(self._descriptor)

    def _append(self, content: bytes) -> None:
        view = memoryview(content)
        try:
            while view:
                n_written = os.write(self._descriptor, view)
                if n_written == 0:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                view = view[n_written:]
        except OSError:
            os.ftruncate(self._descriptor, self._end)
            os.lseek(self._descriptor, self._end, os.SEEK_SET)
            raise
        self._end += len(content)


class Part:
    """A file of records, opened to read.

    Args:
        owners: what its records may belong to.

    Attributes:
        torn: why not everything in it could be read; None if it could. Known after :meth:`places`.

    Raises:
        ForeignError: it is not a part, or of none of the owners.
        OutputError: it is a link, or not a regular file.
        OSError: it cannot be read.
    """

    def __init__(self, file: Path, *owners: bytes) -> None:
        self.file = file
        self.torn: str | None = None
        self._stream = open(file, "rb", opener=own)  # noqa: SIM115
        header = self._stream.read(_HEADER_N_BYTES)
        if header not in [_MAGIC + owner for owner in owners]:
            self._stream.close()
            whole = len(header) == _HEADER_N_BYTES and header.startswith(_MAGIC)
            raise ForeignError(
                "belongs to different settings" if whole else "is not part of a journal"
            )

    def places(self) -> Iterator[Place]:
        """Where each record is, in order, up to the first that is damaged."""
        offset = _HEADER_N_BYTES
        while True:
            body = self._body(offset)
            if body is None:
                return
            try:
                head = _head(body)
                stamp = Stamp(head["size"], head["mtime_ns"]) if "size" in head else None
                place = Place(str(head["path"]), stamp, offset)
            except DATA_ERRORS:
                self.torn = f"the record at byte {offset} is damaged"
                return
            yield place
            offset += _RECORD.size - _CHECKED.size + len(body)

    def row(self, place: Place, subspaces: Mapping[str, int]) -> Row:
        """The row of a place that :meth:`places` gave.

        Raises:
            UsageError: the file has changed since, or the record is not one of a row.
        """
        body = self._body(place.offset)
        if body is None:
            raise UsageError(f"{self.file} was damaged while in use")
        try:
            return _row(body, subspaces)
        except DATA_ERRORS as error:
            raise UsageError(
                f"{self.file} is damaged: the record at byte {place.offset} is not a row",
                hint="--overwrite discards it",
            ) from error

    def _body(self, offset: int) -> bytes | None:
        """The checksummed part of the record at ``offset``; None at the end or at damage."""
        self._stream.seek(offset)
        head = self._stream.read(_RECORD.size)
        if not head:
            return None
        if len(head) == _RECORD.size:
            n_bytes, checksum, n_text = _RECORD.unpack(head)
            # A damaged length must not ask for memory that no record needs.
            n_left = os.fstat(self._stream.fileno()).st_size - self._stream.tell() + _CHECKED.size
            if _CHECKED.size <= n_bytes <= min(n_left, _MAX_RECORD_N_BYTES):
                body = _CHECKED.pack(n_text) + self._stream.read(n_bytes - _CHECKED.size)
                if len(body) == n_bytes and zlib.crc32(body) == checksum:
                    return body
        self.torn = f"the record at byte {offset} is damaged or cut off"
        return None

    def close(self) -> None:
        self._stream.close()


def _row(body: bytes, subspaces: Mapping[str, int]) -> Row:
    head = _head(body)
    start = _CHECKED.size + _CHECKED.unpack_from(body)[0]
    values = np.frombuffer(body, "<f4", offset=start)
    n_windows = head["n_windows"]
    vectors, at = {}, 0
    for name, dim in subspaces.items():
        shape = (dim,) if n_windows is None else (n_windows, dim)
        n_values = dim * (1 if n_windows is None else n_windows)
        vectors[name] = values[at : at + n_values].reshape(shape).astype(np.float32, copy=False)
        at += n_values
    start_s = None if n_windows is None else values[at:].astype(np.float32, copy=False)
    return Row(
        head["path"],
        head["duration_s"],
        head["silent"],
        vectors,
        start_s,
        head.get("tags", {}),
        head.get("annotations", {}),
    )


def _head(body: bytes) -> dict[str, Any]:
    (n_text,) = _CHECKED.unpack_from(body)
    text = body[_CHECKED.size : _CHECKED.size + n_text]
    return dict(parse_json(text.decode("utf-8", "surrogatepass")))


def _to_bytes(values: Any) -> bytes:
    return bytes(np.ascontiguousarray(values, "<f4").tobytes())
