"""Walks that keep one attribute and let another drift."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest

from loev_cli.errors import UsageError
from loev_cli.search.library import Library, open_library, subspace_of
from loev_cli.search.playlist import build_playlist
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
    steps = build_playlist(circle, 5, minutes=60, keep=["tempo"], drift="style")
    assert len(steps) == 20
    assert steps[0].row == 5
    assert len({step.row for step in steps}) == 20
    assert [step.position for step in steps] == list(range(1, 21))
    assert [step.start_s for step in steps] == [180.0 * i for i in range(20)]
    assert max(step.kept["tempo"] for step in steps) < 1 - np.cos(np.radians(25))
    drifted = [step.drifted for step in steps]
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
    steps = build_playlist(library, 3, minutes=minutes, keep=["tempo"], drift="style")
    total_s = sum(step.duration_s for step in steps)
    assert steps[-1].start_s + steps[-1].duration_s == pytest.approx(total_s)
    assert abs(total_s - 60 * minutes) <= 200 + 1e-3 or len(steps) == 1


def test_silence_and_what_the_filter_leaves_out_is_not_played() -> None:
    rng = np.random.default_rng(2)
    silent = np.arange(200) % 4 == 1
    bpm = np.where(np.arange(200) % 3 == 0, 120.0, 90.0)
    library = library_of(rng.uniform(0, 360, 200), rng.uniform(0, 180, 200), silent=silent, bpm=bpm)
    steps = build_playlist(library, 1, minutes=45, keep=["tempo"], drift="style", where="bpm > 100")
    assert steps[0].row == 1  # the seed is, since it was asked for
    assert len(steps) == 15
    assert all(not silent[step.row] and bpm[step.row] == 120 for step in steps[1:])


def test_a_recording_is_not_played_in_two_copies(tmp_path: Path) -> None:
    write_library(tmp_path / "x.npz", 300, n_distinct=100)
    library = open_library(tmp_path / "x.npz")
    steps = build_playlist(library, 0, minutes=300, keep=["tempo"], drift="pitch")
    assert len(steps) > 20
    assert len({step.row % 100 for step in steps}) == len(steps)


def test_everything_is_played_where_there_is_too_little() -> None:
    library = library_of(np.arange(10) * 30.0, np.arange(10) * 20.0)
    steps = build_playlist(library, 4, minutes=600, keep=["tempo"], drift="style")
    assert sorted(step.row for step in steps) == list(range(10))
    alone = library_of(np.zeros(1), np.zeros(1))
    assert len(build_playlist(alone, 0, minutes=60, keep=["tempo"], drift="style")) == 1


def test_requests_that_contradict_themselves(circle: Library) -> None:
    for change, message in (
        ({"keep": ["style"]}, "--keep and --drift must differ"),
        ({"keep": ["tempo", "tempo"]}, "twice"),
        ({"keep": ["temp"]}, "did you mean 'tempo'"),
        ({"drift": "styles"}, "did you mean 'style'"),
        ({"minutes": 0}, "--minutes must be positive"),
        ({"minutes": float("inf")}, "--minutes must be positive"),
        ({"where": "bpm > 3"}, "names no column"),
    ):
        request = {"minutes": 60, "keep": ["tempo"], "drift": "style", **change}
        with pytest.raises(UsageError, match=message):
            build_playlist(circle, 0, **request)


def test_the_command(tmp_path: Path, loev: Loev) -> None:
    emb = tmp_path / "x.npz"
    write_library(emb, 200)
    asked = ["playlist", emb, "--seed", "007.wav", "--minutes", "30"]
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
    assert listed.read_text().splitlines()[2::2] == [str(tmp_path / r["path"]) for r in records]
    both = loev(*asked, "--keep", "tempo, pitch", "--format", "jsonl").out.splitlines()
    assert {"tempo", "pitch"} < set(json.loads(both[0]))
    long = loev("playlist", emb, "--seed", "007.wav", "--minutes", "100000")
    assert "no further matching tracks" in long.err
    for arguments, message in (
        (["--seed", "7000.wav"], "has no track '7000.wav'"),
        (["--seed", emb], "is not among the tracks"),
        (["--seed", "007.wav", "--drift", "tempo"], "--keep and --drift must differ"),
        (["--seed", "007.wav", "--minutes", "-3"], "--minutes must be positive"),
    ):
        done = loev("playlist", emb, *arguments)
        assert (done.code, done.out, len(done.lines)) == (2, "", 1), done.err
        assert message in done.err
