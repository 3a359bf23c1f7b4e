"""``loev info``: what an embedding file says about itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from loev_cli.bundle import Bundle
from loev_cli.embed.report import Failure, write_failures
from tests.conftest import Loev
from tests.test_formats import DIMS, PATHS, WINDOWS, every_format, meta_of, write


@every_format
@pytest.mark.parametrize("per_window", [False, True])
def test_what_is_in_a_file(
    loev: Loev, bundle: Bundle, tmp_path: Path, extension: str, per_window: bool
) -> None:
    out = tmp_path / f"x{extension}"
    meta = meta_of(bundle, per_window=per_window, tags=["artist"], shard="2/3")
    write(out, meta, per_window)
    done = loev("info", out, "--json")
    assert (done.code, done.err) == (0, "")
    said = json.loads(done.out)
    assert said["meta"] == meta
    assert said["n_tracks"] == len(PATHS)
    assert said["n_windows"] == (sum(WINDOWS) if per_window else None)
    assert said["audio_s"] == pytest.approx(6.6, abs=1e-3)
    parts = out.rglob("*") if out.is_dir() else [out]
    assert said["n_bytes"] == sum(part.stat().st_size for part in parts if part.is_file())
    assert (said["n_failed"], said["reasons"]) == (0, {})
    table = loev("info", out)
    assert table.code == 0
    rows = f"{sum(WINDOWS)} windows of {len(PATHS)} tracks" if per_window else f"{len(PATHS)} track"
    subspaces = ", ".join(f"{name} ({dim})" for name, dim in DIMS.items())
    for text in (str(out), rows, "0:00:07", f"tiny ({bundle.sha256[:12]})", subspaces, "artist",
                 "2/3", "0.5 s every 0.25 s", "onnx, cpu, fp32", "0 files"):  # fmt: skip
        assert text in table.out


def test_why_files_failed(loev: Loev, bundle: Bundle, tmp_path: Path) -> None:
    out = tmp_path / "x.npz"
    write(out, meta_of(bundle))
    reasons = {"a/1.mp3": "is empty", "a/2: b.mp3": "no music", "a/3.mp3": "is empty"}
    failures = [
        Failure(path, "open", "InputError", f"/music/{path}: {reason}")
        for path, reason in reasons.items()
    ]
    write_failures(str(out), failures)
    said = json.loads(loev("info", out, "--json").out)
    assert (said["n_failed"], said["reasons"]) == (3, {"is empty": 2, "no music": 1})
    assert [line.split() for line in loev("info", out).out.splitlines()[-3:]] == [
        ["failed:", "3", "files"],
        ["2", "x", "is", "empty"],
        ["1", "x", "no", "music"],
    ]


def test_what_is_not_an_embedding_file(loev: Loev, tmp_path: Path) -> None:
    (tmp_path / "x.npz").write_text("x")
    for name in ("x.npz", "none.npz", "x.mp3"):
        done = loev("info", tmp_path / name)
        assert done.code == 2 and name in done.err and len(done.lines) == 1
