"""Manifests of mirdata's own loaders, over data sets of a few tracks, and of JAMS files."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from loev_cli.datasets import rows_of_jams
from loev_cli.errors import UsageError
from loev_cli.manifest import read_rows
from tests.conftest import Loev, write_audio


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where mirdata finds the index of every data set, which it otherwise downloads."""
    file = tmp_path / "index.json"
    pytest.importorskip("mirdata", reason="needs the extra mir")
    monkeypatch.setattr("mirdata.core.Index.get_path", lambda self: str(file))
    return file


def write_index(file: Path, tracks: dict[str, dict[str, str]]) -> None:
    entries = {name: {k: [path, "0"] for k, path in of.items()} for name, of in tracks.items()}
    file.write_text(json.dumps({"version": "1.0", "tracks": entries}))


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def write(file: Path, content: Any) -> str:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return file.name


def test_gtzan(loev: Loev, index: Path, tmp_path: Path) -> None:
    home, tracks = tmp_path / "gtzan", {}
    for i, genre in enumerate(["blues", "hiphop", "rock"]):
        name = f"{genre}.0000{i}"
        tracks[name] = {
            "audio": f"genres/{genre}/{name}.wav",
            "beats": f"beats/{name}.beats",
            "tempo": f"tempo/{name}.bpm",
        }
        write(home / "tempo" / f"{name}.bpm", f"{100 + i}.5")
        if genre != "rock":
            write_audio(home / "genres" / genre / f"{name}.wav", seed=i)
    write_index(index, tracks)
    out = tmp_path / "lists" / "gtzan.csv"
    out.parent.mkdir()
    done = loev("manifest", "mirdata", "gtzan_genre", home, "--out", out)
    assert done.code == 0, done.err
    assert "1 track left out" in done.err
    assert rows(out) == [
        {"path": "../gtzan/genres/blues/blues.00000.wav", "tempo": "100.5", "genre": "blues"},
        {"path": "../gtzan/genres/hiphop/hiphop.00001.wav", "tempo": "101.5", "genre": "hip-hop"},
    ]
    assert all(row.path.is_file() for row in read_rows([out]))
    again = loev("manifest", "mirdata", "gtzan_genre", home, "--out", out)
    assert again.code == 2 and str(out) in again.err
    assert loev("manifest", "mirdata", "gtzan_genre", home, "--out", out, "--overwrite").code == 0


def test_giantsteps(loev: Loev, index: Path, tmp_path: Path) -> None:
    home = tmp_path / "key"
    tracks = {}
    for name, key, artists in [("1", "D minor", ["B", "A"]), ("2", "-", ["C"])]:
        write_audio(home / "audio" / f"{name}.wav", seed=int(name))
        write(home / "keys" / f"{name}.key", key)
        meta = {
            "artists": [{"name": artist} for artist in artists],
            "genres": [{"name": "techno"}],
            "sub_genres": [],
            "bpm": "126",
        }
        write(home / "meta" / f"{name}.json", meta)
        tracks[name] = {
            "audio": f"audio/{name}.wav",
            "key": f"keys/{name}.key",
            "meta": f"meta/{name}.json",
        }
    write_index(index, tracks)
    out = tmp_path / "key.csv"
    assert loev("manifest", "mirdata", "giantsteps_key", home, "--out", out).code == 0
    first, second = rows(out)
    assert (first["key"], first["tempo"], first["genres"]) == ("D minor", "126", "techno")
    assert first["group"] == "B;A" or first["group"] == "A;B"
    assert second["key"] == ""  # a track without one key

    home = tmp_path / "tempo"
    write_audio(home / "audio" / "3.wav", seed=3)
    observed = [
        {"time": 0.0, "duration": 1.0, "value": 70.0, "confidence": 0.2},
        {"time": 0.0, "duration": 1.0, "value": 140.0, "confidence": 0.8},
    ]
    write(home / "v1" / "3.jams", {"annotations": [{"data": observed, "sandbox": {}}]})
    write(home / "v2" / "3.jams", {"annotations": [{"data": observed[:1], "sandbox": {}}]})
    files = {"audio": "audio/3.wav", "annotation_v1": "v1/3.jams", "annotation_v2": "v2/3.jams"}
    write_index(index, {"3": files})
    out = tmp_path / "tempo.csv"
    assert loev("manifest", "mirdata", "giantsteps_tempo", home, "--out", out).code == 0
    assert [(row["tempo"], row["tempo_v2"]) for row in rows(out)] == [("140", "70")]
    (home / "v2" / "3.jams").unlink()
    done = loev("manifest", "mirdata", "giantsteps_tempo", home, "--out", out, "--overwrite")
    assert "'tempo_v2' could not be read of 1 track" in done.err
    assert [row["tempo"] for row in rows(out)] == ["140"]


def test_keys_that_change_are_no_label(loev: Loev, index: Path, tmp_path: Path) -> None:
    home, tracks = tmp_path / "beatles", {}
    for name, keys in [("1", "0\t1\tKey\tC:minor\n"), ("2", "0\t1\tKey\tC\n1\t2\tKey\tG\n")]:
        write_audio(home / f"{name}.wav", seed=int(name))
        write(home / f"{name}.lab", keys)
        parts = ("beat", "chords", "keys", "sections")
        tracks[name] = {"audio": f"{name}.wav", **dict.fromkeys(parts, f"{name}.lab")}
    write_index(index, tracks)
    out = tmp_path / "beatles.csv"
    assert loev("manifest", "mirdata", "beatles", home, "--out", out, "--label", "title").code == 0
    assert [(row["key"], row["title"]) for row in rows(out)] == [("C minor", "1"), ("", "2")]


