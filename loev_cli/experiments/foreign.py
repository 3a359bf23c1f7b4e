"""Vectors that another tool made: one or more arrays (n, D) and a path for each of the n rows.

.npz        an array of text with the paths, 2-D arrays of numbers; nothing is unpickled
.parquet    a column of text with the paths; columns of lists of numbers are arrays, and all
            columns of single numbers together are one more, called `vector`
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from loev_cli.errors import UsageError
from loev_cli.evaluate.manifest import Manifest
from loev_cli.evaluate.vectors import Subspaces, Vectors, find_rows, read_embeddings
from loev_cli.formats import read_meta
from loev_cli.storage.bounded import in_one_line
from loev_cli.storage.npz import NPZ_ERRORS, Archive

SUFFIXES = (".npz", ".parquet")
# How a column of paths is usually called; looked for in this order.
PATH_NAMES = (
    *("path", "paths", "file", "files", "filename", "filenames", "file_name", "file_names"),
    *("filepath", "filepaths", "file_path", "file_paths", "audio_path", "audio", "track", "tracks"),
    *("name", "names", "id", "ids"),
)
_TABLE = "vector"


def read_foreign(manifest: Manifest, file: Path) -> Vectors:
    """The manifest's rows out of an embedding file of ours, or of any tool's.

    Raises:
        UsageError: a file that cannot be read, without paths or without vectors; tracks that are
            not in it, or that several rows could mean; values that are not finite.
    """
    if not file.is_file():
        raise UsageError(f"--against {file}: no such file")
    if is_ours(file):
        return read_embeddings(manifest, [file])
    paths, arrays = read_vectors(file)
    rows = _rows_of(manifest, file, paths)
    subspaces = {name: np.asarray(x[rows], np.float32) for name, x in arrays.items()}
    for name, x in subspaces.items():
        if not np.isfinite(x).all():
            raise UsageError(f"--against {file}: '{name}' contains NaN or Inf")
    model = {"name": file.stem, "subspaces": {name: x.shape[1] for name, x in subspaces.items()}}
    return Vectors(subspaces, None, model | {"embeddings": [str(file)]})


def read_vectors(file: Path) -> tuple[list[str], Subspaces]:
    """N paths, and arrays (N, D) by name, of any tool's file.

    Raises:
        UsageError: it cannot be read, or has no paths or no vectors.
    """
    if file.suffix.lower() not in SUFFIXES:
        raise UsageError(
            f"{file}: cannot read a '{file.suffix}'",
            hint="a file of 'loev embed', or .npz or .parquet with paths and vectors",
        )
    paths, arrays = _npz(file) if file.suffix.lower() == ".npz" else _parquet(file)
    return [path.replace("\\", "/") for path in paths], arrays


def is_ours(file: Path) -> bool:
    """Whether a file is one of ``loev embed``."""
    try:
        read_meta(file)
    except UsageError:
        return False
    return True


def _npz(file: Path) -> tuple[list[str], Subspaces]:
    try:
        with Archive(file) as archive:
            columns = {name: archive.load(name) for name in archive.headers}
    except NPZ_ERRORS as error:
        if "pickle" in str(error):
            raise UsageError(
                f"{file} contains pickled objects, which are not loaded",
                hint="save paths as an array of text: np.array(paths, dtype=str)",
            ) from error
        raise UsageError(f"{file}: not an .npz, or damaged: {in_one_line(error)}") from error
    texts = {name: x for name, x in columns.items() if x.ndim == 1 and x.dtype.kind in "US"}
    paths = [_text(path) for path in texts[_path_name(file, list(texts), list(columns))]]
    arrays = {
        name: x.astype(np.float32)
        for name, x in columns.items()
        if x.ndim == 2 and x.dtype.kind in "fiu" and len(x) == len(paths)
    }
    _require_vectors(
        file, arrays, {name: f"{x.dtype} {x.shape}" for name, x in columns.items()}, len(paths)
    )
    return paths, arrays


def _parquet(file: Path) -> tuple[list[str], Subspaces]:
    from loev_cli.storage.parquet import PARQUET_ERRORS, read_table

    try:
        return _columns_of(file, read_table(file))
    except PARQUET_ERRORS as error:
        raise UsageError(f"{file}: {in_one_line(error)}") from error


def _columns_of(file: Path, table: Any) -> tuple[list[str], Subspaces]:
    import pyarrow as pa

    types = {field.name: field.type for field in table.schema}
    texts = [n for n, t in types.items() if pa.types.is_string(t) or pa.types.is_large_string(t)]
    path_name = _path_name(file, texts, list(types))
    arrays: Subspaces = {}
    singles = []
    for name, kind in types.items():
        if pa.types.is_list(kind) or pa.types.is_large_list(kind) or _is_fixed(kind):
            rows = table[name].to_pylist()
            if len({len(row) if row is not None else -1 for row in rows}) == 1 and rows[0]:
                arrays[name] = np.array(rows, np.float32)
        elif pa.types.is_floating(kind):
            singles.append(np.asarray(table[name].to_numpy(), np.float32))
    if singles:
        arrays[_TABLE] = np.stack(singles, axis=1)
    paths = [str(path) for path in table[path_name].to_pylist()]
    _require_vectors(file, arrays, {name: str(kind) for name, kind in types.items()}, len(paths))
    return paths, arrays


def _is_fixed(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_fixed_size_list(kind))


def _path_name(file: Path, texts: Sequence[str], all_names: Sequence[str]) -> str:
    """Which column of text holds the paths."""
    lowered = {name.lower(): name for name in texts}
    known = [lowered[name] for name in PATH_NAMES if name in lowered]
    if known:
        return known[0]
    if len(texts) == 1:
        return texts[0]
    raise UsageError(
        f"{file} has no array of paths; it has {', '.join(all_names) or 'nothing'}",
        hint="add one of text called 'path'",
    )


def _require_vectors(file: Path, arrays: Subspaces, has: dict[str, str], n_paths: int) -> None:
    if not arrays:
        listed = ", ".join(f"{name}: {what}" for name, what in has.items())
        raise UsageError(
            f"{file} has no array of numbers with a row for each of its {n_paths} paths; "
            f"it has {listed}",
            hint="average over time first",
        )


def _rows_of(manifest: Manifest, file: Path, paths: Sequence[str]) -> list[int]:
    found = find_rows(manifest, paths, str(file))
    rows = [row for row in found if row is not None]
    if len(rows) < len(found):
        first = manifest.paths[found.index(None)]
        many = f"only {len(rows)}" if rows else "none"
        raise UsageError(
            f"--against {file} has {many} of the {len(manifest)} tracks; missing: {first}, ...",
            hint=f"its paths look like '{paths[0]}'" if paths else "it is empty",
        )
    return rows


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
