"""MPEG audio (MP1, MP2, MP3): where its frames are, whatever lies before, between and behind them.

    ID3v2  Xing  frame frame frame  ID3v1  junk  frame frame ...
                 |---- run -----|                |--- run ---
           |------------------ part ------------------------

A part is what was one file: its frames have one version, layer and sample rate. A part that begins
with an intact LAME header is trimmed by the encoder's delay and padding, as players do.
"""

from __future__ import annotations

import functools
import mmap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from loev_cli.audio.readers import end_of_padding, mapped

# What decoders add before the first sample: half a block of the filter bank and one sample.
DECODER_DELAY_N_SAMPLES = 529
# What a reader may leave at the end: frames of padding that it does not need, a little junk.
_SLACK_N_FRAMES = 2
# More than any frame; encoders differ in whether a length header counts its own frame.
_SLACK_N_BYTES = 2048
# ISO 11172-3 and 13818-3: kbit/s by (version 1?, layer); Hz by version.
_KBITS = {
    (True, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_RATES_HZ = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}


class Frame(NamedTuple):
    """What a frame header says. ``kind`` is equal for frames of one version, layer and rate."""

    n_bytes: int
    n_samples: int
    rate_hz: int
    layer: int
    kind: int


@functools.cache  # not at import: decoders of other formats start without it
def _frames_by_header() -> dict[int, Frame]:
    """By the second and third byte of a header; the first is 0xFF."""
    frames = {}
    for second in range(0xE0, 0x100):
        version, layer = second >> 3 & 3, 4 - (second >> 1 & 3)
        if version == 1 or layer == 4:  # reserved
            continue
        is_version_1 = version == 3
        for third in range(0x100):
            bit_rate, rate, padding = third >> 4, third >> 2 & 3, third >> 1 & 1
            if bit_rate in (0, 15) or rate == 3:
                continue
            bits_per_s = 1000 * _KBITS[is_version_1, layer][bit_rate - 1]
            rate_hz = _RATES_HZ[version][rate]
            if layer == 1:
                n_samples, n_bytes = 384, (12 * bits_per_s // rate_hz + padding) * 4
            else:
                n_samples = 1152 if layer == 2 or is_version_1 else 576
                n_bytes = n_samples // 8 * bits_per_s // rate_hz + padding
            kind = (second & 0x1E) << 2 | rate
            frames[second << 8 | third] = Frame(n_bytes, n_samples, rate_hz, layer, kind)
    return frames


def frame_at(content: mmap.mmap | bytes, at: int) -> Frame | None:
    """The frame whose header is at this offset; None if none is."""
    if at + 4 > len(content) or content[at] != 0xFF:
        return None
    return _frames_by_header().get(content[at + 1] << 8 | content[at + 2])


class LengthHeader(NamedTuple):
    """A Xing, Info or VBRI header, which some encoders put into a first frame without sound.

    Attributes:
        n_frames: without its own; None if it does not say.
        n_bytes: of all frames, its own included; None if it does not say.
        delay_n_samples, padding_n_samples: silence that the encoder added; None if unknown.
        is_xing: and not VBRI, which libsndfile does not know.
    """

    n_frames: int | None
    n_bytes: int | None
    delay_n_samples: int | None
    padding_n_samples: int | None
    is_xing: bool


def length_header(content: mmap.mmap | bytes, at: int) -> LengthHeader | None:
    """The header in the frame at this offset; None if that frame is one of sound."""
    is_version_1 = bool(content[at + 1] & 0x08)
    is_mono = content[at + 3] >> 6 == 3
    side_n_bytes = (17 if is_mono else 32) if is_version_1 else (9 if is_mono else 17)
    for tag_at in (at + 4 + side_n_bytes, at + 6 + side_n_bytes):  # 6: with a checksum
        if content[tag_at : tag_at + 4] in (b"Xing", b"Info"):
            return _xing(content[tag_at : tag_at + 144])
    if content[at + 36 : at + 40] == b"VBRI":
        n_bytes = int.from_bytes(content[at + 46 : at + 50], "big")
        return LengthHeader(int.from_bytes(content[at + 50 : at + 54], "big"), n_bytes, *_UNKNOWN)
    return None


_UNKNOWN = (None, None, False)


def _xing(tag: bytes) -> LengthHeader:
    flags, at = tag[7], 8
    n_frames = n_bytes = None
    if flags & 1:
        n_frames, at = int.from_bytes(tag[at : at + 4], "big"), at + 4
    if flags & 2:
        n_bytes, at = int.from_bytes(tag[at : at + 4], "big"), at + 4
    at += 100 if flags & 4 else 0
    at += 4 if flags & 8 else 0
    lame = tag[at : at + 24]
    if not lame[:9].strip(b"\0 ") or len(lame) < 24:
        return LengthHeader(n_frames, n_bytes, None, None, True)
    delay = lame[21] << 4 | lame[22] >> 4
    padding = (lame[22] & 0x0F) << 8 | lame[23]
    return LengthHeader(n_frames, n_bytes, delay, padding, True)


@dataclass
class Part:
    """Frames that were one file.

    Attributes:
        first: the first frame of sound.
        header: its length header, which is in no run.
        runs: (start, stop) of frames that follow each other without a gap.
        n_frames: frames of sound.
        end_at: where a length header says that the last frame ends.
    """

    first: Frame
    header: LengthHeader | None = None
    runs: list[tuple[int, int]] = field(default_factory=list)
    n_frames: int = 0
    end_at: int | None = None

    @property
    def begins_at(self) -> int:
        """Offset of its first frame."""
        return self.runs[0][0]

    @property
    def is_whole(self) -> bool:
        """Whether all frames are there that the header counts, and no more."""
        return self.header is not None and self.header.n_frames == self.n_frames

    @property
    def missing_s(self) -> float:
        """Length of the frames that its header counts beyond those that are there."""
        counted = self.header.n_frames if self.header is not None else None
        return max(0, (counted or 0) - self.n_frames) * self.first.n_samples / self.first.rate_hz

    @property
    def trimmed_n_samples(self) -> tuple[int, int]:
        """What is to be left out at the start and, of a whole part, at the end."""
        if self.header is None or self.header.delay_n_samples is None:
            return 0, 0
        start = self.header.delay_n_samples + DECODER_DELAY_N_SAMPLES
        end = max(0, (self.header.padding_n_samples or 0) - DECODER_DELAY_N_SAMPLES)
        return start, end if self.is_whole else 0

    @property
    def n_samples(self) -> int:
        """Samples per channel that it decodes to, at its own rate."""
        return max(0, self.n_frames * self.first.n_samples - sum(self.trimmed_n_samples))


@dataclass
class Stream:
    """All parts of a file, and what else is in it.

    Attributes:
        junk: (start, stop) of what is neither a frame nor a tag nor padding with zeros.
        missing_n_bytes: where the file ends within a frame: how far beyond its end the last part
            goes by its header.
    """

    parts: list[Part]
    junk: list[tuple[int, int]]
    missing_n_bytes: int

    @property
    def problems(self) -> list[str]:
        """What was skipped, and what the headers count and is not there."""
        problems = []
        if self.junk:
            n_bytes = sum(stop - start for start, stop in self.junk)
            places = f" in {len(self.junk)} places" if len(self.junk) > 1 else ""
            problems.append(f"{n_bytes} bytes{places} that are not MPEG frames; skipped")
        missing_s = sum(part.missing_s for part in self.parts)
        if missing_s:
            problems.append(f"{missing_s:.2f} s that its header counts are not there")
        return problems


def scan(file: Path) -> Stream:
    """Find all frames of a file. Without any there are no parts."""
    with mapped(file) as content:
        return _scan(content)


def _scan(content: mmap.mmap) -> Stream:
    size = len(content)
    parts: list[Part] = []
    junk: list[tuple[int, int]] = []
    at = 0
    while at < size:
        end = end_of_padding(content, at)
        if end > at or (_starts_run(content, at) and (end := _take_run(content, at, parts)) > at):
            at = end
            continue
        begin, at = at, _next_start(content, at + 1)
        at = _id3v2_at(content, begin + 1, at) or at
        junk.append((begin, at))
    parts = [part for part in parts if part.n_frames]
    missing = 0
    is_cut = bool(junk) and junk[-1][1] == size and content[junk[-1][0]] == 0xFF
    if is_cut and parts and parts[-1].end_at is not None and not parts[-1].is_whole:
        missing = max(0, parts[-1].end_at - size)
    return Stream(parts, junk, missing)


def _take_run(content: mmap.mmap, at: int, parts: list[Part]) -> int:
    """Append the frames that follow each other from ``at`` on to the parts; where they end."""
    size = len(content)
    find = _frames_by_header().get
    start = at  # of the run in the current part
    part = parts[-1] if parts else None

    def close(stop: int) -> None:
        if part is not None and stop > start:
            part.runs.append((start, stop))

    while at + 4 <= size and content[at] == 0xFF:
        frame = find(content[at + 1] << 8 | content[at + 2])
        if frame is None or at + frame.n_bytes > size:
            break
        is_new_kind = part is None or frame.kind != part.first.kind
        if is_new_kind and not _starts_run(content, at):
            break
        after = at + frame.n_bytes
        if not _is_followed(content, after) and _next_start(content, at + 1, after) < after:
            break  # cut off: another frame begins within it
        if _id3v2_at(content, at + 4, after):
            break  # cut off: the tag of the next file begins within it
        header = length_header(content, at)
        if header is not None or is_new_kind:
            close(at)
            part = Part(frame, header)
            if header is not None and header.n_bytes:
                part.end_at = at + header.n_bytes
            parts.append(part)
            start = at if header is None else after
        assert part is not None
        if header is None:
            part.n_frames += 1
        at = after
    close(at)
    return at


def _id3v2_at(content: mmap.mmap, at: int, stop: int) -> int | None:
    """Where an ID3v2 tag begins before ``stop``; None if none does."""
    while (at := content.find(b"ID3", at, stop)) >= 0:
        if content[at + 3 : at + 4] in (b"\2", b"\3", b"\4") and content[at + 4 : at + 5] == b"\0":
            return at
        at += 1
    return None


def _is_followed(content: mmap.mmap, at: int) -> bool:
    """Whether a frame, a tag or the end is here, where a frame has ended."""
    size = len(content)
    return (
        at >= size
        or frame_at(content, at) is not None
        or (content[at : at + 3] in (b"ID3", b"TAG", b"APE", b"LYR"))
    )


def _starts_run(content: mmap.mmap, at: int) -> bool:
    """Whether two frames of one kind are here, or one and then the end or a tag."""
    frame = frame_at(content, at)
    if frame is None:
        return False
    after = at + frame.n_bytes
    following = frame_at(content, after)
    if following is not None:
        return following.kind == frame.kind
    # Bytes by chance look like a lone frame often enough: one counts only with its length header.
    return after <= len(content) and length_header(content, at) is not None


def _next_start(content: mmap.mmap, at: int, stop: int | None = None) -> int:
    """The next offset where frames or a tag begin; ``stop`` (default: the end) if none does."""
    stop = len(content) if stop is None else stop
    while (at := content.find(b"\xff", at, stop)) >= 0:
        if _starts_run(content, at):
            return at
        at += 1
    return stop


def goes_on_after(content: mmap.mmap, at: int) -> bool:
    """Whether more than tags and zeros and a few bytes or frames follows from ``at`` on."""
    while at < (end := end_of_padding(content, at)):
        at = end
    if len(content) - at > _SLACK_N_BYTES:
        return True
    n_frames, at = 0, _next_start(content, at)
    while (frame := frame_at(content, at)) is not None:
        n_frames, at = n_frames + 1, at + frame.n_bytes
    return n_frames > _SLACK_N_FRAMES


@dataclass(frozen=True)
class Start:
    """How an MPEG file begins.

    Attributes:
        header: of the first frame, if it has one.
        missing_n_bytes: how far beyond the end of the file it goes by its header.
        is_plain: one stream to the end of the file, as its header says.
        is_free_format: its frames do not say how long they are.
    """

    header: LengthHeader | None
    missing_n_bytes: int
    is_plain: bool
    is_free_format: bool


def start(file: Path) -> Start:
    """Look at the first frame and at the end of a file, not at what is between."""
    with mapped(file) as content:
        at, size = 0, len(content)
        while at < (end := end_of_padding(content, at)) < size:
            at = end
        first = content[at : at + 4]
        is_free = len(first) == 4 and first[0] == 0xFF and first[1] >> 5 == 7 and first[2] < 0x10
        if frame_at(content, at) is None:
            at = _next_start(content, at, min(size, at + 65536))
        frame = frame_at(content, at)
        if frame is None:
            return Start(None, 0, False, is_free)
        header = length_header(content, at)
        if header is None or not header.is_xing:
            return Start(header, 0, False, is_free)
        if not header.n_bytes or not header.n_frames:
            return Start(header, 0, True, is_free)
        end = at + header.n_bytes
        goes_on = end < size and goes_on_after(content, end)
        return Start(header, max(0, end - size), not goes_on, is_free)


def frames(content: mmap.mmap, part: Part) -> Iterator[bytes]:
    """The bytes of each frame of sound, in order."""
    for begin, stop in part.runs:
        at = begin
        while at < stop:
            frame = frame_at(content, at)
            assert frame is not None
            yield content[at : at + frame.n_bytes]
            at += frame.n_bytes
