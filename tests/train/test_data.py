"""Which tracks are trained on, and what happens to those that cannot be read."""

from __future__ import annotations

import csv
import os
import pickle
import shutil
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from loev_cli import audio
from loev_cli.errors import InputError, LoevError, UsageError
from loev_cli.model.frontend import FrontendConfig
from loev_cli.train.data import (
    FULL_SCALE,
    Cache,
    Content,
    FeatureContent,
    Listed,
    Skipped,
    Track,
    WaveformContent,
    listing,
    load_tracks,
    require_enough,
)

from .conftest import N_TRACKS, write_track

RATE_HZ = 8000
CONTENT = WaveformContent(RATE_HZ)
FEATURES = FeatureContent(FrontendConfig())


def write_noise(file: Path, seed: int, n_samples: int = RATE_HZ) -> Path:
    noise = np.random.default_rng(seed).uniform(-0.5, 0.5, n_samples)
    soundfile.write(file, noise, RATE_HZ)
    return file


def load(
    files: Sequence[Path | Listed],
    content: Content = CONTENT,
    cache: Cache | None = None,
    *,
    max_track_s: float = 600,
    n_workers: int = 0,
) -> tuple[list[Track], list[Skipped]]:
    listed = [file if isinstance(file, Listed) else Listed(file) for file in files]
    return load_tracks(listed, content, cache, max_track_s=max_track_s, n_workers=n_workers)


def write_manifest(file: Path, rows: Sequence[dict[str, object]]) -> None:
    names = list(dict.fromkeys(name for row in rows for name in row))
    if file.suffix == ".parquet":
        parquet.write_table(pyarrow.table({n: [row.get(n) for row in rows] for n in names}), file)
        return
    with file.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, names)
        writer.writeheader()
        writer.writerows(rows)


def test_folder_list_and_manifest_mean_the_same_tracks(music: Path, tmp_path: Path) -> None:
    tracks = listing(str(music))
    assert len(tracks) == N_TRACKS
    files = tmp_path / "files.txt"
    files.write_text("\ufeff# mine\r\n" + "\r\n\r\n".join(str(t.path) for t in tracks) + "\r\n")
    assert listing(str(files)) == tracks
    for name in ("manifest.csv", "manifest.parquet"):
        write_manifest(
            tmp_path / name, [{"path": os.path.relpath(t.path, tmp_path)} for t in tracks]
        )
        again = listing(str(tmp_path / name))
        assert [t.path.resolve() for t in again] == [t.path for t in tracks]
        assert {(t.split, t.group) for t in again} == {(None, None)}


@pytest.mark.parametrize("name", ["manifest.csv", "manifest.parquet"])
def test_a_manifest_says_split_and_group(tmp_path: Path, name: str) -> None:
    rows: list[dict[str, object]] = [
        {"path": "a.wav", "split": "train", "group": "1"},
        {"path": "b.wav", "split": "val", "group": None},
        {"path": "c.wav", "split": None, "group": "2"},
        {"path": "d.wav", "split": "test", "group": "2"},
    ]
    write_manifest(tmp_path / name, rows)
    assert listing(str(tmp_path / name)) == [
        Listed(tmp_path / "a.wav", "train", "1"),
        Listed(tmp_path / "b.wav", "val", None),
        Listed(tmp_path / "c.wav", "test", "2"),  # as the rest of its group
        Listed(tmp_path / "d.wav", "test", "2"),
    ]


def test_a_file_that_is_named_twice_is_one_track(tmp_path: Path) -> None:
    write_noise(tmp_path / "a.wav", 1)
    (tmp_path / "link.wav").symlink_to(tmp_path / "a.wav")
    files = tmp_path / "files.m3u"
    files.write_text("#EXTM3U\na.wav\n./a.wav\nlink.wav\n")
    assert listing(str(files)) == [Listed(tmp_path / "a.wav")]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("nothing", None, "no such folder or file"),
        ("empty.txt", "", "no audio files"),
        ("m.csv", "file\nx.wav\n", r"no column 'path' \(it has file\)"),
        ("m.csv", "", "no column 'path'"),
        ("m.csv", "path\n", "no tracks in"),
        ("m.csv", "path,split\nx.wav,train\n,train\n", "line 3: 'path' is empty"),
        ("m.csv", "path,split\nx.wav,vla\n", "line 2: unknown split 'vla' .did you mean 'val'"),
        ("m.csv", "path,split\nx.wav,val\n./x.wav,train\n", "line 3: .*x.wav is also in .*line 2"),
        (
            "m.csv",
            "path,split,group\nx.wav,val,g\ny.wav,test,g\n",
            "in split 'test', and in 'val'",
        ),
        ("m.csv", b"path\n\xff.wav\n", "is not UTF-8"),
        ("m.parquet", "x", "cannot read manifest"),
        ("song.mp4x", "x", "neither a folder"),
    ],
)
def test_data_that_is_none(
    tmp_path: Path, name: str, content: str | bytes | None, says: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UsageError, match=says) as raised:
        listing(str(path))
    assert "\n" not in str(raised.value)


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no audio files"):
        listing(str(tmp_path))


