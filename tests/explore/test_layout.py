"""Places on the plane: principal components, and neighbors that stay neighbors."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from loev_cli.explore import layout


def unit(x: NDArray[np.float64]) -> NDArray[np.float32]:
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def clusters(
    n: int, n_clusters: int, dim: int = 24
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    rng = np.random.default_rng(3)
    which = rng.integers(0, n_clusters, n)
    centers = rng.standard_normal((n_clusters, dim))
    return unit(centers[which] + 0.2 * rng.standard_normal((n, dim))), which


def test_components_are_those_of_a_decomposition() -> None:
    x = np.random.default_rng(0).standard_normal((300, 40)).astype(np.float32)
    x[:, :6] *= np.array([9, 7, 5, 3, 2, 1.5])
    u, s, _ = np.linalg.svd(x - x.mean(axis=0), full_matrices=False)
    expected = (u * s)[:, :2]
    found = layout.components(x)
    np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=1e-2)
    assert np.array_equal(found, layout.components(x))


@pytest.mark.parametrize("shape", [(1, 8), (2, 8), (5, 1), (3, 2)])
def test_few_rows_or_columns(shape: tuple[int, int]) -> None:
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    places = layout.components(x)
    assert places.shape == (shape[0], 2)
    assert np.isfinite(places).all()


def test_tracks_that_are_all_the_same() -> None:
    x = unit(np.ones((20, 8)))
    assert np.abs(layout.components(x)).max() < 1e-5
    assert np.isfinite(layout.neighbors(x)).all()
    assert np.isfinite(layout.neighbors(np.zeros((20, 8), np.float32))).all()


def test_clusters_stay_together_where_components_mix_them() -> None:
    x, which = clusters(600, 40)

    def purity(places: NDArray[np.float32]) -> float:
        squared = ((places[:, None] - places[None]) ** 2).sum(-1)
        np.fill_diagonal(squared, np.inf)
        return float((which[np.argsort(squared, axis=1)[:, :10]] == which[:, None]).mean())

    assert purity(layout.neighbors(x)) > 0.95 > 0.8 > purity(layout.components(x))
    assert np.array_equal(layout.neighbors(x), layout.neighbors(x))


def test_nearest_by_clusters_finds_almost_all(monkeypatch: pytest.MonkeyPatch) -> None:
    x, _ = clusters(1500, 40)
    exact, distances = layout.nearest(x, 10, np.random.default_rng(0))
    similarity = x @ x.T
    np.fill_diagonal(similarity, -2)
    truth = np.argsort(-similarity, axis=1)[:, :10]
    assert all(set(a) == set(b) for a, b in zip(exact.tolist(), truth.tolist(), strict=True))
    assert not (exact == np.arange(1500)[:, None]).any()
    np.testing.assert_allclose(
        distances, 1 - np.take_along_axis(similarity, exact, axis=1), atol=1e-6
    )
    monkeypatch.setattr(layout, "_EXACT_N_ROWS", 100)
    found, _ = layout.nearest(x, 10, np.random.default_rng(0))
    recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found, truth, strict=True)])
    assert recall > 0.9


def test_layouts_that_are_affordable() -> None:
    assert layout.layouts(3) == [layout.COMPONENTS]
    assert layout.layouts(50_000) == [layout.COMPONENTS, layout.NEIGHBORS]
    assert layout.layouts(10_000_000) == [layout.COMPONENTS]
