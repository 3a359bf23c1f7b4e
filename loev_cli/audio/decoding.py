"""One file -> mono float32 blocks at the model's rate, in bounded memory at any length.

file -> SoundFileReader | FfmpegReader -> mean of channels -> checks -> soxr HQ -> blocks
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soxr
from numpy.typing import NDArray

from loev_cli.audio.libsndfile import SoundFileReader
from loev_cli.audio.readers import BrokenStreamError, Reader, UnreadableError
from loev_cli.errors import InputError

# Bounds of what one block may hold, whatever rate and channels a header claims.
_BLOCK_S = 4.0
_BLOCK_N_VALUES = 2**21
# Up to what FFmpeg makes of the highest DSD rate.
_PLAUSIBLE_RATES_HZ = range(1_000, 3_072_001)
# Encoders pad and trim by a frame or two; less than this is no truncation.
_SLACK_S = 0.1


@dataclass(frozen=True)
class FileInfo:
    """What a file's header says. ``duration_s`` is None where the header does not."""

    duration_s: float | None
    sample_rate_hz: int
    n_channels: int


class Decoding:
    """Iterates once over the mono blocks (N,) float32 of a file, at the wanted rate.

    Attributes:
        peak: highest absolute sample so far of the mono mix, before resampling; full scale is 1.
        duration_s: decoded length so far.
    """

    def __init__(self, file: Path, sample_rate_hz: int) -> None:
        self.peak = 0.0
        self.duration_s = 0.0
        self._file = file
        self._blocks = self._decode(sample_rate_hz)

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        return self._blocks

    def _decode(self, sample_rate_hz: int) -> Iterator[NDArray[np.float32]]:
        with closing(_open(self._file)) as reader:
            blocks = self._checked(reader)
            if reader.sample_rate_hz == sample_rate_hz:
                yield from blocks
                return
            resampler = soxr.ResampleStream(
                reader.sample_rate_hz, sample_rate_hz, 1, dtype="float32", quality="HQ"
            )
            n_resampled = 0
            for resampled in _resample(blocks, resampler):
                n_resampled += len(resampled)
                if len(resampled):
                    yield resampled
            if n_resampled == 0:
                raise InputError(
                    f"{self._file}: is too short: less than one sample at {sample_rate_hz} Hz",
                    stage="decode",
                )

    def _checked(self, reader: Reader) -> Iterator[NDArray[np.float32]]:
        """The reader's blocks at the file's own rate, measured, and refused if they are broken."""
        n_decoded = 0
        rate = reader.sample_rate_hz
        try:
            for block in reader.blocks(_block_n_frames(reader)):
                low, high = float(block.min()), float(block.max())
                if not (np.isfinite(low) and np.isfinite(high)):
                    raise InputError(f"{self._file}: holds NaN or infinite samples", stage="decode")
                self.peak = max(self.peak, high, -low)
                n_decoded += len(block)
                self.duration_s = n_decoded / rate
                yield block
        except BrokenStreamError as error:
            after = f" after {self.duration_s:.1f} s" if n_decoded else ""
            message = f"{self._file}: cannot be decoded{after}: {error}"
            raise InputError(message, stage="decode") from error
        if n_decoded == 0:
            raise InputError(f"{self._file}: holds no samples", stage="decode")
        if (
            reader.trusts_header
            and reader.n_frames is not None
            and reader.n_frames - n_decoded > _SLACK_S * rate
        ):
            raise InputError(
                f"{self._file}: is truncated: {self.duration_s:.1f} s of "
                f"{reader.n_frames / rate:.1f} s are there",
                stage="decode",
            )


def decode(file: Path, sample_rate_hz: int) -> Decoding:
    """Decode a file block by block: mono, float32, full scale 1, at ``sample_rate_hz``.

    The file is opened when the first block is asked for. Blocks are about 4 s long.

    Raises (while iterating):
        InputError: stage ``open``: no such file, no permission, not audio. Stage ``decode``:
            damaged or truncated, no samples, NaN or infinite samples, an implausible rate.
    """
    return Decoding(file, sample_rate_hz)


def load(file: Path, sample_rate_hz: int) -> NDArray[np.float32]:
    """Decode a whole file to its waveform (N,), mono float32 at ``sample_rate_hz``.

    Raises:
        InputError: as :func:`decode`.
    """
    return np.concatenate(list(decode(file, sample_rate_hz)))


def probe(file: Path) -> FileInfo:
    """Length, rate and channels of a file by its header, without decoding it.

    Raises:
        InputError: stage ``open`` or ``decode``, as :func:`decode`.
    """
    with closing(_open(file)) as reader:
        return FileInfo(
            duration_s=None if reader.n_frames is None else reader.n_frames / reader.sample_rate_hz,
            sample_rate_hz=reader.sample_rate_hz,
            n_channels=reader.n_channels,
        )


def _resample(
    blocks: Iterator[NDArray[np.float32]], resampler: soxr.ResampleStream
) -> Iterator[NDArray[np.float32]]:
    for block in blocks:
        yield resampler.resample_chunk(block)
    yield resampler.resample_chunk(np.zeros(0, np.float32), last=True)


def _open(file: Path) -> Reader:
    check_is_readable_file(file)
    try:
        reader: Reader = SoundFileReader(file)
    except UnreadableError:
        # PyAV takes as long to import as everything else here; most libraries never need it.
        from loev_cli.audio.ffmpeg import FfmpegReader

        try:
            reader = FfmpegReader(file)
        except UnreadableError as error:
            raise InputError(f"{file}: is not audio that can be read", stage="open") from error
    if reader.sample_rate_hz not in _PLAUSIBLE_RATES_HZ or reader.n_channels < 1:
        reader.close()
        raise InputError(
            f"{file}: its header claims {reader.n_channels} channels at "
            f"{reader.sample_rate_hz} Hz, which is no audio",
            stage="decode",
        )
    return reader


def check_is_readable_file(file: Path) -> None:
    """Reject what would fail obscurely, or block for ever (a pipe named ``x.wav``).

    Raises:
        InputError: stage ``open``.
    """
    try:
        status = file.stat()
        if stat.S_ISDIR(status.st_mode):
            os.scandir(file).close()  # says why, if the folder cannot be read
            raise InputError(f"{file}: is a folder", stage="open")
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"{file}: is not a regular file", stage="open")
        file.open("rb").close()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{file}: {reason}", stage="open") from error
    if status.st_size == 0:
        raise InputError(f"{file}: is empty (0 bytes)", stage="open")


def _block_n_frames(reader: Reader) -> int:
    by_time = int(_BLOCK_S * reader.sample_rate_hz)
    return max(1, min(by_time, _BLOCK_N_VALUES // reader.n_channels))
