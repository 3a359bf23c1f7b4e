"""Waveforms in memory, cut ahead of the encoder: what :class:`.reader.Reader` is for files."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Self

from loev_cli.audio import SILENCE_PEAK, ArrayDecoding
from loev_cli.embed.reader import Item, TrackEnd, Window
from loev_cli.windows import WindowCutter


class ArrayReader:
    """Iterates over the windows of all waveforms, in order; a context manager.

    Several waveforms are mixed, resampled and cut in threads, a few ahead of the encoder. A single
    one is cut as the encoder goes along.

    Args:
        waveforms: the tracks; an item's ``track`` is its index here.
        window_n_samples, hop_n_samples: as the model wants them.
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
        n_threads: int,
    ) -> None:
        self._waveforms = waveforms
        self._window_n_samples = window_n_samples
        self._hop_n_samples = hop_n_samples
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
        decoding = self._waveforms[track]
        cutter = WindowCutter(self._window_n_samples, self._hop_n_samples)
        n_windows = 0
        for block in decoding:
            for cut in cutter.push(block):
                n_windows += 1
                yield Window(track, cut)
        for cut in cutter.finish():
            n_windows += 1
            yield Window(track, cut)
        silent = decoding.peak <= SILENCE_PEAK
        yield TrackEnd(track, n_windows, decoding.duration_s, silent)
