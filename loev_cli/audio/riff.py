"""WAV and AIFF whose header is wrong about where the sound ends, or that are several in one file.

    RIFF size WAVE   fmt size ...   data size  samples samples samples   LIST size ...
    FORM size AIFF   COMM size ...  SSND size  samples samples samples   NAME size ...

A header is believed if what follows its samples are chunks or tags up to the end of the file.
Otherwise what lies there decides. The repaired file is a header of ours, then the samples.
"""

from __future__ import annotations

import mmap
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from loev_cli.audio.readers import (
    BrokenStreamError,
    Layout,
    Piece,
    end_of_tag,
    end_of_zeros,
    mapped,
)

# Recorders and pipes that do not know the length yet write sizes from here up, or 0.
_SIZE_UNKNOWN = 0x7EFF0000
_SLACK_S = 0.1
# Where metadata behind samples without a length is looked for.
_TAIL_N_BYTES = 1 << 22
_NEAR_END_N_BYTES = 1 << 16
_FORM = re.compile(
    rb"(RIFF|RIFX|RF64|BW64)....WAVE(fmt |JUNK|bext|ds64|LIST|fact)"
    rb"|FORM....AIF[FC](COMM|FVER)",
    re.DOTALL,
)
_METADATA = re.compile(
    rb"LIST|id3 |ID3 |bext|iXML|cue |smpl|inst|acid|JUNK|junk|PAD |FLLR|fact|PEAK|afsp|axml|chna|"
    rb"_PMX|DISP|cart|umid|minf|elm1|regn|MARK|INST|NAME|AUTH|ANNO|COMT|APPL|\(c\) |MIDI|AESD"
)
_Order = Literal["big", "little"]

_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
# Of what is no integer or float, how many bytes a sample has.
_COMPRESSED_N_BYTES = {6: 1, 7: 1}
_AIFF_N_BYTES = {b"ulaw": 1, b"alaw": 1, b"ULAW": 1, b"ALAW": 1}
_AIFF_PCM = (b"NONE", b"sowt", b"twos", b"fl32", b"FL32", b"fl64", b"FL64", b"in24", b"in32")
# Chi-square of a histogram of 256 values: the mean and spread for bytes that are all as likely.
_UNIFORM_CHI_SQUARE, _UNIFORM_SPREAD = 255.0, 22.6
_NOISE_N_FRAMES = 1 << 15
# How frames of IEC 61937 (AC-3, DTS, for a digital cable) and of bare DTS begin, in 16-bit
# samples of either byte order; bare DTS also in 14 of the 16 bits.
_BURSTS = tuple(
    map(bytes.fromhex, ["72f81f4e", "f8724e1f", "fe7f0180", "7ffe8001", "ff1f00e8", "1fffe800"])
)
_BURSTS_N_BYTES = 1 << 17
_BURSTS_N_MIN = 3


