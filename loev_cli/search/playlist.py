"""Playlists that keep some attributes constant and let one drift.

1. The pool is the tracks most similar to the seed in the kept subspaces (mean similarity), up to
   three times the duration of the playlist: a larger pool would be less constant in what is kept,
   a smaller one less smooth in what drifts. Where steps of key, a tempo curve or a column limit the
   choice, the pool is not limited by duration.
2. The end point is the last track, if one is asked for, else the pool's track that is least similar
   to the seed in the drifting subspace.
3. The list goes from the seed to the end point. When a share p of the time has passed, the next
   track is the unused one nearest to the point at p on the arc between the two, in the drifting
   subspace; without one, in the kept subspaces.
4. It ends when one more track would exceed the requested duration by more than the list falls
   short, or where no track is near: within ``max_distance`` of the seed in every kept subspace (of
   the arc to the last track, if there is one), and within the other limits. Before it ends early,
   other choices of earlier tracks are tried, up to a number.

With several seeds their mean is the seed, and the first of them begins. Repeats, near duplicates of
chosen tracks (see :mod:`loev_cli.search.duplicates`) and silent tracks are excluded.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loev_cli.annotations import TEMPO_TOLERANCE
from loev_cli.defaults import DUPLICATE_DISTANCE, INVARIANT, PLAYLIST_DISTANCES
from loev_cli.errors import UsageError, did_you_mean
from loev_cli.music_keys import KEYS, camelot, camelot_steps, parse_key
from loev_cli.search.library import Library

_POOL_SHARE = 3.0
_LARGEST_POOL = 20_000
_DECIMALS = 6
_FULL_TURN = 1e-6
_MOST_TRIES = 500  # of other ways, after a dead end
_NO_KEY = len(KEYS)
# (25, 25): steps between keys; from and to an unknown key they are infinitely many.
_STEPS = np.full((_NO_KEY + 1, _NO_KEY + 1), np.inf)
_STEPS[:-1, :-1] = [[camelot_steps(a, b) for b in range(_NO_KEY)] for a in range(_NO_KEY)]

Point = NDArray[np.float64]


@dataclass(frozen=True)
class Limits:
    """What every track after the first has to fulfil.

    Attributes:
        max_distance: cosine distance to the seed in each kept subspace; None: that of
            :data:`loev_cli.defaults.PLAYLIST_DISTANCES`.
        max_key_step: steps on the Camelot wheel from one track to the next.
        bpm: tempi that the list has at evenly spaced times, in BPM, linear between; tracks have it
            within 4 %.
        max_per: column -> how many tracks may have the same value in it.
    """

    max_distance: float | None = None
    max_key_step: int | None = None
    bpm: Sequence[float] = ()
    max_per: Mapping[str, int] = field(default_factory=dict)

    @property
    def choose(self) -> bool:
        """Whether they leave out tracks, however near."""
        return bool(self.max_key_step is not None or self.bpm or self.max_per)


@dataclass(frozen=True)
class Step:
    """One track of a playlist.

    Attributes:
        position: from 1 on.
        path: its row name.
        row: of the library.
        start_s: when it begins in the list.
        duration_s: its length.
        distances: subspace -> cosine distance to the seed, of those that are kept and that drifts.
        moved: cosine distance to the track before, in the drifting subspace, or else the first
            that is kept; 0 for the first.
    """

    position: int
    path: str
    row: int
    start_s: float
    duration_s: float
    distances: dict[str, float]
    moved: float


@dataclass(frozen=True)
class Playlist:
    """Its tracks, and why they end before the time is up; None: they do not."""

    steps: list[Step]
    stopped: str | None


def build_playlist(
    library: Library,
    seeds: Sequence[int],
    *,
    minutes: float,
    keep: Sequence[str],
    drift: str | None = None,
    to: int | None = None,
    where: str | None = None,
    exclude: Collection[int] = (),
    limits: Limits | None = None,
) -> Playlist:
    """The playlist described in the module docstring; it begins with the first seed.

    Args:
        seeds: rows, at least one.
        minutes: duration of the playlist, more than 0.
        keep: subspaces that stay, at least one; not ``drift``.
        drift: the subspace that moves; None: none does.
        to: row of the last track.
        where: filter on the tracks; it does not apply to the seeds and the last track.
        exclude: rows to leave out; neither does this.
        limits: see there.

    Raises:
        UsageError: an unknown subspace or column, a filter that does not parse, or a request that
            contradicts itself.
    """
    limits = limits or Limits()
    _check(library, minutes, keep, drift, limits)
    asked = [*seeds, *([] if to is None else [to])]
    if to in seeds:
        raise UsageError(f"--to is a seed: {library.paths[seeds[0]]}")
    durations_s = np.asarray(library.columns["duration_s"], np.float64)
    usable = library.mask(where) & ~np.asarray(library.columns["silent"], np.bool_)
    usable &= durations_s > 0
    usable[list(exclude)] = False
    usable[asked] = True
    walk = _Walk(library, seeds, to, keep, drift, limits, durations_s, 60 * minutes, usable)
    chosen, stopped = walk.go()
    starts_s = np.concatenate([[0.0], np.cumsum(durations_s[chosen])])
    shown = [*keep, *([] if drift is None else [drift])]
    steps = [
        Step(
            position=i + 1,
            path=library.paths[row],
            row=row,
            start_s=float(starts_s[i]),
            duration_s=float(durations_s[row]),
            distances={name: walk.distance(name, row) for name in shown},
            moved=library.distance(shown[-1] if drift else shown[0], chosen[max(0, i - 1)], row),
        )
        for i, row in enumerate(chosen)
    ]
    return Playlist(steps, stopped)


def _check(
    library: Library, minutes: float, keep: Sequence[str], drift: str | None, limits: Limits
) -> None:
    for name in (*keep, *([] if drift is None else [drift])):
        library.check_subspace(name)
    if not keep:
        raise UsageError("--keep names no subspace")
    if len(set(keep)) < len(keep):
        raise UsageError(f"--keep names a subspace twice: {', '.join(keep)}")
    if drift in keep:
        raise UsageError(f"--keep and --drift must differ, but both name '{drift}'")
    if not 0 < minutes < float("inf"):
        raise UsageError(f"--minutes must be positive and finite, got {minutes:g}")
    if limits.max_distance is not None and not 0 < limits.max_distance <= 2:
        raise UsageError(f"--max-distance {limits.max_distance:g} is not within 0 to 2")
    wanted = {"key": limits.max_key_step is not None, "bpm": bool(limits.bpm)}
    for name in (*(name for name, is_wanted in wanted.items() if is_wanted), *limits.max_per):
        if name not in library.columns:
            hint = "'loev embed --annotate' adds it" if name in wanted else ""
            hint = hint or f"{did_you_mean(name, library.columns)}--tags keeps those of tags"
            raise UsageError(f"{library.source} has no column '{name}'", hint=hint)


class _Walk:
    """The way through the pool; its arrays have a value for each of the pool's P tracks."""

    def __init__(
        self,
        library: Library,
        seeds: Sequence[int],
        to: int | None,
        keep: Sequence[str],
        drift: str | None,
        limits: Limits,
        durations_s: NDArray[np.float64],
        wanted_s: float,
        usable: NDArray[np.bool_],
    ) -> None:
        self._library, self._keep, self._drift, self._limits = library, keep, drift, limits
        self._wanted_s = wanted_s
        names = [*keep, *([] if drift is None else [drift])]
        self._start = {name: _mean(library.vectors[name][list(seeds)]) for name in names}
        self._end = dict(self._start)
        if to is not None:
            self._end |= {name: library.vectors[name][to].astype(np.float64) for name in names}
        similarities = [
            np.mean([library.vectors[name] @ self._at(name, share) for name in keep], axis=0)
            for share in ((0.0,) if to is None else (0.0, 0.5, 1.0))
        ]
        most_s = math.inf if limits.choose else _POOL_SHARE * wanted_s
        pool = _pool(np.max(similarities, axis=0), durations_s, usable, seeds[0], to, most_s)
        self._pool, self._durations_s = pool, durations_s[pool]
        self._x = {name: library.vectors[name][pool].astype(np.float64) for name in names}
        if drift is not None and to is None:
            x = self._x[drift]
            self._end[drift] = x[int(np.argmin(np.round(x @ self._start[drift], _DECIMALS)))]
        self._alike = library.vectors.get(INVARIANT)
        columns = library.columns
        self._keys = np.full(len(pool), _NO_KEY)
        if limits.max_key_step is not None:
            keys = [parse_key(text or "") for text in columns["key"][pool].tolist()]
            self._keys = np.array([_NO_KEY if key is None else key for key in keys])
        self._bpm = np.asarray(columns["bpm"])[pool] if limits.bpm else np.zeros(len(pool))
        self._values = {name: columns[name][pool].tolist() for name in limits.max_per}
        self._seed = int(np.searchsorted(pool, seeds[0]))
        self._to = None if to is None else int(np.searchsorted(pool, to))
        for i, option in ((self._seed, "--seed"), (self._to, "--to")):
            if limits.max_key_step is not None and i is not None and self._keys[i] == _NO_KEY:
                raise UsageError(f"{option} {library.paths[pool[i]]} has no known key")

    def distance(self, name: str, row: int) -> float:
        """Cosine distance of a row of the library to the seed."""
        dot = float(self._library.vectors[name][row].astype(np.float64) @ self._start[name])
        return round(float(np.clip(1 - dot, 0, 2)), _DECIMALS)

    def go(self) -> tuple[list[int], str | None]:
        """Rows of the playlist in order, and why it ends before the time is up."""
        self._used = np.zeros(len(self._pool), np.int64)  # by how many of the chosen
        chosen, tried, left_out = [self._seed], [np.zeros(len(self._pool), np.bool_)], []
        left_out.append(self._take(self._seed))
        if self._to is not None:
            self._take(self._to)
        n_tries, longest, stopped = 0, list(chosen), None
        while True:
            allowed, why_not = self._allowed(chosen)
            allowed &= ~tried[-1]
            best = self._nearest(chosen, allowed)
            if best is None or self._would_end(chosen, best):
                if self._is_complete(chosen, best):
                    return self._rows(chosen), None
                if len(chosen) >= len(longest) and (len(chosen) > len(longest) or not stopped):
                    longest, stopped = list(chosen), why_not
                n_tries += 1
                if len(chosen) == 1 or not self._limits.choose or n_tries > _MOST_TRIES:
                    return self._rows(longest, reached=False), stopped
                self._used[left_out.pop()] -= 1
                tried.pop()
                tried[-1][chosen.pop()] = True
                continue
            chosen.append(best)
            tried.append(np.zeros(len(self._pool), np.bool_))
            left_out.append(self._take(best))

    def _allowed(self, chosen: list[int]) -> tuple[NDArray[np.bool_], str]:
        """(P,): which tracks may come next; and what the others lack, for people."""
        limits, share = self._limits, self._share(chosen)
        unused = self._used == 0
        allowed, lacks = unused.copy(), []
        for name in self._keep:
            most = limits.max_distance or PLAYLIST_DISTANCES.get(name, PLAYLIST_DISTANCES["other"])
            distance = 1 - self._x[name] @ self._at(name, share)
            allowed &= distance <= most
            nearest = f" (the nearest: {distance[unused].min():.2f})" if unused.any() else ""
            lacks.append(f"within {most:g} in {name}{nearest}")
        if limits.max_key_step is not None:
            key = self._keys[chosen[-1]]
            allowed &= _STEPS[key, self._keys] <= limits.max_key_step
            lacks.append(f"within {limits.max_key_step} of {camelot(key)} on the Camelot wheel")
            if self._to is not None:  # so many steps are left to its key
                left_s = self._room_s - self._elapsed_s(chosen) - self._durations_s
                n_left = 1 + np.ceil(np.maximum(left_s, 0) / np.median(self._durations_s))
                to_end = _STEPS[self._keys[self._to], self._keys]
                allowed &= to_end <= limits.max_key_step * n_left
        if limits.bpm:
            bpm = float(np.interp(share, np.linspace(0, 1, len(limits.bpm)), limits.bpm))
            allowed &= np.abs(self._bpm / bpm - 1) <= TEMPO_TOLERANCE  # False for NaN
            lacks.append(f"within {TEMPO_TOLERANCE:.0%} of {bpm:.1f} BPM")
        for name, most in limits.max_per.items():
            values = self._values[name]
            counts = Counter(values[i] for i in self._with_end(chosen))
            full = {value for value, n in counts.items() if n >= most and _is_known(value)}
            allowed &= np.array([value not in full for value in values])
            lacks.append(f"by another {name}")
        n = int(unused.sum())
        return allowed, f"of {n} unused tracks none is {', '.join(lacks)}" if n else "all are used"

    def _nearest(self, chosen: list[int], allowed: NDArray[np.bool_]) -> int | None:
        if not allowed.any():
            return None
        share = self._share(chosen)
        names = self._keep if self._drift is None else [self._drift]
        nearness = np.mean([self._x[name] @ self._at(name, share) for name in names], axis=0)
        return int(np.argmax(np.where(allowed, np.round(nearness, _DECIMALS), -np.inf)))

    def _would_end(self, chosen: list[int], best: int) -> bool:
        """Whether the list is as long as wanted without one more."""
        left_s = self._room_s - self._elapsed_s(chosen)
        return left_s <= 0 or bool(self._durations_s[best] - left_s > left_s)

    def _is_complete(self, chosen: list[int], best: int | None) -> bool:
        if best is None and self._elapsed_s(chosen) < self._room_s:
            return False
        if self._to is None or self._limits.max_key_step is None:
            return True
        steps = _STEPS[self._keys[chosen[-1]], self._keys[self._to]]
        return bool(steps <= self._limits.max_key_step)

    def _take(self, i: int) -> NDArray[np.int64]:
        """Leave out a track and those like it from now on; which these are."""
        alike = np.arange(len(self._pool)) == i
        if self._alike is not None:
            alike |= self._alike[self._pool] @ self._alike[self._pool[i]] >= 1 - DUPLICATE_DISTANCE
        found = np.flatnonzero(alike)
        self._used[found] += 1
        return found

    def _at(self, name: str, share: float) -> Point:
        return _arc(self._start[name], self._end[name], share)

    @property
    def _room_s(self) -> float:
        """Time for all but the last track, if that is given."""
        return self._wanted_s - (0.0 if self._to is None else float(self._durations_s[self._to]))

    def _elapsed_s(self, chosen: list[int]) -> float:
        return float(self._durations_s[chosen].sum())

    def _share(self, chosen: list[int]) -> float:
        return min(1.0, self._elapsed_s(chosen) / self._wanted_s)

    def _with_end(self, chosen: list[int]) -> list[int]:
        return chosen if self._to is None else [*chosen, self._to]

    def _rows(self, chosen: list[int], *, reached: bool = True) -> list[int]:
        return [int(self._pool[i]) for i in (self._with_end(chosen) if reached else chosen)]


