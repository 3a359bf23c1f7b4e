"""Nearest-neighbor retrieval in each subspace.

same key, tempo within 4 %, same label      gallery: the tracks of other groups
same track, other pitch or tempo            query: transformed excerpt; gallery: original tracks

neighbors' labels after a change     queries and gallery: excerpts, original or transformed

recall@k   share of queries with at least one correct result among the first k
mAP        mean over queries of the average precision of the whole ranking
NDCG       with a gain of 1 for correct results (Järvelin & Kekäläinen 2002)

score@k    of the labels of the first k, as estimates of the query's: the label's main metric

Chance is the expectation of a random order, in closed form. Neighbors are ranked by cosine
similarity of centered vectors; ties are in random order.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from loev_cli.evaluate.equivariance import Changed
from loev_cli.evaluate.geometry import unit
from loev_cli.evaluate.manifest import Column
from loev_cli.evaluate.probes import TASKS, TEMPO_TOLERANCE
from loev_cli.evaluate.statistics import Bootstrap, Estimate, jackknife_all
from loev_cli.music_keys import transposed

RANKS = (1, 5, 10)
METRICS = (*(f"recall@{k}" for k in RANKS), "mAP", "NDCG")
GRID_RANKS = (1, 3, 5, 10, 100)
_FEWEST_QUERIES = 2
# Which of the versions of an excerpt, itself first.
_SIDES = {"clean": slice(0, 1), "changed": slice(1, None)}

Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class RetrievalResult:
    """One retrieval task in one subspace."""

    question: str
    subspace: str
    scores: dict[str, Estimate]

    def records(self) -> list[dict[str, Any]]:
        """For ``results.json``, one per metric."""
        return [
            {
                "question": self.question,
                "subspace": self.subspace,
                "metric": metric,
                **estimate.as_dict(),
            }
            for metric, estimate in self.scores.items()
        ]


def by_label(
    vectors: Mapping[str, NDArray[np.float32]],
    columns: Sequence[Column],
    rows: NDArray[np.int64],
    groups: NDArray[Any],
    *,
    seed: int = 0,
) -> list[RetrievalResult]:
    """Tracks that share a label, among ``rows``; number columns are skipped.

    Args:
        vectors: subspace -> (N, D).
        groups: (N,).
    """
    results = []
    for column in columns:
        if column.kind == "number":
            continue
        question, known, relevant, allowed = label_task(column, rows, groups)
        for name, x in vectors.items():
            scores = _judge_each_other(x[known], relevant, allowed, groups[known], seed)
            if scores:
                results.append(RetrievalResult(question, name, scores))
    return results


def label_task(
    column: Column, rows: NDArray[np.int64], groups: NDArray[Any]
) -> tuple[str, NDArray[np.int64], Bools, Bools]:
    """A search for tracks with the same label, not in the query's group.

    Returns:
        Its name, the n of ``rows`` that have the label, and (n, n) which results are correct and
        which are allowed.
    """
    known = rows[column.known[rows]]
    allowed = groups[known][:, None] != groups[known][None, :]
    name = "tempo within 4 %" if column.kind == "tempo" else f"same {column.name}"
    return name, known, same_label(column, known) & allowed, allowed


def same_label(column: Column, rows: NDArray[np.int64]) -> Bools:
    """(n, n): whether two rows match; for tempo, within 4 % of the query's (the row's) tempo."""
    values = column.values[rows]
    if column.kind == "tempo":
        near = np.abs(values[None, :] - values[:, None]) <= TEMPO_TOLERANCE * values[:, None]
        return np.asarray(near)
    if column.kind == "multilabel":
        return np.asarray(values @ values.T > 0)
    return np.asarray(values[:, None] == values[None, :])


def under_change(
    vectors: Mapping[str, NDArray[np.float32]],
    heard: Changed,
    *,
    seed: int = 0,
) -> list[RetrievalResult]:
    """The same track in another key or at another tempo.

    The gallery is the original excerpts and all other tracks.

    Args:
        vectors: subspace -> (N, D) of the whole manifest.
    """
    results = []
    for change in ("pitch", "tempo"):
        if change not in heard.changed:
            continue
        for name, x in vectors.items():
            hits, owner = changed_hits(x, heard, change, name, seed=seed)
            one, all_of_them = np.ones(len(hits), np.int64), np.full(len(hits), hits.shape[1])
            chances = chance(all_of_them, one)
            bootstrap = Bootstrap(heard.groups[owner], seed=seed)
            scores = {
                metric: bootstrap.mean(values, chance=float(chances[metric].mean()))
                for metric, values in metrics(hits, one).items()
            }
            results.append(RetrievalResult(f"same track, other {change}", name, scores))
    return results


def changed_hits(
    x: NDArray[np.float32], heard: Changed, change: str, subspace: str, *, seed: int = 0
) -> tuple[Bools, NDArray[np.int64]]:
    """Query with transformed excerpts for their own track in one subspace.

    Args:
        x: (N, D), the subspace's vectors of the whole manifest.

    Returns:
        (Q, N) whether the result at each rank is correct, and (Q,) the query's track in ``heard``.
    """
    versions = heard.changed[change][subspace]  # (n, S, D)
    n, n_sizes, _ = versions.shape
    others = np.setdiff1d(np.arange(len(x)), heard.rows)
    gallery = np.concatenate([heard.plain[subspace], x[others]])
    owner = np.repeat(np.arange(n), n_sizes)
    relevant = owner[:, None] == np.arange(len(gallery))[None, :]
    queries = versions.reshape(n * n_sizes, -1)
    return ranked_hits(queries, gallery, relevant, np.ones_like(relevant), seed=seed), owner


@dataclass(frozen=True)
class GridCell:
    """Queries of one kind against neighbors of one kind, each clean or changed.

    Attributes:
        query, neighbors: ``clean``: n excerpts; ``changed``: all their versions.
        agreement: (Q, G), the metric of the result's label as an estimate of the query's.
        allowed: (Q, G), whether it is of another group.
    """

    query: str
    neighbors: str
    agreement: NDArray[np.float64]
    allowed: Bools

    @property
    def chance(self) -> float:
        """Of a random neighbor."""
        return float(np.mean((self.agreement * self.allowed).sum(1) / self.allowed.sum(1)))

    @property
    def ranks(self) -> list[int]:
        """Those of ``GRID_RANKS`` for which every query has enough results."""
        return [k for k in GRID_RANKS if k <= self.allowed.sum(axis=1).min()]

    def scores(self, x: NDArray[np.float32], *, seed: int = 0) -> dict[int, NDArray[np.float64]]:
        """k -> (n,), the mean over a track's queries and their first k results.

        Args:
            x: (n, 1 + S, D), a subspace's vectors of the excerpts and of their versions.
        """
        n, _, dim = x.shape
        asked, gallery = (x[:, _SIDES[s]].reshape(-1, dim) for s in (self.query, self.neighbors))
        order = _ranking(asked, gallery, self.allowed, seed=seed)
        ranked = np.take_along_axis(self.agreement, order[:, : max(self.ranks, default=0)], axis=1)
        of_query = {k: ranked[:, :k].mean(axis=1) for k in self.ranks}
        return {k: values.reshape(n, -1).mean(axis=1) for k, values in of_query.items()}


def neighbor_grid(
    column: Column, rows: NDArray[np.int64], groups: NDArray[Any], sizes: Sequence[float]
) -> list[GridCell]:
    """Clean and changed queries against clean and changed neighbors; labels move with the change.

    Args:
        column: of kind ``key``, changed by semitones, or ``tempo``, by log2 of a rate.
        rows: (n,) of the manifest, the label of each being known.
        groups: (n,).
        sizes: (S,), of the versions of every excerpt.
    """
    amounts = [0.0, *sizes]
    if column.kind == "key":
        keys = column.values[rows].tolist()
        labels = np.array([[transposed(key, round(a)) for a in amounts] for key in keys])
    else:
        labels = column.values[rows][:, None] * np.exp2(amounts)  # (n, 1 + S)
    task = TASKS[column.kind]()
    cells = []
    for query, neighbors in itertools.product(_SIDES, repeat=2):
        truth, told = (labels[:, _SIDES[side]].ravel() for side in (query, neighbors))
        of_query, of_result = (
            np.repeat(groups, labels[:, _SIDES[side]].shape[1]) for side in (query, neighbors)
        )
        agreement = task.outcomes(
            task.main_metric, np.repeat(truth, len(told)), np.tile(told, len(truth))
        )
        assert agreement is not None  # both kinds have a score per track
        allowed = of_query[:, None] != of_result[None, :]
        cells.append(GridCell(query, neighbors, agreement.reshape(allowed.shape), allowed))
    return cells


def _judge_each_other(
    x: NDArray[np.float32], relevant: Bools, allowed: Bools, groups: NDArray[Any], seed: int
) -> dict[str, Estimate]:
    """All metrics with every track as query and gallery; empty with too few valid queries.

    For the intervals of mAP and NDCG a track that is left out is neither query nor result. The
    jackknife is invalid for non-smooth statistics such as recall, which is bootstrapped over the
    queries.
    """

    def per_query(rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], Mapping[str, Any]]:
        right, answers = relevant[np.ix_(rows, rows)], allowed[np.ix_(rows, rows)]
        asks = right.any(axis=1)
        hits = ranked_hits(x[rows][asks], x[rows], right[asks], answers[asks], seed=seed)
        return rows[asks], metrics(hits, right[asks].sum(axis=1))

    asking = relevant.any(axis=1)
    if asking.sum() < _FEWEST_QUERIES:
        return {}
    chances = {
        metric: float(values.mean())
        for metric, values in chance(
            allowed[asking].sum(axis=1), relevant[asking].sum(axis=1)
        ).items()
    }
    smooth = ("mAP", "NDCG")

    def smooth_means(rows: NDArray[np.int64]) -> dict[str, float]:
        _, values = per_query(rows)
        return {metric: float(values[metric].mean()) for metric in smooth if len(values[metric])}

    queries, values = per_query(np.arange(len(x)))
    bootstrap = Bootstrap(groups[queries], seed=seed)
    scores = {
        metric: bootstrap.mean(values[metric], chance=chances[metric])
        for metric in METRICS
        if metric not in smooth
    }
    for metric, estimate in jackknife_all(smooth_means, groups, seed=seed).items():
        scores[metric] = replace(estimate, chance=chances[metric])
    return scores


def ranked_hits(
    queries: NDArray[np.float32],
    gallery: NDArray[np.float32],
    relevant: Bools,
    allowed: Bools,
    *,
    seed: int = 0,
) -> Bools:
    """(Q, G): whether the result at each rank is correct; excluded ones come last, as incorrect."""
    order = _ranking(queries, gallery, allowed, seed=seed)
    return np.asarray(np.take_along_axis(relevant & allowed, order, axis=1))


def _ranking(
    queries: NDArray[np.float32], gallery: NDArray[np.float32], allowed: Bools, *, seed: int
) -> NDArray[np.int64]:
    """(Q, G): the results of each query, best first; excluded ones come last."""
    center = gallery.mean(axis=0, dtype=np.float64)
    similarity = unit(queries - center) @ unit(gallery - center).T
    # Rounded, since equal vectors differ in the last digits.
    similarity = np.where(allowed, np.round(similarity, 9), -np.inf)
    shuffled = np.random.default_rng(seed).permutation(similarity.shape[1])
    return np.asarray(shuffled[np.argsort(-similarity[:, shuffled], axis=1, kind="stable")])


def metrics(hits: Bools, n_right: NDArray[Any]) -> dict[str, NDArray[np.float64]]:
    """Per query (Q,). ``hits`` (Q, G) by rank, ``n_right`` (Q,) number of correct results."""
    rank = np.arange(1, hits.shape[1] + 1)
    precision = hits.cumsum(axis=1) / rank
    gains = hits @ (1 / np.log2(rank + 1))
    ideal = np.append(0.0, np.cumsum(1 / np.log2(rank + 1)))[n_right]
    values: dict[str, NDArray[np.float64]] = {
        f"recall@{k}": np.asarray(hits[:, :k].any(axis=1), np.float64) for k in RANKS
    }
    values["mAP"] = np.asarray((precision * hits).sum(axis=1) / n_right)
    values["NDCG"] = np.asarray(gains / ideal)
    return values


def chance(n_answers: NDArray[Any], n_right: NDArray[Any]) -> dict[str, NDArray[np.float64]]:
    """Expectation of each metric per query (Q,) over random orders of its gallery."""
    n, r = n_answers.astype(np.float64), n_right.astype(np.float64)
    values: dict[str, NDArray[np.float64]] = {
        f"recall@{k}": np.asarray(1 - _none_of(n, r, k)) for k in RANKS
    }
    harmonic = np.append(0.0, np.cumsum(1 / np.arange(1, n_answers.max() + 1)))[n_answers]
    others = np.divide(r - 1, n - 1, out=np.zeros_like(n), where=n > 1)
    # Rank i is correct with probability r / n, each of the i - 1 before it with ``others``.
    values["mAP"] = harmonic / n * (1 - others) + others
    discount = 1 / np.log2(np.arange(1, n_answers.max() + 1) + 1)
    total = np.append(0.0, np.cumsum(discount))
    values["NDCG"] = r / n * total[n_answers] / total[n_right]
    return values


def _none_of(n: NDArray[np.float64], r: NDArray[np.float64], k: int) -> NDArray[np.float64]:
    """Probability that none of k drawn out of n, without replacement, is one of r."""
    free = n - r
    k_drawn = np.minimum(k, n)
    possible = free >= k_drawn
    f = np.where(possible, free, k_drawn)
    log = gammaln(f + 1) - gammaln(f - k_drawn + 1) - gammaln(n + 1) + gammaln(n - k_drawn + 1)
    return np.asarray(np.where(possible, np.exp(log), 0.0))
