"""FLAC whose STREAMINFO is wrong about its length, or that is several files one after the other.

    fLaC STREAMINFO metadata  frame frame ... frame   fLaC STREAMINFO ...

Every frame says where it is in the stream and how many samples it has, so the last one tells the
length. Its header has a checksum of 8 bits that tells it from other bytes (RFC 9639, section 9.1).
"""

from __future__ import annotations

import functools
import mmap
import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from loev_cli.audio.readers import BrokenStreamError, Layout, Piece, end_of_padding, mapped

# The marker, and a STREAMINFO block, which is always the first and has 34 bytes.
_START = re.compile(rb"fLaC[\x00\x80]\x00\x00\x22", re.DOTALL)
_STREAMINFO_N_BYTES = 34
_SYNC = re.compile(rb"\xff[\xf8\xf9]")
_TAIL_N_BYTES = 1 << 16
_BLOCK_SIZES = {1: 192, 2: 576, 3: 1152, 4: 2304, 5: 4608}


@functools.cache
def _crc8_table() -> bytes:
    table = bytearray(256)
    for value in range(256):
        crc = value
        for _ in range(8):
            crc = (crc << 1 ^ 0x07 if crc & 0x80 else crc << 1) & 0xFF
        table[value] = crc
    return bytes(table)


class _Frame(NamedTuple):
    """Where a frame begins in the file and in the stream, and how many samples it has."""

    at: int
    first_sample: int
    n_samples: int


@dataclass(frozen=True)
class _Stream:
    """A FLAC stream in a file.

    Attributes:
        at: offset of the marker.
        frames_at: offset of the first frame.
        min_block_n_samples: of all frames but the last, where the block size is fixed.
        max_frame_n_bytes: 0 if unknown.
        rate_hz: the sample rate.
        n_samples: as STREAMINFO says; 0 if it does not.
    """

    at: int
    frames_at: int
    min_block_n_samples: int
    max_frame_n_bytes: int
    rate_hz: int
    n_samples: int


def layout(file: Path, start: int = 0) -> Layout | None:
    """The streams of a FLAC file with their true lengths; None if the header is right.

    It may be right and yet another stream follow far behind: see :func:`following`.

    Args:
        start: offset of the first marker, behind a tag or other bytes.

    Raises:
        BrokenStreamError: frames are missing that the header counts, or there is none.
    """
    with mapped(file) as content:
        match = _START.search(content, start)
        if match is None:
            return None
        stream = _stream(content, match.start())
        tail_at = max(stream.frames_at, len(content) - _TAIL_N_BYTES - stream.max_frame_n_bytes)
        if (
            not _START.search(content, tail_at)
            and stream.n_samples
            and _end_of(content, stream, tail_at, len(content)) == stream.n_samples
        ):
            return None
        found = _several(content, match.start())
        is_right = stream.n_samples and len(found.parts) == 1 and not found.warnings
        return None if is_right else found


def following(file: Path, start: int = 0) -> Layout | None:
    """The streams behind the first; None if nothing but tags, zeros and junk is there."""
    with mapped(file) as content:
        match = _START.search(content, start)
        assert match is not None
        second = _START.search(content, _stream(content, match.start()).frames_at)
        return _several(content, second.start()) if second else None


def first_stream_at(content: mmap.mmap) -> int | None:
    """Offset of the first FLAC stream in a file."""
    match = _START.search(content)
    return match.start() if match else None


def _several(content: mmap.mmap, at: int) -> Layout:
    starts = [at]
    while match := _START.search(content, _stream(content, starts[-1]).frames_at):
        starts.append(match.start())
    parts: list[tuple[Piece, ...]] = []
    warnings: list[str] = []
    for begin, stop in zip(starts, [*starts[1:], len(content)], strict=True):
        stream = _stream(content, begin)
        if stream.frames_at >= stop:
            raise BrokenStreamError("it ends within its header")
        n_samples = _end_of(content, stream, stream.frames_at, stop)
        if n_samples < stream.n_samples:
            missing_s = (stream.n_samples - n_samples) / max(1, stream.rate_hz)
            raise BrokenStreamError(f"its last {missing_s:.1f} s are missing")
        if n_samples == 0:
            continue
        if stream.n_samples and n_samples > stream.n_samples:
            warnings.append(
                f"its header states {stream.n_samples} samples where there are {n_samples}; "
                "all are read"
            )
        parts.append(_with_n_samples(content, stream, n_samples, stop))
    return Layout(tuple(parts), tuple(warnings))


