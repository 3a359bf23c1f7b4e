"""Decode and cut, ahead of the encoder through a bounded queue.

    sources --+-- process: decode --pipe--> thread: cut --+
              +-- process: decode --pipe--> thread: cut --+--> queue of windows --> iteration
              +-- process: decode --pipe--> thread: cut --+

Each thread takes the next source when it is done with one, so tracks end out of order, but the
windows of one track come in order. The queue holds a few batches; when it is full the threads
wait, then the pipes fill, then the processes wait: memory does not grow with the length or the
number of tracks. A file that crashes or hangs its process is a failed track and nothing more.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Self

from loev_cli.audio import (
    SILENCE_PEAK,
    ArrayDecoding,
    DecoderProcess,
    RemoteDecoding,
    Source,
    brought_here,
)
from loev_cli.errors import InputError, starting
from loev_cli.storage.remote import DEFAULT_LIMITS, Limits
from loev_cli.windows import Cut, cuts

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
    tags: Mapping[str, str] = field(default_factory=dict)
    warnings: Sequence[str] = ()


@dataclass(frozen=True)
class TrackFailed:
    """A track that could not be read to its end; some of its windows may have been given."""

    track: int
    error: InputError


@dataclass(frozen=True)
class Idle:
    """Nothing has arrived for a moment: time to flush partial batches."""


Item = Window | TrackEnd | TrackFailed | Idle


class _NobodyReadsError(Exception):
    """Nobody reads the queue any more."""


class Reader:
    """Iterates over the windows of all sources; a context manager that ends its processes.

    Iterating raises :class:`loev_cli.errors.StoppedError` where no decoder can be started.

    Args:
        sources: the tracks; an item's ``track`` is its index here.
        sample_rate_hz, window_n_samples, hop_n_samples, pad_short: as the model wants them.
        decoders: processes that decode; the reader closes them.
        n_ahead: windows that may wait in the queue.
        n_tracks_ahead: how far beyond the tracks that :meth:`settled` counted a track may be
            begun; None: any distance.
        tags: read what the files say about themselves too.
        download_limits: for each remote file.

    Attributes:
        busy_s: CPU seconds spent decoding so far.
        blocked_s: seconds that decoders stood still because the queue was full.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        *,
        sample_rate_hz: int,
        window_n_samples: int,
        hop_n_samples: int,
        pad_short: bool = False,
        decoders: Sequence[DecoderProcess],
        n_ahead: int,
        n_tracks_ahead: int | None = None,
        tags: bool = False,
        download_limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        self.busy_s = 0.0
        self.blocked_s = 0.0
        self._sources = sources
        self._sample_rate_hz = sample_rate_hz
        self._cut = partial(
            _cut,
            window_n_samples=window_n_samples,
            hop_n_samples=hop_n_samples,
            pad_short=pad_short,
        )
        self._tags = tags
        self._download_limits = download_limits
        self._queue: queue.Queue[Item] = queue.Queue(maxsize=n_ahead)
        self._stopping = threading.Event()
        self._turn = threading.Condition()
        self._error: Exception | None = None
        self._n_begun = 0
        self._n_settled = 0
        self._n_tracks_ahead = len(sources) if n_tracks_ahead is None else n_tracks_ahead
        self._decoders = decoders
        self._threads = [
            threading.Thread(target=self._work, args=(decoder,), name=f"decoder-{i}", daemon=True)
            for i, decoder in enumerate(self._decoders)
        ]

    def __enter__(self) -> Self:
        try:
            with starting("a decoder thread"):
                for thread in self._threads:
                    thread.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._stopping.set()
        with self._turn:
            self._turn.notify_all()
        deadline = time.monotonic() + _PATIENCE_S
        for thread, decoder in zip(self._threads, self._decoders, strict=True):
            while thread.is_alive() and time.monotonic() < deadline:
                decoder.interrupt()
                thread.join(timeout=_POLL_S)

    def __iter__(self) -> Iterator[Item]:
        n_finished = 0
        while n_finished < len(self._sources):
            if self._error is not None:
                raise self._error
            try:
                item = self._queue.get(timeout=_POLL_S)
            except queue.Empty:
                self._check_alive()
                yield Idle()
                continue
            if not isinstance(item, Window):
                n_finished += 1
            yield item

    def settled(self, n_tracks: int) -> None:
        """Learn that the first ``n_tracks`` tracks are done with, in order."""
        if n_tracks != self._n_settled:
            with self._turn:
                self._n_settled = n_tracks
                self._turn.notify_all()

    def _check_alive(self) -> None:
        """A thread ends when no source is left; all gone and tracks missing would wait for ever."""
        any_alive = any(thread.is_alive() for thread in self._threads)
        if not any_alive and self._queue.empty() and self._error is None:
            raise RuntimeError("the decoder threads ended before their tracks did")

    def _work(self, decoder: DecoderProcess) -> None:
        try:
            with decoder:
                while (track := self._next_track()) is not None:
                    self._put(self._read(decoder, track))
        except _NobodyReadsError:
            pass
        except Exception as error:  # not of one file: who iterates is to know
            self._error = error

    def _next_track(self) -> int | None:
        with self._turn:
            self._turn.wait_for(
                lambda: (
                    self._stopping.is_set()
                    or self._n_begun == len(self._sources)
                    or self._n_begun < self._n_settled + self._n_tracks_ahead
                )
            )
            if self._stopping.is_set() or self._n_begun == len(self._sources):
                return None
            self._n_begun += 1
            if self._n_begun == len(self._sources):
                self._turn.notify_all()
            return self._n_begun - 1

    def _read(self, decoder: DecoderProcess, track: int) -> TrackEnd | TrackFailed:
        try:
            return self._decode_and_cut(decoder, track)
        except InputError as error:
            return TrackFailed(track, error)

    def _decode_and_cut(self, decoder: DecoderProcess, track: int) -> TrackEnd:
        with brought_here(self._sources[track], self._download_limits) as file:
            decoding = decoder.decode(file, self._sample_rate_hz, tags=self._tags)
            items = self._cut(track, decoding)
            try:
                for item in items:
                    if isinstance(item, TrackEnd):
                        return replace(item, tags=decoding.tags, warnings=decoding.warnings)
                    self._put(item)
            finally:
                with self._turn:
                    self.busy_s += decoding.busy_s
            raise AssertionError("a track has no end")

    def _put(self, item: Item) -> None:
        began: float | None = None
        while not self._stopping.is_set():
            try:
                self._queue.put(item, timeout=_POLL_S if began else 0.001)
            except queue.Full:
                began = began or time.monotonic()
                continue
            if began:
                with self._turn:
                    self.blocked_s += time.monotonic() - began
            return
        raise _NobodyReadsError


