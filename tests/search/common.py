"""Embedding files whose every value is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from loev_cli.formats import Row, open_writer

DIMS = {"invariant": 16, "pitch": 24, "tempo": 12}


def meta(**changes: object) -> dict[str, object]:
    return {
        "format_version": 1,
        "model": "tiny",
        "model_sha256": "0" * 64,
        "loev_version": "0",
        "sample_rate_hz": 8000,
        "window_s": 0.5,
        "hop_s": 0.25,
        "pooling": "mean",
        "subspaces": DIMS,
        "backend": "onnx",
        "device": "cpu",
        "precision": "fp32",
        "created": "2026-01-01T00:00:00+00:00",
        **changes,
    }


def write_library(
    out: Path,
    n: int,
    *,
    seed: int = 0,
    n_distinct: int | None = None,
    n_windows: int | None = None,
    tags: tuple[str, ...] = (),
    poison: tuple[str, float] | None = None,
    **changes: object,
) -> dict[str, NDArray[np.float32]]:
    """Write n tracks with paths ``a/000.wav`` and so on; subspace -> (n, D) or (n, W, D).

    Args:
        n_distinct: rows repeat after so many.
        n_windows: keep so many windows of each.
        poison: a subspace, and a value that its last row gets.
    """
    rng = np.random.default_rng(seed)
    per_track = () if n_windows is None else (n_windows,)
    raw = {
        name: (rng.standard_normal((n, *per_track, dim)) + 3).astype(np.float32)
        for name, dim in DIMS.items()
    }
    if n_distinct is not None:
        raw = {name: x[np.arange(n) % n_distinct] for name, x in raw.items()}
    if poison is not None:
        raw[poison[0]][-1, 0] = poison[1]
    pooling = "mean" if n_windows is None else "none"
    described = meta(pooling=pooling, **({"tags": list(tags)} if tags else {}), **changes)
    starts = None if n_windows is None else np.arange(n_windows, dtype=np.float32)
    with open_writer(str(out), described) as writer:
        for i in range(n):
            vectors = {name: x[i] for name, x in raw.items()}
            said = {tag: f"{tag.title()} {i % 3}" for tag in tags}
            writer.add(Row(f"a/{i:03}.wav", 30.0 + 2 * i, i % 10 == 9, vectors, starts, said))
        writer.commit()
    return raw
