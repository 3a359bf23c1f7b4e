"""Reading with FFmpeg (PyAV) what libsndfile cannot: M4A, WMA, APE, WavPack, video containers."""

from __future__ import annotations

import contextlib
import hashlib
import mmap
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.error import FFmpegError
from numpy.typing import NDArray

from loev_cli.audio.mpeg import Part
from loev_cli.audio.mpeg import frames as mpeg_frames
from loev_cli.audio.readers import (
    BrokenStreamError,
    FileView,
    Piece,
    UnreadableError,
    mapped,
    mix_to_mono,
)

# An "audio file" that is really a playlist must not make FFmpeg open other files or the network.
_NO_PROTOCOLS = {"protocol_whitelist": "none"}
# Tags in another encoding must not keep us from the audio; PyAV 19 reads them so untold.
_TAGS_IN_ANY_ENCODING: dict[str, Any] = (
    {} if int(av.__version__.split(".")[0]) >= 19 else {"metadata_errors": "surrogateescape"}
)
# Containers that state an exact length of a stream; for others FFmpeg estimates it, or it counts
# the time that passes, which gaps are part of.
_EXACT_LENGTH = frozenset({"wv", "tta", "ape"})

# Containers of frames that follow each other, each with a sync word.
_STREAMED = frozenset({"aac", "loas", "ac3", "eac3", "dts", "mpeg", "mpegts"})

# OSError: a damaged header makes FFmpeg seek to places that do not exist.
_ERRORS = (FFmpegError, ValueError, OSError)

_MAX_N_PLANES = 7

# Full scale of the sample formats that numpy takes.
_SCALES = {"u8": 128.0, "s16": 32768.0, "s32": 2147483648.0, "flt": 1.0, "dbl": 1.0}


class FfmpegReader:
    """A :class:`~loev_cli.audio.readers.Reader` on FFmpeg. Reads the first audio stream.

    Attributes:
        format: the container, as FFmpeg names it: ``"mov"``, ``"matroska"``, ...
        is_coded: whether the stream is anything but PCM.

    Args:
        file: the file.
        warnings: is appended to where packets cannot be decoded.
        pieces: read these of it as if they were the whole.

    Raises:
        UnreadableError: FFmpeg does not know the format, or finds no audio stream in it.
    """

    def __init__(
        self, file: Path, warnings: list[str], pieces: Sequence[Piece] | None = None
    ) -> None:
        self._warnings = warnings
        self._view = FileView(file, pieces)
        self._container = _open(self._view)
        stream = next(iter(self._container.streams.audio), None)
        # A codec that FFmpeg does not know leaves the stream without its attributes.
        if stream is None or not getattr(stream, "rate", None):
            self.close()
            raise UnreadableError("no audio stream")
        self._stream = stream
        formats = self._container.format.name.split(",")
        self.format = formats[0]
        self.is_coded = not stream.codec_context.name.startswith("pcm_")
        self.sample_rate_hz = int(stream.rate)
        self.n_channels = int(stream.channels)
        self.n_frames: int | None = None
        if stream.duration and stream.time_base is not None:
            self.n_frames = int(stream.duration * stream.time_base * stream.rate)
        elif self._container.duration:
            # Matroska counts from 0, wherever its first timestamp is.
            duration = self._container.duration - max(0, self._container.start_time or 0)
            self.n_frames = max(0, int(duration * stream.rate / 1_000_000))
        self.trusts_header = self.format in _EXACT_LENGTH
        if pieces is None and (find := _MISSING.get(self.format)) is not None:
            with mapped(file) as content:
                self._n_missing_bytes = find(content)
        else:
            self._n_missing_bytes = 0

    def blocks(self, n_samples: int) -> Iterator[NDArray[np.float32]]:
        if self._n_missing_bytes:
            raise BrokenStreamError(f"its last {self._n_missing_bytes} bytes are missing")
        mono = (mix_to_mono(_to_float(frame)) for frame in self._frames())
        yield from _gathered(mono, n_samples)

    def _frames(self) -> Iterator[Any]:
        """The frames, as packed or planar samples of a kind that :func:`_to_float` takes. Those of
        another rate than the header's, as where files were joined, are brought to it."""
        converter: av.AudioResampler | None = None
        kind = None
        try:
            for frame in self._decoded():
                if kind != (kind := _kind(frame)):
                    if converter is not None:
                        yield from converter.resample(None)
                    converter = _converter(frame, self.sample_rate_hz)
                if converter is None:
                    yield frame
                else:
                    frame.pts = None  # joined files count anew
                    yield from converter.resample(frame)
            if converter is not None:
                yield from converter.resample(None)
        except _ERRORS as error:
            raise BrokenStreamError(getattr(error, "strerror", None) or str(error)) from error

    def _decoded(self) -> Iterator[Any]:
        """The frames as they are. In a stream that may be joined at any packet, as it is broadcast
        or cut, a damaged packet is skipped; elsewhere it is an error."""
        n_lost = n_decoded = 0
        for packet in self._container.demux(self._stream):
            try:
                frames = packet.decode()
            except _ERRORS:
                if self.format not in _STREAMED:
                    raise
                n_lost += 1
                continue
            n_decoded += bool(frames)
            yield from frames
        if n_lost > n_decoded:
            raise BrokenStreamError(f"{n_lost} packets are damaged")
        if n_lost:
            self._warnings.append(f"{n_lost} damaged packets; skipped")

    def close(self) -> None:
        self._container.close()
        self._view.close()


