"""LanceDB databases: made, brought up to date, searched by index."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from loev_cli.errors import UsageError
from loev_cli.formats import Row, open_writer, read
from loev_cli.search import Query, open_library, parse_where
from loev_cli.search.find import RowQuery
from loev_cli.search.session import Session
from tests.conftest import Loev
from tests.search.common import DIMS, meta, write_library

lance = pytest.importorskip("lance", reason="the extra 'db' is not installed")

from loev_cli.search import database as db  # noqa: E402
from loev_cli.search.indexing import index  # noqa: E402


def rewrite(out: Path, source: Path, keep: slice, changed: tuple[int, ...] = ()) -> None:
    """Some rows of an embedding file, a few of them with another tempo."""
    file = read(source)
    with open_writer(str(out), file.meta) as writer:
        for i in range(len(file.paths))[keep]:
            vectors = {name: x[i] for name, x in file.vectors.items()}
            if i in changed:
                vectors["tempo"] = vectors["tempo"] + 0.001
            heard = {name: values[i] for name, values in file.annotations.items()}
            writer.add(
                Row(file.paths[i], file.duration_s[i], file.silent[i], vectors, None, {}, heard)
            )
        writer.commit()


def assert_holds(folder: Path, emb: Path) -> None:
    """The database has the rows of the file and answers as the file does."""
    ours, theirs = open_library(folder), open_library(emb)
    assert ours.paths == theirs.paths
    assert ours.columns["duration_s"].tolist() == theirs.columns["duration_s"].tolist()
    rows = np.arange(len(ours))
    for name in DIMS:
        there = theirs.subspaces[name].raw(rows)
        np.testing.assert_allclose(ours.subspaces[name].raw(rows), there, atol=1e-5)
    query = Query({"pitch": 1.0, "tempo": -0.5}, k=20)
    assert [h.path for h in ours.search(ours.of_row(3), query)] == [
        h.path for h in theirs.search(theirs.of_row(3), query)
    ]


def test_a_database_is_brought_up_to_date(tmp_path: Path) -> None:
    emb, folder = tmp_path / "x.npz", tmp_path / "db"
    write_library(tmp_path / "all.npz", 400)
    rewrite(emb, tmp_path / "all.npz", slice(5, 398))
    done = index(emb, folder)
    assert (done.n_rows, done.n_added, done.is_new, done.is_indexed) == (393, 393, True, False)
    assert_holds(folder, emb)
    version = db.Database(folder).table.version
    done = index(emb, folder)
    assert (done.n_rows, done.n_added, done.n_changed, done.n_dropped) == (393, 0, 0, 0)
    rewrite(emb, tmp_path / "all.npz", slice(7, 400), changed=(10, 399))
    done = index(emb, folder)
    assert (done.n_rows, done.n_added, done.n_changed, done.n_dropped) == (393, 2, 1, 2)
    assert not done.is_new
    assert db.Database(folder).table.version > version
    assert_holds(folder, emb)
    write_library(tmp_path / "other.npz", 50, seed=3)
    rewrite(emb, tmp_path / "other.npz", slice(0, 50))
    done = index(emb, folder)  # mostly other vectors: the means have moved
    assert (done.n_rows, done.n_changed, done.n_dropped, done.is_new) == (50, 43, 350, True)
    assert_holds(folder, emb)


def test_lancedb_opens_it(tmp_path: Path) -> None:
    lancedb = pytest.importorskip("lancedb")
    write_library(tmp_path / "x.npz", 30)
    index(tmp_path / "x.npz", tmp_path / "db")
    table = lancedb.connect(str(tmp_path / "db")).open_table("tracks")
    assert table.count_rows() == 30
    near = table.search(np.ones(DIMS["tempo"]), vector_column_name="tempo").limit(3).to_list()
    assert len(near) == 3


def test_windows_become_tracks(tmp_path: Path) -> None:
    write_library(tmp_path / "x.parquet", 30, n_windows=3, tags=("artist",))
    index(tmp_path / "x.parquet", tmp_path / "db")
    assert_holds(tmp_path / "db", tmp_path / "x.parquet")
    assert open_library(tmp_path / "db").columns["tag_artist"][4] == "Artist 1"


def test_what_cannot_be_indexed(tmp_path: Path) -> None:
    emb, folder = tmp_path / "x.npz", tmp_path / "db"
    write_library(emb, 30)
    write_library(tmp_path / "other.npz", 30, model_sha256="f" * 64, model="other")
    write_library(tmp_path / "empty.npz", 0)
    write_library(tmp_path / "nan.npz", 30, poison=("pitch", float("inf")))
    with pytest.raises(UsageError, match="holds no tracks"):
        index(tmp_path / "empty.npz", folder)
    with pytest.raises(UsageError, match="'pitch' holds NaN or infinite values"):
        index(tmp_path / "nan.npz", folder)
    assert not folder.exists()
    index(emb, folder)
    with pytest.raises(UsageError, match=r"differ in the model.*--overwrite"):
        index(tmp_path / "other.npz", folder)
    assert_holds(folder, emb)
    assert index(tmp_path / "other.npz", folder, overwrite=True).is_new
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "song.mp3").touch()
    for overwrite in (False, True):
        with pytest.raises(UsageError, match="not created by 'loev index'"):
            index(emb, tmp_path / "full", overwrite=overwrite)
    assert (tmp_path / "full" / "song.mp3").exists()
    with pytest.raises(UsageError, match="is a file, not a folder"):
        index(emb, emb)
    for folder in (tmp_path / "full", tmp_path):
        with pytest.raises(UsageError, match="not a loev embedding file"):
            open_library(folder)


def clustered(rng: np.random.Generator, n: int, dim: int) -> np.ndarray:
    """Rows as those of a trained model lie: in groups, with few directions that matter."""
    scale = np.arange(1, dim + 1) ** -0.5
    centers = rng.standard_normal((40, dim)) * scale
    noise = rng.standard_normal((n, dim)) * scale
    return (centers[rng.integers(40, size=n)] + 0.6 * noise).astype(np.float32)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with x.npz and db, of 6000 tracks and with indexes."""
    folder = tmp_path_factory.mktemp("large")
    rng = np.random.default_rng(0)
    n = 6000
    raw = {name: clustered(rng, n, dim) for name, dim in DIMS.items()}
    said = {"annotations": {"columns": ["bpm", "key"], "sha256": "0" * 64}}
    with open_writer(str(folder / "x.npz"), meta(tags=["artist"], **said)) as writer:
        for i in range(n):
            vectors = {name: x[i] for name, x in raw.items()}
            tags = {"artist": ("Bach", "o'Neil", "")[i % 3]}
            heard = {"bpm": 60.0 + i % 100, "key": ("Db minor", "C major", "")[i % 3]}
            path = f"{i // 100:02}/{i:05}.wav"
            writer.add(Row(path, i % 300 + 0.1, i % 5 == 0, vectors, None, tags, heard))
        writer.commit()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(db, "INDEX_FROM_N_ROWS", 5000)
        assert index(folder / "x.npz", folder / "db").is_indexed
    return folder


