"""``loev search`` from the command line."""

from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from loev_cli.bundle import Bundle
from loev_cli.formats import Row, open_writer
from loev_cli.search import Query, open_library
from tests.conftest import (
    Loev,
    add_bad_files,
    command,
    environment,
    feed,
    make_bundle,
    write_audio,
)
from tests.search.common import DIMS, meta, write_library
from tests.test_imports import RUN, TORCH, modules_after


@pytest.fixture
def emb(tmp_path: Path) -> Path:
    write_library(tmp_path / "emb.npz", 40, tags=("artist",))
    return tmp_path / "emb.npz"


@pytest.fixture
def heard(library: Path, bundle: Bundle, tmp_path: Path, loev: Loev) -> Path:
    """The audio of ``library``, embedded."""
    out = tmp_path / "heard.npz"
    assert loev("embed", library, "--out", out, "--model", bundle.path).code == 0
    return out


def test_every_format_says_the_same(emb: Path, loev: Loev, tmp_path: Path) -> None:
    library = open_library(emb)
    weights = {"invariant": 1.0, "pitch": -0.3}
    hits = library.search(library.of_row(7), Query(weights, k=5, where="not silent"))
    asked = ["search", emb, "a/007.wav", "--weights", "invariant=1,pitch=-0.3", "-k", "5"]
    asked += ["--where", "not silent"]

    lines = [json.loads(line) for line in loev(*asked, "--format", "jsonl").out.splitlines()]
    assert lines == [
        {"rank": h.rank, "path": h.path, "score": h.score, **h.distances}
        | {"artist": f"Artist {h.row % 3}"}
        for h in hits
    ]
    assert list(lines[0]) == ["rank", "path", "score", *DIMS, "artist"]

    rows = list(csv.DictReader(io.StringIO(loev(*asked, "--format", "csv").out)))
    assert [float(row["score"]) for row in rows] == [h.score for h in hits]
    assert [row["path"] for row in rows] == [h.path for h in hits]

    table = loev(*asked)
    assert table.out.splitlines()[0].split() == ["rank", "score", *DIMS, "artist", "path"]
    assert [line.split()[-1] for line in table.out.splitlines()[1:]] == [h.path for h in hits]
    assert "by invariant=1, pitch=-0.3; exact, all 40 tracks compared" in table.err

    playlist = tmp_path / "list.m3u8"
    done = loev(*asked, "--out", playlist, "--root", tmp_path)
    assert (done.code, done.out) == (0, "")
    assert f"5 tracks -> {playlist}" in done.err
    written = playlist.read_text().splitlines()
    assert written[0] == "#EXTM3U"
    assert written[2::2] == [h.path for h in hits]
    assert "5 files of the playlist not found" in done.err
    assert written[1] == f"#EXTINF:{30 + 2 * hits[0].row},{Path(hits[0].path).stem}"


def test_the_default_is_invariant(emb: Path, loev: Loev) -> None:
    default = loev("search", emb, "003.wav")
    assert default.out == loev("search", emb, "003.wav", "--by", "invariant").out
    assert "by invariant;" in default.err
    assert len(default.out.splitlines()) == 11
    quiet = loev("search", emb, "003.wav", "--quiet")
    assert (quiet.out, quiet.err) == (default.out, "")


def test_several_queries_each_have_their_answers(emb: Path, loev: Loev) -> None:
    done = loev("search", emb, "003.wav", "a/005.wav", "-k", "2", "--format", "jsonl")
    lines = [json.loads(line) for line in done.out.splitlines()]
    assert [(line["query"], line["rank"]) for line in lines] == [
        *(("003.wav", 1), ("003.wav", 2), ("a/005.wav", 1), ("a/005.wav", 2))
    ]
    done = loev("search", emb, "003.wav", "none.wav", "a/005.wav", "-k", "1", "--format", "csv")
    assert done.code == 3
    assert [row["path"] for row in csv.DictReader(io.StringIO(done.out))] == [
        *("a/003.wav", "a/005.wav")
    ]
    assert len([line for line in done.lines if "error" in line]) == 1
    done = loev("search", emb, "003.wav", "005.wav", "--where", "nothing > 3")
    assert (done.code, done.out, len(done.lines)) == (2, "", 1)
    done = loev("search", emb, "none.wav", "nothing.wav")
    assert (done.code, done.out, len(done.lines)) == (1, "", 2)


