"""Retrieval against scikit-learn, closed forms, and orders that are known."""

from __future__ import annotations

from collections.abc import Callable

import mir_eval
import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, ndcg_score

from loev_cli.evaluate.equivariance import Changed
from loev_cli.evaluate.manifest import Manifest
from loev_cli.evaluate.retrieval import (
    METRICS,
    by_label,
    chance,
    metrics,
    neighbor_grid,
    ranked_hits,
    under_change,
)
from loev_cli.music_keys import KEYS, transposed

Make = Callable[..., Manifest]


def test_metrics_are_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    hits = rng.random((20, 30)) < 0.2
    hits[:, 4] = True
    values = metrics(hits, hits.sum(axis=1))
    by_rank = -np.arange(30.0)
    for q, row in enumerate(hits):
        assert values["mAP"][q] == pytest.approx(average_precision_score(row, by_rank))
        assert values["NDCG"][q] == pytest.approx(
            ndcg_score(row[None].astype(float), by_rank[None])
        )
        assert values["recall@5"][q] == 1 and values["recall@1"][q] == row[0]


@pytest.mark.parametrize(("n", "r"), [(30, 1), (30, 7), (12, 11), (8, 8)])
def test_chance_is_the_mean_over_random_orders(n: int, r: int) -> None:
    rng = np.random.default_rng(0)
    hits = rng.permuted(np.tile(np.arange(n) < r, (20000, 1)), axis=1)
    found = metrics(hits, np.full(len(hits), r))
    expected = chance(np.array([n]), np.array([r]))
    for metric in METRICS:
        assert expected[metric][0] == pytest.approx(found[metric].mean(), abs=0.01), metric


