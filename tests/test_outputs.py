"""No command replaces a file that it did not make, nor any input; lists survive a round trip."""

from __future__ import annotations

import csv
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from loev_cli.bundle import Bundle
from loev_cli.cli._lists import ListWriter, is_list_of
from loev_cli.embed.merge import merge
from loev_cli.errors import OutputError, UsageError
from loev_cli.export import check_out as check_bundle_out
from loev_cli.formats import Row, open_writer
from loev_cli.storage.replacing import check_no_input, check_place
from loev_cli.train.config import TrainConfig, to_toml
from loev_cli.train.pipeline import check_out as check_run_out
from tests.conftest import Loev, environment
from tests.conftest import command as words
from tests.embed.common import embedded
from tests.search.common import DIMS, meta, write_library

# Names that a careless CSV, terminal or playlist would break on; all valid on Linux.
NAMES = [
    "plain.wav",
    'quote".wav',
    "comma,.wav",
    "line\nbreak.wav",
    "return\rcarriage.wav",
    "both\r\n.wav",
    " space .wav",
    "=cmd().wav",
    "@at.wav",
    "+plus.wav",
    "-minus.wav",
    "\ttab.wav",
    "\x1b[2Jred.wav",
    "c1\x9b.wav",
    "bidi\u202egpj.wav",
    "line\u2028separator.wav",
]
LISTS = {
    "search": ("plain.wav", "-k", "99"),
    "dedup": ("--threshold", "0.99"),
    "playlist": ("--seed", "plain.wav", "--minutes", "1000", "--max-distance", "2"),
}


@pytest.fixture
def emb(tmp_path: Path) -> Path:
    """A library of all the names, and nothing that is like anything else."""
    file = tmp_path / "lib.npz"
    rng = np.random.default_rng(0)
    with open_writer(str(file), meta()) as writer:
        for name in sorted(NAMES):
            vectors = {s: (3 + rng.standard_normal(d)).astype(np.float32) for s, d in DIMS.items()}
            writer.add(Row(name, 30.0, False, vectors))
        writer.commit()
    return file


def listing(command: str, emb: Path, *more: str | Path) -> list[str | Path]:
    return [command, emb, *LISTS[command], "--quiet", *more]


# ---------------------------------------------------------------- what may be replaced


@pytest.mark.parametrize("command", LISTS)
def test_a_list_replaces_only_an_earlier_list_of_its_command(
    command: str, emb: Path, tmp_path: Path, loev: Loev
) -> None:
    mine = tmp_path / "mine.csv"
    mine.write_text("path,key\na.mp3,C major\n")
    refused = loev(*listing(command, emb, "--out", mine))
    assert (refused.code, len(refused.lines)) == (2, 1)
    assert str(mine) in refused.err
    assert mine.read_text() == "path,key\na.mp3,C major\n"
    assert loev(*listing(command, emb, "--out", mine, "--overwrite")).code == 0
    assert "C major" not in mine.read_text()

    for extension in (".csv", ".jsonl", ".m3u", ".m3u8", ".txt"):
        out = tmp_path / f"list{extension}"
        for _ in range(2):
            assert loev(*listing(command, emb, "--out", out)).code == 0
        assert is_list_of(command, out)
        for other in LISTS:
            if other != command:
                assert not is_list_of(other, out)
                assert loev(*listing(other, emb, "--out", out)).code == 2
    several = tmp_path / "several.csv"
    if command == "search":
        for _ in range(2):
            assert loev(*listing(command, emb, "=cmd().wav", "--out", several)).code == 0
        assert several.read_text().startswith("query,rank,path,score,")


@pytest.mark.parametrize("command", LISTS)
@pytest.mark.parametrize(
    "spelled",
    [
        lambda emb: emb,
        lambda emb: emb.parent / ".." / emb.parent.name / emb.name,
        lambda emb: link(emb, emb.parent / "soft.csv", os.symlink),
        lambda emb: link(emb, emb.parent / "hard.csv", os.link),
    ],
)
def test_the_library_is_never_replaced(
    command: str, spelled: Callable[[Path], Path], emb: Path, loev: Loev
) -> None:
    content = emb.read_bytes()
    done = loev(*listing(command, emb, "--out", spelled(emb), "--overwrite"))
    assert (done.code, len(done.lines)) == (2, 1)
    assert emb.read_bytes() == content


def link(target: Path, at: Path, make: Callable[[Path, Path], None]) -> Path:
    make(target, at)
    return at


def test_neither_is_a_query_or_a_list_on_stdin(emb: Path, tmp_path: Path, loev: Loev) -> None:
    song = tmp_path / "song.mp3"
    song.write_bytes(b"music")
    (tmp_path / "song.csv").symlink_to(song)
    for out in (song, tmp_path / "song.csv"):
        assert loev("search", emb, song, "--out", out, "--overwrite").code == 2
    assert song.read_bytes() == b"music"
    asked = tmp_path / "asked.csv"
    asked.write_text("plain.wav\n")
    linked = link(asked, tmp_path / "asked.jsonl", os.link)
    commands: list[list[str | Path]] = [
        ["search", emb, "-", "--out", asked, "--overwrite"],
        ["annotate", "-", "--out", asked, "--overwrite"],
        ["embed", "-", "--out", linked, "--overwrite"],
    ]
    for command in commands:
        with asked.open("rb") as stdin:
            done = subprocess.run(
                words(*command), stdin=stdin, capture_output=True, env=environment(), timeout=60
            )
        assert done.returncode == 2, done.stderr
        assert asked.read_text() == "plain.wav\n"