def test_tags_artists_and_published_splits(loev: Loev, index: Path, tmp_path: Path) -> None:
    home, tracks = tmp_path / "mtg", {}
    names = {"train": "track_1", "validation": "track_2", "test": "track_3"}
    lines = ["TRACK_ID\tARTIST_ID\tALBUM_ID\tPATH\tDURATION\tTAGS"]
    for i, name in enumerate(names.values()):
        write_audio(home / "audios" / f"{i}.wav", seed=i)
        tracks[name] = {"audio": f"audios/{i}.wav"}
        tags = "mood/theme---calm\tmood/theme---dark"
        lines.append(f"{name}\tartist_{i}\talbum_0\t{i}.mp3\t2.0\t{tags}")
    write(home / "data" / "autotagging_moodtheme.tsv", "\n".join(lines) + "\n")
    for number in range(5):
        for split, name in names.items():
            folder = home / "data" / "splits" / f"split-{number}"
            write(folder / f"autotagging_moodtheme-{split}.tsv", f"TRACK_ID\n{name}\n")
    write_index(index, tracks)
    out = tmp_path / "mtg.csv"
    done = loev("manifest", "mirdata", "mtg_jamendo_autotagging_moodtheme", home, "--out", out)
    assert done.code == 0, done.err
    assert [(row["split"], row["group"], row["tags"]) for row in rows(out)] == [
        ("train", "artist_0", "calm;dark"),
        ("val", "artist_1", "calm;dark"),
        ("test", "artist_2", "calm;dark"),
    ]
    assert [row.split for row in read_rows([out])] == ["train", "val", "test"]


def test_misuse_of_mirdata_is_one_line(loev: Loev, index: Path, tmp_path: Path) -> None:
    home, out = tmp_path / "home", tmp_path / "m.csv"

    def said(*arguments: str | Path) -> str:
        done = loev("manifest", "mirdata", *arguments)
        assert done.code == 2
        assert len(done.lines) == 1
        assert not out.exists()
        return done.err

    assert "gtzan_genre" in said("gtzan_gene", home, "--out", out)
    assert str(home) in said("gtzan_genre", home, "--out", out)
    home.mkdir()
    assert "download(['index'])" in said("gtzan_genre", home, "--out", out)
    assert "mine" in said("gtzan_genre", home, "--out", out, "--dataset-version", "mine")
    files = {"audio": "a.wav", "beats": "a.beats", "tempo": "a.bpm"}
    write_index(index, {"blues.00000": files})
    assert "a.wav" in said("gtzan_genre", home, "--out", out)
    assert "'artist'" in said("gtzan_genre", home, "--out", out, "--group", "artist")
    assert "m.txt" in said("gtzan_genre", home, "--out", tmp_path / "m.txt")


def jams(*annotations: tuple[str, Any], artist: str = "") -> dict[str, Any]:
    return {
        "file_metadata": {"artist": artist, "duration": 10.0},
        "annotations": [
            {"namespace": name, "data": data, "annotation_metadata": {}, "sandbox": {}}
            for name, data in annotations
        ],
        "sandbox": {},
    }


def seen(value: Any, confidence: float | None = 1.0) -> dict[str, Any]:
    return {"time": 0.0, "duration": 10.0, "value": value, "confidence": confidence}


def test_jams(loev: Loev, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        write_audio(tmp_path / "music" / folder / "one.wav", seed=len(folder))
    write_audio(tmp_path / "music" / "two.wav", seed=5)
    labels = tmp_path / "labels"
    key = ("key_mode", [seen("Bb:minor")])
    tempi = ("tempo", [seen(60.0, 0.3), seen(120.0, 0.7)])
    tags = ("tag_open", [seen("warm", None), seen("calm", None)])
    write(labels / "a" / "one.jams", jams(key, tempi, tags, artist="X"))
    write(labels / "b" / "one.jams", jams(("key_mode", [seen("C:major"), seen("D:major")])))
    by_field = {"time": [0.0], "duration": [9.0], "value": [99.0], "confidence": [1.0]}
    write(labels / "two.jams", jams(("tempo", by_field), ("beat", [seen(1)])))
    write(labels / "three.jams", jams())
    out = tmp_path / "m.csv"
    done = loev("manifest", "jams", labels, "--audio", tmp_path / "music", "--out", out)
    assert done.code == 0, done.err
    assert "1 track left out" in done.err
    first = {"group": "X", "key": "Bb minor", "tempo": "120", "tag_open": "warm;calm"}
    columns = ("group", "key", "tempo", "tag_open")
    found = {row["path"]: {name: row[name] for name in columns} for row in rows(out)}
    assert found == {
        "music/a/one.wav": first,
        "music/b/one.wav": dict.fromkeys(columns, ""),
        "music/two.wav": dict.fromkeys(columns, "") | {"tempo": "99"},
    }


@pytest.mark.parametrize(
    "content",
    ["", "[]", '{"annotations": []}',
     '{"file_metadata": {}, "annotations": [{"namespace": "tempo"}]}',
     '{"file_metadata": {}, "annotations": [{"namespace": "tempo", "data": [1]}]}',
     '{"file_metadata": [], "annotations": 3}', "{" * 100],
)  # fmt: skip
def test_what_is_not_jams(tmp_path: Path, content: str) -> None:
    (tmp_path / "x.jams").write_text(content)
    with pytest.raises(UsageError, match=r"x\.jams is not JAMS"):
        list(rows_of_jams(tmp_path, tmp_path))


def test_folders_without_jams(tmp_path: Path) -> None:
    for folder in (tmp_path / "missing", tmp_path):
        with pytest.raises(UsageError, match=str(folder)):
            list(rows_of_jams(folder, folder))