@dataclass(frozen=True)
class _Form:
    """A WAV or AIFF header up to its samples.

    Attributes:
        at: offset of the header.
        kind: b"RIFF", b"RIFX", b"RF64", b"BW64" or b"FORM".
        type: b"WAVE", b"AIFF" or b"AIFC".
        format: content of the chunk ``fmt `` or ``COMM``.
        data_at: offset of the samples.
        n_bytes: of the samples, as the header says.
    """

    at: int
    kind: bytes
    type: bytes
    format: bytes
    data_at: int
    n_bytes: int

    @property
    def order(self) -> _Order:
        return _order(self.kind)

    def _number(self, start: int, stop: int) -> int:
        return int.from_bytes(self.format[start:stop], self.order)

    @property
    def _tag(self) -> int:
        tag = self._number(0, 2)
        return self._number(24, 26) if tag == _EXTENSIBLE and len(self.format) >= 26 else tag

    @property
    def n_channels(self) -> int:
        return self._number(0, 2) if self.kind == b"FORM" else self._number(2, 4)

    @property
    def rate_hz(self) -> float:
        if self.kind != b"FORM":
            return self._number(4, 8)
        exponent, mantissa = self._number(8, 10) & 0x7FFF, self._number(10, 18)
        return mantissa * 2.0 ** min(exponent - 16446, 64) if exponent < 16500 else 0.0

    @property
    def n_bytes_per_sample(self) -> int | None:
        """Of one channel; None where samples are coded together."""
        if self.kind == b"FORM":
            compression = self.format[18:22] if self.type == b"AIFC" else b"NONE"
            if compression in _AIFF_PCM:
                return (self._number(6, 8) + 7) // 8 or None
            return _AIFF_N_BYTES.get(compression)
        if self._tag in (_PCM, _FLOAT):
            return (self._number(14, 16) + 7) // 8 or None
        return _COMPRESSED_N_BYTES.get(self._tag)

    @property
    def is_uncompressed(self) -> bool:
        return self.n_bytes_per_sample is not None and self._tag not in _COMPRESSED_N_BYTES

    @property
    def n_bytes_per_frame(self) -> int:
        if width := self.n_bytes_per_sample:
            return max(1, width * self.n_channels)
        return max(1, self._number(12, 14)) if self.kind != b"FORM" else 1

    @property
    def n_bytes_per_s(self) -> float:
        if self.n_bytes_per_sample or self.kind == b"FORM":
            return self.n_bytes_per_frame * self.rate_hz
        return float(self._number(8, 12))

    @property
    def slack_n_bytes(self) -> int:
        """Fewer bytes than this make no audible difference."""
        return int(_SLACK_S * self.n_bytes_per_s)

    def holds_bursts(self, content: mmap.mmap) -> bool:
        """Whether its 16-bit samples are not sound but coded sound on its way to a receiver."""
        if self.kind == b"FORM" or self.n_bytes_per_sample != 2 or self._tag != _PCM:
            return False
        data = content[self.data_at : self.data_at + _BURSTS_N_BYTES]
        for sync in _BURSTS:
            at = data.find(sync)
            if at >= 0 and at % 2 == 0:
                return data.count(sync) >= _BURSTS_N_MIN or not data[:at].strip(b"\0")
        return False

    def repaired(self, n_bytes: int) -> tuple[Piece, ...]:
        """A file with this header, right about its ``n_bytes`` of samples."""
        samples = range(self.data_at, self.data_at + n_bytes)
        order = self.order

        def chunk(name: bytes, body: bytes) -> bytes:
            return name + len(body).to_bytes(4, order) + body + b"\0" * (len(body) % 2)

        if self.kind == b"FORM":
            form = bytearray(self.format)
            if self.n_bytes_per_sample:
                n_frames = n_bytes // self.n_bytes_per_frame
                form[2:6] = min(n_frames, 2**32 - 1).to_bytes(4, "big")
            head = self.type + chunk(b"COMM", bytes(form))
            head += b"SSND" + min(n_bytes + 8, 2**32 - 1).to_bytes(4, "big") + bytes(8)
            return b"FORM" + min(len(head) + n_bytes, 2**32 - 1).to_bytes(4, "big") + head, samples
        form_chunk = chunk(b"fmt ", self.format)
        if n_bytes + len(form_chunk) + 64 < 2**32:
            kind = b"RIFX" if order == "big" else b"RIFF"
            head = b"WAVE" + form_chunk + b"data" + n_bytes.to_bytes(4, order)
            return kind + (len(head) + n_bytes).to_bytes(4, order) + head, samples
        n_frames = n_bytes // self.n_bytes_per_frame
        riff_n_bytes = 4 + 36 + len(form_chunk) + 8 + n_bytes
        ds64 = b"".join(n.to_bytes(8, "little") for n in (riff_n_bytes, n_bytes, n_frames)) + bytes(
            4
        )
        head = (
            b"RF64\xff\xff\xff\xffWAVE"
            + chunk(b"ds64", ds64)
            + form_chunk
            + b"data\xff\xff\xff\xff"
        )
        return head, samples


def layout(file: Path, start: int = 0) -> Layout | None:
    """Where the samples of a WAV or AIFF file are; None if they are where its header says.

    Args:
        start: offset of the header, behind a tag or other bytes.

    Raises:
        BrokenStreamError: samples are missing, or what follows them cannot be told from samples.
    """
    with mapped(file) as content:
        form = _form(content, start)
        if form is None:
            return None
        if (wrapped := _wrapped(content, form)) is not None:
            return wrapped
        return None if _is_right(content, form) else _several(content, form)


