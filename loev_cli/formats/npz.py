"""``.npz``: one numpy array per column; loads with ``allow_pickle=False``.

Rows come one by one but a zip member is a whole column, so columns are collected in unnamed
files beside the output and put together at the end. Nothing is held in memory.
"""

from __future__ import annotations

import contextlib
import os
import struct
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from loev_cli.annotations import COLUMNS
from loev_cli.errors import OutputError
from loev_cli.formats.base import EmbeddingFile, Row, RowWriter, Target
from loev_cli.formats.meta import (
    Meta,
    annotation_columns,
    damaged,
    from_json,
    keeps_windows,
    not_ours,
    tag_columns,
    to_json,
)
from loev_cli.storage.npz import NPZ_ERRORS, Archive, Header, check_text

_CHUNK_N_BYTES = 1 << 17
_COUNT = struct.Struct("<I")
_MAX_META_N_BYTES = 4 << 20


class Writer(RowWriter):
    """Appends each row to its columns' files, and joins them to a zip file in the end."""

    def __init__(self, target: Target, meta: Meta) -> None:
        super().__init__(target, meta)
        self._n_tracks = 0
        self._n_records = 0
        self._tags = tag_columns(meta)
        self._annotations = annotation_columns(meta)
        texts = [name for name in self._annotations if isinstance(COLUMNS[name], str)]
        self._longest = dict.fromkeys(("path", *self._tags, *texts), 1)  # characters
        columns: dict[str, tuple[int, ...]] = {
            **dict.fromkeys(self._longest, ()),
            "duration_s": (),
            "silent": (),
            **{name: () for name in self._annotations if name not in texts},
        }
        if self.keeps_windows:
            columns |= {"track": (), "start_s": ()}
        self._shapes: dict[str, tuple[int, ...]] = columns | {
            name: (dim,) for name, dim in meta["subspaces"].items()
        }
        folder = Path(os.path.realpath(target.name)).parent
        try:
            self._columns = {name: _spool(folder) for name in self._shapes}
        except OSError as error:
            target.abort()
            raise OutputError(f"cannot write {target.name}: {error.strerror}") from error

    def _add(self, row: Row) -> None:
        self._append_text("path", row.path)
        for column, tag in self._tags.items():
            self._append_text(column, row.tags.get(tag, ""))
        for column in self._annotations:
            value = row.annotations[column]
            if isinstance(value, str):
                self._append_text(column, value)
            else:
                self._append(column, np.float32(value))
        self._append("duration_s", np.float32(row.duration_s))
        self._append("silent", np.bool_(row.silent))
        n_records = 1
        if row.start_s is not None:
            n_records = len(row.start_s)
            self._append("track", np.full(n_records, self._n_tracks, np.int64))
            self._append("start_s", np.asarray(row.start_s, np.float32))
        for name in self.meta["subspaces"]:
            self._append(name, np.ascontiguousarray(row.vectors[name], np.float32))
        self._n_tracks += 1
        self._n_records += n_records

    def _append_text(self, column: str, text: str) -> None:
        content = text.encode("utf-32-le", "surrogatepass")
        self._longest[column] = max(self._longest[column], len(text))
        self._columns[column].write(_COUNT.pack(len(content)) + content)

    def _append(self, column: str, values: Any) -> None:
        self._columns[column].write(values.tobytes())

    def _finish(self) -> None:
        types = {"silent": "|b1", "track": "<i8"}
        types |= {column: f"<U{longest}" for column, longest in self._longest.items()}
        per_track = {*self._longest, "duration_s", "silent", *self._annotations}
        with zipfile.ZipFile(self._target.stream, "w", zipfile.ZIP_STORED) as archive:
            _write_array(archive, "meta", np.array(to_json(self.meta)))
            for name, shape in self._shapes.items():
                n = self._n_tracks if name in per_track else self._n_records
                with _member(archive, name, types.get(name, "<f4"), (n, *shape)) as member:
                    spool = self._columns[name]
                    spool.seek(0)
                    width = self._longest.get(name)
                    for chunk in _chunks(spool) if width is None else _texts(spool, width):
                        member.write(chunk)
                    spool.close()  # gives its space back before the next column needs some

    def _discard(self) -> None:
        for spool in self._columns.values():
            with contextlib.suppress(OSError):  # closing writes the rest, for which no space may be
                spool.close()


