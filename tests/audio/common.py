"""Audio files of formats that soundfile cannot write, or would not write so."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from tests.conftest import music


def write_with_ffmpeg(
    file: Path,
    codec: str,
    rate_hz: int = 44100,
    seconds: float = 3.0,
    *,
    layout: str = "stereo",
    container: str | None = None,
    options: dict[str, str] | None = None,
    tags: dict[str, str] | None = None,
) -> Path:
    """:func:`music` in every channel, encoded by FFmpeg."""
    with av.open(str(file), "w", format=container, options=options or {}) as output:
        output.metadata.update(tags or {})
        stream = output.add_stream(codec, rate=rate_hz, layout=layout)
        stream.bit_rate = 128_000
        stream.codec_context.open()
        resampler = av.AudioResampler(
            stream.format, layout, rate_hz, frame_size=stream.codec_context.frame_size or 1024
        )
        samples = np.stack([music(seconds, rate_hz=rate_hz)] * stream.channels)
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout=layout)
        frame.sample_rate, frame.pts = rate_hz, 0
        for part in [*resampler.resample(frame), *resampler.resample(None), None]:
            output.mux(stream.encode(part))
    return file


def cut_in_half(file: Path) -> Path:
    """What a download that broke off leaves."""
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    return file


def pcm(samples: NDArray[np.float32], n_bits: int, *, big_endian: bool = False) -> bytes:
    """(N,) -> integers of so many bits, in the upper bits of whole bytes, as WAV has them."""
    n_bytes = (n_bits + 7) // 8
    scaled = np.round(np.clip(samples, -1, 1) * (2.0 ** (n_bits - 1) - 1)).astype("<i8")
    scaled <<= 8 * n_bytes - n_bits
    if n_bytes == 1:
        return (scaled + 128).astype(np.uint8).tobytes()
    octets = scaled.view(np.uint8).reshape(-1, 8)[:, :n_bytes]
    return np.ascontiguousarray(octets[:, ::-1] if big_endian else octets).tobytes()


def wav(
    data: bytes,
    *,
    n_bits: int = 16,
    n_channels: int = 1,
    rate_hz: int = 44100,
    tag: int = 1,
    extensible: int | None = None,
    data_n_bytes: int | None = None,
    big_endian: bool = False,
) -> bytes:
    """A WAV file written by hand, so that its header can say anything.

    Args:
        tag: the format: 1 integers, 3 floats.
        extensible: the real number of bits; the header is then WAVE_FORMAT_EXTENSIBLE.
        data_n_bytes: the length it claims.
    """
    order = ">" if big_endian else "<"
    block = n_channels * ((n_bits + 7) // 8)
    bytes_per_s = min(rate_hz * block, 2**32 - 1)
    head: tuple[Any, ...] = (tag, n_channels, rate_hz, bytes_per_s, block & 0xFFFF, n_bits)
    if extensible is not None:
        subformat = struct.pack("<H", tag) + bytes.fromhex("000000001000800000aa00389b71")
        head = (0xFFFE, *head[1:])
        form = struct.pack(f"{order}HHIIHHHHI", *head, 22, extensible, 4) + subformat
    else:
        form = struct.pack(f"{order}HHIIHH", *head)
    length = len(data) if data_n_bytes is None else data_n_bytes
    body = b"WAVEfmt " + struct.pack(f"{order}I", len(form)) + form
    body += b"data" + struct.pack(f"{order}I", length) + data
    whole = min(max(len(body), length), 2**32 - 1)
    return (b"RIFX" if big_endian else b"RIFF") + struct.pack(f"{order}I", whole) + body


def silent_ape(n_samples: int, rate_hz: int = 44100) -> bytes:
    """A Monkey's Audio file of silence: the one thing that format writes without entropy coding.

    Version 3.99 by its published layout: descriptor, header, seek table, frames. A frame is a
    checksum whose highest bit says that flags follow, the flags, and the coder's first bytes.
    """
    frame_n_samples = 73728
    n_frames = -(-n_samples // frame_n_samples)
    last_n_samples = n_samples - (n_frames - 1) * frame_n_samples
    frame = struct.pack("<III", 0x80000000, 3, 0) + bytes(8)  # 3: both channels are silent
    first_at = 52 + 24 + 4 * n_frames
    descriptor = struct.pack(
        "<4sHHIIIIIII16s",
        *(b"MAC ", 3990, 0, 52, 24, 4 * n_frames, 0, len(frame) * n_frames, 0, 0, bytes(16)),
    )
    create_wav_header = 0x20
    header = struct.pack(
        "<HHIIIHHI",
        *(1000, create_wav_header, frame_n_samples, last_n_samples, n_frames, 16, 2, rate_hz),
    )
    places = [first_at + i * len(frame) for i in range(n_frames)]
    return descriptor + header + struct.pack(f"<{n_frames}I", *places) + frame * n_frames


def dsf(samples: NDArray[np.float32], rate_hz: int) -> bytes:
    """A DSF file, one channel: the density of its bits follows ``samples`` (N,) at ``rate_hz``."""
    steps = np.floor(np.cumsum((samples.astype(np.float64) + 1) / 2))
    bits = np.diff(steps, prepend=0.0).astype(np.uint8)
    block_n_bytes = 4096
    packed = np.packbits(bits, bitorder="little").tobytes()
    packed += b"\x69" * (-len(packed) % block_n_bytes)  # what DSD has for silence
    form = struct.pack("<IIIIIIQII", 1, 0, 1, 1, rate_hz, 1, len(bits), block_n_bytes, 0)
    whole = 28 + 12 + len(form) + 12 + len(packed)
    return (
        struct.pack("<4sQQQ", b"DSD ", 28, whole, 0)
        + struct.pack("<4sQ", b"fmt ", 12 + len(form))
        + form
        + struct.pack("<4sQ", b"data", 12 + len(packed))
        + packed
    )