def _pool(
    kept: NDArray[np.float64],
    durations_s: NDArray[np.float64],
    usable: NDArray[np.bool_],
    seed: int,
    to: int | None,
    most_s: float,
) -> NDArray[np.int64]:
    """Rows to choose from, in order; the seed and the last track among them."""
    score = np.where(usable, np.round(kept, _DECIMALS), -np.inf)
    score[[seed, *([] if to is None else [to])]] = np.inf
    order = np.argsort(-score, kind="stable")[: int(usable.sum())]
    n = 1 + int(np.searchsorted(np.cumsum(durations_s[order]), most_s))
    return np.sort(order[: min(n, _LARGEST_POOL)])


def _mean(x: NDArray[np.float32]) -> Point:
    """(n, D) -> the direction of their mean (D,), of length 1; 0 where they cancel out."""
    mean = x.astype(np.float64).mean(axis=0)
    length = float(np.linalg.norm(mean))
    return np.asarray(mean / length if length > _FULL_TURN else 0 * mean)


def _is_known(value: Any) -> bool:
    return value not in (None, "") and value == value  # NaN is not itself


def _arc(start: Point, end: Point, share: float) -> Point:
    """The point at ``share`` of the way from one unit vector to another, on the sphere."""
    angle = float(np.arccos(np.clip(start @ end, -1, 1)))
    if np.sin(angle) < _FULL_TURN:  # identical or opposite: the arc is not unique
        return np.asarray((1 - share) * start + share * end)
    return np.asarray(
        (np.sin((1 - share) * angle) * start + np.sin(share * angle) * end) / np.sin(angle)
    )
