"""``.npz``: one numpy array per column; loads with ``allow_pickle=False``."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loev_cli.errors import UsageError
from loev_cli.writers.base import EmbeddingFile, Row, RowWriter, Target
from loev_cli.writers.meta import Meta, from_json, keeps_windows, not_ours, to_json


class Writer(RowWriter):
    """Keeps the rows in memory until the end, since a zip member needs its length first."""

    def __init__(self, target: Target, meta: Meta) -> None:
        super().__init__(target, meta)
        self._rows: list[Row] = []

    def _add(self, row: Row) -> None:
        self._rows.append(row)

    def _finish(self) -> None:
        rows = self._rows
        columns: dict[str, NDArray[Any]] = {
            "path": np.array([row.path for row in rows], dtype=np.str_),
            "duration_s": np.array([row.duration_s for row in rows], dtype=np.float32),
            "silent": np.array([row.silent for row in rows], dtype=np.bool_),
            "meta": np.array(to_json(self.meta)),
        }
        if self.keeps_windows:
            starts = [row.start_s for row in rows if row.start_s is not None]
            counts = [len(start) for start in starts]
            columns["track"] = np.repeat(np.arange(len(rows), dtype=np.int64), counts)
            columns["start_s"] = np.concatenate([np.zeros(0, np.float32), *starts])
        for name, dim in self.meta["subspaces"].items():
            parts = [row.vectors[name].reshape(-1, dim) for row in rows]
            columns[name] = np.concatenate([np.zeros((0, dim), np.float32), *parts])
        np.savez(self._target.stream, allow_pickle=False, **columns)


def read(path: Path) -> EmbeddingFile:
    """See :func:`loev_cli.writers.read`."""
    try:
        with np.load(path, allow_pickle=False) as columns:
            meta = _meta_of(columns, path)
            windows = keeps_windows(meta)
            return EmbeddingFile(
                paths=[str(name) for name in columns["path"]],
                duration_s=columns["duration_s"],
                silent=columns["silent"],
                vectors={name: columns[name] for name in meta["subspaces"]},
                meta=meta,
                track=columns["track"] if windows else None,
                start_s=columns["start_s"] if windows else None,
            )
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UsageError(f"{path} is not a loev embedding file, or damaged: {error}") from error


def read_meta(path: Path) -> Meta:
    """See :func:`loev_cli.writers.read_meta`."""
    try:
        with np.load(path, allow_pickle=False) as columns:
            return _meta_of(columns, path)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise not_ours(str(path)) from error


def _meta_of(columns: Any, path: Path) -> Meta:
    # A lone .npy array renamed .npz has no members.
    if not isinstance(columns, np.lib.npyio.NpzFile):
        raise not_ours(str(path))
    return from_json(str(columns["meta"][()]), name=str(path))