@pytest.mark.parametrize("command", [*LISTS, "annotate"])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.xlsx", []),
        ("song.mp3", []),
        ("a.npz", ["--overwrite"]),
        ("a.tsv", ["--format", "csv"]),
        ("a.csv", ["--format", "jsonl"]),
    ],
)
def test_lists_are_called_what_they_are(
    command: str, name: str, options: list[str], emb: Path, tmp_path: Path, loev: Loev
) -> None:
    out = tmp_path / name
    asked = ["annotate", tmp_path] if command == "annotate" else listing(command, emb)
    done = loev(*asked, "--out", out, *options)
    assert (done.code, len(done.lines)) == (2, 1), done.err
    assert str(out) in done.err
    assert not out.exists()


@pytest.mark.parametrize("command", LISTS)
def test_what_is_no_file_is_not_replaced(
    command: str, emb: Path, tmp_path: Path, loev: Loev
) -> None:
    (tmp_path / "folder.csv").mkdir()
    done = loev(*listing(command, emb, "--out", tmp_path / "folder.csv", "--overwrite"))
    assert (done.code, len(done.lines)) == (2, 1)
    os.mkfifo(tmp_path / "pipe.csv")
    for out in (tmp_path / "pipe.csv", Path("/dev/full"), Path("/dev/null")):
        done = loev(*listing(command, emb, "--out", out, "--overwrite"))
        assert (done.code, len(done.lines)) == (1, 1)
        assert str(out) in done.err
        assert not out.is_file()


def test_a_file_in_a_library_that_is_a_folder_is_part_of_it(tmp_path: Path, loev: Loev) -> None:
    library = tmp_path / "lib.lance"
    pytest.importorskip("lance")
    write_library(library, 20)
    part = library / "part.csv"
    part.write_text("something of Lance")
    assert loev("dedup", library, "--out", part, "--overwrite").code == 2
    assert part.read_text() == "something of Lance"


def test_a_folder_that_an_input_lies_in_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    inside = tmp_path / "run" / "last.pt"
    inside.write_bytes(b"weights")
    with pytest.raises(UsageError, match=r"last\.pt"):
        check_place(tmp_path / "run", inputs=[inside], overwrite=True, is_folder=True)
    check_no_input(tmp_path / "ru", [inside])  # a name that begins alike is no folder of it
    with pytest.raises(UsageError):
        check_place(inside, overwrite=True, is_folder=True)
    with pytest.raises(UsageError):
        check_place(tmp_path / "run", overwrite=True)


def test_a_model_replaces_only_a_model(tmp_path: Path, bundle: Bundle) -> None:
    music = tmp_path / "music"
    music.mkdir()
    check_bundle_out(music, overwrite=False)  # it is empty
    (music / "song.mp3").touch()
    for overwrite in (False, True):
        with pytest.raises(UsageError, match="music"):
            check_bundle_out(music, overwrite=overwrite)
    with pytest.raises(UsageError):
        check_bundle_out(bundle.path, overwrite=False)
    check_bundle_out(bundle.path, overwrite=True)
    with pytest.raises(UsageError, match=bundle.path.name):
        check_bundle_out(bundle.path, overwrite=True, inputs=[bundle.path / "config.json"])


def test_a_run_goes_where_nothing_else_is(tmp_path: Path) -> None:
    check_run_out(tmp_path / "new", inputs=[tmp_path], resume=False)
    config = tmp_path / "config.toml"
    config.write_text("lr = 0.1\n")  # somebody's own
    with pytest.raises(UsageError, match=r"config\.toml"):
        check_run_out(tmp_path, inputs=[], resume=False)
    config.unlink()
    (tmp_path / "metrics.csv").write_text("what,ever\n")
    with pytest.raises(UsageError, match=r"metrics\.csv"):
        check_run_out(tmp_path, inputs=[], resume=False)
    config.write_text(to_toml(TrainConfig()))  # an unfinished run's
    check_run_out(tmp_path, inputs=[tmp_path], resume=False)
    with pytest.raises(UsageError, match="inputs"):
        check_run_out(tmp_path, inputs=[config], resume=False)