@pytest.mark.parametrize("is_cached", [True, False])
def test_bad_files_are_listed_and_nothing_takes_their_place(
    tmp_path: Path, is_cached: bool
) -> None:
    write_noise(tmp_path / "a.wav", 1)
    (tmp_path / "b.wav").write_text("not audio")
    write_noise(tmp_path / "c.wav", 2)
    (tmp_path / "d.wav").mkdir()
    os.mkfifo(tmp_path / "e.wav")
    files = [tmp_path / f"{name}.wav" for name in ("a", "b", "c", "d", "e", "gone")]
    seen: list[tuple[int, int]] = []
    tracks, skipped = load_tracks(
        [Listed(file) for file in files],
        CONTENT,
        Cache(tmp_path / "cache") if is_cached else None,
        max_track_s=60,
        n_workers=0,
        on_progress=lambda done, total: seen.append((done, total)),
    )
    assert [track.path.name for track in tracks] == ["a.wav", "c.wav"]
    assert [Path(s.path).name for s in skipped] == ["b.wav", "d.wav", "e.wav", "gone.wav"]
    assert all(s.path in s.error for s in skipped)
    assert [done for done, _ in seen] == list(range(7))


@dataclass(frozen=True)
class Deadly(WaveformContent):
    """A decoder that a certain file makes crash."""

    deadly_n_samples: int = 0

    def from_waveform(self, waveform: np.ndarray) -> np.ndarray:
        if len(waveform) == self.deadly_n_samples:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().from_waveform(waveform)


def test_a_file_that_kills_its_decoder_is_skipped_and_the_others_go_on(tmp_path: Path) -> None:
    files = [write_noise(tmp_path / f"{i}.wav", i, 777 if i == 1 else 500) for i in range(5)]
    files[3].write_text("not audio")
    cache = Cache(tmp_path / "cache")
    tracks, skipped = load(files, Deadly(RATE_HZ, 777), cache, n_workers=1)
    assert [track.path for track in tracks] == [files[i] for i in (0, 2, 4)]
    assert [s.path for s in skipped] == [str(files[1]), str(files[3])]
    assert skipped[0].error == f"{files[1]}: the decoding process died"
    assert not list((tmp_path / "cache" / "drafts").iterdir())


def test_copies_are_skipped_and_those_to_test_on_stay_out(tmp_path: Path) -> None:
    a, b, c = (write_noise(tmp_path / f"{name}.wav", i) for i, name in enumerate("abc"))
    copies = [Path(shutil.copy(file, file.with_suffix(".copy.wav"))) for file in (a, b, c)]
    listed = [
        Listed(a),
        Listed(copies[0]),
        Listed(b, "train"),
        Listed(copies[1], "val"),
        Listed(c, "test"),
        Listed(copies[2]),
    ]
    for cache in (Cache(tmp_path / "cache"), None):
        tracks, skipped = load(listed, cache=cache)
        assert [(t.path, t.split) for t in tracks] == [(a, None), (copies[1], "val")]
        assert skipped == [
            Skipped(str(copies[0]), f"{copies[0]}: is a copy of {a}"),
            Skipped(str(b), f"{b}: is a copy of {copies[1]}"),
            Skipped(str(copies[2]), f"{copies[2]}: is a copy of {c}"),
        ]


def test_a_waveform_is_kept_to_half_a_step_and_clipped_at_full_scale(tmp_path: Path) -> None:
    waveform = np.array([0, 0.25, -0.7, 1.0, -1.0, 1.3, -1.3], np.float32)
    soundfile.write(tmp_path / "a.wav", waveform, RATE_HZ, subtype="FLOAT")
    rows = load([tmp_path / "a.wav"])[0][0].read(0, 7)
    assert rows.dtype == np.int16
    np.testing.assert_allclose(rows / FULL_SCALE, waveform.clip(-1, 1), atol=0.5 / FULL_SCALE)


