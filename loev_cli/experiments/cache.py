"""Named arrays kept in a folder, in files named by a digest of all that they depend on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loev_cli.storage.atomic import writing_own
from loev_cli.storage.npz import NPZ_ERRORS
from loev_cli.storage.own import make_own_folder

Arrays = Mapping[str, NDArray[Any]]


class ArrayCache:
    """The folder is made with its first file; a file that cannot be read is made again.

    Keys are JSON values and arrays.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def find(self, *key: object) -> Arrays | None:
        """What was kept under a key."""
        try:
            with np.load(self._file(key), allow_pickle=False) as arrays:
                return dict(arrays)
        except NPZ_ERRORS:
            return None

    def keep(self, arrays: Arrays, *key: object, compress: bool = False) -> None:
        """Raises OutputError where they cannot be written."""
        make_own_folder(self._folder)
        with writing_own(self._file(key)) as stream:
            (np.savez_compressed if compress else np.savez)(stream, **arrays)  # type: ignore[arg-type]

    def _file(self, key: tuple[object, ...]) -> Path:
        digest = hashlib.sha256()
        for part in key:
            if isinstance(part, np.ndarray):
                digest.update(f"{part.dtype} {part.shape}".encode())
                digest.update(np.ascontiguousarray(part).tobytes())
            else:
                digest.update(json.dumps(part, sort_keys=True).encode())
            digest.update(b"\0")
        return self._folder / f"{digest.hexdigest()[:24]}.npz"