@pytest.mark.parametrize("command", ["compare", "advise"])
def test_a_report_goes_only_into_a_folder_of_its_command(command: str, tmp_path: Path) -> None:
    from loev_cli.experiments import advise_report, report

    check = {"compare": report, "advise": advise_report}[command].check_out
    out = tmp_path / "out"
    check(out, inputs=[], overwrite=False)
    out.mkdir()
    check(out, inputs=[], overwrite=False)
    unfinished = out / {"compare": "pretraining.csv", "advise": "vectors"}[command]
    unfinished.touch()
    check(out, inputs=[tmp_path], overwrite=False)
    (out / "results.json").write_text(json.dumps({"command": f"loev {command} --data x"}))
    (out / "notes.txt").touch()
    check(out, inputs=[], overwrite=False)
    with pytest.raises(UsageError, match="inputs"):
        check(out, inputs=[out / "results.json"], overwrite=True)
    for content in ('{"command": "loev evaluate --data x"}', "[]", "{}", "\xff"):
        (out / "results.json").write_text(content)
        with pytest.raises(UsageError, match=command):
            check(out, inputs=[], overwrite=False)
    check(out, inputs=[], overwrite=True)
    with pytest.raises(UsageError):
        check(out / "notes.txt", inputs=[], overwrite=True)


def test_a_list_of_failures_is_not_put_over_something_else(
    bundle: Bundle, library: Path, tmp_path: Path
) -> None:
    out = tmp_path / "x.npz"
    mine = tmp_path / "x.npz.failures.jsonl"
    mine.write_text('{"my": "notes"}\n')
    with pytest.raises(UsageError, match="failures"):
        embedded(bundle, out, library)
    part = tmp_path / "part.npz"
    embedded(bundle, part, library)
    with pytest.raises(UsageError, match="failures"):
        merge([str(part)], str(out))
    assert mine.read_text() == '{"my": "notes"}\n'
    precious = (library / "b" / "same.wav").rename(library / "y.npz.failures.jsonl")
    content = precious.read_bytes()
    with pytest.raises(UsageError, match="inputs"):
        embedded(bundle, library / "y.npz", precious, overwrite=True)
    assert precious.read_bytes() == content
    (library / "bad.mp3").write_text("no music\n" * 50)
    for _ in range(2):  # its own it takes
        assert embedded(bundle, tmp_path / "z.npz", library)[1].failures


def test_an_index_does_not_replace_the_table_that_it_reads(tmp_path: Path) -> None:
    pytest.importorskip("lance")
    from loev_cli.search.indexing import index

    (tmp_path / "db").mkdir()
    table = tmp_path / "db" / "tracks.lance"
    write_library(table, 20)
    with pytest.raises(UsageError, match="inputs"):
        index(table, tmp_path / "db", overwrite=True)
    assert len(list(table.rglob("*"))) > 1


# ---------------------------------------------------------------- what is in a list


@pytest.mark.parametrize("command", ["search", "playlist"])
def test_every_name_survives_every_format(
    command: str, emb: Path, tmp_path: Path, loev: Loev
) -> None:
    rows = tmp_path / "x.csv"
    assert loev(*listing(command, emb, "--out", rows)).code == 0
    with rows.open(newline="", encoding="utf-8") as stream:
        read = list(csv.DictReader(stream))
    assert sorted(row["path"] for row in read) == sorted(NAMES)
    assert all(None not in row and None not in row.values() for row in read)
    lines = tmp_path / "x.jsonl"
    assert loev(*listing(command, emb, "--out", lines)).code == 0
    content = lines.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    assert [json.loads(line)["path"] for line in content] == [row["path"] for row in read]
    piped = loev(*listing(command, emb, "--format", "csv"))
    assert piped.out.encode() == rows.read_bytes()


def test_cells_that_look_like_formulas_are_text_if_asked(
    emb: Path, tmp_path: Path, loev: Loev
) -> None:
    out = tmp_path / "x.csv"
    asked = listing("search", emb, "--out", out, "--weights", "tempo=-1")
    for options, mark in (([], ""), (["--csv-safe"], "'")):
        assert loev(*asked, *options).code == 0
        with out.open(newline="", encoding="utf-8") as stream:
            read = list(csv.DictReader(stream))
        paths = {row["path"] for row in read}
        assert {f"{mark}{name}" for name in NAMES if name[0] in "=@+-\t"} <= paths
        assert {name for name in NAMES if name[0] not in "=@+-\t"} <= paths
        assert min(float(row["score"]) for row in read) < 0  # a number is no formula


def test_a_list_that_fails_leaves_nothing(tmp_path: Path) -> None:
    out = tmp_path / "sub" / "x.csv"
    out.parent.mkdir()
    with (
        pytest.raises(OutputError, match=r"x\.csv"),
        ListWriter("search", "csv", str(out), inputs=[], overwrite=False) as listed,
    ):
        listed.add({"rank": 1, "path": "a", "score": 1.0}, 1.0)
        for file in out.parent.iterdir():
            file.unlink()
        out.parent.rmdir()
        listed.finish()
    assert not out.parent.exists()


def test_dedup_and_annotate_make_playlists_too(
    bundle: Bundle, library: Path, tmp_path: Path, loev: Loev
) -> None:
    write_library(tmp_path / "copies.npz", 40, n_distinct=15)
    out = tmp_path / "copies.m3u"
    assert loev("dedup", tmp_path / "copies.npz", "--out", out).code == 0
    lines = out.read_text().splitlines()
    assert lines[0] == "#EXTM3U"
    assert sum(not line.startswith("#") for line in lines) == 40