def _spool(folder: Path) -> IO[bytes]:
    return tempfile.TemporaryFile(dir=folder, prefix=".loev.", suffix=".tmp")


def _chunks(stream: IO[bytes]) -> Iterator[bytes]:
    while chunk := stream.read(_CHUNK_N_BYTES):
        yield chunk


def _texts(stream: IO[bytes], width: int) -> Iterator[bytes]:
    while head := stream.read(_COUNT.size):
        yield stream.read(_COUNT.unpack(head)[0]).ljust(4 * width, b"\0")


@contextlib.contextmanager
def _member(
    archive: zipfile.ZipFile, name: str, dtype: str, shape: tuple[int, ...]
) -> Iterator[IO[bytes]]:
    """A member to write the values of an array to, behind the header that numpy reads."""
    with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
        header = {"descr": dtype, "fortran_order": False, "shape": shape}
        npy.write_array_header_1_0(member, header)
        yield member


def _write_array(archive: zipfile.ZipFile, name: str, array: NDArray[Any]) -> None:
    with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
        npy.write_array(member, array, allow_pickle=False)


def read(path: Path) -> EmbeddingFile:
    """See :func:`loev_cli.formats.read`."""
    with _opened(path) as (columns, meta):
        windows = keeps_windows(meta)
        return EmbeddingFile(
            paths=[str(name) for name in columns.load("path")],
            duration_s=columns.load("duration_s"),
            silent=columns.load("silent"),
            vectors={name: columns.load(name) for name in meta["subspaces"]},
            meta=meta,
            track=_track(columns) if windows else None,
            start_s=columns.load("start_s") if windows else None,
            tags={
                tag: [str(text) for text in columns.load(column)]
                for column, tag in tag_columns(meta).items()
            },
            annotations={name: columns.load(name) for name in annotation_columns(meta)},
        )


def read_meta(path: Path) -> Meta:
    """See :func:`loev_cli.formats.read_meta`."""
    try:
        with Archive(path) as columns:
            if columns.headers["meta"].n_bytes > _MAX_META_N_BYTES:
                raise not_ours(str(path))
            return from_json(str(columns.load("meta")[()]), name=str(path))
    except NPZ_ERRORS as error:
        raise not_ours(str(path)) from error


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[Archive, Meta]]:
    """The columns of an embedding file, their shapes and types checked, and its ``meta``.

    Raises (also of what is done inside):
        UsageError: it is damaged.
    """
    meta = read_meta(path)
    try:
        with Archive(path) as columns:
            _check(columns.headers, meta)
            yield columns, meta
    except NPZ_ERRORS as error:
        raise damaged(path, error) from error


def _check(headers: Mapping[str, Header], meta: Meta) -> None:
    """Raises KeyError or ValueError where a column is not what ``meta`` says."""
    kinds = {"path": "U", "duration_s": "f", "silent": "b"}
    kinds |= dict.fromkeys(tag_columns(meta), "U")
    texts = {name for name in annotation_columns(meta) if isinstance(COLUMNS[name], str)}
    kinds |= {name: "U" if name in texts else "f" for name in annotation_columns(meta)}
    n_tracks = headers["path"].shape[:1]
    n_records = n_tracks
    shapes = dict.fromkeys(kinds, n_tracks)
    if keeps_windows(meta):
        n_records = headers["track"].shape[:1]
        kinds |= {"track": "iu", "start_s": "f"}
        shapes |= {"track": n_records, "start_s": n_records}
    kinds |= dict.fromkeys(meta["subspaces"], "f")
    shapes |= {name: (*n_records, dim) for name, dim in meta["subspaces"].items()}
    for name, kind in kinds.items():
        found, shape = headers[name], shapes[name]
        if found.dtype.kind not in kind or found.shape != shape or not shape:
            raise ValueError(f"column '{name}' is {found.dtype} {found.shape}")


