"""File names that are no UTF-8: told apart as rows, found again as files."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from loev_cli.audio import find
from loev_cli.bundle import Bundle
from loev_cli.explore.audio_files import AudioFiles
from loev_cli.row_names import path_of_row, row_name
from loev_cli.search.find import RowQuery, find_query
from tests.conftest import Loev, environment, write_audio
from tests.conftest import command as words

posix_only = pytest.mark.skipif(sys.platform != "linux", reason="names are bytes on Linux only")

# One byte, the text that spells it, the text that spells that, and so on.
ALIKE = [b"a\xff.wav", b"a\\xff.wav", b"a\\\\xff.wav", b"a\\\xff.wav", b"a\\\\\xff.wav"]


@pytest.mark.parametrize(
    "name",
    [
        "a.wav",
        "AC\\DC.wav",
        "\\x.wav",
        "\\x41.wav",
        "\\xFF.wav",
        "\\xf.wav",
        "日本/é\\n.wav",
        "\\\\",
    ],
)
def test_ordinary_names_are_rows_as_they_are(name: str) -> None:
    assert row_name(name) == name
    assert path_of_row(name) == name


def test_a_byte_is_spelled_as_ever() -> None:
    assert row_name(os.fsdecode(b"a\xff\xe9.wav")) == "a\\xff\\xe9.wav"


def test_rows_lead_back_to_bytes() -> None:
    draw = random.Random(0)
    pieces = [b"\\", b"x", b"ff", b"\xff", b"\x80", b"8", b"a", b"\xc3\xa9", b"\xc3", b"F", b"/"]
    names = {b"".join(draw.choices(pieces, k=draw.randrange(1, 9))) for _ in range(20_000)}
    rows = {name: row_name(os.fsdecode(name)) for name in {*names, *ALIKE}}
    assert len(set(rows.values())) == len(rows)
    for name, row in rows.items():
        row.encode("utf-8")
        assert os.fsencode(path_of_row(row)) == name


@posix_only
def test_names_that_look_alike_are_rows_of_their_own(tmp_path: Path) -> None:
    for name in ALIKE:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).touch()
    sources = find([str(tmp_path)])
    assert {os.fsencode(tmp_path / path_of_row(s.path)) for s in sources} == {
        os.fsencode(s.location) for s in sources
    }
    assert len(sources) == len(ALIKE)


def test_a_query_is_a_row_as_printed_or_a_file_as_named() -> None:
    names = [os.fsdecode(name) for name in ALIKE]
    paths = [f"in/{row_name(name)}" for name in names]
    for i, name in enumerate(names):
        assert find_query(paths[i], paths, Path("x")) == RowQuery(paths[i], i)
        only = [paths[i]]
        for asked in (name, f"in/{name}", row_name(name)):
            assert find_query(asked, only, Path("x")) == RowQuery(paths[i], 0)


@posix_only
def test_playlists_and_listening_find_the_files(bundle: Bundle, tmp_path: Path, loev: Loev) -> None:
    folder = tmp_path / "music"
    for seed, name in enumerate(ALIKE[:3]):
        write_audio(folder / f"{seed}.wav", 2.0, seed=seed).rename(folder / os.fsdecode(name))
    emb = tmp_path / "x.npz"
    assert loev("embed", folder, "--out", emb, "--model", bundle.path).code == 0
    out = tmp_path / "x.m3u"
    done = loev("search", emb, "a\\xff.wav", "--out", out, "--root", folder)
    assert done.code == 0, done.err
    entries = [line for line in out.read_bytes().split(b"\n") if line and line[:1] != b"#"]
    assert sorted(entries) == sorted(b"music/" + name for name in ALIKE[:3])
    assert all((tmp_path / os.fsdecode(entry)).is_file() for entry in entries)

    piped = subprocess.run(
        words("search", emb, "a\\xff.wav", "--format", "m3u", "--quiet"),
        capture_output=True, env=environment(), timeout=60, check=True,
    )  # fmt: skip
    files = {os.fsencode(folder) + b"/" + name for name in ALIKE[:3]}
    assert {line for line in piped.stdout.split(b"\n") if line[:1] == b"/"} == files

    for row in ("a\\xff.wav", "a\\\\xff.wav"):
        done = loev(
            *("search", emb, row, "--like-but", "tempo=+10%", "--root", folder, "--format"),
            *("jsonl", "--model", bundle.path),
        )
        assert done.code == 0, done.err
        assert "by embedding the audio" in done.err
        found = [json.loads(line)["path"] for line in done.out.splitlines()]
        assert len(found) == 2
        assert row not in found
    paths = [row_name(os.fsdecode(name)) for name in ALIKE[:3]]
    files = AudioFiles(folder, paths)
    assert [os.fsencode(files.find(i).name) for i in range(3)] == ALIKE[:3]
