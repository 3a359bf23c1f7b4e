"""Vectors of windows -> one row per track, released in the order of the sources."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from loev_cli.audio import Source
from loev_cli.embed.mapper import Encoded
from loev_cli.embed.reader import TrackEnd
from loev_cli.errors import InputError
from loev_cli.windows import MeanPool
from loev_cli.writers import Row


class _Track:
    """What has come of one track so far."""

    def __init__(self, per_window: bool) -> None:
        self.end: TrackEnd | None = None
        self.n_encoded = 0
        self.finite = True
        self._pool = None if per_window else MeanPool()
        self._starts: list[int] = []
        self._windows: list[dict[str, NDArray[np.float32]]] = []

    def add(self, encoded: Encoded) -> None:
        self.n_encoded += 1
        self.finite &= all(bool(np.isfinite(v).all()) for v in encoded.vectors.values())
        if self._pool is not None:
            self._pool.add(encoded.vectors)
        else:
            self._starts.append(encoded.start_n)
            self._windows.append({name: v.copy() for name, v in encoded.vectors.items()})

    @property
    def complete(self) -> bool:
        return self.end is not None and self.n_encoded == self.end.n_windows

    def row(self, path: str, sample_rate_hz: int) -> Row:
        assert self.end is not None
        if self._pool is not None:
            return Row(path, self.end.duration_s, self.end.silent, self._pool.mean())
        return Row(
            path,
            self.end.duration_s,
            self.end.silent,
            {name: np.stack([w[name] for w in self._windows]) for name in self._windows[0]},
            (np.array(self._starts) / sample_rate_hz).astype(np.float32),
        )


class Assembler:
    """Keeps the tracks under way, and hands out finished ones in order.

    A finished track waits for those before it, so that rows come out sorted at any number of
    workers; what waits is vectors, not audio.
    """

    def __init__(self, sources: Sequence[Source], sample_rate_hz: int, per_window: bool) -> None:
        self._sources = sources
        self._sample_rate_hz = sample_rate_hz
        self._per_window = per_window
        self._tracks: dict[int, _Track] = {}
        self._settled: dict[int, Row | InputError] = {}
        self._next = 0

    def add(self, encoded: Encoded) -> None:
        """Take one window's vectors. A track that has failed meanwhile takes no more."""
        if not self._has_failed(encoded.track):
            self._track(encoded.track).add(encoded)
            self._settle(encoded.track)

    def end(self, end: TrackEnd) -> None:
        """Learn that all windows of a track have been read."""
        self._track(end.track).end = end
        self._settle(end.track)

    def fail(self, track: int, error: InputError) -> None:
        """Give a track up."""
        self._tracks.pop(track, None)
        self._settled[track] = error

    def ready(self) -> Iterator[tuple[Source, Row | InputError]]:
        """Rows and failures that are next in order."""
        while self._next in self._settled:
            source, outcome = self._sources[self._next], self._settled.pop(self._next)
            self._next += 1
            yield source, outcome

    def _has_failed(self, track: int) -> bool:
        return track < self._next or track in self._settled

    def _track(self, track: int) -> _Track:
        return self._tracks.setdefault(track, _Track(self._per_window))

    def _settle(self, index: int) -> None:
        track = self._tracks[index]
        if not track.complete:
            return
        source = self._sources[index]
        if track.finite:
            self._settled[index] = track.row(source.path, self._sample_rate_hz)
            del self._tracks[index]
        else:
            message = f"{source.file}: the model gives NaN or infinite values for it"
            self.fail(index, InputError(message, stage="encode"))