WHERE = "duration_s between 10 and 200.5 and not silent and tag_artist contains 'neil'"


@pytest.mark.parametrize("where", [None, WHERE])
@pytest.mark.parametrize(
    "weights",
    [
        {"tempo": 1.0},
        {"invariant": -1.0},
        {"invariant": 1.0, "tempo": 1.0, "pitch": -0.3},
        {"invariant": -2.0, "pitch": -1.0},
    ],
)
def test_the_index_finds_what_comparing_all_finds(
    large: Path, weights: dict[str, float], where: str | None
) -> None:
    library, database = open_library(large / "db"), db.Database(large / "db")
    assert database.is_indexed
    found, n = 0, 0
    for row in range(0, 6000, 300):
        path = library.paths[row]
        query = Query(weights, k=10, where=where, exclude=frozenset({path}))
        exact = library.search(library.of_row(row), query)
        hits = database.search(database.query_of(RowQuery(path, -1)), query)
        assert len(hits) == len(exact) == 10
        assert path not in {hit.path for hit in hits}
        found += len({hit.path for hit in hits} & {hit.path for hit in exact})
        n += 10
        by_path = {hit.path: hit for hit in exact}
        for hit in hits:  # ranked exactly, as far as the means agree
            if hit.path in by_path:
                assert hit.duration_s == by_path[hit.path].duration_s
                assert hit.score == pytest.approx(by_path[hit.path].score, abs=1e-5)
                assert hit.distances == pytest.approx(by_path[hit.path].distances, abs=1e-5)
    assert found / n >= 0.95


@pytest.mark.parametrize(
    "where",
    [
        "duration_s > 100.1",
        "duration_s = 100.1",
        "duration_s in (3, 7.1, 2e2)",
        "duration_s != 3",
        "not (duration_s <= 3 or silent)",
        "silent = false",
        "tag_artist = 'o''Neil'",
        "tag_artist in ('Bach', '')",
        "tag_artist like 'B%h'",
        "key = 'C# minor' and camelot != '8B'",
        "tag_artist like '_''n%' or path like '03/%'",
        "tag_artist not contains 'a'",
        "path contains '%'",
        "path contains '\\'",
        "path like '\\%'",
        "path >= '5'",
    ],
)
def test_sql_means_what_the_mask_means(large: Path, where: str) -> None:
    library, database = open_library(large / "db"), db.Database(large / "db")
    mask = parse_where(where, library.columns).mask()
    sql = parse_where(where, database.columns).sql
    paths = database.table.to_table(columns=["path"], filter=sql)["path"].to_pylist()
    assert sorted(paths) == [path for path, keep in zip(library.paths, mask, strict=True) if keep]