class ArrayReader:
    """Iterates over the windows of all waveforms, in order; a context manager.

    Several waveforms are mixed, resampled and cut in threads, a few ahead of the encoder. A single
    one is cut as the encoder goes along.

    Args:
        waveforms: the tracks; an item's ``track`` is its index here.
        window_n_samples, hop_n_samples, pad_short: as the model wants them.
        n_threads: waveforms prepared at once.

    Raises (while iterating):
        UsageError: a waveform that cannot be used.
    """

    busy_s = 0.0
    blocked_s = 0.0

    def __init__(
        self,
        waveforms: Sequence[ArrayDecoding],
        *,
        window_n_samples: int,
        hop_n_samples: int,
        pad_short: bool = False,
        n_threads: int,
    ) -> None:
        self._waveforms = waveforms
        self._cut = partial(
            _cut,
            window_n_samples=window_n_samples,
            hop_n_samples=hop_n_samples,
            pad_short=pad_short,
        )
        self._n_threads = n_threads
        self._threads: ThreadPoolExecutor | None = None

    def __enter__(self) -> Self:
        if len(self._waveforms) > 1:
            self._threads = ThreadPoolExecutor(self._n_threads, thread_name_prefix="cutter")
        return self

    def __exit__(self, *error: object) -> None:
        if self._threads is not None:
            self._threads.shutdown(cancel_futures=True)

    def __iter__(self) -> Iterator[Item]:
        if self._threads is None:
            for track in range(len(self._waveforms)):
                yield from self._items(track)
            return
        ahead: deque[Future[list[Item]]] = deque()
        for track in range(len(self._waveforms)):
            ahead.append(self._threads.submit(lambda track: list(self._items(track)), track))
            if len(ahead) > self._n_threads:
                yield from ahead.popleft().result()
        while ahead:
            yield from ahead.popleft().result()

    def settled(self, n_tracks: int) -> None:
        """Nothing waits for it: tracks come in order."""

    def _items(self, track: int) -> Iterator[Item]:
        yield from self._cut(track, self._waveforms[track])


def _cut(
    track: int,
    decoding: ArrayDecoding | RemoteDecoding,
    *,
    window_n_samples: int,
    hop_n_samples: int,
    pad_short: bool,
) -> Iterator[Window | TrackEnd]:
    """The windows of one track, and then its end."""
    n_windows = 0
    for cut in cuts(decoding, window_n_samples, hop_n_samples, pad_short=pad_short):
        n_windows += 1
        yield Window(track, cut)
    yield TrackEnd(track, n_windows, decoding.duration_s, decoding.peak <= SILENCE_PEAK)
