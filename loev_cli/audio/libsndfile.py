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

from loev_cli.audio.readers import BrokenStreamError, UnreadableError, mix_to_mono

# libsndfile shortens a chunk that promises more than the file holds and notes it in its log.
_SHORTENED = re.compile(r"^\s*(?:data|SSND|riff)\s*:\s*(\d+) \(should be (\d+)\)", re.MULTILINE)
# Recorders and pipes that do not know the length yet write sizes from here up.
_SIZE_UNKNOWN = 0x7FFF0000
_FRAMES_UNKNOWN = 2**62


class SoundFileReader:
    """A :class:`~loev_cli.audio.readers.Reader` on libsndfile.

    Raises:
        UnreadableError: libsndfile does not know the format, or finds no samples in it.
    """

    def __init__(self, file: Path) -> None:
        try:
            # As bytes, since soundfile cannot take names that are no UTF-8; Windows has no such.
            name = str(file) if sys.platform == "win32" else os.fsencode(file)
            self._stream = soundfile.SoundFile(name)
        except (soundfile.SoundFileError, TypeError) as error:  # TypeError: named *.raw
            raise UnreadableError(str(error)) from error
        if self._stream.frames == 0:
            self._stream.close()
            raise UnreadableError("no samples")
        self.sample_rate_hz = int(self._stream.samplerate)
        self.n_channels = int(self._stream.channels)
        n_frames = int(self._stream.frames)
        self.n_frames = n_frames if n_frames < _FRAMES_UNKNOWN else None
        self.trusts_header = self._stream.format != "MP3" or _mp3_states_its_length(file)
        self._lost_bytes = _bytes_cut_off(str(self._stream.extra_info))

    def blocks(self, n_samples: int) -> Iterator[NDArray[np.float32]]:
        if self._lost_bytes:
            raise BrokenStreamError(f"its last {self._lost_bytes} bytes are missing")
        while True:
            try:
                frames = self._stream.read(n_samples, dtype="float32", always_2d=True)
            except soundfile.SoundFileError as error:
                raise BrokenStreamError(str(error).removeprefix("Error : ")) from error
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


def _mp3_states_its_length(file: Path) -> bool:
    """Whether the first MPEG frame is a Xing/Info header; without one the length is a guess."""
    with file.open("rb") as stream:
        head = stream.read(10)
        if head[:3] == b"ID3":
            size = 0
            for byte in head[6:10]:  # ID3v2 sizes have 7 bits to the byte
                size = size << 7 | byte & 0x7F
            stream.seek(10 + size)
            head = b""
        head += stream.read(256)
    return b"Xing" in head or b"Info" in head
