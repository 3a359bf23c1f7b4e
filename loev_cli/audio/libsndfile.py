"""Reading with libsndfile: WAV, AIFF, FLAC, MP3, Ogg, Opus, CAF and their relatives."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from loev_cli.audio import containers
from loev_cli.audio.readers import BrokenStreamError, UnreadableError, mix_to_mono

# libsndfile shortens a chunk that promises more than the file holds and notes it in its log.
_SHORTENED = re.compile(
    r"^\s*(?:data|SSND|riff|Riff size|Data Size)\s*:\s*(\d+) \(should be (\d+)\)", re.MULTILINE
)
# Recorders and pipes that do not know the length yet write sizes from here up.
_SIZE_UNKNOWN = 0x7FFF0000
_FRAMES_UNKNOWN = 2**62


class SoundFileReader:
    """A :class:`~loev_cli.audio.readers.Reader` on libsndfile.

    Raises:
        UnreadableError: libsndfile does not know the format, finds no samples in it, or would not
            read it to its end.
    """

    def __init__(self, file: Path) -> None:
        try:
            # As bytes, since soundfile cannot take names that are no UTF-8; Windows has no such.
            name = str(file) if sys.platform == "win32" else os.fsencode(file)
            self._stream = soundfile.SoundFile(name)
        except (soundfile.SoundFileError, TypeError) as error:  # TypeError: named *.raw
            raise UnreadableError(str(error)) from error
        if reason := self._why_not(file):
            self._stream.close()
            raise UnreadableError(reason)
        self.sample_rate_hz = int(self._stream.samplerate)
        self.n_channels = int(self._stream.channels)
        n_frames = int(self._stream.frames)
        self.n_frames = n_frames if n_frames < _FRAMES_UNKNOWN else None
        is_mp3 = self._stream.format == "MP3"
        self.trusts_header = not is_mp3 or containers.mp3_length_header(file) is not None
        self._lost_bytes = _bytes_cut_off(str(self._stream.extra_info))

    def _why_not(self, file: Path) -> str | None:
        """Why another library should read this file, if it should."""
        if self._stream.frames == 0:
            return "no samples"
        if self._stream.format == "FLAC" and self._stream.frames >= _FRAMES_UNKNOWN:
            return "FLAC from a pipe, which libsndfile reads but cannot end"
        if self._stream.format == "OGG" and containers.ogg_is_chained(file):
            return "several Ogg streams one after the other, of which libsndfile reads the first"
        if self._stream.format == "MP3" and containers.mp3_goes_on(file):
            return "several MP3 files one after the other, of which libsndfile reads the first"
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
                raise BrokenStreamError(reason) from error
            if not len(frames):
                return
            yield mix_to_mono(frames)

    def close(self) -> None:
        self._stream.close()


def _bytes_cut_off(log: str) -> int:
    match = _SHORTENED.search(log)
    if not match:
        return 0
    promised, present = int(match[1]), int(match[2])
    missing = promised - present
    return missing if missing > 8 and promised < _SIZE_UNKNOWN else 0
