"""Which tracks are trained on, and what happens to those that cannot be read."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from loev_cli.errors import LoevError, OutputError, UsageError
from loev_cli.model.frontend import FrontendConfig
from loev_cli.train.data import Skipped, load_tracks, require_enough, tracks_of

from .conftest import N_TRACKS, write_track

CONFIG = FrontendConfig()


def test_folder_list_and_manifest_mean_the_same_tracks(music: Path, tmp_path: Path) -> None:
    files = tracks_of(str(music))
    assert len(files) == N_TRACKS
    listing = tmp_path / "files.txt"
    listing.write_text("# mine\n" + "\n".join(str(f) for f in files) + "\n")
    assert tracks_of(str(listing)) == files
    manifest = tmp_path / "manifest.csv"
    rows = [f"{f},{'val' if i < 3 else 'train'}" for i, f in enumerate(files)]
    manifest.write_text("path,split\n" + "\n".join(rows) + "\n")
    assert tracks_of(str(manifest)) == files[3:]
    manifest.write_text("path\n" + "\n".join(str(f) for f in files) + "\n")
    assert tracks_of(str(manifest)) == files


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("nothing", None, "no such folder or file"),
        ("empty.txt", "", "no audio files"),
        ("m.csv", "file\nx.wav\n", "no 'path' column"),
        ("song.mp4x", "x", "neither a folder"),
    ],
)
def test_data_that_is_none(tmp_path: Path, name: str, content: str | None, says: str) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_text(content)
    with pytest.raises(UsageError, match=says):
        tracks_of(str(path))


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no audio files"):
        tracks_of(str(tmp_path))


def test_bad_files_are_listed_and_nothing_takes_their_place(tmp_path: Path) -> None:
    write_track(tmp_path / "a.wav", seed=1, seconds=5)
    (tmp_path / "b.wav").write_text("not audio")
    write_track(tmp_path / "c.wav", seed=2, seconds=5)
    files = [tmp_path / name for name in ("a.wav", "b.wav", "c.wav", "gone.wav")]
    seen: list[tuple[int, int]] = []
    tracks, skipped = load_tracks(
        files,
        CONFIG,
        tmp_path / "cache",
        max_track_s=60,
        n_workers=2,
        on_progress=lambda done, total: seen.append((done, total)),
    )
    assert [track.path.name for track in tracks] == ["a.wav", "c.wav"]
    assert sorted(Path(s.path).name for s in skipped) == ["b.wav", "gone.wav"]
    assert all(s.path in s.error for s in skipped)
    assert seen[-1] == (4, 4)


def test_the_cache_is_used_and_notices_a_change(tmp_path: Path) -> None:
    file, cache = tmp_path / "a.wav", tmp_path / "cache"

    def features() -> np.ndarray:
        tracks, _ = load_tracks([file], CONFIG, cache, max_track_s=60, n_workers=1)
        return np.array(tracks[0].features)

    write_track(file, seed=1, seconds=5)
    first = features()
    entry = next(cache.iterdir())
    before = entry.stat().st_mtime_ns
    np.testing.assert_array_equal(features(), first)
    assert entry.stat().st_mtime_ns == before
    write_track(file, seed=2, seconds=5)
    os.utime(file, ns=(1, 1))
    assert not np.array_equal(features(), first)
    assert len(list(cache.iterdir())) == 2


def test_long_tracks_are_cut(tmp_path: Path) -> None:
    write_track(tmp_path / "a.wav", seed=1, seconds=8)
    tracks, _ = load_tracks(
        [tmp_path / "a.wav"], CONFIG, tmp_path / "cache", max_track_s=4, n_workers=1
    )
    assert tracks[0].n_frames == -(-4 * CONFIG.sample_rate_hz // CONFIG.spectrum_hop)


def test_a_cache_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="feature cache"):
        load_tracks([], CONFIG, tmp_path / "file" / "cache", max_track_s=60, n_workers=1)


def test_too_few_tracks() -> None:
    with pytest.raises(LoevError, match="none of 1 files"):
        require_enough([], [Skipped("x", "x is broken")], 2)
