"""Validation by track, with no leak."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from loev_cli.train.data import Track, WaveformContent
from loev_cli.train.data.cache import Stamp
from loev_cli.train.data.rows import DecodedRows
from loev_cli.train.items import split

ROWS = DecodedRows(WaveformContent(8000), 600)


def track(digest: str, *, split: str | None = None, group: str | None = None) -> Track:
    return Track(
        path=Path(f"{digest}.wav"),
        digest=digest,
        split=split,
        group=group,
        stamp=Stamp(1, 1),
        n_frames=1,
        frames_per_s=1.0,
        rows=ROWS,
    )


TRACKS = st.lists(
    st.builds(
        track,
        st.sampled_from([f"digest{i}" for i in range(12)]),
        split=st.sampled_from([None, None, None, "train", "val"]),
        group=st.sampled_from([None, None, "a", "b", "c", "d"]),
    ),
    max_size=30,
)


@given(TRACKS, st.floats(0, 1), st.integers(0, 5))
def test_no_recording_and_no_group_is_on_both_sides(
    tracks: list[Track], val_fraction: float, seed: int
) -> None:
    train, val = split(tracks, val_fraction=val_fraction, seed=seed)
    assert not {t.digest for t in train} & {t.digest for t in val}
    assert not {t.group for t in train if t.group} & {t.group for t in val if t.group}
    assert not any(t.split == "val" for t in train)
    assert len(val) != 1
    if not any(t.split == "val" for t in tracks):
        assert len(train) + len(val) == len(tracks)
        assert not any(t.split == "train" for t in val) or all(t.split for t in tracks)


def test_the_manifest_wins() -> None:
    tracks = [track(f"{i}", split="val" if i in (3, 7, 8) else None) for i in range(40)]
    train, val = split(tracks, val_fraction=0.5, seed=0)
    assert val == [tracks[i] for i in (3, 7, 8)]
    assert train == [t for t in tracks if t not in val]
    some = [track(f"{i}", split="train" if i < 30 else None) for i in range(40)]
    assert set(split(some, val_fraction=0.1, seed=0)[1]) <= set(some[30:])


def test_the_fraction_is_met_and_the_seed_chooses() -> None:
    tracks = [track(f"{i}") for i in range(200)]
    train, val = split(tracks, val_fraction=0.1, seed=0)
    assert (len(train), len(val)) == (180, 20)
    assert train == [t for t in tracks if t not in val]
    assert split(tracks, val_fraction=0.1, seed=1)[1] != val


def test_one_track_alone_is_no_validation() -> None:
    tracks = [track(f"{i}") for i in range(10)]
    assert split(tracks, val_fraction=0.1, seed=0) == (tracks, [])
    assert split(tracks, val_fraction=0.0, seed=0) == (tracks, [])
    named = [track("a", split="val"), *tracks]
    assert split(named, val_fraction=0.5, seed=0) == (tracks, [])


def test_a_group_that_is_most_of_the_music_is_trained_on() -> None:
    tracks = [track(f"{i}", group="one") for i in range(20)]
    assert split(tracks, val_fraction=0.1, seed=0) == (tracks, [])
    others = [track(f"x{i}") for i in range(4)]
    train, val = split([*tracks, *others], val_fraction=0.1, seed=0)
    assert len(val) == 2
    assert set(tracks) <= set(train)


def test_of_a_manifest_of_train_rows_alone_some_are_kept_aside() -> None:
    tracks = [track(f"{i}", split="train", group=f"g{i // 2}") for i in range(40)]
    train, val = split(tracks, val_fraction=0.1, seed=0)
    assert (len(train), len(val)) == (36, 4)


def test_adding_tracks_moves_few_others() -> None:
    old = [track(f"{i}", group=f"g{i // 3}" if i % 2 else None) for i in range(300)]
    new = [track(f"new{i}") for i in range(10)]
    before = split(old, val_fraction=0.2, seed=3)[1]
    after = split([*new, *old], val_fraction=0.2, seed=3)[1]
    moved = set(before) ^ {t for t in after if t not in new}
    assert len(moved) <= len(new)
    assert split(old[::-1], val_fraction=0.2, seed=3)[1] == before[::-1]
