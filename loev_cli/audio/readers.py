"""What a decoder library has to offer to :mod:`loev_cli.audio.decoding`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class UnreadableError(Exception):
    """This library cannot read the file; another one may."""


class BrokenStreamError(Exception):
    """The file was opened, but decoding stopped with an error."""


class Reader(Protocol):
    """An open audio file.

    Attributes:
        sample_rate_hz: the file's own rate.
        n_channels: the file's own channels.
        n_frames: samples per channel by the header, or None if the header does not say.
        trusts_header: whether ``n_frames`` is exact, so that fewer frames mean a truncated file.
            It is not where frames may have been lost on the way, or joined.
    """

    sample_rate_hz: int
    n_channels: int
    n_frames: int | None
    trusts_header: bool

    def blocks(self, n_samples: int) -> Iterator[NDArray[np.float32]]:
        """The mean of the channels in blocks (N,) of about ``n_samples``; full scale is 1.

        Raises:
            BrokenStreamError: decoding stopped with an error.
        """
        ...

    def close(self) -> None: ...


def mix_to_mono(frames: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N, C) -> (N,): the mean of the channels. The mean of two equal channels is that channel."""
    n_channels = frames.shape[1]
    if n_channels == 1:
        return frames[:, 0]
    with np.errstate(over="raise", invalid="ignore"):  # infinite samples: the file is refused
        if n_channels == 2:  # several times faster than mean() over a short axis
            with contextlib.suppress(FloatingPointError):  # a sum beyond float32
                return (frames[:, 0] + frames[:, 1]) * np.float32(0.5)
        return np.asarray(frames.mean(axis=1, dtype=np.float64), np.float32)
