"""VOC of several blocks, of which libsndfile reads the first and takes the next headers for sound.

Creative Voice File  type size header samples   type size header samples ...  0
"""

from __future__ import annotations

import mmap
from pathlib import Path

from loev_cli.audio.readers import BrokenStreamError, Layout, Piece, mapped

MAGIC = b"Creative Voice File\x1a"
_END, _SOUND, _MORE, _SILENCE, _EXTRA, _NEW_SOUND = 0, 1, 2, 3, 8, 9
# VOC's codec -> WAV's tag and bits: PCM of 8 bits, PCM of 16, A-law, mu-law.
_CODECS = {0: (1, 8), 4: (1, 16), 6: (6, 8), 7: (7, 8)}

_Format = tuple[int, int, int]  # codec, rate, channels


def layout(file: Path, start: int = 0) -> Layout:
    """The samples of all blocks, as WAV files; one for each change of format.

    Args:
        start: offset of the header, behind a tag or other bytes.

    Raises:
        BrokenStreamError: a block is cut off, or its codec has no counterpart in WAV.
    """
    with mapped(file) as content:
        return _layout(content, start)


def _layout(content: mmap.mmap, start: int) -> Layout:
    size = len(content)
    at = start + int.from_bytes(content[start + 20 : start + 22], "little")
    runs: list[tuple[_Format, list[Piece]]] = []
    form: _Format | None = None
    extra: _Format | None = None

    def add(piece: Piece) -> None:
        if form is None:
            return
        if not runs or runs[-1][0] != form:
            runs.append((form, []))
        runs[-1][1].append(piece)

    while at < size and content[at] != _END:
        kind, n_bytes = content[at], int.from_bytes(content[at + 1 : at + 4], "little")
        begin, end = at + 4, at + 4 + n_bytes
        if end > size:
            raise BrokenStreamError(f"its last {end - size} bytes are missing")
        if kind == _SOUND and n_bytes >= 2:
            rate_hz = 1_000_000 // (256 - content[begin])
            form = extra or (content[begin + 1], rate_hz, 1)
            extra = None
            add(range(begin + 2, end))
        elif kind == _MORE:
            add(range(begin, end))
        elif kind == _SILENCE and n_bytes >= 3:
            n_samples = int.from_bytes(content[begin : begin + 2], "little") + 1
            form = form or (0, 1_000_000 // (256 - content[begin + 2]), 1)
            codec, _, n_channels = form
            zero = {0: b"\x80", 4: b"\0\0", 6: b"\xd5", 7: b"\xff"}.get(codec, b"\0")
            add(zero * (n_samples * n_channels))
        elif kind == _EXTRA and n_bytes >= 4:
            n_channels = content[begin + 3] + 1
            divisor = 65536 - int.from_bytes(content[begin : begin + 2], "little")
            extra = (content[begin + 2], 256_000_000 // (n_channels * divisor), n_channels)
        elif kind == _NEW_SOUND and n_bytes >= 12:
            rate_hz = int.from_bytes(content[begin : begin + 4], "little")
            codec = int.from_bytes(content[begin + 6 : begin + 8], "little")
            form = (codec, rate_hz, content[begin + 5])
            if codec == 0 and content[begin + 4] == 16:
                form = (4, rate_hz, content[begin + 5])
            add(range(begin + 12, end))
        at = end
    return Layout(tuple(_as_wav(form, pieces) for form, pieces in runs))


def _as_wav(form: _Format, pieces: list[Piece]) -> tuple[Piece, ...]:
    codec, rate_hz, n_channels = form
    if codec not in _CODECS:
        raise BrokenStreamError(f"its codec {codec} cannot be read")
    tag, n_bits = _CODECS[codec]
    block = n_channels * n_bits // 8
    n_bytes = sum(len(piece) for piece in pieces)
    numbers = (
        (tag, 2),
        (n_channels, 2),
        (rate_hz, 4),
        (rate_hz * block, 4),
        (block, 2),
        (n_bits, 2),
    )
    fmt = b"".join(number.to_bytes(width, "little") for number, width in numbers)
    head = b"WAVEfmt \x10\0\0\0" + fmt + b"data" + n_bytes.to_bytes(4, "little")
    return b"RIFF" + (len(head) + n_bytes).to_bytes(4, "little") + head, *pieces
