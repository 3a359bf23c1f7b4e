"""The cache: shared, bounded, never trusted blindly."""

from __future__ import annotations

import os
import pickle
import resource
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from loev_cli.errors import InputError, OutputError
from loev_cli.train.data import Cache, Track, WaveformContent

from .conftest import limit
from .test_data import RATE_HZ, load, write_noise

ENTRY_N_BYTES = 128 + 2 * RATE_HZ  # one second


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def entries(cache: Cache) -> list[Path]:
    return sorted((cache.folder / "entries").glob("*/*.npy"))


def assert_no_drafts(cache: Cache) -> None:
    assert list((cache.folder / "drafts").iterdir()) == []


def rows_of(track: Track) -> np.ndarray:
    return track.read(0, track.n_frames)


def write_settled(file: Path, seed: int, n_samples: int = RATE_HZ, *, mtime_ns: int = 1) -> Path:
    """Last changed long ago, so that its time stamp is believed."""
    write_noise(file, seed, n_samples)
    os.utime(file, ns=(mtime_ns, mtime_ns))
    return file


def test_an_unchanged_file_is_not_read_again(tmp_path: Path, cache: Cache) -> None:
    """Seen by changing it behind its time stamp."""
    file = write_settled(tmp_path / "a.wav", 1)
    first = rows_of(load([file], cache=cache)[0][0])
    write_settled(file, 2)
    np.testing.assert_array_equal(rows_of(load([file], cache=cache)[0][0]), first)
    write_settled(file, 2, mtime_ns=2)
    assert not np.array_equal(rows_of(load([file], cache=cache)[0][0]), first)
    assert len(entries(cache)) == 2


def test_a_file_that_changed_just_now_is_read_again(tmp_path: Path, cache: Cache) -> None:
    """It may have changed since it was read, within one tick of the file system's clock."""
    now = time.time_ns() + 10**10  # a file server's clock may be ahead
    file = write_settled(tmp_path / "a.wav", 1, mtime_ns=now)
    first = rows_of(load([file], cache=cache)[0][0])
    write_settled(file, 2, mtime_ns=now)
    assert not np.array_equal(rows_of(load([file], cache=cache)[0][0]), first)


def test_moved_and_copied_files_share_an_entry(tmp_path: Path, cache: Cache) -> None:
    file = write_settled(tmp_path / "a.wav", 1)
    load([file], cache=cache)
    (entry,) = entries(cache)
    made_ns = entry.stat().st_ctime_ns
    inode = entry.stat().st_ino
    file.rename(tmp_path / "b.wav")
    shutil.copy(tmp_path / "b.wav", tmp_path / "c.wav")
    for name in ("b.wav", "c.wav"):
        load([tmp_path / name], cache=cache)
    assert entries(cache) == [entry]
    assert entry.stat().st_ino == inode
    assert entry.stat().st_ctime_ns > made_ns  # its use is noted


def test_other_content_or_another_cut_is_another_entry(tmp_path: Path, cache: Cache) -> None:
    file = write_settled(tmp_path / "a.wav", 1)
    load([file], cache=cache)
    load([file], WaveformContent(2 * RATE_HZ), cache)
    load([file], cache=cache, max_track_s=0.5)
    assert len(entries(cache)) == 3


def test_an_index_of_somebody_else_is_not_believed(tmp_path: Path, cache: Cache) -> None:
    file = write_settled(tmp_path / "a.wav", 1)
    load([file], cache=cache)
    (index,) = (cache.folder / "index").glob("*/*")
    for text in ("", "x", "1 2 ../../etc/passwd", f"{file.stat().st_size} 1 abc"):
        index.write_text(text)
        assert len(load([file], cache=cache)[0]) == 1
        assert len(entries(cache)) == 1


def _save(array: np.ndarray) -> Callable[[Path], None]:
    def damage(entry: Path) -> None:
        np.save(entry, array)

    return damage


