"""Exact nearest-neighbor search in memory.

    score = sum of weight * similarity / sum of |weight|,    similarity = cosine about the mean

over the subspaces that have a weight: 1 is the same in all of them, 0 unrelated. A negative weight
asks for dissimilar tracks in that subspace. Scores are rounded to 9 decimals, so that rounding
errors do not affect the order; ties are sorted by path.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from loev_cli.errors import UsageError
from loev_cli.search.library import Library, Vectors, check_subspace
from loev_cli.search.where import parse_where

DEFAULT_K = 10
INVARIANT = "invariant"  # also in loev_cli.model, but importing that would import torch
_BLOCK_N_ROWS = 16384
_DECIMALS = 9


@dataclass(frozen=True)
class Query:
    """The parameters of a search.

    Attributes:
        weights: subspace -> nonzero weight; negative: dissimilar.
        k: maximum number of results.
        where: a filter on columns, see :mod:`loev_cli.search.where`.
        exclude: paths to exclude from the results.

    Raises:
        UsageError: no weight, one that is 0 or not finite, or ``k`` below 1.
    """

    weights: Mapping[str, float]
    k: int = DEFAULT_K
    where: str | None = None
    exclude: frozenset[str] = field(default_factory=frozenset)

    def __post_init__(self) -> None:
        if self.k < 1:
            raise UsageError(f"k must be at least 1, got {self.k}")
        if not self.weights:
            raise UsageError("no subspace selected", hint="for example --by tempo")
        for name, weight in self.weights.items():
            if not math.isfinite(weight) or weight == 0:
                raise UsageError(
                    f"the weight of '{name}' is {weight:g}",
                    hint="weights must be finite and nonzero",
                )

    @property
    def shares(self) -> dict[str, float]:
        """Subspace -> weight / sum of |weight|."""
        total = sum(abs(weight) for weight in self.weights.values())
        return {name: weight / total for name, weight in self.weights.items()}


@dataclass(frozen=True)
class Hit:
    """One result.

    Attributes:
        rank: from 1 on.
        path: its row name.
        row: of the library; -1 in a database, which has only paths.
        score: see the module's text, in [-1, 1].
        distances: subspace -> cosine distance to the query, 1 - similarity: 0 the same direction,
            1 unrelated, 2 opposite; for every subspace the query has a vector of.
    """

    rank: int
    path: str
    row: int
    score: float
    distances: dict[str, float]


def search(library: Library, vectors: Mapping[str, Vectors], query: Query) -> list[Hit]:
    """The ``query.k`` rows of highest score among those that pass the filter, best first.

    Exact: the rows, and their order, of a loop over all of them in float64.

    Args:
        vectors: subspace -> (D,), the query vectors, prepared like ``library.vectors``: a row of
            it (:meth:`Library.of_row`), or a prepared model output (:meth:`Library.ready`).
            Subspaces without a weight are only used for the distances.

    Raises:
        UsageError: an unknown subspace or column, or a filter that does not parse.
    """
    for name in (*query.weights, *vectors):
        check_subspace(name, library.subspaces, library.source)
    missing = [name for name in query.weights if name not in vectors]
    if missing:
        raise UsageError(f"the query has no vector of '{missing[0]}'")
    rows = _allowed(library, query)
    candidates = _candidates(library, vectors, query, rows)
    return ranked(library.paths, library.vectors, vectors, query, candidates)


def ranked(
    paths: Sequence[str],
    matrices: Mapping[str, Vectors],
    vectors: Mapping[str, Vectors],
    query: Query,
    rows: NDArray[np.int64],
) -> list[Hit]:
    """The best of some rows, scored in float64. ``matrices``: subspace -> (N, D)."""
    similarity = {name: _cosine(matrices[name][rows], vector) for name, vector in vectors.items()}
    weighted = np.zeros(len(rows))
    for name, share in query.shares.items():
        weighted += share * similarity[name]
    scores = np.round(weighted, _DECIMALS) + 0.0  # no -0
    indices = rows.tolist()
    best = heapq.nsmallest(
        query.k, range(len(indices)), key=lambda i: (-scores[i], paths[indices[i]])
    )
    return [
        Hit(
            rank=rank,
            path=paths[indices[i]],
            row=indices[i],
            score=float(scores[i]),
            distances={
                name: float(np.round(np.clip(1 - s[i], 0, 2), _DECIMALS)) + 0.0
                for name, s in similarity.items()
            },
        )
        for rank, i in enumerate(best, start=1)
    ]


def _cosine(matrix: Vectors, vector: Vectors) -> NDArray[np.float64]:
    """(n, D), (D,) -> (n,) in float64; 0 where one of the two is 0."""
    x, y = matrix.astype(np.float64), vector.astype(np.float64)
    lengths = np.linalg.norm(x, axis=1) * np.linalg.norm(y)
    dots = np.einsum("nd,d->n", x, y)
    return np.asarray(np.divide(dots, lengths, out=np.zeros_like(dots), where=lengths > 0))


def _allowed(library: Library, query: Query) -> NDArray[np.int64]:
    """The rows that pass the filter and are not excluded."""
    allowed = np.ones(len(library), np.bool_)
    if query.where is not None:
        allowed &= parse_where(query.where, library.columns).mask(library.columns, len(library))
    for path in query.exclude:
        if path in library.row_of:
            allowed[library.row_of[path]] = False
    return np.flatnonzero(allowed)


def _candidates(
    library: Library,
    vectors: Mapping[str, Vectors],
    query: Query,
    rows: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Rows that certainly include the best: by float32 scores, with an error margin."""
    if len(rows) <= query.k:
        return rows
    everything = len(rows) == len(library)
    scores = np.empty(len(rows), np.float32)
    for start in range(0, len(rows), _BLOCK_N_ROWS):
        block = slice(start, start + _BLOCK_N_ROWS)
        some = block if everything else rows[block]
        scores[block] = sum(
            np.float32(share) * (library.vectors[name][some] @ vectors[name])
            for name, share in query.shares.items()
        )
    longest = max(len(vectors[name]) for name in query.weights)
    margin = 4 * longest * np.finfo(np.float32).eps
    kth = np.partition(scores, len(scores) - query.k)[len(scores) - query.k]
    return np.asarray(rows[scores >= kth - margin])


def parse_weights(text: str) -> dict[str, float]:
    """``invariant=1,pitch=-0.3`` -> subspace -> weight.

    Raises:
        UsageError: invalid syntax, or a duplicate subspace.
    """
    weights: dict[str, float] = {}
    for part in text.split(","):
        name, equals, number = (piece.strip() for piece in part.partition("="))
        try:
            weight = float(number)
        except ValueError:
            equals = ""
            weight = 0.0
        if not name or not equals:
            raise UsageError(
                f"weights '{text}': '{part.strip()}' is not SUBSPACE=NUMBER",
                hint="for example --weights invariant=1,pitch=-0.3",
            )
        if name in weights:
            raise UsageError(f"weights '{text}' name '{name}' twice")
        weights[name] = weight
    return weights


def default_weights(subspaces: Iterable[str]) -> dict[str, float]:
    """The default weights: ``invariant``, or the first subspace."""
    names = list(subspaces)
    name = INVARIANT if INVARIANT in names else names[0]
    return {name: 1.0}