@pytest.mark.parametrize("content", [CONTENT, FEATURES])
@pytest.mark.parametrize("is_cached", [True, False])
def test_long_tracks_are_cut(tmp_path: Path, content: Content, is_cached: bool) -> None:
    write_track(tmp_path / "a.wav", seed=1, seconds=8)
    cache = Cache(tmp_path / "cache") if is_cached else None
    (track,), _ = load([tmp_path / "a.wav"], content, cache, max_track_s=4)
    assert track.n_frames == -(-4 * content.frames_per_s // 1)
    assert track.duration_s == pytest.approx(4, abs=1 / content.frames_per_s)
    assert len(track.read(0, track.n_frames)) == track.n_frames


@pytest.mark.parametrize("is_cached", [True, False])
def test_what_lies_behind_the_cut_is_not_decoded(tmp_path: Path, is_cached: bool) -> None:
    """Seen by the damage that is there."""
    waveform = np.zeros(20 * RATE_HZ, np.float32)
    waveform[12 * RATE_HZ] = np.nan
    file, cache = tmp_path / "a.wav", Cache(tmp_path / "cache") if is_cached else None
    soundfile.write(file, waveform, RATE_HZ, subtype="FLOAT")
    assert load([file], cache=cache, max_track_s=7)[1] == []
    assert "NaN" in load([file], cache=cache, max_track_s=13)[1][0].error


@dataclass(frozen=True)
class SmallBlocks(WaveformContent):
    block_n_samples: int = 1000


@pytest.fixture(scope="module")
def both_ways(tmp_path_factory: pytest.TempPathFactory) -> tuple[Track, Track, np.ndarray]:
    """One track of three and a half blocks, cached and not; and its rows."""
    folder = tmp_path_factory.mktemp("both")
    file = write_noise(folder / "a.wav", 1, 3500)
    content = SmallBlocks(RATE_HZ)
    (cached,), _ = load([file], content, Cache(folder / "cache"))
    (decoded,), _ = load([file], content)
    return cached, decoded, content.from_waveform(audio.load(file, RATE_HZ))


@given(st.integers(0, 8000), st.integers(0, 8000))
def test_any_rows_are_the_same_with_and_without_the_cache(
    both_ways: tuple[Track, Track, np.ndarray], start: int, n: int
) -> None:
    cached, decoded, rows = both_ways
    wanted = rows[np.arange(start, start + n) % len(rows)]  # beyond its end a track repeats
    np.testing.assert_array_equal(cached.read(start, start + n), wanted)
    np.testing.assert_array_equal(decoded.read(start, start + n), wanted)
    decoded = pickle.loads(pickle.dumps(decoded))  # without what is remembered
    np.testing.assert_array_equal(decoded.read(start, start + n), wanted)


def test_features_are_the_same_with_and_without_the_cache(tmp_path: Path) -> None:
    file = write_noise(tmp_path / "a.wav", 1, 130 * RATE_HZ)
    (cached,), _ = load([file], FEATURES, Cache(tmp_path / "cache"))
    rows = cached.read(0, cached.n_frames)
    assert rows.shape == (-(-130 * 16000 // 1024), *FEATURES.row_shape)
    assert rows.dtype == np.float16
    (decoded,), _ = load([file], FEATURES)
    assert decoded.n_frames == cached.n_frames
    per_block = FEATURES.n_frames(FEATURES.block_n_samples)
    ends = cached.n_frames
    for start, stop in [(per_block - 3, per_block + 5), (2 * per_block, ends), (0, ends)]:
        np.testing.assert_array_equal(decoded.read(start, stop), rows[start:stop])


def test_without_a_cache_a_file_that_changed_is_an_error_of_its_own(tmp_path: Path) -> None:
    file = write_noise(tmp_path / "a.wav", 1)
    (track,), _ = load([file])
    write_noise(file, 2)
    os.utime(file, ns=(1, 1))
    with pytest.raises(InputError, match="changed since training started"):
        track.read(0, 10)


def test_rows_before_the_beginning(both_ways: tuple[Track, Track, np.ndarray]) -> None:
    with pytest.raises(ValueError, match="no rows -1:3"):
        both_ways[0].read(-1, 3)


def test_too_few_tracks(tmp_path: Path) -> None:
    with pytest.raises(LoevError, match="none of 1 files"):
        require_enough([], [Skipped("x", "x is broken")], 2)
    tracks, _ = load([write_noise(tmp_path / "a.wav", 1)])
    require_enough(tracks, [], 1)
    with pytest.raises(UsageError, match="1 usable tracks are fewer than the batch of 2"):
        require_enough(tracks, [], 2)