@pytest.mark.parametrize(
    ("options", "stdin"), [([], b"003.wav\na/005.wav\r\n\n"), (["--null"], b"003.wav\0a/005.wav\0")]
)
def test_queries_come_from_stdin_too(
    emb: Path, options: list[str], stdin: bytes, loev: Loev, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed(monkeypatch, stdin)
    done = loev("search", emb, "-", "-k", "1", "--format", "jsonl", *options)
    assert done.code == 0
    assert [json.loads(line)["query"] for line in done.out.splitlines()] == ["003.wav", "a/005.wav"]
    feed(monkeypatch, b"")
    assert loev("search", emb, "-").code == 2


def test_the_own_row_can_be_left_out(emb: Path, loev: Loev) -> None:
    everything = loev("search", emb, "003.wav", "-k", "5", "--format", "jsonl").out.splitlines()
    assert json.loads(everything[0])["path"] == "a/003.wav"
    others = loev("search", emb, "003.wav", "-k", "4", "--format", "jsonl", "--exclude-same-file")
    paths = [json.loads(line)["path"] for line in others.out.splitlines()]
    assert paths == [json.loads(line)["path"] for line in everything[1:]]


def test_an_audio_file_is_listened_to(
    heard: Path, library: Path, bundle: Bundle, tmp_path: Path, loev: Loev
) -> None:
    copy = shutil.copy(library / "a" / "same.wav", tmp_path / "new.wav")
    asked = ["search", heard, copy, "--model", bundle.path, "--format", "jsonl"]
    done = loev(*asked)
    assert done.code == 0, done.err
    first = json.loads(done.out.splitlines()[0])
    assert first["path"] == "a/same.wav"
    assert first["score"] == pytest.approx(1, abs=1e-5)
    # The very file, asked for as a file: its row is the same file, and no answer if so wished.
    asked[2] = library / "short.WAV"
    row = loev("search", heard, "short.WAV", "--format", "jsonl", "--exclude-same-file")
    file = loev(*asked, "--exclude-same-file")
    assert [json.loads(line)["path"] for line in row.out.splitlines()] == [
        json.loads(line)["path"] for line in file.out.splitlines()
    ]
    assert "short.WAV" not in file.out


def test_files_that_cannot_be_listened_to(
    heard: Path, library: Path, bundle: Bundle, tmp_path: Path, loev: Loev
) -> None:
    add_bad_files(tmp_path)
    song = write_audio(tmp_path / "song.wav")
    other = make_bundle(tmp_path / "other", seed=1, name="other")
    for query, model, message, code in (
        (tmp_path / "bad.mp3", bundle.path, "unsupported or unreadable audio format", 1),
        (tmp_path / "empty.wav", bundle.path, "is empty (0 bytes)", 1),
        (library, bundle.path, "is a folder", 1),
        (song, other.path, "was made by tiny", 2),
        (song, tmp_path / "none", "no model", 2),
        (song, None, "needs the model used to embed the library, tiny", 2),
    ):
        options = [] if model is None else ["--model", model]
        done = loev("search", heard, query, *options)
        assert (done.code, done.out, len(done.lines)) == (code, "", 1), done.err
        assert message in done.err
    done = loev("search", heard, song, song)  # not once for every query
    assert (done.code, done.out, len(done.lines)) == (2, "", 1), done.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--by", "temp"],
            "no subspace 'temp' (did you mean 'tempo'? it has invariant, pitch, tem",
        ),
        (["--weights", "temp=1"], "no subspace 'temp'"),
        (["--weights", "tempo"], "'tempo' is not SUBSPACE=NUMBER"),
        (["--weights", ""], "'' is not SUBSPACE=NUMBER"),
        (["--weights", "tempo=0"], "the weight of 'tempo' is 0"),
        (["--by", "tempo", "--weights", "tempo=1"], "exclude each other"),
        (["--by", "tempo", "--by", "pitch"], "--by is given more than once"),
        (["-k", "3", "-k4"], "-k is given more than once"),
        (["--where", "bpm > 3", "--where=silent"], "--where is given more than once"),
        (["-k", "0"], "'-k'"),
        (["--where", "duration > 3"], "names no column: 'duration', at character 1"),
        (["--where", "duration_s >"], "has its end where a number"),
        (["--where", "duration_s > 3 and (silent"], "has its end where ')' should be"),
        (["--like-but", "temp=+10%"], "cannot move 'temp'"),
        (["--root", "."], "--root is for playlists"),
        (["--out", "none/x.csv"], "no folder none"),
        (["--format", "xml"], "'xml'"),
    ],
)
def test_bad_requests_are_one_line(
    emb: Path, loev: Loev, arguments: list[str], message: str
) -> None:
    done = loev("search", emb, "003.wav", *arguments)
    assert (done.code, done.out, len(done.lines)) == (2, "", 1), done.err
    assert message in done.err


