"""Duplicate detection: near-identical recordings, by the invariant subspace.

Two tracks whose vectors in ``invariant`` lie within a threshold of each other are a pair. Groups
grow from the pairs, the nearest first; two groups become one only if all of their tracks are pairs
(complete linkage), so that distant tracks are not joined by a chain of small differences. Every
pair of rows is compared, in blocks: quadratic time, constant memory.

What two tracks of a group are to each other is read from the other subspaces and their lengths:

key      the rotation of ``pitch`` by which it is nearest to the other's is not 0 (in models whose
         ``pitch`` does not rotate: the distance in ``pitch`` is large)
tempo    the lengths differ, and so does ``tempo``; by how much, the lengths tell, unless the
         column ``bpm`` contradicts
excerpt  the lengths differ, but not ``tempo``
copy     none of these

Members of a group come best first: the longest, and of tracks as long as each other that of the
highest quality. The first is kept, and every one that is neither a copy nor an excerpt of one that
is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from loev_cli.annotations import TEMPO_TOLERANCE
from loev_cli.defaults import (
    COPY_LENGTH_S,
    COPY_LENGTH_SHARE,
    DUPLICATE_DISTANCE,
    INVARIANT,
    OTHER_KEY_DISTANCE,
    OTHER_TEMPO_DISTANCE,
)
from loev_cli.errors import UsageError
from loev_cli.search.library import Library, Vectors
from loev_cli.search.shifted_query import rotated, rotates

_BLOCK_N_ROWS = 2048
_MAX_N_PAIRS = 1_000_000
_ROUNDING = 1e-6  # error of a float32 dot product
_RATES = (0.7, 1.43)  # beyond, a track is rather an excerpt than played at another tempo


@dataclass(frozen=True)
class Relation:
    """What a track is to another that is kept.

    Attributes:
        kind: ``copy``, or what differs: ``key``, ``tempo``, ``excerpt``; several joined by ``+``.
        semitones: how much higher it is, -5 to 6; None: not known.
        rate: how many times as fast it is; None: not known to be another tempo.
    """

    kind: str
    semitones: int | None = None
    rate: float | None = None

    @property
    def is_redundant(self) -> bool:
        """Whether the other has all of it."""
        return self.kind in ("copy", "excerpt")


@dataclass(frozen=True)
class Member:
    """One track of a group.

    Attributes:
        group: from 1 on, in order of the first of their paths.
        path: its row name.
        row: of the library.
        duration_s: its length.
        keep: whether no other track of the group has all of it.
        of: path of the track it is compared with: that which has all of it, else the first of the
            group; None for the first.
        relation: what it is to that; None for the first, and where ``by`` is not ``invariant``.
        distances: subspace -> cosine distance to that.
    """

    group: int
    path: str
    row: int
    duration_s: float
    keep: bool
    of: str | None
    relation: Relation | None
    distances: dict[str, float]


def find_duplicates(
    library: Library,
    *,
    by: str,
    threshold: float = DUPLICATE_DISTANCE,
    where: str | None = None,
    quality: Callable[[int], tuple[float, ...]] = lambda row: (),
    on_rows: Callable[[int, int], None] = lambda done, total: None,
) -> list[Member]:
    """All groups of two or more, their tracks best first; equals in order of their paths.

    Args:
        by: the subspace that is compared.
        threshold: cosine distance up to which two tracks are a pair, at least 0 and below 1.
        where: filter on the tracks.
        quality: row -> what is higher for the better of two copies.
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
    compare = Comparison(library)
    members = []
    for number, group in enumerate(_groups(len(rows), pairs), start=1):
        kept: list[int] = []
        for row in compare.best_first(rows[group].tolist(), quality):
            # Near in another subspace they are not the same recording, and none is redundant.
            relations = {other: compare(other, row) for other in kept if by == INVARIANT}
            redundant = (other for other, is_ in relations.items() if is_.is_redundant)
            other = next(redundant, kept[0] if kept else row)
            relation = relations.get(other)
            keep = relation is None or not relation.is_redundant
            if keep:
                kept.append(row)
            members.append(
                Member(
                    group=number,
                    path=library.paths[row],
                    row=row,
                    duration_s=float(compare.seconds[row]),
                    keep=keep,
                    of=None if relation is None else library.paths[other],
                    relation=relation,
                    distances={n: library.distance(n, other, row) for n in library.vectors},
                )
            )
    return members


class Comparison:
    """Compares two tracks of a group; see the module's text."""

    def __init__(self, library: Library) -> None:
        self._library = library
        self.seconds = np.asarray(library.columns["duration_s"], np.float64)
        self._rotates = "pitch" in library.subspaces and rotates(library.meta)

    def __call__(self, first: int, second: int) -> Relation:
        """What the second is to the first, which is not shorter but for its tempo."""
        semitones, differ = self._semitones(first, second), []
        if semitones != 0:
            differ.append("key")
        rate, is_told = float(self.seconds[first] / self.seconds[second]), False
        if not self._as_long(first, second):
            is_played = _RATES[0] <= rate <= _RATES[1] and self._another("tempo", first, second)
            differ.append("tempo" if is_played else "excerpt")
            is_told = is_played and self._fits_bpm(first, second, rate)
        return Relation("+".join(differ) or "copy", semitones, round(rate, 4) if is_told else None)

    def best_first(
        self, rows: Sequence[int], quality: Callable[[int], tuple[float, ...]]
    ) -> list[int]:
        """By length, as far as it differs, and then by quality."""
        ordered = sorted(rows, key=lambda row: -self.seconds[row])
        step = {ordered[0]: 0}
        for longer, row in pairwise(ordered):
            step[row] = step[longer] + (not self._as_long(longer, row))
        worth = {row: tuple(-value for value in quality(row)) for row in rows}
        return sorted(rows, key=lambda row: (step[row], worth[row], self._library.paths[row]))

    def _as_long(self, first: int, second: int) -> bool:
        a, b = self.seconds[first], self.seconds[second]
        return bool(abs(a - b) <= max(COPY_LENGTH_S, COPY_LENGTH_SHARE * max(a, b)))

    def _another(self, name: str, first: int, second: int) -> bool:
        most = {"tempo": OTHER_TEMPO_DISTANCE, "pitch": OTHER_KEY_DISTANCE}[name]
        return name in self._library.subspaces and (
            self._library.distance(name, first, second) > most
        )

    def _fits_bpm(self, first: int, second: int, rate: float) -> bool:
        """Whether the annotated tempi, if there are any, have that ratio, but for octaves."""
        if "bpm" not in self._library.columns:
            return True
        octaves = np.log2(self._library.columns["bpm"][[second, first]])
        off = octaves[0] - octaves[1] - np.log2(rate)
        return not abs(off - np.round(off)) > np.log2(1 + TEMPO_TOLERANCE)  # NaN fits

    def _semitones(self, first: int, second: int) -> int | None:
        """How much higher the second is; None: it is in another key, and not known in which."""
        if not self._rotates:
            return None if self._another("pitch", first, second) else 0
        space = self._library.subspaces["pitch"]
        raw, there = space.raw(first), space.vectors[second]
        steps = range(-5, 7)
        nearness = [float(space.ready(rotated(raw, n)) @ there) for n in steps]
        return steps[int(np.argmax(np.round(nearness, 6)))] if any(nearness) else 0


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
