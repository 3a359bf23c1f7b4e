"""``.jsonl``: one JSON object per track and line, each with its own ``meta``.

    {"path": "a.mp3", "duration_s": 3.0, "silent": false, "pitch": [...], ..., "meta": {...}}

Annotations that a track does not have are null. With windows ``start_s`` is a list and each
subspace a list of vectors. Numbers are the shortest that round-trip as float32. A file without
tracks has one line with nothing but ``meta``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loev_cli.errors import UsageError
from loev_cli.formats.base import EmbeddingFile, Row, RowWriter, Target, as_column
from loev_cli.formats.meta import (
    ANNOTATIONS,
    ONNX_SHA256,
    Meta,
    annotation_columns,
    check_agree,
    checked,
    damaged,
    keeps_windows,
    not_ours,
    tag_columns,
)
from loev_cli.storage.bounded import DATA_ERRORS, check_depth, lines_of, parse_json

# A day of windows is a tenth of it.
_MAX_LINE_N_BYTES = 1 << 30


class Writer(RowWriter):
    """Writes and flushes every row as it comes, so that a pipe sees results at once."""

    _is_empty = True

    def __init__(self, target: Target, meta: Meta) -> None:
        super().__init__(target, meta)
        self._tags = tag_columns(meta)
        self._annotations = annotation_columns(meta)

    def _add(self, row: Row) -> None:
        record: dict[str, Any] = {
            "path": row.path,
            "duration_s": _shortest(np.float32(row.duration_s)),
            "silent": row.silent,
        }
        record |= {column: row.tags.get(tag, "") for column, tag in self._tags.items()}
        for column in self._annotations:
            value = row.annotations[column]
            if isinstance(value, float):
                value = _shortest(np.float32(value))
            record[column] = None if value != value or value == "" else value
        if row.start_s is not None:
            record["start_s"] = _shortest(row.start_s)
        for name in self.meta["subspaces"]:
            record[name] = _shortest(row.vectors[name])
        self._write(record)

    def _finish(self) -> None:
        if self._is_empty:
            self._write({})

    def _write(self, record: dict[str, Any]) -> None:
        self._is_empty = False
        record["meta"] = self.meta
        line = json.dumps(record, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        self._target.stream.write(line.encode() + b"\n")
        self._target.stream.flush()


def _shortest(values: Any) -> Any:
    """float32 -> Python floats that print as short as a float32 can, nested as the array is."""
    if isinstance(values, np.ndarray):
        return [_shortest(value) for value in values]
    return float(str(values))


def read(path: Path) -> EmbeddingFile:
    """See :func:`loev_cli.formats.read`."""
    meta: Meta | None = None
    records = []
    for _, record in _agreeing_records(path):
        meta = meta or record["meta"]
        if "path" in record:
            records.append(record)
    if meta is None:
        raise not_ours(str(path))
    try:
        return _assemble(records, meta)
    except DATA_ERRORS as error:
        raise damaged(path, error) from error


class Columns:
    """See :class:`loev_cli.formats.Columns`. The file is read whole: text has no columns."""

    def __init__(self, path: Path) -> None:
        file = read(path)
        self.meta = file.meta
        self._columns: dict[str, NDArray[Any]] = {
            "path": np.array(file.paths, dtype=object),
            "duration_s": file.duration_s,
            "silent": file.silent,
        }
        for column, tag in tag_columns(file.meta).items():
            self._columns[column] = np.array(file.tags[tag], dtype=object)
        self._columns |= file.annotations
        if file.track is not None and file.start_s is not None:
            self._columns |= {"track": file.track, "start_s": file.start_s}
        self._columns |= file.vectors
        self.names = tuple(self._columns)

    def load(self, name: str) -> NDArray[Any]:
        return self._columns[name]


def _assemble(records: list[dict[str, Any]], meta: Meta) -> EmbeddingFile:
    found = sorted((_row(record) for record in records), key=lambda row: row.path)
    windows = keeps_windows(meta)
    vectors: dict[str, NDArray[np.float32]] = {}
    for name, dim in meta["subspaces"].items():
        parts = [row.vectors[name].reshape(-1, dim) for row in found]
        vectors[name] = np.concatenate([np.zeros((0, dim), np.float32), *parts])
    starts = [row.start_s for row in found if row.start_s is not None]
    track = np.repeat(np.arange(len(starts), dtype=np.int64), [len(start) for start in starts])
    return EmbeddingFile(
        paths=[row.path for row in found],
        duration_s=np.array([row.duration_s for row in found], dtype=np.float32),
        silent=np.array([row.silent for row in found], dtype=np.bool_),
        vectors=vectors,
        meta=meta,
        track=track if windows else None,
        start_s=np.concatenate([np.zeros(0, np.float32), *starts]) if windows else None,
        tags={tag: [row.tags[tag] for row in found] for tag in tag_columns(meta).values()},
        annotations={
            name: as_column(name, [row.annotations[name] for row in found])
            for name in annotation_columns(meta)
        },
    )


def rows(path: Path) -> Iterator[Row]:
    """See :func:`loev_cli.formats.rows`. Lines may come in any order: they are visited in that
    of their paths."""
    places = sorted(
        (str(record["path"]), offset)
        for offset, record in _agreeing_records(path)
        if "path" in record
    )
    with path.open("rb") as lines:
        for _, offset in places:
            lines.seek(offset)
            try:
                row = _row(parse_json(lines.readline(), max_depth=None))
            except DATA_ERRORS as error:
                raise damaged(path, error) from error
            yield row


def _row(record: dict[str, Any]) -> Row:
    meta: Meta = record["meta"]
    windows = keeps_windows(meta)
    vectors = {}
    for name, dim in meta["subspaces"].items():
        vector = np.asarray(record[name], dtype=np.float32)
        vectors[name] = vector.reshape(-1, dim) if windows else vector.reshape(dim)
    starts = np.asarray(record["start_s"], dtype=np.float32) if windows else None
    tags = {tag: str(record[column]) for column, tag in tag_columns(meta).items()}
    annotations = {
        name: as_column(name, [record[name]])[0].item() for name in annotation_columns(meta)
    }
    return Row(
        str(record["path"]),
        float(np.float32(record["duration_s"])),
        bool(record["silent"]),
        vectors,
        starts,
        tags,
        annotations,
    )


def _agreeing_records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Every line, and where it begins; lines may be those of several runs, concatenated."""
    meta: Meta | None = None
    previous: Meta | None = None
    for number, (offset, record) in enumerate(_records(path), start=1):
        meta = meta or record["meta"]
        if record["meta"] not in (meta, previous):
            previous = record["meta"]
            check_agree({f"{path} line 1": meta, f"line {number}": previous})
            for key in ("subspaces", "tags", ANNOTATIONS):
                if previous.get(key) != meta.get(key):
                    raise UsageError(f"{path} line {number} has a different {key} than line 1")
            if ONNX_SHA256 in previous:
                meta = {ONNX_SHA256: previous[ONNX_SHA256], **meta}
        yield offset, record


def read_meta(path: Path) -> Meta:
    """See :func:`loev_cli.formats.read_meta`. Reads the first line only."""
    for _, record in _records(path):
        return dict(record["meta"])
    raise not_ours(str(path))


def _records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    number, offset = 0, 0
    try:
        with path.open("rb") as lines:
            if lines.peek(1)[:1] != b"{":  # so that no other file is read as one long line
                raise not_ours(str(path))
            for number, line in enumerate(lines_of(lines, _MAX_LINE_N_BYTES), start=1):
                record = parse_json(line, max_depth=None)
                if not isinstance(record, dict):
                    raise not_ours(str(path))
                meta = record.get("meta")
                check_depth(meta)
                checked(meta, name=f"{path} line {number}")
                yield offset, record
                offset += len(line)
    except (OSError, ValueError) as error:
        if number <= 1:
            raise not_ours(str(path)) from error
        raise UsageError(f"{path} is damaged in line {number}: {error}") from error
