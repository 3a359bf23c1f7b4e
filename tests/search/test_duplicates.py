"""Groups of the same recording."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

from loev_cli import audio
from loev_cli.bundle import Bundle
from loev_cli.embed import Request, embed
from loev_cli.errors import UsageError
from loev_cli.evaluate.equivariance import STRETCH_RATE_HZ, open_stretcher
from loev_cli.formats import Row, open_writer, read
from loev_cli.search.duplicates import Comparison, Relation, find_duplicates
from loev_cli.search.library import Library, open_library, subspace_of
from tests.conftest import ROOT, Loev, write_audio
from tests.search.common import DIMS, meta, write_library

MUSIC = ROOT / "examples" / "music"


def library_of(x: np.ndarray, n_blocks: int = 1) -> Library:
    """Rows as they are; a crowd of others around them makes 0 their mean."""
    space = subspace_of(x.astype(np.float32), "x", np.zeros(x.shape[1], np.float32))
    paths = [f"{i:04}" for i in range(len(x))]
    columns = {"duration_s": np.full(len(x), 60.0), "silent": np.zeros(len(x), np.bool_)}
    return Library(Path("x"), paths, {"a": space}, columns, {})


def on_circle(*degrees: float) -> Library:
    angle = np.radians(degrees)
    return library_of(np.stack([np.cos(angle), np.sin(angle)], axis=1))


def groups(library: Library, threshold: float) -> list[list[int]]:
    found: dict[int, list[int]] = {}
    for member in find_duplicates(library, by="a", threshold=threshold):
        found.setdefault(member.group, []).append(member.row)
    assert list(found) == list(range(1, len(found) + 1))
    return list(found.values())


STEP = 1 - np.cos(np.radians(10))


def test_pairs_within_the_threshold() -> None:
    library = on_circle(0, 9, 90, 180, 189, 270)
    assert groups(library, STEP) == [[0, 1], [3, 4]]
    assert groups(library, 1 - np.cos(np.radians(8))) == []


def test_no_chain_joins_what_is_far_apart() -> None:
    # 0 - 8 - 16 - 24: each is near the next; the nearest pairs are joined first.
    assert groups(on_circle(0, 7, 15, 22), STEP) == [[0, 1], [2, 3]]
    assert groups(on_circle(0, 3, 6, 40), STEP) == [[0, 1, 2]]


def test_copies_are_found_at_threshold_0_and_distances_are_to_the_first() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((50, 8))
    x[[7, 31]] = x[2]
    x[40] = 3 * x[20]  # the same direction
    library = library_of(x)
    assert groups(library, 0) == [[2, 7, 31], [20, 40]]
    members = find_duplicates(library, by="a", threshold=0)
    assert [member.distances for member in members] == [{"a": 0.0}] * 5
    assert [member.path for member in members] == ["0002", "0007", "0031", "0020", "0040"]


def test_all_blocks_are_compared_with_all() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((5000, 16))
    twins = rng.permutation(5000)[:400].reshape(200, 2)
    x[twins[:, 1]] = x[twins[:, 0]] + 0.01 * rng.standard_normal((200, 16))
    told: list[tuple[int, int]] = []
    members = find_duplicates(
        library_of(x), by="a", threshold=0.001, on_rows=lambda done, n: told.append((done, n))
    )
    pairs = {}
    for member in members:
        pairs.setdefault(member.group, set()).add(member.row)
    assert sorted(map(sorted, pairs.values())) == sorted(map(sorted, twins.tolist()))
    assert told == [(2048, 5000), (4096, 5000), (5000, 5000)]


def test_what_makes_no_sense(tmp_path: Path) -> None:
    write_library(tmp_path / "x.npz", 20)
    library = open_library(tmp_path / "x.npz")
    with pytest.raises(UsageError, match=r"no subspace 'invarient' .did you mean 'invariant'"):
        find_duplicates(library, by="invarient")
    for threshold in (-0.1, 1.0, float("nan")):
        with pytest.raises(UsageError, match="out of range"):
            find_duplicates(library, by="tempo", threshold=threshold)
    same = library_of(np.ones((1500, 2)))
    with pytest.raises(UsageError, match=r"more than 1000000 pairs.*smaller --threshold"):
        find_duplicates(same, by="a")


def test_the_command(tmp_path: Path, loev: Loev) -> None:
    emb = tmp_path / "x.npz"
    write_library(emb, 40, n_distinct=15)
    done = loev("dedup", emb, "--format", "jsonl")
    records = [json.loads(line) for line in done.out.splitlines()]
    assert (done.code, len(records)) == (0, 40)
    said = ["keep", "relation", "semitones", "rate", "of"]
    assert list(records[0]) == ["group", "path", "duration_s", *said, *DIMS]
    # The longest comes first, and is kept; the others are as those of a longer track.
    assert [(r["path"], r["keep"], r["relation"], r["of"]) for r in records if r["group"] == 1] == [
        ("a/030.wav", True, None, None),
        ("a/015.wav", False, "excerpt", "a/030.wav"),
        ("a/000.wav", False, "excerpt", "a/030.wav"),
    ]
    assert "15 groups of 40 tracks within 0.15 by invariant, of 40 tracks; 25 redundant" in done.err
    rows = list(csv.DictReader(io.StringIO(loev("dedup", emb, "--format", "csv").out)))
    assert [row["path"] for row in rows] == [r["path"] for r in records]
    longer = loev(
        "dedup", emb, "--where", "duration_s >= 60", "--quiet", "--out", tmp_path / "x.csv"
    )
    assert (longer.code, longer.out, longer.err) == (0, "", "")
    listed = list(csv.DictReader((tmp_path / "x.csv").open()))
    assert {row["path"] for row in listed} == {
        f"a/{i:03}.wav" for i in (*range(15, 25), *range(30, 40))
    }
    write_library(tmp_path / "none.npz", 40)
    done = loev("dedup", tmp_path / "none.npz", "--threshold", "0")
    assert (done.code, done.out) == (0, "")
    assert "0 groups of 0 tracks" in done.err
    for arguments in (["--by", "temp"], ["--threshold", "2"], ["--where", "x"]):
        done = loev("dedup", emb, *arguments)
        assert (done.code, done.out, len(done.lines)) == (2, "", 1)


@pytest.mark.parametrize("n", [2, 9, 10, 50])
@pytest.mark.parametrize("noise", [0.0, 1e-5])
def test_copies_are_found_among_nothing_but_copies(tmp_path: Path, n: int, noise: float) -> None:
    """The mean of copies of one track is that track: about it nothing is left of any of them."""
    rng = np.random.default_rng(0)
    track = {name: rng.standard_normal(dim) for name, dim in DIMS.items()}
    with open_writer(str(tmp_path / "x.jsonl"), meta()) as writer:
        for i in range(n):
            vectors = {
                name: (x + noise * rng.uniform(-1, 1, len(x))).astype(np.float32)
                for name, x in track.items()
            }
            writer.add(Row(f"{i:02}.wav", 30.0, False, vectors))
        writer.commit()
    library = open_library(tmp_path / "x.jsonl")
    for by in DIMS:
        members = find_duplicates(library, by=by, threshold=0.01)
        assert [member.group for member in members] == [1] * n
        assert max(member.distances[by] for member in members) < 1e-5


def test_a_mean_takes_ten_distinct_tracks(tmp_path: Path) -> None:
    for n_distinct in (9, 10):
        write_library(tmp_path / "x.npz", 400, n_distinct=n_distinct)
        center = open_library(tmp_path / "x.npz").subspaces["invariant"].center
        assert center.any() == (n_distinct == 10)


def test_a_database_of_copies_is_centered_as_the_file_is(tmp_path: Path) -> None:
    pytest.importorskip("lance")
    from loev_cli.search.indexing import index

    write_library(tmp_path / "x.npz", 40, n_distinct=1)
    index(tmp_path / "x.npz", tmp_path / "db")
    members = find_duplicates(open_library(tmp_path / "db"), by="invariant")
    assert len(members) == 40


RATE_HZ = STRETCH_RATE_HZ
ORIGINAL = "house-in-a-minor-124bpm"


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The examples, and real versions of one of them."""
    folder = tmp_path_factory.mktemp("versions")
    stretch = open_stretcher("signalsmith")
    x = audio.load(MUSIC / f"{ORIGINAL}.mp3", RATE_HZ)

    def write(kind: str, y: np.ndarray, rate_hz: int = RATE_HZ) -> None:
        soundfile.write(folder / f"{ORIGINAL}~{kind}", y, rate_hz)

    write("copy.ogg", x)
    write("copy.mp3", soxr.resample(x, RATE_HZ, 22050), 22050)
    write("copy.flac", x)
    write("excerpt.wav", x[4 * RATE_HZ : 16 * RATE_HZ])
    write("key+1.flac", stretch(x, rate=1.0, semitones=1))
    write("tempo1.06.flac", stretch(x, rate=1.06, semitones=0))
    for file in MUSIC.glob("*.*"):
        if file.suffix not in (".md", ".csv"):
            shutil.copy(file, folder)
    embed(Request([str(folder)], str(folder / "emb.npz"), annotate=True))
    return folder / "emb.npz"


