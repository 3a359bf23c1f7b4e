"""Cut a waveform into the model's windows, and pool window vectors to one per track.

A window has W samples, the next one starts H samples later. The tail of a track is never
dropped: if the last regular window ends before the track does, one more
is taken that ends exactly with it.

    track    |--------------------------------------------|      n samples
    start 0  [=============]
          H         [=============]
         2H                 [=============]
         3H                         [=============]
      n - W                               [=============]        aligned with the end

A track shorter than W is repeated until it fills one window, or followed by silence, as the model
was trained:

    track    |-----|                    |-----|
    start 0  [=====|=====|===]          [=====|       ]

All windows of a track have the same weight in its mean, which is summed in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")

# Subspace -> vectors (..., D).
Vectors = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Cut:
    """One window of a track.

    Attributes:
        start_n: its first sample's position in the track.
        samples: (N,) float32, N the model's window. A view: do not write to it.
    """

    start_n: int
    samples: NDArray[np.float32]


class WindowCutter:
    """Blocks of one track in, its windows out; keeps a few windows' length and no more.

    The windows do not depend on how the track was divided into blocks.

    Args:
        window_n_samples: W, at least 1.
        hop_n_samples: H, from 1 to W.
        pad_short: a track shorter than W is followed by silence; else it is repeated.
    """

    def __init__(
        self, window_n_samples: int, hop_n_samples: int, *, pad_short: bool = False
    ) -> None:
        if not 1 <= hop_n_samples <= window_n_samples:
            raise ValueError(f"hop {hop_n_samples} is not within 1..{window_n_samples}")
        self._size = window_n_samples
        self._hop = hop_n_samples
        self._pad_short = pad_short
        # Windows are views of it: those that overlap share their samples.
        n = window_n_samples * (1 if hop_n_samples == window_n_samples else 2)
        self._buffer = np.empty(n, np.float32)
        self._n_filled = 0
        self._next = 0  # start of the next regular window in the buffer
        self._before = self._buffer[:0]  # what came before the buffer, as far as it may be needed
        self._n_before = 0  # samples of the track before the buffer

    def push(self, block: NDArray[np.float32]) -> list[Cut]:
        """The windows that a further block (N,) completes."""
        at, cuts = 0, []
        while at < len(block):
            n_now = min(len(self._buffer) - self._n_filled, len(block) - at)
            self._buffer[self._n_filled : self._n_filled + n_now] = block[at : at + n_now]
            self._n_filled += n_now
            at += n_now
            while self._next + self._size <= self._n_filled:
                cuts.append(self._cut(self._next))
                self._next += self._hop
            if self._n_filled == len(self._buffer):
                self._before, rest = np.split(self._buffer, [self._next])
                self._buffer = np.empty_like(self._buffer)
                self._buffer[: len(rest)] = rest
                self._n_before += self._next
                self._n_filled, self._next = len(rest), 0
        return cuts

    def finish(self) -> list[Cut]:
        """The window that the end of the track adds, if any; none for a track of 0 samples."""
        filled = self._buffer[: self._n_filled]
        if self._n_before + len(filled) < self._size:
            if not len(filled):
                return []
            n_missing = self._size - len(filled)
            return [
                Cut(
                    0,
                    np.pad(filled, (0, n_missing))
                    if self._pad_short
                    else np.resize(filled, self._size),
                )
            ]
        if self._next - self._hop + self._size == len(filled):
            return []
        start = len(filled) - self._size
        if start >= 0:
            return [self._cut(start)]
        return [Cut(self._n_before + start, np.concatenate([self._before[start:], filled]))]

    def _cut(self, start: int) -> Cut:
        return Cut(self._n_before + start, self._buffer[start : start + self._size])


def cuts(
    blocks: Iterable[NDArray[np.float32]],
    window_n_samples: int,
    hop_n_samples: int,
    *,
    pad_short: bool = False,
) -> Iterator[Cut]:
    """All windows of a track that comes in blocks (N,)."""
    cutter = WindowCutter(window_n_samples, hop_n_samples, pad_short=pad_short)
    for block in blocks:
        yield from cutter.push(block)
    yield from cutter.finish()


def cut(waveform: NDArray[np.float32], window_n_samples: int, hop_n_samples: int) -> list[Cut]:
    """All windows of a whole waveform (N,)."""
    return list(cuts([waveform], window_n_samples, hop_n_samples))


def wrapped(waveform: NDArray[np.float32], start_n: int, n_samples: int) -> NDArray[np.float32]:
    """(n_samples,) from ``start_n`` on, of a waveform (N,) that starts again where it ends.

    ``start_n`` may be negative.
    """
    return waveform[np.arange(start_n, start_n + n_samples) % len(waveform)]


def encode_in_batches(
    items: Sequence[T], encode: Callable[[Sequence[T]], Vectors], batch_size: int
) -> Vectors:
    """Items -> subspace -> (len(items), D), for what is encoded by something that is no
    :class:`loev_cli.backends.Encoder`: a model in training, or views made on the way.

    Args:
        items: one or more.
        encode: B of them -> subspace -> (B, D).
    """
    parts = [encode(items[i : i + batch_size]) for i in range(0, len(items), batch_size)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def mean(vectors: Mapping[str, NDArray[np.float32]], axis: int = 0) -> Vectors:
    """The mean over windows, (M, D) -> (D,), summed in float64."""
    return {
        name: x.mean(axis=axis, dtype=np.float64).astype(np.float32) for name, x in vectors.items()
    }


def count(n_samples: int, window_n_samples: int, hop_n_samples: int) -> int:
    """How many windows a track of ``n_samples`` has."""
    if n_samples <= 0:
        return 0
    if n_samples <= window_n_samples:
        return 1
    n_hops, rest = divmod(n_samples - window_n_samples, hop_n_samples)
    return 1 + n_hops + (rest > 0)


class MeanPool:
    """The mean of a track's window vectors per subspace, summed in float64 as they come."""

    def __init__(self) -> None:
        self._sums: dict[str, NDArray[np.float64]] = {}
        self._n = 0

    def add(self, vectors: Mapping[str, NDArray[np.float32]]) -> None:
        """Take one window's vectors: subspace -> (D,)."""
        self._n += 1
        for name, vector in vectors.items():
            if name in self._sums:
                self._sums[name] += vector
            else:
                self._sums[name] = vector.astype(np.float64)

    def mean(self) -> dict[str, NDArray[np.float32]]:
        """Subspace -> (D,). Needs at least one window."""
        return {name: (total / self._n).astype(np.float32) for name, total in self._sums.items()}
