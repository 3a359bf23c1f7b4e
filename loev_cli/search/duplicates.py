"""Duplicate detection: near-identical recordings, by the invariant subspace.

Two tracks whose vectors in ``invariant`` lie within a threshold of each other are a pair. Groups
grow from the pairs, the nearest first; two groups become one only if all of their tracks are pairs
(complete linkage), so that distant tracks are not joined by a chain of small differences. Every
pair of rows is compared, in blocks: quadratic time, constant memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from loev_cli.defaults import DUPLICATE_DISTANCE
from loev_cli.errors import UsageError
from loev_cli.search.library import Library, Vectors

_BLOCK_N_ROWS = 2048
_MAX_N_PAIRS = 1_000_000
_ROUNDING = 1e-6  # error of a float32 dot product


@dataclass(frozen=True)
class Member:
    """One track of a group.

    Attributes:
        group: from 1 on, in order of the paths of their first tracks.
        path: its row name.
        row: of the library.
        duration_s: its length.
        distances: subspace -> cosine distance to the group's first track; small in ``pitch`` and
            ``tempo`` too where it is the same version.
    """

    group: int
    path: str
    row: int
    duration_s: float
    distances: dict[str, float]


def find_duplicates(
    library: Library,
    *,
    by: str,
    threshold: float = DUPLICATE_DISTANCE,
    where: str | None = None,
    on_rows: Callable[[int, int], None] = lambda done, total: None,
) -> list[Member]:
    """All groups of two or more, their tracks in order of their paths.

    Args:
        by: the subspace that is compared.
        threshold: cosine distance up to which two tracks are a pair, at least 0 and below 1.
        where: filter on the tracks.
        on_rows: called with the number of rows compared so far, and the total.

    Raises:
        UsageError: an unknown subspace or column, a filter that does not parse, a threshold out of
            range, or one that makes millions of pairs.
    """
    library.check_subspace(by)
    if not 0 <= threshold < 1:
        raise UsageError(
            f"a threshold of {threshold:g} is out of range", hint="use 0 <= threshold < 1"
        )
    rows = np.flatnonzero(library.mask(where))
    # A track at the center, such as silence in some models, has no direction; skip it.
    rows = rows[library.subspaces[by].lengths[rows] > 0]
    pairs = _pairs(library.vectors[by][rows], threshold, on_rows)
    seconds = library.columns["duration_s"]
    members = []
    for number, group in enumerate(_groups(len(rows), pairs), start=1):
        found = rows[group]
        for row in found.tolist():
            distances = {
                name: library.distance(name, int(found[0]), row) for name in library.vectors
            }
            path, duration_s = library.paths[row], float(seconds[row])
            members.append(Member(number, path, row, duration_s, distances))
    return members


def _pairs(
    x: Vectors, threshold: float, on_rows: Callable[[int, int], None]
) -> list[tuple[float, int, int]]:
    """(distance, i, j), i < j, of unit vectors (N, D) that lie within the threshold."""
    found: list[tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]] = []
    n_pairs = 0
    for start in range(0, len(x), _BLOCK_N_ROWS):
        block = x[start : start + _BLOCK_N_ROWS]
        for other in range(start, len(x), _BLOCK_N_ROWS):
            similarity = block @ x[other : other + _BLOCK_N_ROWS].T
            i, j = np.nonzero(similarity >= 1 - threshold - _ROUNDING)
            i, j = i + start, j + other
            i, j = i[i < j], j[i < j]
            n_pairs += len(i)
            if n_pairs > _MAX_N_PAIRS:
                raise UsageError(
                    f"more than {_MAX_N_PAIRS} pairs lie within {threshold:g}",
                    hint="use a smaller --threshold",
                )
            dots = np.einsum("nd,nd->n", x[i].astype(np.float64), x[j].astype(np.float64))
            distance = np.round(1 - dots, 6)  # ignore float32 rounding errors
            near = distance <= threshold
            found.append((distance[near], i[near], j[near]))
        on_rows(min(start + _BLOCK_N_ROWS, len(x)), len(x))
    return sorted(
        pair for some in found for pair in zip(*(column.tolist() for column in some), strict=True)
    )


def _groups(n: int, pairs: list[tuple[float, int, int]]) -> list[NDArray[np.int64]]:
    """Groups of rows by complete linkage, each sorted, in order of their first rows."""
    near: dict[int, set[int]] = {}
    for _, i, j in pairs:
        near.setdefault(i, set()).add(j)
        near.setdefault(j, set()).add(i)
    group_of = {i: {i} for i in near}
    for _, i, j in pairs:
        first, second = group_of[i], group_of[j]
        if first is second or any(not near[member] >= second for member in first):
            continue
        first |= second
        for member in second:
            group_of[member] = first
    unique = {id(group): sorted(group) for group in group_of.values() if len(group) > 1}
    return [np.array(group) for group in sorted(unique.values())]