DAMAGES = {
    "gone": Path.unlink,
    "empty": lambda entry: os.truncate(entry, 0),
    "header cut": lambda entry: os.truncate(entry, 20),
    "torn": lambda entry: os.truncate(entry, 1000),
    "longer": lambda entry: os.truncate(entry, ENTRY_N_BYTES + 2),
    "no array": lambda entry: entry.write_bytes(b"x" * ENTRY_N_BYTES),
    "other type": _save(np.zeros(RATE_HZ, np.float16)),
    "other shape": _save(np.zeros((RATE_HZ, 2), np.int16)),
    "no rows": _save(np.zeros(0, np.int16)),
    "objects": _save(np.array([{}], object)),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=list(DAMAGES))
def test_a_damaged_entry_is_made_again(
    tmp_path: Path, cache: Cache, damage: Callable[[Path], None]
) -> None:
    file = write_settled(tmp_path / "a.wav", 1)
    (track,), _ = load([file], cache=cache)
    truth = rows_of(load([file])[0][0])
    (entry,) = entries(cache)
    damage(entry)
    np.testing.assert_array_equal(rows_of(track), truth)  # when it is first read
    damage(entry)
    (track,), skipped = load([file], cache=cache)  # when tracks are loaded
    assert (track.n_frames, skipped) == (RATE_HZ, [])
    assert entry.stat().st_size == ENTRY_N_BYTES
    np.testing.assert_array_equal(rows_of(track), truth)
    assert_no_drafts(cache)


def test_an_entry_that_is_deleted_while_it_is_read_stays_readable(
    tmp_path: Path, cache: Cache
) -> None:
    (track,), _ = load([write_settled(tmp_path / "a.wav", 1)], cache=cache)
    rows = rows_of(track)
    (entry,) = entries(cache)
    entry.unlink()
    np.testing.assert_array_equal(rows_of(track), rows)
    assert entries(cache) == []


def test_an_entry_is_not_made_again_from_another_file(tmp_path: Path, cache: Cache) -> None:
    file = write_settled(tmp_path / "a.wav", 1)
    (track,), _ = load([file], cache=cache)
    (entry,) = entries(cache)
    entry.unlink()
    write_settled(file, 2)
    with pytest.raises(InputError, match="changed since training started"):
        track.read(0, 1)
    file.unlink()
    with pytest.raises(InputError, match=f"{file}: No such file"):
        track.read(0, 1)


def test_training_goes_on_without_the_cache_folder(tmp_path: Path, cache: Cache) -> None:
    (track,), _ = load([write_settled(tmp_path / "a.wav", 1)], cache=cache)
    shutil.rmtree(cache.folder)
    assert len(rows_of(track)) == RATE_HZ


