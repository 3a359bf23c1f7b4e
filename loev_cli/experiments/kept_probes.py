"""Disk cache of probe predictions, keyed by a hash of the inputs.

FOLDER/DIGEST.npz     of vectors, labels, folds, kind of probe, seed, version of loev and of probes
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from loev_cli import __version__
from loev_cli.evaluate.labels import Column
from loev_cli.evaluate.probes import Reading, read_label
from loev_cli.evaluate.splits import Fold
from loev_cli.writers.atomic import writing_own

_PROBES_VERSION = 2  # goes up whenever the same probe would say something else
_ARRAYS = ("rows", "fold_of", "truth", "output", "learned")


def read_or_keep(
    folder: Path,
    x: NDArray[np.float32],
    column: Column,
    folds: Sequence[Fold],
    probe: str,
    seed: int,
) -> Reading:
    """As :func:`loev_cli.evaluate.probes.read_label`, fitted only if it is not in ``folder``.

    Raises:
        OutputError: it cannot be kept.
    """
    file = folder / f"{_digest(x, column, folds, probe, seed)}.npz"
    found = _read(file)
    if found is not None:
        return found
    reading = read_label(x, column, folds, probe, seed=seed)
    with writing_own(file) as stream:
        np.savez(
            stream,
            **{name: getattr(reading, name) for name in _ARRAYS},
            is_judged_by_fold=np.array(reading.is_judged_by_fold),
            strength=np.array(reading.strength),
            reached=np.array(reading.reached),
        )
    return reading


def _digest(
    x: NDArray[np.float32], column: Column, folds: Sequence[Fold], probe: str, seed: int
) -> str:
    digest = hashlib.blake2b(digest_size=16)
    said = (
        f"{__version__} {_PROBES_VERSION} {x.shape} {column.kind} {column.classes} {probe} {seed}"
    )
    digest.update(said.encode("utf-8", "surrogatepass"))
    arrays = [x, column.values, column.known]
    arrays += [rows for fold in folds for rows in (fold.train, fold.val, fold.test)]
    for array in arrays:
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _read(file: Path) -> Reading | None:
    """None if it is not there, or damaged."""
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return Reading(
                **{name: arrays[name] for name in _ARRAYS},
                is_judged_by_fold=bool(arrays["is_judged_by_fold"]),
                strength=tuple(arrays["strength"].tolist()),
                reached=tuple(arrays["reached"].tolist()),
            )
    except (OSError, KeyError, ValueError, EOFError):
        return None
