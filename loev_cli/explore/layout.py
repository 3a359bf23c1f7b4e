"""Two-dimensional layouts of a subspace.

``components``: the two principal components of its vectors: the directions in which tracks differ
most. Fast, but most neighbors in D dimensions are not neighbors in these two.

``neighbors``: places similar tracks near each other, as in UMAP (McInnes et al. 2018,
arXiv:1802.03426), whose forces it takes with a = b = 1:

    attraction  sum over the neighbors j of i of  w_ij (y_j - y_i) / (1 + d^2)
    repulsion   mean over random others j of       (y_i - y_j) / ((0.001 + d^2) (1 + d^2))

adapted to arrays: all tracks move at once instead of one edge at a time, and by the *mean* force of
their edges, so that none overshoots. It is initialized with the components.

Both are deterministic: the sign of an axis makes its largest loading positive, and the random seed
is fixed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from loev_cli.search.library import Vectors

COMPONENTS = "components"
NEIGHBORS = "neighbors"
MOST_FOR_NEIGHBORS_N_ROWS = 200_000  # a minute or two

Places = NDArray[np.float32]
Rows = NDArray[np.int64]

_N_TRIAL_AXES, _N_POWERS = 8, 60
_BLOCK_N_ROWS = 4096
_EXACT_N_ROWS = 6000
_N_NEIGHBORS = 15
_N_EPOCHS, _N_EPOCHS_LARGE, _LARGE_N_ROWS = 300, 150, 10_000
_N_PROBES = 8  # clusters in which a track's neighbors are searched
_N_ROUNDS = 4  # of k-means
_N_RANDOM = 6  # repelling tracks per epoch
_PUSH = 2.5  # UMAP: five random others to an edge, which pulls at both of its ends
_SPREAD = 5.0  # standard deviation of the first component to begin with
_LONGEST_STEP = 1.0


def layouts(n_rows: int) -> list[str]:
    """The layouts that are fast enough for this number of rows."""
    return [COMPONENTS, *([NEIGHBORS] if 8 <= n_rows <= MOST_FOR_NEIGHBORS_N_ROWS else [])]


def components(x: Vectors) -> Places:
    """Vectors (N, D) -> places (N, 2), centered; a constant axis is 0."""
    n, dim = x.shape
    mean = x.mean(axis=0, dtype=np.float64).astype(np.float32)
    scatter = np.zeros((dim, dim))
    for start in range(0, n, _BLOCK_N_ROWS):
        block = x[start : start + _BLOCK_N_ROWS] - mean
        scatter += block.T @ block
    axes = _principal_axes(scatter / n)
    largest = np.abs(axes).argmax(axis=0)
    axes = axes * np.sign(axes[largest, range(axes.shape[1])])
    places = np.zeros((n, 2), np.float32)
    places[:, : axes.shape[1]] = (x - mean) @ axes.astype(np.float32)
    return places


def _principal_axes(scatter: NDArray[np.float64]) -> NDArray[np.float64]:
    """The two leading eigenvectors (D, 2) of a (D, D) covariance, by subspace iteration.

    LAPACK computes all D with thousands of small products, between which the BLAS threads
    synchronize: on a busy machine that took a minute.
    """
    dim = len(scatter)
    start = np.random.default_rng(0).standard_normal((dim, min(dim, _N_TRIAL_AXES)))
    basis = np.linalg.qr(start)[0]
    for _ in range(_N_POWERS):
        basis = np.linalg.qr(scatter @ basis)[0]
    values, within = np.linalg.eigh(basis.T @ scatter @ basis)  # ascending
    order = np.argsort(-values, kind="stable")[:2]
    return np.asarray(basis @ within[:, order])


def neighbors(x: Vectors, *, seed: int = 0) -> Places:
    """Vectors (N, D) of length 1, or 0 -> places (N, 2), centered. N is at least 8."""
    rng = np.random.default_rng(seed)
    y = components(x)
    y *= _SPREAD / max(float(y[:, 0].std()), 1e-9)
    # Jitter: identical tracks would never be pushed apart.
    y += rng.normal(0, 1e-2, y.shape).astype(np.float32)
    n = len(x)
    head_starts, tails, weights = _graph(*nearest(x, min(_N_NEIGHBORS, n - 1), rng))
    heads = np.repeat(np.arange(n), np.diff(head_starts, append=len(tails)))
    n_epochs = _N_EPOCHS if n < _LARGE_N_ROWS else _N_EPOCHS_LARGE
    for epoch in range(n_epochs):
        away = y[tails] - y[heads]
        away *= (weights / (1 + np.einsum("ed,ed->e", away, away)))[:, None]
        force = np.add.reduceat(away, head_starts, axis=0)
        for _ in range(_N_RANDOM):
            away = y - y[rng.integers(0, n, n)]
            squared = np.einsum("nd,nd->n", away, away)
            away *= (_PUSH / _N_RANDOM / ((1e-3 + squared) * (1 + squared)))[:, None]
            force += away
        np.clip(force, -_LONGEST_STEP, _LONGEST_STEP, out=force)
        y += force * np.float32(1 - epoch / n_epochs)
    return np.asarray(y - y.mean(axis=0), np.float32)


def nearest(
    x: Vectors, k: int, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The ``k`` most similar other rows of every row, (N, k), and their distances.

    Large N uses k-means: only rows in the nearest clusters are compared.
    """
    n = len(x)
    found = np.zeros((n, k), np.int64)
    distances = np.zeros((n, k), np.float32)
    for rows, candidates in _compared(x, k, rng):
        similarity = x[rows] @ x[candidates].T
        similarity[rows[:, None] == candidates[None, :]] = -np.inf  # itself
        best = np.argpartition(-similarity, k - 1, axis=1)[:, :k]
        found[rows] = candidates[best]
        distances[rows] = 1 - np.take_along_axis(similarity, best, axis=1)
    return found, distances


