"""Windows of many tracks -> full batches -> vectors, in the order the windows came."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from loev_cli.backends import Encoder
from loev_cli.embed.reader import Window
from loev_cli.errors import UsageError


@dataclass(frozen=True)
class Encoded:
    """One encoded window: where it comes from, and subspace -> (D,) float32."""

    track: int
    start_n: int
    vectors: dict[str, NDArray[np.float32]]


class Mapper:
    """Collects windows and encodes them ``batch_size`` at a time.

    On CUDA a batch that is not full is filled up with zeros, because every new shape makes cuDNN
    choose its algorithms anew; on the CPU that would only be work for nothing.
    """

    def __init__(self, encoder: Encoder, batch_size: int) -> None:
        self._encoder = encoder
        self._waiting: list[Window] = []
        n_samples = encoder.bundle.window_n_samples
        try:
            self._batch = np.zeros((batch_size, n_samples), np.float32)  # (B, N)
        except MemoryError as error:
            raise UsageError(f"no memory for batches of {batch_size} windows") from error
        self._pads = encoder.device != "cpu"

    def push(self, window: Window) -> Iterator[Encoded]:
        """The vectors that this window's batch gives, once it is full."""
        self._batch[len(self._waiting)] = window.cut.samples
        self._waiting.append(window)
        if len(self._waiting) == len(self._batch):
            yield from self.flush()

    def flush(self) -> Iterator[Encoded]:
        """The vectors of the windows still waiting."""
        if not self._waiting:
            return
        n_real = len(self._waiting)
        if self._pads:
            self._batch[n_real:] = 0.0
        vectors = self._encoder.encode(self._batch if self._pads else self._batch[:n_real])
        windows, self._waiting = self._waiting, []
        for i, window in enumerate(windows):
            yield Encoded(
                window.track, window.cut.start_n, {name: v[i] for name, v in vectors.items()}
            )