def _is_right(content: mmap.mmap, form: _Form) -> bool:
    """Whether a header's samples end where it says, by what follows them."""
    size = len(content)
    end = form.data_at + form.n_bytes
    if form.n_bytes == 0 or end > size or not _is_tail(content, end, size, form.order):
        return False
    if size - end >= 8 and any(_is_name(content[at : at + 4]) for at in (end, end + end % 2)):
        return True
    near_end = max(form.data_at, size - _NEAR_END_N_BYTES)
    if _metadata_at(content, near_end, size, form.order) < end:
        return False
    # Tags behind samples may be those of a file that was joined to one that was cut off.
    return size - end < 8 or _next_form(content, form.data_at, form.kind) is None


def _wrapped(content: mmap.mmap, form: _Form) -> Layout | None:
    """The layout of a file whose size is given modulo 2^32; None if it is not."""
    for n_bytes in range(form.n_bytes + 2**32, len(content) - form.data_at + 1, 2**32):
        if _is_tail(content, form.data_at + n_bytes, len(content), form.order):
            return Layout((form.repaired(n_bytes),), (_all_read(form.n_bytes, n_bytes),))
    return None


def holds_coded_sound(file: Path, start: int = 0) -> bool:
    """Whether the 16-bit samples of a WAV file are AC-3 or DTS on its way to a receiver."""
    with mapped(file) as content:
        form = _form(content, start)
        return form is not None and form.holds_bursts(content)


def first_form_at(content: mmap.mmap) -> int | None:
    """Offset of the first WAV or AIFF header in a file."""
    found = (_next_form(content, 0, kind) for kind in (b"RIFF", b"FORM"))
    return min((at for at in found if at is not None), default=None)


def _next_form(content: mmap.mmap, at: int, kind: bytes) -> int | None:
    """Offset of the first header from ``at`` on: AIFF if ``kind`` is ``FORM``, else WAV."""
    # An expression takes twenty times as long to search as a few bytes, and a file may have 4 GB.
    word = b"AIF" if kind == b"FORM" else b"WAVE"
    hit = content.find(word, at + 8)
    while hit >= 0 and not _FORM.match(content, hit - 8):
        hit = content.find(word, hit + 1)
    return hit - 8 if hit >= 0 else None


def _several(content: mmap.mmap, form: _Form | None) -> Layout:
    parts: list[tuple[Piece, ...]] = []
    warnings: list[str] = []
    while form is not None:
        at = _next_form(content, form.data_at, form.kind)
        n_bytes = _n_bytes(content, form, len(content) if at is None else at, warnings)
        if n_bytes:
            parts.append(form.repaired(n_bytes))
        form = None if at is None else _form(content, at)
    return Layout(tuple(parts), tuple(warnings))


def _n_bytes(content: mmap.mmap, form: _Form, stop: int, warnings: list[str]) -> int:
    """How many bytes of samples lie behind a header, before ``stop``."""
    at, stated = form.data_at, form.n_bytes
    present = _metadata_at(content, at, stop, form.order) - at
    if stated == 0 or (stated >= _SIZE_UNKNOWN and stated > present):
        if stated == 0 and present:
            warnings.append("its header is unfinished: it states no samples; all are read")
        return present
    if stated > present:
        missing = stated - present
        if missing <= max(form.slack_n_bytes, at + 8 - form.at):
            if missing > 1:
                warnings.append(f"its header states {missing} bytes of samples more than there are")
        elif stop == len(content):
            raise BrokenStreamError(f"its last {missing} bytes are missing")
        else:
            warnings.append(f"a part of it is cut off: {missing} bytes are missing")
        return present
    end, behind = at + stated, at + present - (at + stated)
    is_metadata = any(_METADATA.match(content, begin) for begin in (end, end + end % 2))
    if behind <= form.slack_n_bytes or is_metadata or _is_tail(content, end, stop, form.order):
        return stated
    if _is_noise(content, form, end, stop):
        warnings.append(f"{behind} bytes behind its samples are not audio; skipped")
        return stated
    if not form.is_uncompressed:
        raise BrokenStreamError(f"{behind} bytes follow that its header does not count")
    warnings.append(_all_read(stated, present))
    return present


