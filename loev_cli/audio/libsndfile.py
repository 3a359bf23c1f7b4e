"""Reading with libsndfile: WAV, AIFF, FLAC, MP3, Ogg, Opus, CAF and their relatives."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from loev_cli.audio.readers import BrokenStreamError, FileView, Piece, UnreadableError, mix_to_mono

# libsndfile shortens a chunk that promises more than the file holds and notes it in its log.
_SHORTENED = re.compile(
    r"^\s*(?:data|SSND|riff|Riff size|Data Size)\s*:\s*(\d+) \(should be (\d+)\)", re.MULTILINE
)
# Recorders and pipes that do not know the length yet write sizes from here up.
_SIZE_UNKNOWN = 0x7FFF0000
_FRAMES_UNKNOWN = 2**62
_READ_ONLY = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)


class SoundFileReader:
    """A :class:`~loev_cli.audio.readers.Reader` on libsndfile.

    Attributes:
        format: the container, as libsndfile names it: ``"WAV"``, ``"MP3"``, ...
        n_given: samples per channel read so far.
        problem: why reading stopped early, if it did and ``resumable`` is set.
        read_to: up to which byte of the file libsndfile has read; None until all blocks are given,
            and where it is given bytes that are not in the file.

    Args:
        file: the file.
        pieces: read these of it as if they were the whole.
        resumable: another reader continues where this one stops, so an error only ends it.

    Raises:
        UnreadableError: libsndfile does not know the format, or finds no samples in it.
    """

    def __init__(
        self, file: Path, pieces: Sequence[Piece] | None = None, *, resumable: bool = False
    ) -> None:
        # By descriptor: soundfile cannot take names that are not UTF-8, and it shows how far
        # libsndfile has read.
        self._view = FileView(file, pieces) if pieces is not None else None
        self._fd = os.open(file, _READ_ONLY) if pieces is None else -1
        try:
            self._stream = soundfile.SoundFile(self._view or self._fd, closefd=False)
        except (soundfile.SoundFileError, TypeError) as error:
            self._close_file()
            raise UnreadableError(str(error)) from error
        self.format = str(self._stream.format)
        if reason := self._why_not():
            self.close()
            raise UnreadableError(reason)
        self.sample_rate_hz = int(self._stream.samplerate)
        self.n_channels = int(self._stream.channels)
        n_frames = int(self._stream.frames)
        self.n_frames = n_frames if n_frames < _FRAMES_UNKNOWN else None
        # Of MPEG audio the length is an estimate; that of Ogg counts what got lost on the way.
        self.trusts_header = self.format not in ("MP3", "OGG")
        self.resumable = resumable
        self.n_given = 0
        self.problem: str | None = None
        self.read_to: int | None = None
        self._lost_bytes = _bytes_cut_off(str(self._stream.extra_info))

    def _why_not(self) -> str | None:
        """Why another library should read this file, if it should."""
        if self._stream.frames == 0 and self.format not in ("WAV", "AIFF"):
            return "no samples"
        if self._stream.subtype == "OPUS" and self._stream.channels > 2:
            return "Opus of more than two channels, at which libsndfile 1.2 stops with an error"
        return None

    def blocks(self, n_samples: int) -> Iterator[NDArray[np.float32]]:
        if self._lost_bytes:
            raise BrokenStreamError(f"its last {self._lost_bytes} bytes are missing")
        while True:
            try:
                frames = self._stream.read(n_samples, dtype="float32", always_2d=True)
            except soundfile.SoundFileError as error:
                reason = str(error).removeprefix("Error : ")
                if "psf_fseek" in reason:  # soundfile looks where the header says the end is
                    reason = "it ends before its header says"
                if self.resumable:
                    self.read_to, self.problem = self._tell(), reason
                    return
                raise BrokenStreamError(reason) from error
            if not len(frames):
                self.read_to = self._tell()
                return
            self.n_given += len(frames)
            yield mix_to_mono(frames)

    def _tell(self) -> int | None:
        return os.lseek(self._fd, 0, os.SEEK_CUR) if self._view is None else self._view.offset

    def close(self) -> None:
        self._stream.close()
        self._close_file()

    def _close_file(self) -> None:
        if self._view is not None:
            self._view.close()
        elif self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _bytes_cut_off(log: str) -> int:
    match = _SHORTENED.search(log)
    if not match:
        return 0
    promised, present = int(match[1]), int(match[2])
    missing = promised - present
    return missing if missing > 8 and promised < _SIZE_UNKNOWN else 0