def test_real_versions_are_told_apart(versions: Path, loev: Loev) -> None:
    records = [
        json.loads(line)
        for line in loev(
            "dedup", versions, "--threshold", "0.3", "--format", "jsonl"
        ).out.splitlines()
    ]
    of = {r["path"].partition("~")[2] or "itself": r for r in records if ORIGINAL in r["path"]}
    assert len({r["group"] for r in of.values()}) == 1
    # Of a recording the first lossless file is kept; an excerpt and what was encoded is not.
    assert of["copy.flac"]["relation"] is None
    assert {k for k, r in of.items() if r["keep"]} == {"copy.flac", "key+1.flac", "tempo1.06.flac"}
    assert {k: r["relation"] for k, r in of.items() if r["relation"]} == {
        "itself": "copy",
        "copy.ogg": "copy",
        "copy.mp3": "copy",
        "excerpt.wav": "excerpt",
        "key+1.flac": "key",
        "tempo1.06.flac": "tempo",
    }
    assert {r["of"] for r in of.values()} == {None, f"{ORIGINAL}~copy.flac"}
    assert of["key+1.flac"]["semitones"] == 1
    assert of["tempo1.06.flac"]["rate"] == pytest.approx(1.06, abs=0.005)
    for path in ("copy.ogg", "tempo1.06.flac", "excerpt.wav"):
        assert of[path]["semitones"] is None
    table = loev("dedup", versions, "--threshold", "0.3").out
    assert table.splitlines()[0].split()[:7] == [
        *("group", "duration_s", "keep", "relation", "semitones", "rate", "of")
    ]