def _all_read(stated: int, present: int) -> str:
    return f"its header states {stated} bytes of samples where there are {present}; all are read"


def _order(kind: bytes) -> _Order:
    return "big" if kind in (b"FORM", b"RIFX") else "little"


def _form(content: mmap.mmap, at: int) -> _Form | None:
    kind, kind_type = content[at : at + 4], content[at + 8 : at + 12]
    is_aiff = kind == b"FORM" and kind_type in (b"AIFF", b"AIFC")
    if not is_aiff and (kind not in (b"RIFF", b"RIFX", b"RF64", b"BW64") or kind_type != b"WAVE"):
        return None
    order = _order(kind)
    begin, form, long_n_bytes = at, b"", None
    at += 12
    while at + 8 <= len(content):
        name, n_bytes = content[at : at + 4], int.from_bytes(content[at + 4 : at + 8], order)
        if name in (b"fmt ", b"COMM"):
            form = content[at + 8 : at + 8 + min(n_bytes, 1 << 16)]
        elif name == b"ds64":
            long_n_bytes = int.from_bytes(content[at + 16 : at + 24], "little")
        elif name == b"data" and len(form) >= 16:
            if long_n_bytes is not None and n_bytes == 0xFFFFFFFF:
                n_bytes = long_n_bytes
            return _Form(begin, kind, kind_type, form, at + 8, n_bytes)
        elif name == b"SSND" and len(form) >= 18:
            offset = int.from_bytes(content[at + 8 : at + 12], "big")
            if offset > n_bytes or at + 16 + offset > len(content):
                offset = 0
            return _Form(
                begin, kind, kind_type, form, at + 16 + offset, max(0, n_bytes - 8 - offset)
            )
        at += 8 + n_bytes + n_bytes % 2
    return None


def _is_tail(content: mmap.mmap, at: int, stop: int, order: _Order) -> bool:
    """Whether from ``at`` to ``stop`` there are only chunks, tags and zeros."""
    return _tail_from(content, at, stop, order) or (
        at % 2 == 1 and _tail_from(content, at + 1, stop, order)
    )


def _tail_from(content: mmap.mmap, at: int, stop: int, order: _Order) -> bool:
    while stop - at >= 8:
        if (end := end_of_tag(content, at, stop)) is not None:
            at = end
            continue
        name = content[at : at + 4]
        if _FORM.match(content, at):
            return False
        if not _is_name(name):
            return end_of_zeros(content, at, stop) == stop
        n_bytes = int.from_bytes(content[at + 4 : at + 8], order)
        if at + 8 + n_bytes > stop:
            return False
        at += 8 + n_bytes
        if n_bytes % 2 and not _is_name(content[at : at + 4]):
            at += 1
    return True


def _is_name(name: bytes) -> bool:
    return len(name) == 4 and all(32 <= byte < 127 for byte in name)


def _metadata_at(content: mmap.mmap, start: int, stop: int, order: _Order) -> int:
    """Where chunks and tags begin that go on to ``stop``; ``stop`` if there are none."""
    for match in _METADATA.finditer(content, max(start, stop - _TAIL_N_BYTES), stop):
        if stop - match.start() >= 8 and _tail_from(content, match.start(), stop, order):
            return match.start()
    for n_bytes in (128, 32):
        at = stop - n_bytes
        if at >= start and end_of_tag(content, at, stop) == stop and content[at] in b"TA":
            return at
    return stop


def _is_noise(content: mmap.mmap, form: _Form, at: int, stop: int) -> bool:
    """Whether bytes are as random as no sound is: the highest of a sample's are all as likely."""
    width = form.n_bytes_per_sample or 1
    at += (form.data_at - at) % width
    data = np.frombuffer(content[at : min(at + _NOISE_N_FRAMES * width, stop)], np.uint8)
    columns = data[: len(data) // width * width].reshape(-1, width)
    highest = columns[:, 0 if form.order == "big" else -1]
    if not len(highest):
        return True
    expected = len(highest) / 256
    chi_square = float(((np.bincount(highest, minlength=256) - expected) ** 2).sum() / expected)
    return chi_square < _UNIFORM_CHI_SQUARE + 8 * _UNIFORM_SPREAD