def _compared(x: Vectors, k: int, rng: np.random.Generator) -> Iterator[tuple[Rows, Rows]]:
    """Yields rows and their candidate neighbors."""
    n = len(x)
    everything = np.arange(n)
    if n <= _EXACT_N_ROWS:
        for start in range(0, n, _BLOCK_N_ROWS):
            yield everything[start : start + _BLOCK_N_ROWS], everything
        return
    centers = x[rng.choice(n, math.isqrt(n), replace=False)]
    for round_ in range(_N_ROUNDS):
        cluster = np.concatenate(
            [(x[i : i + _BLOCK_N_ROWS] @ centers.T).argmax(1) for i in range(0, n, _BLOCK_N_ROWS)]
        )
        order = np.argsort(cluster, kind="stable")
        starts = np.searchsorted(cluster[order], np.arange(len(centers) + 1))
        if round_ < _N_ROUNDS - 1:
            for c in np.flatnonzero(np.diff(starts)):
                center = x[order[starts[c] : starts[c + 1]]].mean(axis=0)
                centers[c] = center / max(float(np.linalg.norm(center)), 1e-9)
    near = np.argsort(-(centers @ centers.T), axis=1, kind="stable")
    for c in np.flatnonzero(np.diff(starts)):
        members = [order[starts[other] : starts[other + 1]] for other in near[c]]
        n_taken, i = 0, 0
        while i < len(members) and (i < _N_PROBES or n_taken <= k):
            n_taken += len(members[i])
            i += 1
        candidates = np.concatenate(members[:i])
        rows = order[starts[c] : starts[c + 1]]
        for start in range(0, len(rows), _BLOCK_N_ROWS):
            yield rows[start : start + _BLOCK_N_ROWS], candidates


def _graph(
    found: NDArray[np.int64], distances: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Edges in both directions, sorted by head: start of each head's edges, tails, weights that sum
    to 1 over a head."""
    n, k = found.shape
    beyond = distances - distances.min(axis=1, keepdims=True)
    width = np.maximum(beyond.mean(axis=1, keepdims=True), 1e-6)
    weights = np.exp(-beyond / width).ravel()
    heads, tails = np.repeat(np.arange(n), k), found.ravel()
    code = np.concatenate([heads * n + tails, tails * n + heads])
    edges, which = np.unique(code, return_inverse=True)
    # Fuzzy union, as UMAP has it: a + b - ab, of which one may be 0.
    one, other = np.zeros(len(edges)), np.zeros(len(edges))
    one[which[: n * k]] = weights
    other[which[n * k :]] = weights
    weight = one + other - one * other
    heads, tails = edges // n, edges % n
    starts = np.searchsorted(heads, np.arange(n))
    sums = np.add.reduceat(weight, starts)
    return starts, tails, (weight / sums[heads]).astype(np.float32)
