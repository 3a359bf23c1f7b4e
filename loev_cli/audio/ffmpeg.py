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
# Containers that state an exact length of a stream; for others FFmpeg estimates it.
_EXACT_STREAM_LENGTH = frozenset({"mov", "wv", "tta", "ape"})
# Containers that state an exact length of the whole, which is the stream's if it is the only one.
_EXACT_LENGTH = frozenset({"matroska", "webm"})

# OSError: a damaged header makes FFmpeg seek to places that do not exist.
_ERRORS = (FFmpegError, ValueError, OSError)

# Full scale of the sample formats that numpy takes.
_SCALES = {"u8": 128.0, "s16": 32768.0, "s32": 2147483648.0, "flt": 1.0, "dbl": 1.0}


class FfmpegReader:
    """A :class:`~loev_cli.audio.readers.Reader` on FFmpeg. Reads the first audio stream.

    Raises:
        UnreadableError: FFmpeg does not know the format, or finds no audio stream in it.
    """

    def __init__(self, file: Path) -> None:
        self._bytes = _Nameless(file)
        self._container = _open(self._bytes)
        stream = next(iter(self._container.streams.audio), None)
        # A codec that FFmpeg does not know leaves the stream without its attributes.
        if stream is None or not getattr(stream, "rate", None):
            self.close()
            raise UnreadableError("no audio stream")
        self._stream = stream
        self.sample_rate_hz = int(stream.rate)
        self.n_channels = int(stream.channels)
        self.n_frames: int | None = None
        formats = set(self._container.format.name.split(","))
        if stream.duration and stream.time_base is not None:
            self.n_frames = int(stream.duration * stream.time_base * stream.rate)
            self.trusts_header = bool(formats & _EXACT_STREAM_LENGTH)
        else:
            if self._container.duration:
                self.n_frames = int(self._container.duration * stream.rate / 1_000_000)
            is_alone = len(self._container.streams) == 1
            self.trusts_header = is_alone and bool(formats & _EXACT_LENGTH)

    def blocks(self, n_samples: int) -> Iterator[NDArray[np.float32]]:
        waiting: list[NDArray[np.float32]] = []
        n_waiting = 0
        for frame in self._frames():
            waiting.append(mix_to_mono(_to_float(frame)))
            n_waiting += len(waiting[-1])
            if n_waiting >= n_samples:
                yield np.concatenate(waiting)
                waiting, n_waiting = [], 0
        if n_waiting:
            yield np.concatenate(waiting)

    def _frames(self) -> Iterator[Any]:
        """The frames. Those of another rate than the header's, as where files were joined or an
        AAC header tells half of the truth, are brought to it; so are 64-bit integers to float."""
        converter: av.AudioResampler | None = None
        kind = None
        try:
            for frame in self._container.decode(self._stream):
                if kind != (kind := _kind(frame)):
                    if converter is not None:
                        yield from converter.resample(None)
                    fits = frame.sample_rate == self.sample_rate_hz and kind[1] in _SCALES
                    rate = self.sample_rate_hz
                    converter = None if fits else av.AudioResampler("dblp", None, rate)
                if converter is None:
                    yield frame
                else:
                    frame.pts = None  # joined files count anew
                    yield from converter.resample(frame)
            if converter is not None:
                yield from converter.resample(None)
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


def read_metadata(file: Path) -> dict[str, str]:
    """What the container and its first audio stream say, as they spell it.

    Raises:
        UnreadableError: FFmpeg does not know the format.
    """
    stream = _Nameless(file)
    container = _open(stream)
    try:
        audio = next(iter(container.streams.audio), None)
        return {**(audio.metadata if audio is not None else {}), **container.metadata}
    finally:
        container.close()
        stream.close()


def _open(stream: _Nameless) -> Any:
    try:
        # Tags may be in any encoding; they must not keep us from the audio.
        return av.open(stream, "r", options=_NO_PROTOCOLS, metadata_errors="surrogateescape")
    except _ERRORS as error:
        stream.close()
        raise UnreadableError(str(error)) from error


def _kind(frame: Any) -> tuple[int, str, str]:
    return frame.sample_rate, frame.format.name.removesuffix("p"), frame.layout.name


def _to_float(frame: Any) -> NDArray[np.float32]:
    """A PyAV audio frame -> (N, C) float32 with full scale 1."""
    samples: NDArray[Any] = frame.to_ndarray()
    name = frame.format.name.removesuffix("p")
    n_channels = frame.layout.nb_channels
    # Planar frames come as (C, N), packed ones as (1, N * C).
    samples = samples.T if frame.format.is_planar else samples.reshape(-1, n_channels)
    if _SCALES[name] == 1.0:
        return samples.astype(np.float32, copy=False)
    offset = 128.0 if name == "u8" else 0.0
    return ((samples.astype(np.float64) - offset) / _SCALES[name]).astype(np.float32)
