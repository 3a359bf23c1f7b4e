"""Playlists that keep some attributes constant and let one drift.

1. The pool is the tracks most similar to the seed in the kept subspaces (mean similarity), up to
   three times the duration of the playlist: a larger pool would be less constant in what is kept,
   a smaller one less smooth in what drifts.
2. The end point is the pool's track that is least similar to the seed in the drifting subspace.
3. The list goes from the seed to the end point. When a share p of the time has passed, the next
   track is the unused one nearest to the point at p on the arc between the two, in the drifting
   subspace.
4. It ends when one more track would exceed the requested duration by more than the list falls
   short.

Repeats, near duplicates of chosen tracks (see :mod:`loev_cli.search.duplicates`) and silent tracks
are excluded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from loev_cli.defaults import DUPLICATE_DISTANCE, INVARIANT
from loev_cli.errors import UsageError
from loev_cli.search.library import Library

_POOL_SHARE = 3.0
_DECIMALS = 6
_FULL_TURN = 1e-6


@dataclass(frozen=True)
class Step:
    """One track of a playlist.

    Attributes:
        position: from 1 on.
        path: its row name.
        row: of the library.
        start_s: when it begins in the list.
        duration_s: its length.
        kept: subspace -> cosine distance to the seed.
        drifted: cosine distance to the seed in the drifting subspace.
        moved: the same to the track before; 0 for the first.
    """

    position: int
    path: str
    row: int
    start_s: float
    duration_s: float
    kept: dict[str, float]
    drifted: float
    moved: float


def build_playlist(
    library: Library,
    seed: int,
    *,
    minutes: float,
    keep: Sequence[str],
    drift: str,
    where: str | None = None,
) -> list[Step]:
    """The playlist described in the module docstring; it begins with the seed.

    Args:
        seed: row of the first track.
        minutes: duration of the playlist, more than 0.
        keep: subspaces that stay; not ``drift``.
        drift: the subspace that moves.
        where: filter on the tracks; it does not apply to the seed.

    Raises:
        UsageError: an unknown subspace or column, a filter that does not parse, or a request that
            contradicts itself.
    """
    _check(library, minutes, keep, drift)
    durations_s = np.asarray(library.columns["duration_s"], np.float64)
    usable = library.mask(where) & ~np.asarray(library.columns["silent"], np.bool_)
    usable &= durations_s > 0
    usable[seed] = True
    wanted_s = 60 * minutes
    similarities = [library.vectors[name] @ library.vectors[name][seed] for name in keep]
    kept = np.asarray(np.mean(similarities, axis=0, dtype=np.float64))
    pool = _pool(kept, durations_s, usable, seed, wanted_s)
    chosen = _walk(library, pool, seed, drift, durations_s, wanted_s)
    starts_s = np.concatenate([[0.0], np.cumsum(durations_s[chosen])])
    return [
        Step(
            position=i + 1,
            path=library.paths[row],
            row=row,
            start_s=float(starts_s[i]),
            duration_s=float(durations_s[row]),
            kept={name: library.distance(name, seed, row) for name in keep},
            drifted=library.distance(drift, seed, row),
            moved=library.distance(drift, chosen[max(0, i - 1)], row),
        )
        for i, row in enumerate(chosen)
    ]


def _check(library: Library, minutes: float, keep: Sequence[str], drift: str) -> None:
    for name in (*keep, drift):
        library.check_subspace(name)
    if len(set(keep)) < len(keep):
        raise UsageError(f"--keep names a subspace twice: {', '.join(keep)}")
    if drift in keep:
        raise UsageError(f"--keep and --drift must differ, but both name '{drift}'")
    if not 0 < minutes < float("inf"):
        raise UsageError(f"--minutes must be positive and finite, got {minutes:g}")


def _pool(
    kept: NDArray[np.float64],
    durations_s: NDArray[np.float64],
    usable: NDArray[np.bool_],
    seed: int,
    wanted_s: float,
) -> NDArray[np.int64]:
    """Rows to choose from, in order; the seed among them."""
    score = np.where(usable, np.round(kept, _DECIMALS), -np.inf)
    score[seed] = np.inf
    order = np.argsort(-score, kind="stable")[: int(usable.sum())]
    n = 1 + int(np.searchsorted(np.cumsum(durations_s[order]), _POOL_SHARE * wanted_s))
    return np.sort(order[:n])


def _walk(
    library: Library,
    pool: NDArray[np.int64],
    seed: int,
    drift: str,
    durations_s: NDArray[np.float64],
    wanted_s: float,
) -> list[int]:
    """Rows of the playlist in order."""
    x = library.vectors[drift][pool].astype(np.float64)
    start = library.vectors[drift][seed].astype(np.float64)
    end = x[int(np.argmin(np.round(x @ start, _DECIMALS)))]
    free = pool != seed
    _leave_out_alike(library, pool, seed, free)
    chosen, elapsed_s = [seed], float(durations_s[seed])
    while free.any() and elapsed_s < wanted_s:
        nearness = np.round(x @ _arc(start, end, elapsed_s / wanted_s), _DECIMALS)
        best = int(np.argmax(np.where(free, nearness, -np.inf)))
        row = int(pool[best])
        if elapsed_s + durations_s[row] - wanted_s > wanted_s - elapsed_s:
            break
        chosen.append(row)
        elapsed_s += float(durations_s[row])
        free[best] = False
        _leave_out_alike(library, pool, row, free)
    return chosen


def _leave_out_alike(
    library: Library, pool: NDArray[np.int64], row: int, free: NDArray[np.bool_]
) -> None:
    if INVARIANT in library.vectors:
        x = library.vectors[INVARIANT]
        free &= x[pool] @ x[row] < 1 - DUPLICATE_DISTANCE


def _arc(start: NDArray[np.float64], end: NDArray[np.float64], share: float) -> NDArray[np.float64]:
    """The point at ``share`` of the way from one unit vector to another, on the sphere."""
    angle = float(np.arccos(np.clip(start @ end, -1, 1)))
    if np.sin(angle) < _FULL_TURN:  # identical or opposite: the arc is not unique
        return np.asarray((1 - share) * start + share * end)
    return np.asarray(
        (np.sin((1 - share) * angle) * start + np.sin(share * angle) * end) / np.sin(angle)
    )