def test_libraries_that_cannot_be_searched_are_one_line(tmp_path: Path, loev: Loev) -> None:
    write_library(tmp_path / "empty.npz", 0)
    write_library(tmp_path / "nan.npz", 20, poison=("invariant", float("nan")))
    (tmp_path / "text.npz").write_text("no library")
    write_library(tmp_path / "torn.npz", 40)
    content = (tmp_path / "torn.npz").read_bytes()
    (tmp_path / "torn.npz").write_bytes(content[: len(content) // 2])
    for name, message in (
        ("empty.npz", "holds no tracks"),
        ("nan.npz", "'invariant' holds NaN or infinite values"),
        ("text.npz", "is not a loev embedding file"),
        ("torn.npz", "is not a loev embedding file"),
        ("none.npz", "no such embedding file"),
        ("song.mp3", "no such embedding file"),
    ):
        done = loev("search", tmp_path / name, "003.wav")
        assert (done.code, done.out, len(done.lines)) == (2, "", 1), done.err
        assert message in done.err


def test_names_that_playlists_and_terminals_cannot_take(tmp_path: Path, loev: Loev) -> None:
    names = ["\x1b[31mred.wav", "#hash.wav", "line\nbreak.wav", "plain.wav"]
    with open_writer(str(tmp_path / "x.npz"), meta()) as writer:
        for i, name in enumerate(sorted(names)):
            vectors = {s: np.eye(d, dtype=np.float32)[i] for s, d in DIMS.items()}
            writer.add(Row(name, 10.0, False, vectors))
        writer.commit()
    table = loev("search", tmp_path / "x.npz", "plain.wav").out
    assert "\x1b" not in table
    assert "line\\x0abreak.wav" in table
    done = loev("search", tmp_path / "x.npz", "plain.wav", "--format", "m3u")
    entries = [line for line in done.out.split("\n") if not line.startswith("#EXT") and line]
    assert sorted(entries) == sorted(["./#hash.wav", "\x1b[31mred.wav", "plain.wav"])
    assert "not in the playlist" in done.err


def test_a_search_imports_nothing_heavy(emb: Path) -> None:
    loaded = modules_after(RUN.format(arguments=["search", str(emb), "003.wav", "--by", "tempo"]))
    assert "numpy" in loaded
    heavy = {"scipy", "sklearn", "pandas", "pyarrow", "lance", "onnxruntime", "soundfile", "rich"}
    assert not loaded & (TORCH | heavy)


def test_a_reader_that_has_seen_enough_is_no_error(emb: Path) -> None:
    words = command("search", emb, *[f"{i:03}.wav" for i in range(40)], "-k", "40")
    done = subprocess.run(
        ["sh", "-c", f"{' '.join(words)} | head -n 1; exit 0"],
        capture_output=True,
        env=environment(),
        text=True,
        check=True,
    )
    assert done.stdout.startswith("query")
    assert "Traceback" not in done.stderr
    assert "error" not in done.stderr
