"""Shapes of point clouds that are known in closed form."""

from __future__ import annotations

import numpy as np
import pytest

from loev_cli.evaluate.geometry import (
    cross_r2,
    effective_rank,
    leaks,
    linear_cka,
    shapes,
    uniformity,
)
from loev_cli.evaluate.manifest import Fold
from loev_cli.evaluate.statistics import Bootstrap, jackknife
from loev_cli.evaluate.vectors import Vectors

RNG = np.random.default_rng(0)


def test_effective_rank_counts_the_dimensions_in_use() -> None:
    corners = np.concatenate([np.eye(5), -np.eye(5)])
    assert effective_rank(corners) == pytest.approx(5)
    assert effective_rank(corners[:, :1] * [3.0, 4.0]) == pytest.approx(1)
    assert effective_rank(np.ones((8, 3))) == 0
    # Singular values 3 and 1: exp of the entropy of 3/4 and 1/4.
    uneven = np.diag([3.0, 1.0]).repeat(2, axis=0) * [[1], [-1], [1], [-1]]
    assert effective_rank(uneven) == pytest.approx(
        np.exp(-0.75 * np.log(0.75) - 0.25 * np.log(0.25))
    )


def test_uniformity_in_closed_form() -> None:
    x = np.array([[2.0, 0], [-1, 0]])  # squared distance 4 on the sphere
    assert uniformity(x) == pytest.approx(-8)
    assert uniformity(np.ones((5, 3))) == pytest.approx(0)


def test_cka_of_the_same_the_turned_and_the_unrelated() -> None:
    x = RNG.standard_normal((100, 300))
    turn, _ = np.linalg.qr(RNG.standard_normal((300, 300)))
    assert linear_cka(x, 2 * x @ turn + 1) == pytest.approx(1)
    unrelated = linear_cka(x, RNG.standard_normal((100, 200)))
    assert abs(unrelated) < 0.1  # the biased estimate would be 0.7
    assert np.isnan(linear_cka(x[:3], x[:3])) and np.isnan(linear_cka(np.ones((9, 2)), x[:9]))


def test_cross_probing_finds_what_is_there_and_nothing_else() -> None:
    a = RNG.standard_normal((200, 6)).astype(np.float32)
    b = np.concatenate([a @ RNG.standard_normal((6, 3)), RNG.standard_normal((200, 3))], axis=1)
    rows = np.arange(200)
    folds = [Fold(rows[:100], rows[100:140], rows[140:])]
    groups = rows.astype(str)
    own = cross_r2(a, a, folds, groups)
    assert own.value > 0.98
    unrelated = cross_r2(a, RNG.standard_normal((200, 4)).astype(np.float32), folds, groups)
    assert abs(unrelated.value) < 0.1
    found = {(leak.source, leak.target): leak for leak in leaks(
        {"a": a, "b": b.astype(np.float32)}, folds, rows, groups
    )}  # fmt: skip
    assert found["a", "b"].cross_r2.value > 0.6 and found["b", "a"].cross_r2.value < 0.7
    assert found["a", "b"].cka == found["b", "a"].cka


def test_alignment_is_of_first_and_last_window() -> None:
    x = RNG.standard_normal((5, 2)).astype(np.float32)
    ends = np.array([[[1, 0], [0, 3]], [[2, 0], [5, 0]], [[np.nan] * 2] * 2] * 2, np.float32)[:5]
    vectors = Vectors({"x": x}, {"x": ends}, {})
    (shape,) = shapes(vectors, np.arange(5), np.arange(5).astype(str))
    assert shape.alignment is not None
    assert shape.alignment.value == pytest.approx((2 + 0 + 2 + 0) / 4)
    (unknown,) = shapes(Vectors({"x": x}, None, {}), np.arange(5), np.arange(5).astype(str))
    assert unknown.alignment is None


def test_intervals_are_as_wide_as_theory_has_it() -> None:
    scores = RNG.standard_normal(400)
    groups = np.repeat(np.arange(100), 4)
    shared = np.repeat(RNG.standard_normal(100), 4)
    free = Bootstrap(np.arange(400)).mean(scores)
    assert free.high - free.low == pytest.approx(2 * 1.96 / 20, rel=0.15)
    # Four tracks of a group that score alike are one, not four.
    grouped = Bootstrap(groups).mean(shared)
    assert grouped.high - grouped.low == pytest.approx(2 * 1.96 / 10, rel=0.25)
    assert grouped.n_groups == 100 and grouped.n_tracks == 400
    knife = jackknife(lambda i: float(scores[i].mean()), np.arange(400))
    assert knife.high - knife.low == pytest.approx(2 * 1.96 / 20, rel=0.4)
    assert knife.value == pytest.approx(scores.mean())
    assert np.isnan(Bootstrap(groups).mean(np.full(400, np.nan)).value)
