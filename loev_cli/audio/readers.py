"""Readers of decoder libraries: what they offer, and views of a file that they read as if whole."""

from __future__ import annotations

import bisect
import contextlib
import io
import mmap
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class UnreadableError(Exception):
    """This library cannot read the file; another one may."""


class BrokenStreamError(Exception):
    """The file was opened, but decoding stopped with an error."""


class Reader(Protocol):
    """An open audio file.

    Attributes:
        sample_rate_hz: the file's own rate.
        n_channels: the file's own channels.
        n_frames: samples per channel by the header, or None if the header does not say.
        trusts_header: whether ``n_frames`` is exact, so that fewer frames mean a truncated file.
            It is not where frames may have been lost on the way, or joined.
    """

    sample_rate_hz: int
    n_channels: int
    n_frames: int | None
    trusts_header: bool

    def blocks(self, n_samples: int) -> Iterator[NDArray[np.float32]]:
        """The mean of the channels in blocks (N,) of about ``n_samples``; full scale is 1.

        Raises:
            BrokenStreamError: decoding stopped with an error.
        """
        ...

    def close(self) -> None: ...


def mix_to_mono(frames: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N, C) -> (N,): the mean of the channels. The mean of two equal channels is that channel."""
    n_channels = frames.shape[1]
    if n_channels == 1:
        return frames[:, 0]
    with np.errstate(over="raise", invalid="ignore"):  # infinite samples: the file is refused
        if n_channels == 2:  # several times faster than mean() over a short axis
            with contextlib.suppress(FloatingPointError):  # a sum beyond float32
                return (frames[:, 0] + frames[:, 1]) * np.float32(0.5)
        return np.asarray(frames.mean(axis=1, dtype=np.float64), np.float32)


Piece = bytes | range

_ZEROS_N_BYTES = 1 << 16


class FileView(io.RawIOBase):
    """A read-only, seekable binary stream without a name: ``pieces`` one after the other.

    Args:
        file: the file that ranges of bytes are taken from.
        pieces: bytes, and ranges of offsets in the file; None: the whole file.

    Raises:
        OSError: the file cannot be opened.
    """

    def __init__(self, file: Path, pieces: Sequence[Piece] | None = None) -> None:
        self._file = file.open("rb", buffering=0)
        if pieces is None:
            pieces = [range(os.fstat(self._file.fileno()).st_size)]
        self._pieces = [piece for piece in pieces if len(piece)]
        self._starts = [0]  # of each piece, and the end of the last
        for piece in self._pieces:
            self._starts.append(self._starts[-1] + len(piece))
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    @property
    def offset(self) -> int | None:
        """Where the next byte is in the file; None if it is none of the file's."""
        index = min(bisect.bisect_right(self._starts, self._at), len(self._pieces)) - 1
        piece = self._pieces[index] if self._pieces else b""
        return None if isinstance(piece, bytes) else piece.start + self._at - self._starts[index]

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._starts[-1]}[whence]
        if base + offset < 0:
            raise OSError("negative seek position")
        self._at = base + offset
        return self._at

    def readinto(self, buffer: object, /) -> int:
        """Fills the buffer unless the end comes first: libsndfile takes less for the end."""
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        n_read = 0
        while n_read < len(view) and self._at < self._starts[-1]:
            n_now = self._read_piece(view[n_read:])
            if not n_now:  # the file has become shorter
                break
            n_read += n_now
            self._at += n_now
        return n_read

    def _read_piece(self, view: memoryview) -> int:
        index = bisect.bisect_right(self._starts, self._at) - 1
        piece, offset = self._pieces[index], self._at - self._starts[index]
        n_bytes = min(len(view), len(piece) - offset)
        if isinstance(piece, bytes):
            view[:n_bytes] = piece[offset : offset + n_bytes]
            return n_bytes
        self._file.seek(piece.start + offset)
        return self._file.readinto(view[:n_bytes]) or 0

    def close(self) -> None:
        self._file.close()
        super().close()


@dataclass(frozen=True)
class Layout:
    """Where the sound of a file lies, if a decoder would not find it by itself.

    Attributes:
        parts: the pieces of each stream, in order; each is a file by itself.
        warnings: what a user should know of it: what was skipped, what the header got wrong.
    """

    parts: tuple[tuple[Piece, ...], ...]
    warnings: tuple[str, ...] = ()


@contextlib.contextmanager
def mapped(file: Path) -> Iterator[mmap.mmap]:
    """The content of a file that is not empty, to look around in."""
    with (
        file.open("rb") as stream,
        mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        yield content


def end_of_zeros(content: mmap.mmap, start: int, stop: int) -> int:
    """Where the first byte from ``start`` on is that is not 0; ``stop`` if there is none."""
    for at in range(start, stop, _ZEROS_N_BYTES):
        block = content[at : min(at + _ZEROS_N_BYTES, stop)]
        if rest := block.lstrip(b"\0"):
            return at + len(block) - len(rest)
    return stop


def end_of_tag(content: mmap.mmap, at: int, stop: int) -> int | None:
    """Where the tag that begins at ``at`` ends: ID3v2, ID3v1, APE or Lyrics3; None: no tag.

    No further than ``stop``, whatever size the tag states.
    """
    head = content[at : min(at + 32, stop)]
    if head[:3] == b"ID3" and len(head) >= 10 and max(head[6:10]) < 0x80:
        n_bytes = 10 * (2 if head[5] & 0x10 else 1)  # the flag of a footer
        for shift, byte in zip((21, 14, 7, 0), head[6:10], strict=True):
            n_bytes += byte << shift
        return min(at + n_bytes, stop)
    if head[:3] == b"TAG" and stop - at >= 128:
        return at + (128 if head[:4] != b"TAG+" else 227)
    if head[:8] == b"APETAGEX" and len(head) == 32:
        # Of the header or of the footer; the size does not count the header.
        is_header = bool(int.from_bytes(head[20:24], "little") & 1 << 29)
        n_bytes = int.from_bytes(head[12:16], "little") if is_header else 0
        return min(at + 32 + n_bytes, stop)
    if head[:11] == b"LYRICSBEGIN":
        end = content.find(b"LYRICS200", at, stop)
        return None if end < 0 else end + 9
    return None


def end_of_padding(content: mmap.mmap, at: int) -> int:
    """Where the tag or the zeros that begin at ``at`` end; ``at`` if neither does."""
    end = end_of_tag(content, at, len(content))
    return end_of_zeros(content, at, len(content)) if end is None else end
