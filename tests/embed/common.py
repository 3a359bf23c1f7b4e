"""What the tests of a run have in common."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from loev_cli.bundle import Bundle
from loev_cli.embed import Event, Report, Request, TrackDone, embed
from loev_cli.formats import EmbeddingFile, read

TOLERANCE = 1e-5


def request(bundle: Bundle, out: Path | str, *inputs: Path, **options: object) -> Request:
    return Request([str(i) for i in inputs], str(out), model=str(bundle.path), **options)  # type: ignore[arg-type]


def embedded(
    bundle: Bundle, out: Path, *inputs: Path, **options: object
) -> tuple[EmbeddingFile, Report]:
    report = embed(request(bundle, out, *inputs, **options))
    return read(out), report


def interrupted(asked: Request, after: int) -> None:
    """Embed so many tracks, then be interrupted."""
    n_left = after

    def stop(event: Event) -> None:
        nonlocal n_left
        n_left -= isinstance(event, TrackDone)
        if n_left == 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embed(asked, on_event=stop)


def assert_same(a: EmbeddingFile, b: EmbeddingFile) -> None:
    assert a.paths == b.paths
    for name in a.vectors:
        np.testing.assert_allclose(a.vectors[name], b.vectors[name], atol=TOLERANCE, rtol=0)
    np.testing.assert_array_equal(a.duration_s, b.duration_s)
    np.testing.assert_array_equal(a.silent, b.silent)


def row(file: EmbeddingFile, path: str) -> dict[str, NDArray[np.float32]]:
    return {name: vectors[file.paths.index(path)] for name, vectors in file.vectors.items()}


def left_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}
