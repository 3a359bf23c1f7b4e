"""Vectors of windows -> one row per track, as they are done or in the order of the sources."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from loev_cli.annotations import Annotator
from loev_cli.embed.mapper import Encoded
from loev_cli.embed.reader import TrackEnd
from loev_cli.errors import InputError
from loev_cli.windows import MeanPool
from loev_cli.writers import Row


class Named(Protocol):
    """A track's row name, and where it lies, for people."""

    @property
    def path(self) -> str: ...

    @property
    def place(self) -> str: ...


class _Track:
    """What has come of one track so far."""

    def __init__(self, per_window: bool, annotator: Annotator | None) -> None:
        self.end: TrackEnd | None = None
        self.n_encoded = 0
        self.finite = True
        self._per_window = per_window
        self._annotator = annotator
        self._pool = MeanPool()  # of the logits too, which annotations are read from
        self._starts: list[int] = []
        self._windows: list[dict[str, NDArray[np.float32]]] = []

    def add(self, encoded: Encoded) -> None:
        self.n_encoded += 1
        self.finite &= all(bool(np.isfinite(v).all()) for v in encoded.vectors.values())
        if not self._per_window:
            self._pool.add(encoded.vectors)
            return
        logits = self._annotator.outputs if self._annotator else ()
        self._pool.add({name: v for name, v in encoded.vectors.items() if name in logits})
        self._starts.append(encoded.start_n)
        self._windows.append(
            {name: v.copy() for name, v in encoded.vectors.items() if name not in logits}
        )

    @property
    def complete(self) -> bool:
        return self.end is not None and self.n_encoded == self.end.n_windows

    def row(self, path: str, sample_rate_hz: int) -> Row:
        assert self.end is not None
        vectors, start_s, annotations = self._pool.mean(), None, {}
        if self._annotator is not None:
            logits = {name: vectors.pop(name) for name in self._annotator.outputs}
            annotations = self._annotator.answer(logits, silent=self.end.silent)
        if self._per_window:
            vectors = {
                name: np.stack([w[name] for w in self._windows]) for name in self._windows[0]
            }
            start_s = (np.array(self._starts) / sample_rate_hz).astype(np.float32)
        return Row(
            path,
            self.end.duration_s,
            self.end.silent,
            vectors,
            start_s,
            self.end.tags,
            annotations,
            self.end.warnings,
        )


class Assembler:
    """Keeps the tracks under way, and hands out finished ones.

    Args:
        sources: the tracks; ``track`` is an index here.
        sample_rate_hz: the model's.
        per_window: rows keep their windows.
        annotator: reads annotations from the mean of the tracks' logits.
        in_order: a finished track waits for those before it. What waits is vectors, not audio.

    Attributes:
        n_settled: how many tracks have been handed out; with ``in_order`` these are the first.
    """

    def __init__(
        self,
        sources: Sequence[Named],
        sample_rate_hz: int,
        *,
        per_window: bool = False,
        annotator: Annotator | None = None,
        in_order: bool = False,
    ) -> None:
        self.n_settled = 0
        self._sources = sources
        self._sample_rate_hz = sample_rate_hz
        self._per_window = per_window
        self._annotator = annotator
        self._in_order = in_order
        self._tracks: dict[int, _Track] = {}
        self._failed: set[int] = set()
        self._settled: dict[int, Row | InputError] = {}

    def add(self, encoded: Encoded) -> None:
        """Take one window's vectors. A track that has failed meanwhile takes no more."""
        if encoded.track not in self._failed:
            self._track(encoded.track).add(encoded)
            self._settle(encoded.track)

    def end(self, end: TrackEnd) -> None:
        """Learn that all windows of a track have been read."""
        self._track(end.track).end = end
        self._settle(end.track)

    def fail(self, track: int, error: InputError) -> None:
        """Give a track up."""
        self._tracks.pop(track, None)
        self._failed.add(track)
        self._settled[track] = error

    def ready(self) -> Iterator[tuple[int, Row | InputError]]:
        """Tracks whose turn it is, each with its row or its failure."""
        while self._settled:
            track = self.n_settled if self._in_order else next(iter(self._settled))
            if track not in self._settled:
                return
            outcome = self._settled.pop(track)
            self.n_settled += 1
            yield track, outcome

    def _track(self, track: int) -> _Track:
        return self._tracks.setdefault(track, _Track(self._per_window, self._annotator))

    def _settle(self, index: int) -> None:
        track = self._tracks[index]
        if not track.complete:
            return
        source = self._sources[index]
        if track.finite:
            self._settled[index] = track.row(source.path, self._sample_rate_hz)
            del self._tracks[index]
        else:
            message = f"{source.place}: the model output contains NaN or Inf"
            self.fail(index, InputError(message, stage="encode"))