def test_without_rotation_a_large_distance_is_another_key(versions: Path, tmp_path: Path) -> None:
    file = read(versions)
    with open_writer(str(tmp_path / "x.npz"), {**file.meta, "model": "no such model"}) as writer:
        for i, path in enumerate(file.paths):
            vectors = {name: x[i] for name, x in file.vectors.items()}
            said = {name: values[i] for name, values in file.annotations.items()}
            writer.add(Row(path, file.duration_s[i], file.silent[i], vectors, None, {}, said))
        writer.commit()
    library = open_library(tmp_path / "x.npz")
    compare = Comparison(library)
    original, *others = (
        library.row_of[f"{ORIGINAL}~{kind}"] for kind in ("copy.flac", "copy.ogg", "key+1.flac")
    )
    assert [compare(original, other) for other in others] == [
        *(Relation("copy", 0), Relation("key", None))
    ]


def test_other_subspaces_make_nothing_redundant(versions: Path) -> None:
    members = find_duplicates(open_library(versions), by="tempo", threshold=0.1)
    assert members
    assert all(member.keep and member.relation is None for member in members)


def test_the_better_file_is_kept(tmp_path: Path, loev: Loev, bundle: Bundle) -> None:
    x = write_audio(tmp_path / "music" / "x.flac", 3.0, rate_hz=48000, subtype="PCM_16")
    wave, _ = soundfile.read(x)
    for name, rate_hz, options in (
        ("a.mp3", 48000, {"bitrate_mode": "CONSTANT", "compression_level": 0.9}),
        ("b.mp3", 48000, {"bitrate_mode": "CONSTANT", "compression_level": 0.0}),
        ("c.flac", 48000, {"subtype": "PCM_24"}),
        ("d.wav", 24000, {"subtype": "PCM_16"}),
    ):
        y = soxr.resample(wave, 48000, rate_hz)
        soundfile.write(tmp_path / "music" / name, y, rate_hz, **options)
    emb = tmp_path / "x.npz"
    assert loev("embed", tmp_path / "music", "--out", emb, "--model", bundle.path).code == 0
    done = loev("dedup", emb, "--threshold", "0.9", "--format", "jsonl")
    records = [json.loads(line) for line in done.out.splitlines()]
    assert [r["path"] for r in records] == ["c.flac", "x.flac", "d.wav", "b.mp3", "a.mp3"]
    assert [r["keep"] for r in records] == [True, False, False, False, False]
    for file in (tmp_path / "music").iterdir():
        file.unlink()
    assert "quality not compared" in loev("dedup", emb, "--threshold", "0.9").err