class MpegReader:
    """A :class:`~loev_cli.audio.readers.Reader` of one part of an MPEG file, frame by frame.

    What a container reader would skip or stop at is not there: only frames are decoded.

    Args:
        file: the file.
        part: its frames.
        n_skipped: samples at the start that are not wanted.
        warnings: is appended to where frames cannot be decoded.
    """

    def __init__(self, file: Path, part: Part, n_skipped: int, warnings: list[str]) -> None:
        self._file = file
        self._part = part
        self._n_skipped = n_skipped
        self._warnings = warnings
        self.sample_rate_hz = part.first.rate_hz
        self.n_channels = 2
        self.n_frames: int | None = part.n_samples - n_skipped
        self.trusts_header = False

    def blocks(self, n_samples: int) -> Iterator[NDArray[np.float32]]:
        n_start, _ = self._part.trimmed_n_samples
        wanted = range(n_start + self._n_skipped, n_start + self._part.n_samples)
        n_before = 0
        for block in _gathered(self._decoded(), n_samples):
            start, stop = wanted.start - n_before, wanted.stop - n_before
            n_before += len(block)
            if len(kept := block[max(0, start) : max(0, stop)]):
                yield kept

    def _decoded(self) -> Iterator[NDArray[np.float32]]:
        codec: Any = av.CodecContext.create(f"mp{self._part.first.layer}float", "r")
        n_lost = 0
        with mapped(self._file) as content:
            for frame in mpeg_frames(content, self._part):
                try:
                    decoded = codec.decode(av.Packet(frame))
                except _ERRORS:
                    n_lost += 1
                    continue
                for samples in decoded:
                    yield mix_to_mono(_to_float(samples))
        if n_lost:
            self._warnings.append(f"{n_lost} damaged MPEG frames; skipped")

    def close(self) -> None:
        """There is nothing to close."""


def _gathered(
    blocks: Iterable[NDArray[np.float32]], n_samples: int
) -> Iterator[NDArray[np.float32]]:
    """The same samples in blocks of at least ``n_samples``, save the last."""
    waiting: list[NDArray[np.float32]] = []
    n_waiting = 0
    for block in blocks:
        waiting.append(block)
        n_waiting += len(block)
        if n_waiting >= n_samples:
            yield np.concatenate(waiting)
            waiting, n_waiting = [], 0
    if n_waiting:
        yield np.concatenate(waiting)


def _missing_of_mp4(content: mmap.mmap) -> int:
    """Bytes by which the last box of an MP4 file goes beyond its end (ISO 14496-12, 4.2)."""
    at, size = 0, len(content)
    while at + 8 <= size:
        n_bytes = int.from_bytes(content[at : at + 4], "big")
        if n_bytes == 1:  # a long size behind the name
            n_bytes = int.from_bytes(content[at + 8 : at + 16], "big")
        if (
            n_bytes < 8 or not content[at + 4 : at + 8].isalnum()
        ):  # 0: to the end of the file; or junk
            return 0
        at += n_bytes
    return max(0, at - size)


_EBML_SEGMENT, _EBML_CLUSTER = 0x18538067, 0x1F43B675


def _missing_of_matroska(content: mmap.mmap) -> int:
    """Bytes by which an element of a Matroska file goes beyond its end (RFC 8794, section 6)."""
    at, size = 0, len(content)
    while at < size:
        name, name_n_bytes = _ebml_number(content, at, keep_marker=True)
        length, length_n_bytes = _ebml_number(content, at + name_n_bytes, keep_marker=False)
        if name_n_bytes == 0 or length_n_bytes == 0:
            return 0
        at += name_n_bytes + length_n_bytes
        is_unknown = length == (1 << 7 * length_n_bytes) - 1
        if name == _EBML_SEGMENT:
            if not is_unknown and at + length > size:
                return at + length - size
            continue  # its children
        if is_unknown:  # a cluster of a live stream: its children follow
            if name != _EBML_CLUSTER:
                return 0
            continue
        at += length
    return at - size


