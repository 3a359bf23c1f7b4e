"""Decode and cut, in threads that work ahead of the encoder through a bounded queue.

    sources --+-- thread: decode, cut --+
              +-- thread: decode, cut --+--> queue of windows --> iteration
              +-- thread: decode, cut --+

Each thread takes the next source when it is done with one, so tracks end out of order, but the
windows of one track come in order. The queue holds a few batches: memory does not grow with the
length or the number of tracks.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

from loev_cli.audio import Source, decode
from loev_cli.errors import InputError
from loev_cli.windows import Cut, WindowCutter

_SILENCE_PEAK = 10 ** (-60 / 20)
_POLL_S = 0.1
_PATIENCE_S = 5.0


@dataclass(frozen=True)
class Window:
    """One window of the track with index ``track``."""

    track: int
    cut: Cut


@dataclass(frozen=True)
class TrackEnd:
    """All ``n_windows`` windows of a track have been given."""

    track: int
    n_windows: int
    duration_s: float
    silent: bool


@dataclass(frozen=True)
class TrackFailed:
    """A track that could not be read to its end; some of its windows may have been given."""

    track: int
    error: InputError


Item = Window | TrackEnd | TrackFailed


class _StoppedError(Exception):
    """Nobody reads the queue any more."""


class Reader:
    """Iterates over the windows of all sources; a context manager that ends its threads.

    Args:
        sources: the tracks; an item's ``track`` is its index here.
        sample_rate_hz, window_n_samples, hop_n_samples: as the model wants them.
        n_workers: threads that decode.
        n_ahead: windows that may wait in the queue.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        *,
        sample_rate_hz: int,
        window_n_samples: int,
        hop_n_samples: int,
        n_workers: int,
        n_ahead: int,
    ) -> None:
        self._sources = sources
        self._sample_rate_hz = sample_rate_hz
        self._window_n_samples = window_n_samples
        self._hop_n_samples = hop_n_samples
        self._queue: queue.Queue[Item] = queue.Queue(maxsize=n_ahead)
        self._stopping = threading.Event()
        self._next_track = iter(range(len(sources)))
        self._next_lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._work, name=f"decoder-{i}", daemon=True)
            for i in range(max(1, min(n_workers, len(sources))))
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stopping.set()
        deadline = time.monotonic() + _PATIENCE_S
        for thread in self._threads:
            # A decoder stuck in foreign code must not keep the run from ending.
            thread.join(timeout=max(0.0, deadline - time.monotonic()))

    def __iter__(self) -> Iterator[Item]:
        n_finished = 0
        while n_finished < len(self._sources):
            try:
                item = self._queue.get(timeout=_POLL_S)
            except queue.Empty:
                self._check_alive()
                continue
            if not isinstance(item, Window):
                n_finished += 1
            yield item

    def _check_alive(self) -> None:
        """A thread ends when no source is left; all gone and tracks missing would wait for ever."""
        if self._queue.empty() and not any(thread.is_alive() for thread in self._threads):
            raise RuntimeError("the decoder threads ended before their tracks did")

    def _work(self) -> None:
        while True:
            with self._next_lock:
                track = next(self._next_track, None)
            if track is None:
                return
            try:
                self._put(self._read(track))
            except _StoppedError:
                return

    def _read(self, track: int) -> TrackEnd | TrackFailed:
        source = self._sources[track]
        try:
            return self._decode_and_cut(track, source)
        except _StoppedError:
            raise
        except InputError as error:
            return TrackFailed(track, error)
        except Exception as foreign:
            # The one place for it: decoder libraries meet every kind of broken file, and whatever
            # they raise is this file's failure and nobody else's.
            failure = InputError(
                f"{source.file}: cannot be decoded: {type(foreign).__name__}: {foreign}",
                stage="decode",
            )
            failure.__cause__ = foreign
            return TrackFailed(track, failure)

    def _decode_and_cut(self, track: int, source: Source) -> TrackEnd:
        decoding = decode(source.file, self._sample_rate_hz)
        cutter = WindowCutter(self._window_n_samples, self._hop_n_samples)
        n_windows = 0
        for block in decoding:
            for cut in cutter.push(block):
                self._put(Window(track, cut))
                n_windows += 1
        for cut in cutter.finish():
            self._put(Window(track, cut))
            n_windows += 1
        silent = decoding.peak <= _SILENCE_PEAK
        return TrackEnd(track, n_windows, decoding.duration_s, silent)

    def _put(self, item: Item) -> None:
        while not self._stopping.is_set():
            try:
                self._queue.put(item, timeout=_POLL_S)
            except queue.Full:
                continue
            return
        raise _StoppedError