def test_new_rows_are_found_beside_the_index(large: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(db, "INDEX_FROM_N_ROWS", 5000)
        rewrite(tmp_path / "most.npz", large / "x.npz", slice(0, 5900))
        index(tmp_path / "most.npz", tmp_path / "db")
        rewrite(tmp_path / "rest.npz", large / "x.npz", slice(50, 6000), changed=(60,))
        done = index(tmp_path / "rest.npz", tmp_path / "db")
        assert (done.n_rows, done.n_added, done.n_changed, done.n_dropped) == (5950, 100, 1, 50)
        assert done.is_indexed and not done.is_new
        assert_holds(tmp_path / "db", tmp_path / "rest.npz")
        database = db.Database(tmp_path / "db")
        for path in ("00/00060.wav", "59/05950.wav"):
            asked = database.query_of(RowQuery(path, -1))
            hits = database.search(asked, Query({"tempo": 1.0}, k=1))
            assert hits[0].path == path
        rewrite(tmp_path / "few.npz", large / "x.npz", slice(0, 4000))
        assert not index(tmp_path / "few.npz", tmp_path / "db").is_indexed


def test_a_database_without_units_is_compared_whole_until_it_is_made_again(
    large: Path, tmp_path: Path
) -> None:
    """As loev before November 2026 made them, with an index per subspace."""
    folder = shutil.copytree(large / "db", tmp_path / "db")
    lance.dataset(str(db.table_of(folder))).drop_columns([db.UNITS_COLUMN])
    assert not db.Database(folder).is_indexed
    assert_holds(folder, large / "x.npz")
    session = Session(folder, k=3)
    assert session.ask("05950.wav")[0].path == "59/05950.wav"
    assert session.notes[-1].endswith("exact, all 6000 tracks compared")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(db, "INDEX_FROM_N_ROWS", 5000)
        done = index(large / "x.npz", folder)
    assert (done.n_rows, done.n_added, done.is_new, done.is_indexed) == (6000, 0, True, True)
    assert_holds(folder, large / "x.npz")


def test_the_command_tells_how_it_searched(large: Path, loev: Loev) -> None:
    done = loev("search", large / "db", "05950.wav", "--by", "tempo", "-k", "3", "--format", "csv")
    assert done.code == 0
    assert "by tempo; approximate, by the index of 6000 tracks" in done.err
    rows = list(csv.DictReader(io.StringIO(done.out)))
    assert rows[0]["path"] == "59/05950.wav"
    known = [rows[0][name] for name in ("artist", "key", "camelot", "bpm")]
    assert known == ["o'Neil", "C major", "8B", "110.0"]
    exact = loev(
        *("search", large / "db", "59/05950.wav", "--by", "tempo", "-k", "3", "--format", "jsonl"),
        "--exact",
    )
    assert "exact, all 6000 tracks compared" in exact.err
    for line, row in zip(exact.out.splitlines(), rows, strict=True):
        both = json.loads(line)
        for name in ("path", "artist", "key", "camelot", "bpm"):
            assert row[name] == ("" if both[name] is None else str(both[name]))


def test_the_command_makes_a_database(tmp_path: Path, loev: Loev) -> None:
    write_library(tmp_path / "x.npz", 30)
    done = loev("index", tmp_path / "x.npz", "--db", tmp_path / "db")
    assert (done.code, done.out) == (0, "")
    assert done.lines[-1].startswith(
        "30 tracks (30 new, 0 changed, 0 dropped; below the index threshold"
    )
    done = loev("index", tmp_path / "x.npz", "--db", tmp_path / "db", "--quiet")
    assert (done.code, done.out, done.err) == (0, "", "")
    done = loev("search", tmp_path / "db", "003.wav")
    assert done.code == 0
    assert "exact, all 30 tracks compared" in done.err
    assert done.out.splitlines()[1].endswith("a/003.wav")


def test_a_damaged_database_is_one_clear_line(tmp_path: Path, loev: Loev) -> None:
    write_library(tmp_path / "x.npz", 30)
    index(tmp_path / "x.npz", tmp_path / "db")
    for file in (tmp_path / "db").rglob("*.lance"):
        if file.is_file():
            file.write_bytes(b"nothing")
    done = loev("search", tmp_path / "db", "003.wav")
    assert done.code == 2
    assert len(done.lines) == 1
    assert "is damaged" in done.err
