"""Cut a waveform into the model's windows, and pool window vectors to one per track.

A window has W samples, the next one starts H samples later. The tail of a track is never
dropped and nothing is padded: if the last regular window ends before the track does, one more
is taken that ends exactly with it.

    track    |--------------------------------------------|      n samples
    start 0  [=============]
          H         [=============]
         2H                 [=============]
         3H                         [=============]
      n - W                               [=============]        aligned with the end

A track shorter than W is repeated until it fills one window:

    track    |-----|
    start 0  [=====|=====|===]

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
    """Blocks of one track in, its windows out; keeps no more than about a window and a block.

    The windows do not depend on how the track was divided into blocks.

    Args:
        window_n_samples: W, at least 1.
        hop_n_samples: H, from 1 to W.
    """

    def __init__(self, window_n_samples: int, hop_n_samples: int) -> None:
        if not 1 <= hop_n_samples <= window_n_samples:
            raise ValueError(f"hop {hop_n_samples} is not within 1..{window_n_samples}")
        self._window = window_n_samples
        self._hop = hop_n_samples
        self._kept = np.zeros(0, np.float32)
        self._kept_start = 0  # position in the track of self._kept[0]
        self._next_start = 0  # start of the next regular window

    def push(self, block: NDArray[np.float32]) -> list[Cut]:
        """The windows that a further block (N,) completes."""
        self._kept = np.concatenate([self._kept, block])
        end = self._kept_start + len(self._kept)
        cuts = []
        while self._next_start + self._window <= end:
            cuts.append(Cut(self._next_start, self._at(self._next_start)))
            self._next_start += self._hop
        # The last W samples stay: the window aligned with the end may need them.
        drop = max(0, min(self._next_start, end - self._window) - self._kept_start)
        self._kept = self._kept[drop:]
        self._kept_start += drop
        return cuts

    def finish(self) -> list[Cut]:
        """The window that the end of the track adds, if any; none for a track of 0 samples."""
        n_samples = self._kept_start + len(self._kept)
        if n_samples == 0:
            return []
        if n_samples < self._window:
            return [Cut(0, np.resize(self._kept, self._window))]
        last_end = self._next_start - self._hop + self._window
        if last_end == n_samples:
            return []
        start = n_samples - self._window
        return [Cut(start, self._at(start))]

    def _at(self, start: int) -> NDArray[np.float32]:
        first = start - self._kept_start
        return self._kept[first : first + self._window]


def cuts(
    blocks: Iterable[NDArray[np.float32]], window_n_samples: int, hop_n_samples: int
) -> Iterator[Cut]:
    """All windows of a track that comes in blocks (N,)."""
    cutter = WindowCutter(window_n_samples, hop_n_samples)
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
