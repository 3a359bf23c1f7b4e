"""What the page shows of tracks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from loev_cli.errors import UsageError
from loev_cli.explore.audio_files import AudioFiles
from loev_cli.explore.tracks import FOLDER, N_CLASSES, Tracks
from loev_cli.search.library import open_library
from tests.explore.common import HOSTILE, PLAIN, Place, write_embedding


def tracks_of(place: Place) -> Tracks:
    library = open_library(place.emb)
    return Tracks(library, AudioFiles(place.music, library.paths))


def test_a_row_is_described_as_json(place: Place) -> None:
    tracks = tracks_of(place)
    described = tracks.describe(place.row(PLAIN[3]))
    assert described["title"] == "03"
    assert described["subtitle"] == "plain"
    assert described["audio"] == "file"
    assert described["columns"]["key"] == tracks.library.columns["key"][place.row(PLAIN[3])]
    assert tracks.describe(place.row("old.aiff"))["audio"] == "preview"
    gone = tracks.describe(place.row("gone.wav"))
    assert gone["audio"] is None
    assert gone["why"] == f"is not in {place.music}"
    assert tracks.describe(place.row(HOSTILE))["title"] == "<b>bold</b>"
    for row in range(len(tracks.library)):
        json.dumps(tracks.describe(row), allow_nan=False)


def test_finding_by_words(place: Place) -> None:
    tracks = tracks_of(place)
    paths = tracks.library.paths
    assert [paths[row] for row in tracks.find("/07 PLAIN", 10)] == [PLAIN[7]]
    assert [paths[row] for row in tracks.find("bold", 10)] == [HOSTILE]
    assert [paths[row] for row in tracks.find("日本", 10)] == ["ü é/日本 🎵.flac"]
    assert len(tracks.find("plain", 5)) == 5
    assert tracks.find("  ", 5) == []


def test_colors_of_columns(tmp_path: Path) -> None:
    n = 40
    emb = tmp_path / "x.npz"
    bpm = np.linspace(60, 180, n).astype(np.float32)
    bpm[3] = np.nan
    many = np.array([f"class {i % 15:02}" if i else "" for i in range(n)])
    keys = np.array(["C major", "D minor"] * (n // 2))
    write_embedding(emb, [f"{i % 2}/{i:02}.wav" for i in range(n)], bpm=bpm, key=keys, many=many)
    library = open_library(emb)
    tracks = Tracks(library, AudioFiles(tmp_path, library.paths))
    assert tracks.color_names == ["duration_s", "silent", "bpm", "key", "many", FOLDER]

    number = tracks.coloring("bpm")
    np.testing.assert_array_equal(number.values, library.columns["bpm"])
    assert number.head["n_unknown"] == 1
    assert number.low is not None and number.high is not None
    assert 60 < number.low < 70 < 170 < number.high < 180

    key = tracks.coloring("key")
    assert (key.kind, len(key.labels)) == ("key", 24)
    labels = [key.labels[int(code)] for code in key.values]
    assert labels == library.columns["key"].tolist()
    assert (key.counts[0], key.counts[23]) == (20, 20)

    classes = tracks.coloring("many")
    assert len(classes.labels) == N_CLASSES + 1
    assert classes.labels[-1] == "4 others"
    assert sum(classes.counts) == n - 1
    for value, text in zip(classes.values, library.columns["many"].tolist(), strict=True):
        assert np.isnan(value) if not text else classes.labels[int(value)] in (text, "4 others")

    assert tracks.coloring(FOLDER).labels == ["0", "1"]
    json.dumps([tracks.coloring(name).head for name in tracks.color_names], allow_nan=False)
    with pytest.raises(UsageError, match="did you mean 'bpm'"):
        tracks.coloring("bpn")
