"""Reading with FFmpeg (PyAV) what libsndfile cannot: M4A, WMA, APE, WavPack, video containers."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.error import FFmpegError
from numpy.typing import NDArray

from loev_cli.audio.readers import BrokenStreamError, UnreadableError, mix_to_mono

# An "audio file" that is really a playlist must not make FFmpeg open other files or the network.
_NO_PROTOCOLS = {"protocol_whitelist": "none"}
# Containers that state an exact length; for others FFmpeg estimates it from the bit rate.
_EXACT_LENGTH = frozenset({"mov", "wv", "tta", "ape"})

# OSError: a damaged header makes FFmpeg seek to places that do not exist.
_ERRORS = (FFmpegError, ValueError, OSError)

_INTEGER_SCALE = {"u8": 128.0, "s16": 32768.0, "s32": 2147483648.0, "s64": 9223372036854775808.0}


class FfmpegReader:
    """A :class:`~loev_cli.audio.readers.Reader` on FFmpeg. Reads the first audio stream.

    Raises:
        UnreadableError: FFmpeg does not know the format, or finds no audio stream in it.
    """

    def __init__(self, file: Path) -> None:
        self._bytes = _Nameless(file)
        try:
            self._container = av.open(self._bytes, "r", options=_NO_PROTOCOLS)
        except _ERRORS as error:
            self._bytes.close()
            raise UnreadableError(str(error)) from error
        stream = next(iter(self._container.streams.audio), None)
        # A codec that FFmpeg does not know leaves the stream without its attributes.
        if stream is None or not getattr(stream, "rate", None):
            self.close()
            raise UnreadableError("no audio stream")
        self._stream = stream
        self.sample_rate_hz = int(stream.rate)
        self.n_channels = int(stream.channels)
        self.n_frames: int | None = None
        if stream.duration is not None and stream.time_base is not None:
            self.n_frames = int(stream.duration * stream.time_base * stream.rate)
        elif self._container.duration is not None:
            self.n_frames = int(self._container.duration * stream.rate / 1_000_000)
        formats = set(self._container.format.name.split(","))
        self.trusts_header = stream.duration is not None and bool(formats & _EXACT_LENGTH)

    def blocks(self, n_samples: int) -> Iterator[NDArray[np.float32]]:
        waiting: list[NDArray[np.float32]] = []
        n_waiting = 0
        for frame in self._frames():
            if frame.sample_rate != self.sample_rate_hz:
                raise BrokenStreamError("the sample rate changes inside the file")
            waiting.append(mix_to_mono(_to_float(frame)))
            n_waiting += len(waiting[-1])
            if n_waiting >= n_samples:
                yield np.concatenate(waiting)
                waiting, n_waiting = [], 0
        if n_waiting:
            yield np.concatenate(waiting)

    def _frames(self) -> Iterator[Any]:
        try:
            yield from self._container.decode(self._stream)
        except _ERRORS as error:
            raise BrokenStreamError(getattr(error, "strerror", None) or str(error)) from error

    def close(self) -> None:
        self._container.close()
        self._bytes.close()


class _Nameless(io.RawIOBase):
    """A file without a name, so that FFmpeg judges it by its content and not its extension."""

    def __init__(self, file: Path) -> None:
        self._file = file.open("rb")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        return self._file.read(size)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        self._file.close()
        super().close()


def _to_float(frame: Any) -> NDArray[np.float32]:
    """A PyAV audio frame -> (N, C) float32 with full scale 1."""
    samples: NDArray[Any] = frame.to_ndarray()
    name = frame.format.name.removesuffix("p")
    n_channels = frame.layout.nb_channels
    # Planar frames come as (C, N), packed ones as (1, N * C).
    samples = samples.T if frame.format.is_planar else samples.reshape(-1, n_channels)
    if name not in _INTEGER_SCALE:
        return samples.astype(np.float32, copy=False)
    offset = 128.0 if name == "u8" else 0.0
    return ((samples.astype(np.float64) - offset) / _INTEGER_SCALE[name]).astype(np.float32)