def _ebml_number(content: mmap.mmap, at: int, *, keep_marker: bool) -> tuple[int, int]:
    """A number of variable size and its bytes, which are 0 if there is none."""
    if at >= len(content) or content[at] == 0:
        return 0, 0
    n_bytes = 9 - content[at].bit_length()
    value = int.from_bytes(content[at : at + n_bytes], "big")
    return value if keep_marker else value & (1 << 7 * n_bytes) - 1, n_bytes


_MISSING = {"mov": _missing_of_mp4, "matroska": _missing_of_matroska}


def read_metadata(file: Path) -> dict[str, str]:
    """What the container and its first audio stream say, as they spell it.

    Raises:
        UnreadableError: FFmpeg does not know the format.
    """
    stream = FileView(file)
    container = _open(stream)
    try:
        audio = next(iter(container.streams.audio), None)
        return {**(audio.metadata if audio is not None else {}), **container.metadata}
    finally:
        container.close()
        stream.close()


def identify(file: Path) -> tuple[str, str]:
    """The container of a file and the codec of its sound, as FFmpeg names them.

    Raises:
        UnreadableError: FFmpeg does not know the format, or finds no audio stream in it.
    """
    with _with_audio(file) as (container, audio):
        return container.format.name.split(",")[0], audio.codec_context.name


def quality(file: Path) -> tuple[int, int, int]:
    """How well a file's sound is kept; of two tuples the higher is the better: lossless before
    lossy, then by rate in Hz and bits per sample if it is lossless, by bit rate if it is not.

    Raises as :func:`identify`.
    """
    with _with_audio(file) as (container, audio):
        context = audio.codec_context
        if context.codec.lossless:
            return 1, int(context.rate), 8 * int(context.format.bytes)
        return 0, int(container.bit_rate), 0


def content_sha256(file: Path) -> str:
    """SHA-256 of what a file has beside its tags: all that decoders are given of every stream,
    which are packets with their times, pictures, and headers without comments.

    Files with the same digest decode to the same samples. Raises as :func:`identify`.
    """
    digest = hashlib.sha256()

    def add(*facts: object) -> None:
        digest.update(repr(facts).encode())

    with _with_audio(file) as (container, _):
        for stream in container.streams:
            context = getattr(stream, "codec_context", None)
            codec, header = getattr(context, "name", ""), getattr(context, "extradata", None) or b""
            if codec == "vorbis":
                header = _without_comments(header)
            add(stream.type, codec, stream.time_base, stream.start_time, stream.duration, header)
            if stream.type == "audio":
                add(stream.rate, stream.channels)
        for packet in container.demux():
            add(packet.stream_index, packet.pts, packet.duration, packet.size)
            digest.update(packet)
    return digest.hexdigest()


@contextlib.contextmanager
def _with_audio(file: Path) -> Iterator[tuple[Any, Any]]:
    """The open container of a file and its first audio stream."""
    stream = FileView(file)
    container = _open(stream)
    try:
        audio = next(iter(container.streams.audio), None)
        if getattr(audio, "codec_context", None) is None:
            raise UnreadableError("no audio stream")
        yield container, audio
    except _ERRORS as error:
        raise UnreadableError(str(error)) from error
    finally:
        container.close()
        stream.close()


def _without_comments(header: bytes) -> bytes:
    """The first and the last of the three headers of Vorbis; the tags are the one between."""
    first, last = header.find(b"\x01vorbis"), header.rfind(b"\x05vorbis")
    return header[first : first + 30] + header[last:]


def _open(stream: FileView) -> Any:
    try:
        return av.open(stream, "r", options=_NO_PROTOCOLS, **_TAGS_IN_ANY_ENCODING)
    except _ERRORS as error:
        stream.close()
        raise UnreadableError(str(error)) from error


def _kind(frame: Any) -> tuple[int, str, str]:
    return frame.sample_rate, frame.format.name, frame.layout.name


def _converter(frame: Any, rate_hz: int) -> av.AudioResampler | None:
    """Brings frames like this one to the rate, and to samples that numpy takes; None: they are."""
    name = frame.format.name.removesuffix("p")
    # PyAV crashes where more planes are wanted than a frame has places for.
    has_many_planes = frame.format.is_planar and frame.layout.nb_channels > _MAX_N_PLANES
    if frame.sample_rate == rate_hz and name in _SCALES and not has_many_planes:
        return None
    return av.AudioResampler("dbl", None, rate_hz)


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