def test_the_entries_used_longest_ago_make_room(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", max_bytes=3 * ENTRY_N_BYTES)
    entry_of: dict[str, Path] = {}
    for i, name in enumerate("abc"):
        file = write_settled(tmp_path / f"{name}.wav", i)
        load([file], cache=cache)
        (entry,) = set(entries(cache)) - set(entry_of.values())
        os.utime(entry, (1000 + i, 1000 + i))
        entry_of[name] = entry
    load([tmp_path / "a.wav"], cache=cache)  # used again
    load([write_settled(tmp_path / "d.wav", 4)], cache=cache)
    assert not entry_of["b"].exists()
    assert entry_of["a"].exists()
    assert entry_of["c"].exists()
    # What a run uses itself is not deleted, however old it is.
    os.utime(entry_of["a"], (1, 1))
    os.utime(entry_of["c"], (2, 2))
    load([tmp_path / "a.wav", tmp_path / "b.wav"], cache=cache)
    assert entry_of["a"].exists()
    assert entry_of["b"].exists()
    assert not entry_of["c"].exists()
    assert len(entries(cache)) == 3


@pytest.mark.parametrize("n_workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_tracks_that_need_more_than_the_bound(tmp_path: Path, n_workers: int) -> None:
    cache = Cache(tmp_path / "cache", max_bytes=3 * ENTRY_N_BYTES + 1)
    files = [write_settled(tmp_path / f"{i}.wav", i) for i in range(8)]
    with pytest.raises(OutputError, match=r"4.84e-05 GB, and 4 tracks.*--cache-gb") as raised:
        load(files, cache=cache, n_workers=n_workers)
    assert "\n" not in str(raised.value)
    assert len(entries(cache)) == 3  # work done stays
    assert_no_drafts(cache)
    with pytest.raises(OutputError, match="--cache-gb"):  # also where nothing is to be written
        load(files[:3], cache=Cache(cache.folder, max_bytes=ENTRY_N_BYTES))


def test_a_lower_bound_is_kept_though_nothing_is_written(tmp_path: Path, cache: Cache) -> None:
    files = [write_settled(tmp_path / f"{i}.wav", i) for i in range(4)]
    load(files, cache=cache)
    load(files[:1], cache=Cache(cache.folder, max_bytes=2 * ENTRY_N_BYTES))
    assert len(entries(cache)) == 2


def test_a_full_disk_is_one_line_and_leaves_no_draft(tmp_path: Path, cache: Cache) -> None:
    files = [
        write_settled(tmp_path / "a.wav", 1),
        write_settled(tmp_path / "b.wav", 2, 60 * RATE_HZ),
    ]
    with (
        limit(resource.RLIMIT_FSIZE, 500_000),
        pytest.raises(OutputError, match=r"cannot write the cache .*: File too large") as raised,
    ):
        load(files, cache=cache)
    assert "\n" not in str(raised.value)
    assert len(entries(cache)) == 1
    assert_no_drafts(cache)


def test_many_tracks_need_few_file_descriptors(tmp_path: Path, cache: Cache) -> None:
    files = [write_settled(tmp_path / f"{i}.wav", i, 200) for i in range(80)]
    highest = max(int(fd) for fd in os.listdir("/proc/self/fd"))  # noqa: PTH208
    with limit(resource.RLIMIT_NOFILE, highest + 48):
        tracks, _ = load(files, cache=cache)
        kept = [track.read(0, 200) for track in tracks]
        again = [track.read(0, 200) for track in tracks]
    assert len(kept) == 80
    np.testing.assert_array_equal(kept, again)


def test_tracks_are_light(tmp_path: Path, cache: Cache) -> None:
    files = [write_settled(tmp_path / f"{i}.wav", i) for i in range(20)]
    tracks, _ = load(files, cache=cache)
    rows = [rows_of(track) for track in tracks]
    pickled = pickle.dumps(tracks)
    assert len(pickled) < 500 * len(tracks)
    np.testing.assert_array_equal([rows_of(track) for track in pickle.loads(pickled)], rows)


def test_two_runs_fill_one_cache_at_the_same_time(tmp_path: Path) -> None:
    """With room for both, and with room for little more than one: they delete each other's."""
    caches = [
        Cache(tmp_path / "roomy", max_bytes=40 * ENTRY_N_BYTES),
        Cache(tmp_path / "narrow", max_bytes=22 * ENTRY_N_BYTES),
    ]
    libraries: list[list[Path]] = []
    for i in range(2):
        (folder := tmp_path / str(i)).mkdir()
        libraries.append(
            [  # half of them are the same
                write_settled(folder / f"{j}.wav", j if j < 10 else 100 * i + j) for j in range(20)
            ]
        )
    barrier = threading.Barrier(2)

    def fill(files: list[Path]) -> list[list[np.ndarray]]:
        found = []
        for cache in caches:
            barrier.wait(60)
            tracks, skipped = load(files, cache=cache)
            assert not skipped
            found.append([rows_of(track) for track in tracks])
        return found

    with ThreadPoolExecutor(2) as runs:
        found = list(runs.map(fill, libraries))
    for files, of_caches in zip(libraries, found, strict=True):
        truth = [rows_of(track) for track in load(files)[0]]
        for rows in of_caches:
            np.testing.assert_array_equal(rows, truth)
    for cache in caches:
        assert_no_drafts(cache)
    assert len(entries(caches[0])) == 30


def test_what_a_killed_run_left_half_written_is_thrown_away(tmp_path: Path, cache: Cache) -> None:
    for name in ("old", "new"):
        (cache.folder / "drafts" / name).mkdir(parents=True)
        (cache.folder / "drafts" / name / "x.npy").touch()
    os.utime(cache.folder / "drafts" / "old", (1, 1))
    load([write_settled(tmp_path / "a.wav", 1)], cache=cache)
    assert [left.name for left in (cache.folder / "drafts").iterdir()] == ["new"]


def test_a_cache_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"cannot write the cache .*--no-cache"):
        load([], cache=Cache(tmp_path / "file" / "cache"))
