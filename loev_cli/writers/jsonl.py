"""``.jsonl``: one JSON object per track and line, each with its own ``meta``.

    {"path": "a.mp3", "duration_s": 3.0, "silent": false, "pitch": [...], ..., "meta": {...}}

With windows ``start_s`` is a list and each subspace a list of vectors. Numbers are the shortest
that give the same float32 back.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loev_cli.errors import UsageError
from loev_cli.writers.base import EmbeddingFile, Row, RowWriter
from loev_cli.writers.meta import Meta, check_agree, checked, keeps_windows, not_ours


class Writer(RowWriter):
    """Writes and flushes every row as it comes, so that a pipe sees results at once."""

    def _add(self, row: Row) -> None:
        record: dict[str, Any] = {
            "path": row.path,
            "duration_s": _shortest(np.float32(row.duration_s)),
            "silent": row.silent,
        }
        if row.start_s is not None:
            record["start_s"] = _shortest(row.start_s)
        for name in self.meta["subspaces"]:
            record[name] = _shortest(row.vectors[name])
        record["meta"] = self.meta
        line = json.dumps(record, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        self._target.stream.write(line.encode() + b"\n")
        self._target.stream.flush()

    def _finish(self) -> None:
        pass


def _shortest(values: Any) -> Any:
    """float32 -> Python floats that print as short as a float32 can, nested as the array is."""
    if isinstance(values, np.ndarray):
        return [_shortest(value) for value in values]
    return float(str(values))


def read(path: Path) -> EmbeddingFile:
    """See :func:`loev_cli.writers.read`."""
    records = list(_records(path))
    if not records:
        raise not_ours(str(path))
    meta: Meta = records[0]["meta"]
    for number, record in enumerate(records[1:], start=2):
        if record["meta"] != meta:  # lines of several runs, concatenated
            check_agree({f"{path} line 1": meta, f"line {number}": record["meta"]})
            if record["meta"]["subspaces"] != meta["subspaces"]:
                raise UsageError(f"{path} line {number} has other subspaces than line 1")
    try:
        return _assemble(records, meta)
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{path} is damaged: {error}") from error


def _assemble(records: list[dict[str, Any]], meta: Meta) -> EmbeddingFile:
    records = sorted(records, key=lambda record: str(record["path"]))
    windows = keeps_windows(meta)
    vectors: dict[str, NDArray[np.float32]] = {}
    for name, dim in meta["subspaces"].items():
        parts = [np.asarray(r[name], dtype=np.float32).reshape(-1, dim) for r in records]
        vectors[name] = np.concatenate(parts)
    counts = [len(record["start_s"]) if windows else 1 for record in records]
    starts = [start for record in records for start in record["start_s"]] if windows else []
    return EmbeddingFile(
        paths=[record["path"] for record in records],
        duration_s=np.array([record["duration_s"] for record in records], dtype=np.float32),
        silent=np.array([record["silent"] for record in records], dtype=np.bool_),
        vectors=vectors,
        meta=meta,
        track=np.repeat(np.arange(len(records), dtype=np.int64), counts) if windows else None,
        start_s=np.array(starts, dtype=np.float32) if windows else None,
    )


def read_meta(path: Path) -> Meta:
    """See :func:`loev_cli.writers.read_meta`. Reads the first line only."""
    for record in _records(path):
        return dict(record["meta"])
    raise not_ours(str(path))


def _records(path: Path) -> Iterator[dict[str, Any]]:
    number = 0
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                record = json.loads(line)
                if not isinstance(record, dict):
                    raise not_ours(str(path))
                checked(record.get("meta"), name=f"{path} line {number}")
                yield record
    except (OSError, ValueError) as error:
        if number <= 1:
            raise not_ours(str(path)) from error
        raise UsageError(f"{path} is damaged in line {number}: {error}") from error
