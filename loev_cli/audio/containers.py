"""What libsndfile does not tell of MP3 and Ogg files: whether a length is stated, and what lies
behind the stream that it reads.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

_OGG_PAGE = b"OggS"
_OGG_HEAD_N_BYTES = 4096
_OGG_TAIL_N_BYTES = 1 << 17  # a page has up to 65307 bytes
_OGG_FIRST_PAGE = 0x02
# From a frame's sync word to the Xing or Info tag in it: MPEG 1 or 2, stereo or mono, checksum.
_XING_OFFSETS = (36, 21, 13, 38, 23, 15)
_MP3_SEARCH_N_BYTES = 4096
_MP3_WORTH_N_BYTES = 4096


@dataclass(frozen=True)
class Mp3LengthHeader:
    """The Xing or Info header in the first MPEG frame of an MP3 file.

    Attributes:
        frame_at: byte offset of that frame.
        n_bytes: of all frames, this one included; None if it does not say.
    """

    frame_at: int
    n_bytes: int | None


def mp3_length_header(file: Path) -> Mp3LengthHeader | None:
    """None if the file has no such header: its length by libsndfile is then a guess."""
    with file.open("rb") as stream:
        start = _skip_id3(stream)
        head = stream.read(_MP3_SEARCH_N_BYTES)
    for tag in (b"Xing", b"Info"):
        at = head.find(tag)
        for offset in _XING_OFFSETS if at >= 0 else ():
            frame = at - offset
            if frame >= 0 and _is_mp3_frame(head[frame:]):
                return Mp3LengthHeader(start + frame, _xing_n_bytes(head[at + 4 :]))
    return None


def mp3_goes_on(file: Path) -> bool:
    """Whether more MPEG audio, and not tags or junk, follows what the length header counts."""
    header = mp3_length_header(file)
    if header is None or not header.n_bytes:
        return False
    with file.open("rb") as stream:
        stream.seek(header.frame_at + header.n_bytes)
        more = stream.read(_MP3_WORTH_N_BYTES)
    return len(more) == _MP3_WORTH_N_BYTES and (more[:3] == b"ID3" or _is_mp3_frame(more))


def _is_mp3_frame(content: bytes) -> bool:
    """Whether an MPEG header starts here: layer 3, and no version, bit rate or rate unheard of."""
    sync, version, sizes = content[0], content[1], content[2]
    return (
        sync == 0xFF
        and version & 0xE6 == 0xE2
        and version & 0x18 != 0x08
        and sizes & 0xF0 not in (0x00, 0xF0)
        and sizes & 0x0C != 0x0C
    )


def ogg_is_chained(file: Path) -> bool:
    """Whether the last page belongs to a stream that did not begin with the file."""
    with file.open("rb") as stream:
        firsts = _ogg_serials(stream.read(_OGG_HEAD_N_BYTES), only_firsts=True)
        size = stream.seek(0, 2)
        stream.seek(max(0, size - _OGG_TAIL_N_BYTES))
        lasts = _ogg_serials(stream.read())
    return bool(firsts) and bool(lasts) and lasts[-1] not in firsts


def _skip_id3(stream: BinaryIO) -> int:
    """Go to the end of an ID3v2 tag at the beginning; where that is."""
    head = stream.read(10)
    size = 0
    if head[:3] == b"ID3" and len(head) == 10:
        for byte in head[6:10]:  # ID3v2 sizes have 7 bits to the byte
            size = size << 7 | byte & 0x7F
        size += 10
    return stream.seek(size)


def _xing_n_bytes(content: bytes) -> int | None:
    flags = int.from_bytes(content[:4], "big")
    at = 8 if flags & 1 else 4
    return int.from_bytes(content[at : at + 4], "big") if flags & 2 else None


def _ogg_serials(content: bytes, *, only_firsts: bool = False) -> list[bytes]:
    serials = []
    at = content.find(_OGG_PAGE)
    while at >= 0:
        head = content[at : at + 18]
        if len(head) == 18 and head[4] == 0 and (not only_firsts or head[5] & _OGG_FIRST_PAGE):
            serials.append(head[14:18])
        at = content.find(_OGG_PAGE, at + 4)
    return serials