def _stream(content: mmap.mmap, at: int) -> _Stream:
    info = content[at + 8 : at + 8 + _STREAMINFO_N_BYTES]
    block_at = at + 4
    while True:
        head = content[block_at : block_at + 4]
        if len(head) < 4:
            break
        block_at += 4 + int.from_bytes(head[1:4], "big")
        if head[0] & 0x80:
            break
    fields = int.from_bytes(info[10:18], "big")
    return _Stream(
        at=at,
        frames_at=min(block_at, len(content)),
        min_block_n_samples=int.from_bytes(info[0:2], "big"),
        max_frame_n_bytes=int.from_bytes(info[7:10], "big"),
        rate_hz=fields >> 44,
        n_samples=fields & (1 << 36) - 1,
    )


def _with_n_samples(
    content: mmap.mmap, stream: _Stream, n_samples: int, stop: int
) -> tuple[Piece, ...]:
    """The stream with another length in its header, and only STREAMINFO of its metadata."""
    info = bytearray(content[stream.at + 8 : stream.at + 8 + _STREAMINFO_N_BYTES])
    fields = int.from_bytes(info[10:18], "big") >> 36 << 36 | n_samples
    info[10:18] = fields.to_bytes(8, "big")
    info[18:34] = bytes(16)  # its MD5 is of the samples that it counted
    return b"fLaC\x80\x00\x00\x22" + bytes(info), range(stream.frames_at, stop)


def _end_of(content: mmap.mmap, stream: _Stream, start: int, stop: int) -> int:
    """Samples up to the end of the last frame that begins between two offsets; 0: there is none."""
    best, before = 0, None
    for match in _SYNC.finditer(content, start, stop):
        frame = _frame(content, match.start(), stream.min_block_n_samples)
        if frame is None:
            continue
        end = frame.first_sample + frame.n_samples
        # Bytes that look like a frame by chance say that they are anywhere in the stream.
        follows = (
            before is not None and before.first_sample + before.n_samples == frame.first_sample
        )
        if follows or before is None or end == stream.n_samples:
            best = max(best, end)
        if follows or before is None or not _follows_later(content, before, stream, match, stop):
            before = frame
    return best


def _follows_later(
    content: mmap.mmap, before: _Frame, stream: _Stream, match: re.Match[bytes], stop: int
) -> bool:
    """Whether the frame that ``before`` promises still comes, so that this one is chance."""
    reach = max(stream.max_frame_n_bytes, 1 << 16)
    for later in _SYNC.finditer(content, match.end(), min(stop, before.at + reach)):
        frame = _frame(content, later.start(), stream.min_block_n_samples)
        if frame and frame.first_sample == before.first_sample + before.n_samples:
            return True
    return False


def _frame(content: mmap.mmap, at: int, fixed_block_n_samples: int) -> _Frame | None:
    """The frame whose header is here, if its checksum is right."""
    head = content[at : at + 16]
    if (
        len(head) < 6
        or head[2] >> 4 == 0
        or head[2] & 0x0F == 15
        or head[3] >> 4 > 10
        or head[3] & 1
    ):
        return None
    n_coded = 1 if head[4] < 0x80 else 8 - (head[4] ^ 0xFF).bit_length()
    if n_coded > 7 or (n_coded == 1 and head[4] >= 0x80):
        return None
    number = head[4] if n_coded == 1 else head[4] & (0x7F >> n_coded)
    for byte in head[5 : 4 + n_coded]:
        if byte >> 6 != 2:
            return None
        number = number << 6 | byte & 0x3F
    end = 4 + n_coded
    code, rate_code = head[2] >> 4, head[2] & 0x0F
    n_size = {6: 1, 7: 2}.get(code, 0)
    n_samples = 256 << code - 8 if code >= 8 else _BLOCK_SIZES.get(code, 0)
    if n_size:
        n_samples = int.from_bytes(head[end : end + n_size], "big") + 1
    end += n_size + {12: 1, 13: 2, 14: 2}.get(rate_code, 0)
    if end >= len(head):
        return None
    crc, table = 0, _crc8_table()
    for byte in head[:end]:
        crc = table[crc ^ byte]
    if crc != head[end]:
        return None
    is_variable = head[1] & 1
    return _Frame(at, number if is_variable else number * fixed_block_n_samples, n_samples)


def goes_on_after(file: Path, at: int) -> bool:
    """Whether more than tags and zeros follows from an offset on."""
    with mapped(file) as content:
        while at < (end := end_of_padding(content, at)):
            at = end
        return at < len(content)
