"""Changed excerpts, kept: the stretcher takes longer than any model that listens.

FOLDER/N.npz     the excerpt of one track and its changes: int16 with a scale each, 90 dB above
                 what rounding adds, and in words what was made of which file
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loev_cli.api import Model
from loev_cli.evaluate.changes import Change, Waveform
from loev_cli.evaluate.equivariance import Rendered, render_excerpt
from loev_cli.files.own import make_own_folder
from loev_cli.writers.atomic import writing_own

_KEY, _PLAIN = "key", "plain"
_TOP = 32767


class Excerpts:
    """Renders what is not there, and keeps it; call it with a file and its place among them."""

    def __init__(
        self, folder: Path, model: Model, changes: Sequence[Change], stretcher: str, *, seed: int
    ) -> None:
        self._folder = folder
        self._model = model
        self._changes = changes
        self._stretcher = stretcher
        self._seed = seed

    def __call__(self, file: Path, place: int) -> Rendered:
        """Rounded also when it has just been made, so that every model hears the same.

        Raises:
            InputError: the file cannot be decoded.
            OutputError: the excerpts cannot be written.
        """
        kept, key = self._folder / f"{place}.npz", self._key(file, place)
        found = _read(kept, key)
        if found is None:
            made = render_excerpt(file, self._model, self._changes, (self._seed, place))
            _write(kept, key, made)
            found = _read(kept, key)
        assert found is not None
        return found

    def _key(self, file: Path, place: int) -> str:
        status = file.stat()
        return json.dumps(
            {
                "file": str(file.absolute()),
                "n_bytes": status.st_size,
                "mtime_ns": status.st_mtime_ns,
                "place": place,
                "seed": self._seed,
                "sample_rate_hz": self._model.sample_rate_hz,
                "window_n_samples": self._model.window_n_samples,
                "stretcher": self._stretcher,
                "sizes": {change.name: change.sizes for change in self._changes},
            }
        )


def _write(file: Path, key: str, made: Rendered) -> None:
    arrays: dict[str, NDArray[Any]] = {_KEY: np.array(key)}
    named = {_PLAIN: made.plain} | {
        f"{change}/{i}": waveform
        for change, waveforms in made.changed.items()
        for i, waveform in enumerate(waveforms)
    }
    for name, waveform in named.items():
        scale = max(float(np.abs(waveform).max(initial=0.0)), 1e-9) / _TOP
        arrays[f"{name}/scale"] = np.array(scale)
        arrays[f"{name}/samples"] = np.round(waveform / scale).astype(np.int16)
    make_own_folder(file.parent)
    with writing_own(file) as stream:
        np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]


def _read(file: Path, key: str) -> Rendered | None:
    """None if there is none, or one that was made of something else or otherwise."""
    try:
        with np.load(file, allow_pickle=False) as arrays:
            if str(arrays[_KEY]) != key:
                return None
            sizes = json.loads(key)["sizes"]

            def waveform(name: str) -> Waveform:
                scale = np.float32(arrays[f"{name}/scale"])
                return np.asarray(arrays[f"{name}/samples"] * scale, np.float32)

            return Rendered(
                waveform(_PLAIN),
                {
                    change: [waveform(f"{change}/{i}") for i in range(len(of))]
                    for change, of in sizes.items()
                },
            )
    except (OSError, KeyError, ValueError, EOFError):
        return None
