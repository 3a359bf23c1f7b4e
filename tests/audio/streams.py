"""Streams of five formats made of known frames, to be joined, cut and put among other bytes.

What is expected of the result is counted from the bytes alone, by arithmetic of the test's own.
"""

from __future__ import annotations

import functools
import io
from dataclasses import dataclass, field

import numpy as np
import soundfile

from tests.conftest import music

# Of the encoder and of decoders, as the LAME header says.
LAME_DELAY_N_SAMPLES = 576 + 529


@dataclass(frozen=True)
class Stream:
    """A whole file of one format.

    Attributes:
        content: its bytes.
        rate_hz: its sample rate.
        ends: (byte, samples): that many samples are whole if the file goes on up to that byte.
        frame_n_samples: samples of its largest frame.
        n_samples: of the whole.
    """

    content: bytes = field(repr=False)
    rate_hz: int
    ends: tuple[tuple[int, int], ...] = field(repr=False)
    frame_n_samples: int
    n_samples: int

    @property
    def n_bytes_per_s(self) -> float:
        return len(self.content) / self.n_samples * self.rate_hz

    def n_samples_up_to(self, n_bytes: int) -> int:
        """Samples of the frames that are whole in so many bytes."""
        return max((n for end, n in self.ends if end <= n_bytes), default=0)


def _encoded(seconds: float, rate_hz: int, n_channels: int, **options: object) -> bytes:
    samples = np.stack([music(seconds, rate_hz=rate_hz, seed=n_channels)] * n_channels, axis=1)
    target = io.BytesIO()
    soundfile.write(target, samples, rate_hz, **options)
    return target.getvalue()


@functools.cache
def mp3(seconds: float, rate_hz: int, n_channels: int, with_header: bool, mode: str) -> Stream:
    """With its Xing or Info header, or from the frame behind it on."""
    content = _encoded(
        seconds, rate_hz, n_channels, format="MP3", bitrate_mode=mode, compression_level=0.5
    )
    kbits = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
    kbits_2 = (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
    is_version_1 = rate_hz >= 32000
    n_samples = 1152 if is_version_1 else 576
    ends, at, n_frames = [], 0, 0
    while at < len(content):
        head = content[at : at + 4]
        bits = 1000 * (kbits if is_version_1 else kbits_2)[(head[2] >> 4) - 1]
        at += n_samples // 8 * bits // rate_hz + (head[2] >> 1 & 1)
        # The first frame has no sound; a player leaves the encoder's delay out.
        delay = LAME_DELAY_N_SAMPLES if with_header else 0
        ends.append((at, max(0, n_frames * n_samples - delay)))
        n_frames += 1
    start = 0 if with_header else ends[0][0]
    moved = tuple((end - start, n) for end, n in ends if end > start)
    whole = round(seconds * rate_hz) if with_header else ends[-1][1]
    return Stream(content[start:], rate_hz, moved, n_samples, whole)


@functools.cache
def ogg(seconds: float, rate_hz: int, n_channels: int, subtype: str) -> Stream:
    """Vorbis or Opus; pages say how many samples have been whole at their end."""
    content = _encoded(seconds, rate_hz, n_channels, format="OGG", subtype=subtype)
    ends, at = [], 0
    skipped = 0
    while at < len(content):
        granule = int.from_bytes(content[at + 6 : at + 14], "little", signed=True)
        n_segments = content[at + 26]
        body = at + 27 + n_segments
        if content[body : body + 8] == b"OpusHead":
            skipped = int.from_bytes(content[body + 10 : body + 12], "little")
        at = body + sum(content[at + 27 : at + 27 + n_segments])
        ends.append((at, max(0, granule - skipped)))
    return Stream(content, rate_hz, tuple(ends), 8192, round(seconds * rate_hz))


@functools.cache
def flac(seconds: float, rate_hz: int, n_channels: int) -> Stream:
    """Whole, or to fail."""
    content = _encoded(seconds, rate_hz, n_channels, format="FLAC")
    n_samples = round(seconds * rate_hz)
    return Stream(content, rate_hz, ((len(content), n_samples),), 4096, n_samples)


@functools.cache
def pcm(seconds: float, rate_hz: int, n_channels: int, container: str, subtype: str) -> Stream:
    """WAV or AIFF."""
    content = _encoded(seconds, rate_hz, n_channels, format=container, subtype=subtype)
    width = {"PCM_16": 2, "PCM_24": 3, "FLOAT": 4}[subtype] * n_channels
    n_samples = round(seconds * rate_hz)
    begin = content.rindex(b"data" if container == "WAV" else b"SSND") + 8
    begin += 8 if container == "AIFF" else 0
    ends = tuple((begin + width * n, n) for n in range(n_samples + 1))
    return Stream(content, rate_hz, ends, 1, n_samples)


def id3v2(n_bytes: int) -> bytes:
    size = bytes(n_bytes >> shift & 0x7F for shift in (21, 14, 7, 0))
    return b"ID3\x04\0\0" + size + b"\xff\xfb\x90\x44" * (n_bytes // 4) + bytes(n_bytes % 4)


def id3v1() -> bytes:
    return b"TAG" + b"a title".ljust(125, b"\0")


def apev2(n_bytes: int) -> bytes:
    """With header and footer."""
    item = n_bytes.to_bytes(4, "little") + bytes(4) + b"Title\0" + b"x" * n_bytes
    size = (len(item) + 32).to_bytes(4, "little")

    def edge(flags: int) -> bytes:
        numbers = b"\xd0\x07\0\0" + size + b"\x01\0\0\0" + flags.to_bytes(4, "little")
        return b"APETAGEX" + numbers + bytes(8)

    return edge(0xA0000000) + item + edge(0x80000000)
