"""Embeddings of a manifest's tracks, read from embedding files or computed by a model.

The embeddings of the first and last window are stored as well if available, for the alignment.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loev_cli import audio, windows
from loev_cli.api import Model
from loev_cli.errors import InputError, UsageError
from loev_cli.evaluate.manifest import Manifest
from loev_cli.formats import EmbeddingFile, check_agree, read

CONCATENATION = "all"

Subspaces = windows.Vectors


@dataclass(frozen=True)
class Vectors:
    """Embeddings of N tracks.

    Attributes:
        subspaces: name -> (N, D).
        ends: name -> (N, 2, D), first and last window, NaN for a track of one window; None if
            windows are not available.
        model: the model's entry in ``results.json``.
    """

    subspaces: Subspaces
    ends: Subspaces | None
    model: dict[str, Any]


def embed_manifest(
    manifest: Manifest,
    model: Model,
    *,
    on_track: Callable[[int, InputError | None], None] = lambda row, error: None,
) -> tuple[Vectors, NDArray[np.int64]]:
    """Embed the manifest's files.

    Args:
        on_track: called for every row, with the error if its file cannot be used.

    Returns:
        The vectors, and their rows in the manifest.

    Raises:
        UsageError: no file can be used.
    """
    rows, means, ends = [], [], []
    for row, file in enumerate(manifest.files):
        try:
            waveform = audio.load(file, model.sample_rate_hz)
            vectors, _ = model(waveform, model.sample_rate_hz, per_window=True)
        except InputError as error:
            on_track(row, error)
            continue
        rows.append(row)
        means.append(windows.mean(vectors))
        ends.append({name: _ends(x) for name, x in vectors.items()})
        on_track(row, None)
    if not rows:
        raise UsageError("none of the manifest's files could be embedded")
    bundle = model.bundle
    described = {
        "name": bundle.name,
        "sha256": bundle.sha256,
        "method": bundle.config["method"],
        "subspaces": model.subspaces,
    }
    return Vectors(stack(means), stack(ends), described), np.array(rows)


def read_embeddings(manifest: Manifest, paths: Sequence[Path]) -> Vectors:
    """Read the manifest's rows from embedding files.

    A row of a file belongs to the track whose path it is, or whose path ends in it, or the other
    way around: embedding ``corpus/audio`` gives ``x.flac`` where the manifest has ``audio/x.flac``.

    Raises:
        UsageError: not an embedding file, files of different models or settings, a track that is
            missing or ambiguous, or vectors that are not finite.
    """
    files = {str(path): read(path) for path in paths}
    check_agree({name: file.meta for name, file in files.items()})
    names = [set(file.vectors) for file in files.values()]
    if any(each != names[0] for each in names):
        raise UsageError(f"{', '.join(files)} do not hold the same subspaces")
    paths_in_files = [path for file in files.values() for path in file.paths]
    found = find_rows(manifest, paths_in_files, ", ".join(files))
    rows = [row for row in found if row is not None]
    if len(rows) < len(found):
        missing = found.index(None)
        raise UsageError(
            f"{manifest.places[missing]}: no embedding of {manifest.paths[missing]} in "
            f"{', '.join(files)}"
        )
    parts = [_by_track(file) for file in files.values()]
    subspaces, ends = {}, {}
    for name in files[str(paths[0])].vectors:
        subspaces[name] = np.concatenate([part[0][name] for part in parts])[rows]
        if all(part[1] is not None for part in parts):
            ends[name] = np.concatenate([part[1][name] for part in parts if part[1]])[rows]
        if not np.isfinite(subspaces[name]).all():
            raise UsageError(f"{', '.join(files)}: '{name}' holds NaN or infinite values")
    meta = next(iter(files.values())).meta
    model = {
        "name": meta["model"],
        "sha256": meta["model_sha256"],
        "subspaces": {name: x.shape[1] for name, x in subspaces.items()},
        "embeddings": list(files),
    }
    return Vectors(subspaces, ends or None, model)


def with_concatenation(subspaces: Mapping[str, NDArray[np.float32]]) -> Subspaces:
    """The subspaces and, if there are several, ``all``: side by side, at equal mean variance."""
    if len(subspaces) < 2 or CONCATENATION in subspaces:
        return dict(subspaces)
    scaled = []
    for x in subspaces.values():
        spread = float(np.sqrt(np.square(x - x.mean(axis=0)).sum(axis=1).mean()))
        scaled.append(x / spread if spread > 0 else x)
    return {**subspaces, CONCATENATION: np.concatenate(scaled, axis=1)}


def find_rows(manifest: Manifest, paths: Sequence[str], where: str) -> list[int | None]:
    """Which of the ``paths`` of embeddings is that of each track; None: there is none.

    Args:
        where: they are, for messages.

    Raises:
        UsageError: several could be.
    """
    of_name: dict[str, list[int]] = {}
    for i, path in enumerate(paths):
        of_name.setdefault(PurePosixPath(path).name, []).append(i)
    rows: list[int | None] = []
    for track, file in enumerate(manifest.files):
        wanted = PurePosixPath(file.absolute().as_posix()).parts
        written = PurePosixPath(manifest.paths[track]).parts
        near = of_name.get(wanted[-1], [])
        parts = {i: PurePosixPath(paths[i]).parts for i in near}
        exact = [i for i in near if parts[i] in (written, wanted)]
        tails = [i for i in near if _is_tail(parts[i], wanted) or _is_tail(written, parts[i])]
        found = exact or tails
        if len(found) > 1:
            raise UsageError(
                f"{manifest.places[track]}: {manifest.paths[track]} is ambiguous; it matches "
                f"{', '.join(paths[i] for i in found)} in {where}",
                hint="embed the manifest's folder, so that the paths match",
            )
        rows.append(found[0] if found else None)
    return rows


def _is_tail(short: tuple[str, ...], long: tuple[str, ...]) -> bool:
    return long[-len(short) :] == short


def _by_track(file: EmbeddingFile) -> tuple[Subspaces, Subspaces | None]:
    """Track means, and first and last windows where the file has windows."""
    if file.track is None:
        return file.vectors, None
    of_track = [np.flatnonzero(file.track == i) for i in range(len(file.paths))]
    pieces = [{name: x[rows] for name, x in file.vectors.items()} for rows in of_track]
    ends = [{name: _ends(x) for name, x in piece.items()} for piece in pieces]
    return stack([windows.mean(piece) for piece in pieces]), stack(ends)


def _ends(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """(M, D) -> (2, D)."""
    return np.stack([x[0], x[-1]]) if len(x) > 1 else np.full((2, x.shape[1]), np.nan, np.float32)


def stack(rows: Sequence[Mapping[str, NDArray[np.float32]]]) -> Subspaces:
    """The arrays of n mappings with the same names, each with a new first axis (n, ...)."""
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}
