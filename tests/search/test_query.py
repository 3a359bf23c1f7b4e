"""Exact search against a loop written from the definition."""

from __future__ import annotations

import math
import operator
from pathlib import Path

import numpy as np
import pytest

from loev_cli.errors import UsageError
from loev_cli.search import Query, open_library, parse_weights
from loev_cli.search.library import Library, subspace_of
from tests.search.common import DIMS, write_library


def naive(library: Library, raw: dict[str, np.ndarray], row: int, query: Query) -> list[str]:
    """Paths in order of score, by loops over Python floats."""

    def moved(name: str, i: int) -> list[float]:
        mean = [math.fsum(column) / len(library) for column in raw[name].astype(float).T]
        return [float(x) - m for x, m in zip(raw[name][i], mean, strict=True)]

    def cosine(a: list[float], b: list[float]) -> float:
        return math.fsum(map(operator.mul, a, b)) / math.hypot(*a) / math.hypot(*b)

    asked = {name: moved(name, row) for name in query.weights}
    total = sum(map(abs, query.weights.values()))
    scored = []
    for i, path in enumerate(library.paths):
        if path in query.exclude:
            continue
        score = sum(w * cosine(asked[n], moved(n, i)) for n, w in query.weights.items()) / total
        scored.append((-round(score, 6), path))
    return [path for _, path in sorted(scored)][: query.k]


@pytest.mark.parametrize(
    "weights", [{"tempo": 1.0}, {"pitch": 2.0, "tempo": -0.7}, {"invariant": -1.0}]
)
@pytest.mark.parametrize("suffix", [".npz", ".parquet", ".jsonl", ".lance"])
def test_exact_search_is_a_loop_over_all_rows(
    tmp_path: Path, suffix: str, weights: dict[str, float]
) -> None:
    if suffix == ".lance":
        pytest.importorskip("lance")
    raw = write_library(tmp_path / f"x{suffix}", 60)
    library = open_library(tmp_path / f"x{suffix}")
    for row in (0, 17, 59):
        query = Query(weights, k=60, exclude=frozenset({library.paths[3]}))
        hits = library.search(library.of_row(row), query)
        assert [hit.path for hit in hits] == naive(library, raw, row, query)
        assert [hit.rank for hit in hits] == list(range(1, 60))
        assert [library.paths[hit.row] for hit in hits] == [hit.path for hit in hits]
        few = Query(weights, k=7, exclude=query.exclude)
        assert library.search(library.of_row(row), few) == hits[:7]


def test_scores_and_distances_are_of_the_definition(tmp_path: Path) -> None:
    raw = write_library(tmp_path / "x.npz", 40)
    library = open_library(tmp_path / "x.npz")
    hit = library.search(library.of_row(5), Query({"pitch": 3.0, "tempo": -1.0}, k=1))[0]
    cosine = {}
    for name, x in raw.items():
        x = x.astype(np.float64) - x.mean(axis=0, dtype=np.float64)
        cosine[name] = x[5] @ x[hit.row] / np.linalg.norm(x[5]) / np.linalg.norm(x[hit.row])
    assert hit.distances == {name: pytest.approx(1 - c, abs=1e-6) for name, c in cosine.items()}
    assert hit.score == pytest.approx((3 * cosine["pitch"] - cosine["tempo"]) / 4, abs=1e-6)
    assert set(hit.distances) == set(DIMS)


def test_equal_rows_come_in_order_of_their_paths_whatever_k_is(tmp_path: Path) -> None:
    write_library(tmp_path / "x.npz", 50, n_distinct=5)
    library = open_library(tmp_path / "x.npz")
    query = library.of_row(12)
    everything = [hit.path for hit in library.search(query, Query({"tempo": 1.0}, k=50))]
    assert everything[:10] == sorted(everything[:10])
    assert len({library.vectors["tempo"][library.row_of[p]].tobytes() for p in everything[:10]}) < 2
    for k in range(1, 50):
        assert [h.path for h in library.search(query, Query({"tempo": 1.0}, k=k))] == everything[:k]


def test_a_filter_leaves_rows_out(tmp_path: Path) -> None:
    write_library(tmp_path / "x.npz", 40)
    library = open_library(tmp_path / "x.npz")
    asked = library.of_row(2)
    everything = library.search(asked, Query({"tempo": 1.0}, k=40))
    longer = {
        p for p, s in zip(library.paths, library.columns["duration_s"], strict=True) if s > 80
    }
    assert 0 < len(longer) < 40
    hits = library.search(asked, Query({"tempo": 1.0}, k=40, where="duration_s > 80"))
    assert [h.path for h in hits] == [h.path for h in everything if h.path in longer]
    assert library.search(asked, Query({"tempo": 1.0}, where="duration_s < 0")) == []


