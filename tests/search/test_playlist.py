"""Walks that keep one attribute and let another drift."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from loev_cli.errors import UsageError
from loev_cli.music_keys import KEYS, camelot_steps, parse_key
from loev_cli.search.library import Library, open_library, subspace_of
from loev_cli.search.playlist import Limits, build_playlist
from tests.conftest import Loev
from tests.search.common import write_library


def library_of(tempo: np.ndarray, style: np.ndarray, **columns: np.ndarray) -> Library:
    """Tracks of 3 minutes; both attributes are angles on a circle, in degrees."""
    n = len(tempo)
    spaces = {}
    for name, degrees in (("tempo", tempo), ("style", style)):
        angle = np.radians(degrees)
        x = np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)
        spaces[name] = subspace_of(x, name, np.zeros(2, np.float32))
    said = {"duration_s": np.full(n, 180.0), "silent": np.zeros(n, np.bool_), **columns}
    return Library(Path("x"), [f"{i:04}" for i in range(n)], spaces, said, {})


@pytest.fixture(scope="module")
def circle() -> Library:
    rng = np.random.default_rng(0)
    return library_of(rng.uniform(0, 360, 600), rng.uniform(0, 180, 600))


def test_one_stays_and_the_other_moves(circle: Library) -> None:
    steps = build_playlist(circle, [5], minutes=60, keep=["tempo"], drift="style").steps
    assert len(steps) == 20
    assert steps[0].row == 5
    assert len({step.row for step in steps}) == 20
    assert [step.position for step in steps] == list(range(1, 21))
    assert [step.start_s for step in steps] == [180.0 * i for i in range(20)]
    assert max(step.distances["tempo"] for step in steps) < 1 - np.cos(np.radians(25))
    drifted = [step.distances["style"] for step in steps]
    assert np.corrcoef(drifted, range(20))[0, 1] > 0.95  # further and further
    assert max(step.moved for step in steps) < 0.25  # by small steps
    assert drifted[-1] > 0.8 * max(drifted)
    shuffled = np.random.default_rng(0).permutation([step.row for step in steps])
    x = circle.vectors["style"][shuffled]
    assert np.mean([step.moved for step in steps[1:]]) < np.mean(1 - (x[1:] * x[:-1]).sum(1)) / 3


@pytest.mark.parametrize("minutes", [3, 10, 31, 47.5, 120])
def test_it_ends_near_the_time_asked_for(minutes: float) -> None:
    rng = np.random.default_rng(1)
    library = library_of(
        rng.uniform(0, 360, 900), rng.uniform(0, 180, 900), duration_s=rng.uniform(60, 400, 900)
    )
    steps = build_playlist(library, [3], minutes=minutes, keep=["tempo"], drift="style").steps
    total_s = sum(step.duration_s for step in steps)
    assert steps[-1].start_s + steps[-1].duration_s == pytest.approx(total_s)
    assert abs(total_s - 60 * minutes) <= 200 + 1e-3 or len(steps) == 1


def test_silence_and_what_the_filter_leaves_out_is_not_played() -> None:
    rng = np.random.default_rng(2)
    silent = np.arange(200) % 4 == 1
    bpm = np.where(np.arange(200) % 3 == 0, 120.0, 90.0)
    library = library_of(rng.uniform(0, 360, 200), rng.uniform(0, 180, 200), silent=silent, bpm=bpm)
    request = {"minutes": 45, "keep": ["tempo"], "drift": "style", "where": "bpm > 100"}
    steps = build_playlist(library, [1], **request).steps
    assert steps[0].row == 1  # the seed is, since it was asked for
    assert len(steps) == 15
    assert all(not silent[step.row] and bpm[step.row] == 120 for step in steps[1:])


def test_a_recording_is_not_played_in_two_copies(tmp_path: Path) -> None:
    write_library(tmp_path / "x.npz", 300, n_distinct=100)
    library = open_library(tmp_path / "x.npz")
    limits = Limits(max_distance=2)
    request = {"minutes": 300, "keep": ["tempo"], "drift": "pitch", "limits": limits}
    steps = build_playlist(library, [0], **request).steps
    assert len(steps) > 20
    assert len({step.row % 100 for step in steps}) == len(steps)


def test_it_stops_and_says_why_where_nothing_near_is_left() -> None:
    library = library_of(np.arange(10) * 40.0, np.arange(10) * 20.0)
    made = build_playlist(library, [4], minutes=600, keep=["tempo"], drift="style")
    assert sorted(step.row for step in made.steps) == [3, 4, 5]  # 40 degrees: 0.23
    assert made.stopped is not None
    assert "none is within 0.7 in tempo (the nearest: 0.83)" in made.stopped  # 80 degrees
    far = Limits(max_distance=2)
    made = build_playlist(library, [4], minutes=600, keep=["tempo"], drift="style", limits=far)
    assert sorted(step.row for step in made.steps) == list(range(10))
    assert made.stopped == "all are used"
    alone = library_of(np.zeros(1), np.zeros(1))
    made = build_playlist(alone, [0], minutes=60, keep=["tempo"], drift="style")
    assert len(made.steps) == 1


def test_several_seeds_are_one_in_their_middle() -> None:
    library = library_of(np.arange(36) * 10.0, np.zeros(36))
    made = build_playlist(library, [0, 6], minutes=21, keep=["tempo"])
    assert made.steps[0].row == 0
    assert sorted(step.row for step in made.steps) == list(range(7))  # around 30 degrees
    assert made.steps[1].row == 3
    assert made.steps[1].distances == {"tempo": 0}


def test_it_leads_to_the_last_track(circle: Library) -> None:
    style = circle.subspaces["style"].vectors
    first, last = int(np.argmax(style[:, 0])), int(np.argmin(style[:, 0]))  # 0, 180 degrees
    made = build_playlist(circle, [first], minutes=60, keep=["tempo"], drift="style", to=last)
    rows = [step.row for step in made.steps]
    assert (rows[0], rows[-1], len(rows), made.stopped) == (first, last, 20, None)
    drifted = [step.distances["style"] for step in made.steps]
    assert np.corrcoef(drifted, range(20))[0, 1] > 0.95
    assert max(step.moved for step in made.steps) < 0.25
    with pytest.raises(UsageError, match="--to is a seed"):
        build_playlist(circle, [first], minutes=60, keep=["tempo"], to=first)


def djs(n: int, seed: int = 0) -> Library:
    """Tracks that are alike but for key, bpm and artist."""
    rng = np.random.default_rng(seed)
    return library_of(
        rng.uniform(0, 20, n),
        rng.uniform(0, 90, n),
        key=np.array([*KEYS, ""], object)[rng.integers(25, size=n)],
        bpm=np.where(rng.random(n) < 0.1, np.nan, rng.uniform(110, 140, n)).astype(np.float32),
        tag_artist=np.array([f"artist {i % 12}" if i % 13 else "" for i in range(n)]),
    )


def test_steps_of_key_tempo_and_artists_are_held() -> None:
    library = djs(2000)
    limits = Limits(max_key_step=1, bpm=(120, 130, 124), max_per={"tag_artist": 2})
    library.columns["key"][0], library.columns["key"][1] = "A minor", "G major"
    for to in (None, 1):
        request = {"keep": ["tempo"], "drift": "style", "limits": limits, "to": to}
        made = build_playlist(library, [0], minutes=75, **request)
        rows = [step.row for step in made.steps]
        assert (len(rows), made.stopped, to in (None, rows[-1])) == (25, None, True)
        keys = [parse_key(str(library.columns["key"][row])) for row in rows]
        assert max(camelot_steps(a, b) for a, b in pairwise(keys)) <= 1
        curve = np.interp(np.arange(25) / 25, [0, 0.5, 1], limits.bpm)
        assert np.all(np.abs(library.columns["bpm"][rows[1:-1]] / curve[1:-1] - 1) <= 0.04)
        artists = Counter(library.columns["tag_artist"][rows].tolist())
        del artists[""]  # of unknown artists there may be any number
        assert max(artists.values()) <= 2


def test_other_ways_are_tried_before_it_ends_early() -> None:
    """The nearest to 8A is 9A, from where nothing leads on; 7A leads to all others."""
    keys = ["A minor", "E minor", *["D minor"] * 8]
    style = np.array([0.0, 1, 5, 6, 7, 8, 9, 10, 11, 12])
    library = library_of(np.zeros(10), style, key=np.array(keys, object))
    limits = Limits(max_key_step=1)
    made = build_playlist(library, [0], minutes=27, keep=["style"], limits=limits)
    assert [step.row for step in made.steps] == [0, *range(2, 10)]
    assert made.stopped is None
    made = build_playlist(library, [0], minutes=40, keep=["style"], limits=limits)
    assert len(made.steps) == 9  # no more are possible
    assert made.stopped is not None
    assert "within 1 of 7A on the Camelot wheel" in made.stopped


def test_excluded_tracks_are_not_played(circle: Library) -> None:
    request = {"minutes": 60, "keep": ["tempo"], "drift": "style"}
    first = build_playlist(circle, [5], **request).steps
    second = build_playlist(circle, [5], exclude={s.row for s in first}, **request).steps
    assert {s.row for s in first} & {s.row for s in second} == {5}
    assert len(second) == 20


def test_requests_that_contradict_themselves(circle: Library) -> None:
    for change, message in (
        ({"keep": ["style"]}, "--keep and --drift must differ"),
        ({"keep": ["tempo", "tempo"]}, "twice"),
        ({"keep": ["temp"]}, "did you mean 'tempo'"),
        ({"drift": "styles"}, "did you mean 'style'"),
        ({"minutes": 0}, "--minutes must be positive"),
        ({"minutes": float("inf")}, "--minutes must be positive"),
        ({"where": "bpm > 3"}, "names no column"),
        ({"keep": []}, "names no subspace"),
        ({"limits": Limits(max_distance=3)}, "--max-distance 3"),
        ({"limits": Limits(bpm=(120,))}, "no column 'bpm' .*--annotate"),
        ({"limits": Limits(max_key_step=1)}, "no column 'key' .*--annotate"),
        ({"limits": Limits(max_per={"tag_artist": 1})}, "no column 'tag_artist'"),
    ):
        request = {"minutes": 60, "keep": ["tempo"], "drift": "style", **change}
        with pytest.raises(UsageError, match=message):
            build_playlist(circle, [0], **request)


def test_the_command(tmp_path: Path, loev: Loev) -> None:
    emb = tmp_path / "x.npz"
    write_library(emb, 200)
    asked = ["playlist", emb, "--seed", "007.wav", "--minutes", "30", "--max-distance", "2"]
    done = loev(*asked, "--format", "jsonl")
    records = [json.loads(line) for line in done.out.splitlines()]
    assert done.code == 0
    assert records[0]["path"] == "a/007.wav"
    assert list(records[0]) == [
        "position",
        "path",
        "start",
        "duration_s",
        "tempo",
        "invariant",
        "step",
    ]
    assert f"{len(records)} tracks, 0:" in done.err
    rows = list(csv.DictReader(io.StringIO(loev(*asked, "--format", "csv").out)))
    assert [row["path"] for row in rows] == [record["path"] for record in records]
    assert len(loev(*asked).out.splitlines()) == len(records) + 1
    listed = tmp_path / "set.m3u"
    done = loev(*asked, "--out", listed, "--root", tmp_path, "--quiet")
    assert (done.code, done.out, done.err) == (0, "", "")
    assert listed.read_text().splitlines()[2::2] == [r["path"] for r in records]
    (tmp_path / "sets").mkdir()
    done = loev(*asked, "--out", tmp_path / "sets" / "x.m3u8", "--root", tmp_path)
    assert f"{len(records)} files of the playlist not found, such as {tmp_path}" in done.err
    below = (tmp_path / "sets" / "x.m3u8").read_text().splitlines()[2::2]
    assert below == [f"../{r['path']}" for r in records]
    other = loev(
        *asked, "--exclude", listed, "--exclude", tmp_path / "sets" / "x.m3u8", "--format", "jsonl"
    )
    assert {json.loads(line)["path"] for line in other.out.splitlines()} & {
        r["path"] for r in records
    } == {"a/007.wav"}
    both = loev(*asked, "--keep", "tempo, pitch", "--format", "jsonl").out.splitlines()
    assert {"tempo", "pitch"} < set(json.loads(both[0]))
    write_library(tmp_path / "tagged.npz", 200, tags=("artist",))  # three artists
    few = loev(
        *("playlist", tmp_path / "tagged.npz", "--seed", "007.wav", "--minutes", "60"),
        *("--max-per", "tag_artist=2", "--max-distance", "2", "--format", "jsonl"),
    )
    artists = [json.loads(line)["artist"] for line in few.out.splitlines()]
    assert sorted(artists) == [f"Artist {i}" for i in (0, 0, 1, 1, 2, 2)]
    assert "none is within 2 in tempo" in few.err
    assert "by another tag_artist" in few.err
    long = loev(*asked[:4], "--minutes", "100000")
    assert "ends at " in long.err
    assert "none is within 0.7 in tempo" in long.err
    for arguments, message in (
        (["--seed", "7000.wav"], "has no track '7000.wav'"),
        (["--seed", emb], "is not among the tracks"),
        (["--seed", "007.wav", "--drift", "tempo"], "--keep and --drift must differ"),
        (["--seed", "007.wav", "--minutes", "-3"], "--minutes must be positive"),
        (["--seed", "007.wav", "--to", "7000.wav"], "has no track '7000.wav'"),
        (["--seed", "007.wav", "--bpm", "120-130"], "--bpm '120-130'"),
        (["--seed", "007.wav", "--max-per", "path=x"], "--max-per 'path=x'"),
        (["--seed", "007.wav", "--exclude", tmp_path / "none.m3u"], "cannot read"),
        (["--seed", "007.wav", "--exclude", tmp_path / "sets"], "cannot read"),
    ):
        done = loev("playlist", emb, *arguments)
        assert (done.code, done.out, len(done.lines)) == (2, "", 1), done.err
        assert message in done.err
