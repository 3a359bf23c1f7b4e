"""Vectors of other tools: what is recognized, and what is said of the rest."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from loev_cli.errors import UsageError
from loev_cli.evaluate.manifest import Manifest
from loev_cli.experiments.foreign import read_foreign
from tests.evaluate.conftest import manifest_of

__all__ = ["manifest_of"]

PATHS = np.array(["/a/2.wav", "/a/0.wav", "/a/1.wav"])
VECTORS = np.arange(6, dtype=np.float64).reshape(3, 2)


@pytest.fixture
def manifest(manifest_of: Callable[..., Manifest]) -> Manifest:
    return manifest_of(key=["C major", "D major", "E major"])


@pytest.mark.parametrize("name", ["path", "filenames", "File", "whatever"])
def test_npz_rows_find_their_tracks(manifest: Manifest, tmp_path: Path, name: str) -> None:
    file = tmp_path / "openl3.npz"
    np.savez(file, **{name: PATHS}, mel=VECTORS, music=VECTORS.astype(np.float16))
    vectors = read_foreign(manifest, file)
    assert {n: x.tolist() for n, x in vectors.subspaces.items()} == {
        n: [[2, 3], [4, 5], [0, 1]] for n in ("mel", "music")
    }
    assert vectors.model["name"] == "openl3"


def test_parquet_lists_and_plain_columns(manifest: Manifest, tmp_path: Path) -> None:
    file = tmp_path / "clap.parquet"
    pq.write_table(
        pa.table(
            {
                "path": PATHS.tolist(),
                "audio": VECTORS.tolist(),
                "0": [0.0, 1.0, 2.0],
                "1": [3.0, 4.0, 5.0],
            }
        ),
        file,
    )
    vectors = read_foreign(manifest, file)
    assert vectors.subspaces["audio"].tolist() == [[2, 3], [4, 5], [0, 1]]
    assert vectors.subspaces["vector"].tolist() == [[1, 4], [2, 5], [0, 3]]


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"mel": VECTORS}, "has no array of paths; it has mel"),
        ({"a": PATHS, "b": PATHS, "mel": VECTORS}, "has no array of paths; it has a, b, mel"),
        ({"path": PATHS}, "has no array of numbers with a row for each of its 3 paths"),
        ({"path": PATHS, "mel": np.zeros((3, 5, 2))}, r"mel: float64 \(3, 5, 2\) \(average over"),
        ({"path": PATHS.astype(object), "mel": VECTORS}, "contains pickled objects"),
        ({"path": PATHS, "mel": VECTORS * np.nan}, "'mel' contains NaN"),
        ({"path": np.array(["x.wav"] * 3), "mel": VECTORS}, r"has none of the 3 tracks.*'x.wav'"),
        ({"path": PATHS[:2], "mel": VECTORS[:2]}, "has only 2 of the 3 tracks; missing: 1"),
    ],
)
def test_npz_that_cannot_be_used(
    manifest: Manifest, tmp_path: Path, arrays: dict[str, Any], says: str
) -> None:
    file = tmp_path / "other.npz"
    np.savez(file, **arrays)
    with pytest.raises(UsageError, match=says):
        read_foreign(manifest, file)


def test_what_is_no_such_file(manifest: Manifest, tmp_path: Path) -> None:
    for name, content, says in [
        ("x.npz", b"not a zip", "not an .npz, or damaged"),
        ("x.parquet", b"not parquet", "x.parquet"),
        ("x.pkl", b"pickle", "cannot read a '.pkl'"),
    ]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UsageError, match=says):
            read_foreign(manifest, tmp_path / name)
    with pytest.raises(UsageError, match="no such file"):
        read_foreign(manifest, tmp_path / "none.npz")