def test_large_libraries_are_searched_block_by_block(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((40_000, 8)).astype(np.float32)
    space = subspace_of(x, "x")
    library = Library(
        tmp_path, [f"{i:05}" for i in range(len(x))], {"a": space}, {"duration_s": x[:, 0]}, {}
    )
    for row in (0, 39_999):
        hits = library.search({"a": space.vectors[row]}, Query({"a": 1.0}, k=20))
        unit = (x - x.mean(axis=0)) / np.linalg.norm(x - x.mean(axis=0), axis=1, keepdims=True)
        assert [h.row for h in hits] == np.argsort(-(unit @ unit[row]))[:20].tolist()


def test_a_row_at_the_center_is_like_nothing() -> None:
    x = np.concatenate(
        [np.eye(5, dtype=np.float32), -np.eye(5, dtype=np.float32), np.zeros((1, 5))]
    )
    space = subspace_of(x.astype(np.float32), "x")
    columns = {"duration_s": np.ones(11)}
    library = Library(Path("x"), list("abcdefghijk"), {"a": space}, columns, {})
    hits = library.search(library.of_row(10), Query({"a": 1.0}, k=11))
    assert {hit.score for hit in hits} == {0.0}
    assert {hit.distances["a"] for hit in hits} == {1.0}


def test_raw_gives_back_what_the_file_holds(tmp_path: Path) -> None:
    raw = write_library(tmp_path / "x.npz", 40)
    library = open_library(tmp_path / "x.npz")
    for name, x in raw.items():
        space = library.subspaces[name]
        np.testing.assert_allclose(space.raw(np.arange(40)), x, atol=1e-5)
        np.testing.assert_allclose(space.raw(3), x[3], atol=1e-5)
        np.testing.assert_allclose(space.ready(x[3]), library.vectors[name][3], atol=1e-6)


def test_windows_are_searched_by_the_mean_of_a_track(tmp_path: Path) -> None:
    for suffix in (".npz", ".parquet", ".jsonl"):
        raw = write_library(tmp_path / f"x{suffix}", 30, n_windows=3, tags=("artist",))
        library = open_library(tmp_path / f"x{suffix}")
        assert len(library) == len(library.columns["duration_s"]) == 30
        assert len(library.columns["tag_artist"]) == 30
        for name, x in raw.items():
            space = library.subspaces[name]
            np.testing.assert_allclose(space.raw(np.arange(30)), x.mean(axis=1), atol=1e-5)


def test_subspaces_are_read_when_asked_for(tmp_path: Path) -> None:
    write_library(tmp_path / "x.npz", 20)
    library = open_library(tmp_path / "x.npz")
    (tmp_path / "x.npz").unlink()
    assert set(library.vectors) == set(DIMS)
    with pytest.raises((OSError, UsageError)):
        library.vectors["tempo"]


@pytest.mark.parametrize(
    ("text", "weights"),
    [
        ("tempo=1", {"tempo": 1.0}),
        (" invariant = 1 , pitch=-.3e0", {"invariant": 1.0, "pitch": -0.3}),
    ],
)
def test_weights_are_read(text: str, weights: dict[str, float]) -> None:
    assert parse_weights(text) == weights


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tempo", "'tempo' is not SUBSPACE=NUMBER"),
        ("", "'' is not SUBSPACE=NUMBER"),
        ("tempo=1,", "'' is not SUBSPACE=NUMBER"),
        ("tempo=fast", "'tempo=fast' is not SUBSPACE=NUMBER"),
        ("tempo=1,tempo=2", "name 'tempo' twice"),
    ],
)
def test_weights_that_make_no_sense(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_weights(text)


def test_queries_that_make_no_sense(tmp_path: Path) -> None:
    write_library(tmp_path / "x.npz", 20)
    library = open_library(tmp_path / "x.npz")
    asked = library.of_row(0)
    for weights in ({}, {"tempo": 0.0}, {"tempo": float("nan")}):
        with pytest.raises(UsageError):
            Query(weights)
    with pytest.raises(UsageError, match="at least 1"):
        Query({"tempo": 1.0}, k=0)
    with pytest.raises(UsageError, match=r"no subspace 'temp'.*did you mean 'tempo'"):
        library.search(asked, Query({"temp": 1.0}))
    with pytest.raises(UsageError, match=r"no subspace 'key'.*did you mean 'pitch'"):
        library.search(asked, Query({"key": 1.0}))
    with pytest.raises(UsageError, match="no vector of 'tempo'"):
        library.search({"pitch": asked["pitch"]}, Query({"tempo": 1.0}))


def test_libraries_that_cannot_be_searched(tmp_path: Path) -> None:
    write_library(tmp_path / "empty.npz", 0)
    with pytest.raises(UsageError, match="holds no tracks"):
        open_library(tmp_path / "empty.npz")
    write_library(tmp_path / "nan.npz", 20, poison=("pitch", float("nan")))
    library = open_library(tmp_path / "nan.npz")
    assert library.vectors["tempo"].shape == (20, DIMS["tempo"])
    with pytest.raises(UsageError, match="'pitch' holds NaN or infinite values"):
        library.vectors["pitch"]