def _track(columns: Archive) -> NDArray[np.int64]:
    """(M,): which track each window is of."""
    track = np.asarray(columns.load("track"), np.int64)
    n_tracks = columns.headers["path"].shape[0]
    if len(track) and not 0 <= track.min() <= track.max() < n_tracks:
        raise ValueError("column 'track' refers to missing tracks")
    return track


def rows(path: Path) -> Iterator[Row]:
    """See :func:`loev_cli.formats.rows`."""
    with contextlib.ExitStack() as stack:
        archive, meta = stack.enter_context(_opened(path))
        windows = keeps_windows(meta)
        tag_of, annotated = tag_columns(meta), annotation_columns(meta)
        per_record = [*meta["subspaces"], *(["track", "start_s"] if windows else [])]
        columns = {
            name: _Column(archive.headers[name], stack.enter_context(archive.values(name)))
            for name in ("path", "duration_s", "silent", *tag_of, *annotated, *per_record)
        }
        for track in range(columns["path"].n):
            name, duration_s, silent = (
                columns[column].take() for column in ("path", "duration_s", "silent")
            )
            tags = {tag: str(columns[column].take()) for column, tag in tag_of.items()}
            annotations = {c: columns[c].take().item() for c in annotated}
            if windows:
                n_windows = columns["track"].run_of(track)
                vectors = {c: columns[c].take_many(n_windows) for c in meta["subspaces"]}
                start_s = columns["start_s"].take_many(n_windows)
            else:
                vectors = {c: columns[c].take() for c in meta["subspaces"]}
                start_s = None
            yield Row(
                str(name),
                float(duration_s),
                bool(silent),
                vectors,
                start_s,
                tags,
                annotations,
            )


class Columns:
    """See :class:`loev_cli.formats.Columns`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with _opened(path) as (columns, self.meta):
            self.names = tuple(name for name in columns.headers if name != "meta")

    def load(self, name: str) -> NDArray[Any]:
        with _opened(self._path) as (columns, meta):
            is_of_windows = name == "track" and keeps_windows(meta)
            return _track(columns) if is_of_windows else columns.load(name)


class _Column:
    """An array (n, ...) in a zip member, read from its beginning to its end a chunk at a time."""

    def __init__(self, header: Header, member: IO[bytes]) -> None:
        (self.n, *rest), self._dtype = header.shape, header.dtype
        if header.is_fortran and rest:
            raise ValueError("a column is not a plain array")
        self._shape = tuple(rest)
        self._member = member
        self._n_left = self.n
        n_bytes = self._dtype.itemsize * int(np.prod(self._shape, dtype=np.int64))
        self._chunk_n = max(1, _CHUNK_N_BYTES // max(1, n_bytes))
        self._chunk: NDArray[Any] = np.zeros((0, *self._shape), self._dtype)

    def take(self) -> Any:
        """The next value, or vector."""
        return self.take_many(1)[0]

    def take_many(self, n: int) -> NDArray[Any]:
        """The next ``n``."""
        self._fill(n)
        taken, self._chunk = self._chunk[:n], self._chunk[n:]
        if len(taken) < n:
            raise ValueError("a column is too short")
        return taken

    def run_of(self, value: int) -> int:
        """Take the values from here on that equal ``value``; how many there were."""
        n = 0
        while True:
            self._fill(1)
            differs = np.flatnonzero(self._chunk != value)
            n_here = int(differs[0]) if len(differs) else len(self._chunk)
            self._chunk = self._chunk[n_here:]
            n += n_here
            if n_here == 0 or len(self._chunk):
                return n

    def _fill(self, n: int) -> None:
        """Have at least ``n`` in the chunk, or all there are."""
        while len(self._chunk) < n and self._n_left:
            n_read = min(self._n_left, self._chunk_n)
            n_values = n_read * int(np.prod(self._shape, dtype=np.int64))
            content = self._member.read(n_values * self._dtype.itemsize)
            more = np.frombuffer(content, self._dtype, count=n_values)
            check_text(more)
            self._chunk = np.concatenate([self._chunk, more.reshape(n_read, *self._shape)])
            self._n_left -= n_read
