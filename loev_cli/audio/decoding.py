"""One file -> mono float32 blocks at the model's rate, in bounded memory at any length.

file -> readers of its parts -> mean of channels -> checks -> soxr HQ -> blocks
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soxr
from numpy.typing import NDArray

from loev_cli.audio.opening import readers
from loev_cli.audio.readers import BrokenStreamError, Reader, UnreadableError
from loev_cli.errors import InputError

# Bounds of what one block may hold, whatever rate and channels a header claims.
_BLOCK_S = 4.0
_BLOCK_N_VALUES = 2**21
# Up to what FFmpeg makes of the highest DSD rate.
PLAUSIBLE_RATES_HZ = range(1_000, 3_072_001)
# A track that is never above -60 dBFS is silent.
SILENCE_PEAK = 10 ** (-60 / 20)
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
        warnings: what was skipped or wrong in the file so far, a line each.
    """

    def __init__(self, file: Path, sample_rate_hz: int) -> None:
        self.peak = 0.0
        self.duration_s = 0.0
        self.warnings: list[str] = []
        self._file = file
        self._blocks = self._decode(sample_rate_hz)

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        return self._blocks

    def _decode(self, sample_rate_hz: int) -> Iterator[NDArray[np.float32]]:
        check_is_readable_file(self._file)
        n_given = 0
        with _naming(self._file, self):
            for reader in readers(self._file, self.warnings):
                with closing(reader):
                    _check_plausible(self._file, reader)
                    for block in resampled(
                        self._checked(reader), reader.sample_rate_hz, sample_rate_hz
                    ):
                        n_given += len(block)
                        yield block
        if self.duration_s == 0:
            raise InputError(f"{self._file}: contains no samples", stage="decode")
        if n_given == 0:
            raise InputError(
                f"{self._file}: is too short: less than one sample at {sample_rate_hz} Hz",
                stage="decode",
            )

    def _checked(self, reader: Reader) -> Iterator[NDArray[np.float32]]:
        """The reader's blocks at the file's own rate, measured, and refused if they are broken."""
        n_decoded, before_s = 0, self.duration_s
        rate = reader.sample_rate_hz
        for block in reader.blocks(block_n_frames(reader.sample_rate_hz, reader.n_channels)):
            low, high = float(block.min()), float(block.max())
            if not (np.isfinite(low) and np.isfinite(high)):
                raise InputError(f"{self._file}: contains NaN or infinite samples", stage="decode")
            self.peak = max(self.peak, high, -low)
            n_decoded += len(block)
            self.duration_s = before_s + n_decoded / rate
            yield block
        n_frames = reader.n_frames or 0
        if reader.trusts_header and n_frames - n_decoded > _SLACK_S * rate:
            raise InputError(
                f"{self._file}: is truncated: {n_decoded / rate:.1f} s of "
                f"{n_frames / rate:.1f} s are there",
                stage="decode",
            )


@contextlib.contextmanager
def _naming(file: Path, decoding: Decoding | None = None) -> Iterator[None]:
    """Readers' errors as those of the file."""
    try:
        yield
    except UnreadableError as error:
        message = f"{file}: unsupported or unreadable audio format"
        raise InputError(message, stage="open") from error
    except BrokenStreamError as error:
        after = f" after {decoding.duration_s:.1f} s" if decoding and decoding.duration_s else ""
        message = f"{file}: cannot be decoded{after}: {error}"
        raise InputError(message, stage="decode") from error


def decode(file: str | os.PathLike[str], sample_rate_hz: int) -> Decoding:
    """Decode a file block by block: mono, float32, full scale 1, at ``sample_rate_hz``.

    The file is opened when the first block is asked for. Blocks are about 4 s long.

    Raises (while iterating):
        InputError: stage ``open``: no such file, no permission, not audio. Stage ``decode``:
            damaged or truncated, no samples, NaN or infinite samples, an implausible rate.
    """
    return Decoding(Path(file), sample_rate_hz)


def load(file: str | os.PathLike[str], sample_rate_hz: int) -> NDArray[np.float32]:
    """Decode a whole file to its waveform (N,), mono float32 at ``sample_rate_hz``.

    Raises:
        InputError: as :func:`decode`.
    """
    return np.concatenate(list(decode(file, sample_rate_hz)))


def probe(file: str | os.PathLike[str]) -> FileInfo:
    """Length, rate and channels of a file by its headers, without decoding it.

    Raises:
        InputError: stage ``open`` or ``decode``, as :func:`decode`.
    """
    file = Path(file)
    check_is_readable_file(file)
    first: Reader | None = None
    duration_s: float | None = 0.0
    with _naming(file):
        for reader in readers(file, []):
            with closing(reader):
                _check_plausible(file, reader)
                first = first or reader
                if reader.n_frames is None or duration_s is None:
                    duration_s = None
                else:
                    duration_s += reader.n_frames / reader.sample_rate_hz
    if first is None:
        raise InputError(f"{file}: contains no samples", stage="decode")
    return FileInfo(duration_s, first.sample_rate_hz, first.n_channels)


def resampled(
    blocks: Iterable[NDArray[np.float32]], from_hz: float, to_hz: float
) -> Iterator[NDArray[np.float32]]:
    """Mono blocks (N,) at one rate -> mono blocks at another, none of them empty; soxr HQ."""
    if from_hz == to_hz:
        yield from blocks
        return
    resampler = soxr.ResampleStream(from_hz, to_hz, 1, dtype="float32", quality="HQ")
    for block in blocks:
        if len(out := resampler.resample_chunk(block)):
            yield out
    if len(out := resampler.resample_chunk(np.zeros(0, np.float32), last=True)):
        yield out


def _check_plausible(file: Path, reader: Reader) -> None:
    if reader.sample_rate_hz not in PLAUSIBLE_RATES_HZ or reader.n_channels < 1:
        raise InputError(
            f"{file}: not a valid audio header: {reader.n_channels} channels at "
            f"{reader.sample_rate_hz} Hz",
            stage="decode",
        )


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


def block_n_frames(sample_rate_hz: float, n_channels: int) -> int:
    """How many samples per channel are read at a time."""
    return max(1, min(int(_BLOCK_S * sample_rate_hz), _BLOCK_N_VALUES // n_channels))