def test_an_oracle_finds_all_and_its_own_group_does_not_count(manifest_of: Make) -> None:
    made = manifest_of(
        key=[KEYS[i % 4] for i in range(40)],
        tempo=[60 * 1.2 ** (i % 5) for i in range(40)],
        group=[i // 2 for i in range(40)],
    )
    key = made.column("key")
    x = np.eye(4, dtype=np.float32)[key.values]
    rows = np.arange(40)
    found = by_label({"x": x}, [key, made.column("tempo")], rows, made.groups)
    same_key, tempo = found
    assert same_key.question == "same key" and tempo.question == "tempo within 4 %"
    assert all(same_key.scores[metric].value == pytest.approx(1) for metric in METRICS)
    # What shares nothing with the vectors is found as often as chance has it.
    assert tempo.scores["mAP"].value == pytest.approx(tempo.scores["mAP"].chance, abs=0.08)


def test_vectors_that_are_all_the_same_find_what_chance_finds(manifest_of: Make) -> None:
    rng = np.random.default_rng(0)
    made = manifest_of(genre=rng.choice(["a", "b", "c", "d"], 300))
    x = np.full((300, 5), 0.7, np.float32)
    (found,) = by_label({"x": x}, [made.column("genre")], np.arange(300), made.groups)
    for metric in ("recall@1", "mAP", "NDCG"):
        estimate = found.scores[metric]
        assert estimate.chance is not None
        assert estimate.value == pytest.approx(estimate.chance, abs=0.05)


def test_random_vectors_score_chance_within_their_interval(manifest_of: Make) -> None:
    missed = []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        made = manifest_of(genre=rng.choice(["a", "b", "c", "d"], 120))
        x = rng.standard_normal((120, 8)).astype(np.float32)
        (found,) = by_label({"x": x}, [made.column("genre")], np.arange(120), made.groups)
        for metric, estimate in found.scores.items():
            assert estimate.chance is not None
            if not estimate.low <= estimate.chance <= estimate.high:
                missed.append((seed, metric, estimate))
    assert len(missed) <= 5, missed  # of 50, at 95 %


def test_neighbours_are_by_angle_about_the_mean() -> None:
    gallery = np.array([[1, 0], [0, 1], [-1, 0], [0, -1]], np.float32) + 10
    relevant = np.array([[False, True, False, False]])
    query = np.array([[10.1, 10.9]], np.float32)
    allowed = np.ones_like(relevant)
    assert ranked_hits(query, gallery, relevant, allowed)[0].tolist() == [True, False, False, False]


def test_the_same_track_under_change() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((30, 6)).astype(np.float32)
    rows = np.array([3, 7, 20])
    still = np.repeat(x[rows][:, None], 2, axis=1)

    def heard(versions: NDArray[np.float32]) -> Changed:
        return Changed(
            rows, np.array(["a", "b", "c"]), {"x": x[rows]}, {"pitch": {"x": versions}},
            {"pitch": (-1, 1)}, {"pitch": "semitones"}, "none",
        )  # fmt: skip

    (found,) = under_change({"x": x}, heard(still))
    assert found.question == "same track, other pitch"
    assert all(found.scores[metric].value == 1 for metric in METRICS)
    (lost,) = under_change({"x": x}, heard(-still))
    assert lost.scores["recall@10"].value == 0
    assert lost.scores["recall@10"].chance == pytest.approx(1 / 3)


def neighbors_by_hand(
    x: np.ndarray, labels: np.ndarray, groups: np.ndarray, sides: tuple[slice, slice], k: int,
    agree: Callable[[float, float], float],
) -> float:  # fmt: skip
    """Loops over queries and results instead of matrices."""
    rows = [
        [(v, labels[i, j], groups[i]) for i in range(len(x)) for j, v in enumerate(x[i]) if j in at]
        for at in (range(x.shape[1])[side] for side in sides)
    ]
    center = np.mean([v for v, _, _ in rows[1]], axis=0)
    scores = []
    for v, label, group in rows[0]:
        found = [
            (-np.dot(v - center, w - center) / np.linalg.norm(v - center)
             / np.linalg.norm(w - center), other)
            for w, other, of in rows[1] if of != group
        ]  # fmt: skip
        scores.append(np.mean([agree(label, other) for _, other in sorted(found)[:k]]))
    return float(np.mean(scores))


@pytest.mark.parametrize("kind", ["key", "tempo"])
def test_the_grid_is_that_of_loops_and_labels_move(manifest_of: Make, kind: str) -> None:
    rng = np.random.default_rng(0)
    n, sizes = 12, (-2.0, 3.0) if kind == "key" else (-0.4, 0.1)
    keys, bpm = rng.integers(24, size=n), rng.uniform(60, 120, n)
    made = manifest_of(key=[KEYS[i] for i in keys], tempo=bpm.tolist(),
                       group=[i // 2 for i in range(n)])  # fmt: skip
    x = rng.standard_normal((n, 3, 4)).astype(np.float32)
    if kind == "key":
        labels = np.array([[transposed(int(key), a) for a in (0, -2, 3)] for key in keys])
        agree = lambda a, b: mir_eval.key.weighted_score(KEYS[a], KEYS[b])  # noqa: E731
    else:
        labels = bpm[:, None] * 2.0 ** np.array([0.0, *sizes])
        agree = lambda a, b: float(abs(a - b) <= 0.04 * a)  # noqa: E731
    cells = neighbor_grid(made.column(kind), np.arange(n), made.groups, sizes)
    assert len({(cell.query, cell.neighbors) for cell in cells}) == 4
    side = {"clean": slice(0, 1), "changed": slice(1, None)}
    for cell in cells:
        found = cell.scores(x)
        assert list(found) == [1, 3, 5, 10]
        for k in (1, 5):
            by_hand = neighbors_by_hand(
                x, labels, made.groups, (side[cell.query], side[cell.neighbors]), k, agree
            )
            assert found[k].mean() == pytest.approx(by_hand)


def test_a_moving_embedding_keeps_the_key_and_an_unmoved_one_loses_it(manifest_of: Make) -> None:
    n, sizes = 48, (-4.0, 2.0)
    keys = np.arange(n) % 24
    made = manifest_of(key=[KEYS[i] for i in keys], group=list(range(n)))
    labels = np.array([[transposed(int(key), int(a)) for a in (0, *sizes)] for key in keys])
    one_hot = np.eye(24, dtype=np.float32)
    grid = neighbor_grid(made.column("key"), np.arange(n), made.groups, sizes)
    for cell in grid:
        assert cell.scores(one_hot[labels])[1].mean() == 1
        unmoved = cell.scores(np.repeat(one_hot[keys][:, None], 3, axis=1))[1].mean()
        if (cell.query, cell.neighbors) == ("clean", "clean"):
            assert unmoved == 1
        elif cell.query != cell.neighbors:
            assert unmoved < 0.1  # a third or a tone off; the weighted score has no points for it
