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
from typing import Any

import numpy as np
import soxr
from numpy.typing import ArrayLike, NDArray

from loev_cli.audio.opening import readers
from loev_cli.audio.readers import BrokenStreamError, Reader, UnreadableError, mix_to_mono
from loev_cli.errors import InputError, UsageError

# Bounds of what one block may hold, whatever rate and channels a header claims.
_BLOCK_S = 4.0
_BLOCK_N_VALUES = 2**21
# Up to what FFmpeg makes of the highest DSD rate.
PLAUSIBLE_RATES_HZ = range(1_000, 3_072_001)
_MAX_N_CHANNELS = 1024  # libsndfile and FFmpeg decode no more
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
    has_channels = 1 <= reader.n_channels <= _MAX_N_CHANNELS
    if reader.sample_rate_hz not in PLAUSIBLE_RATES_HZ or not has_channels:
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


class ArrayDecoding:
    """What :class:`loev_cli.audio.Decoding` is, of a waveform in memory.

    Args:
        waveform: (channels, n) of floats, as :func:`as_waveform` gives it.
        from_hz: its rate.
        to_hz: the wanted rate.
        name: what errors call it.

    Attributes:
        peak: highest absolute sample so far of the mono mix, before resampling; full scale is 1.
        duration_s: length in seconds.

    Raises (while iterating):
        UsageError: NaN or infinite samples, or none at the wanted rate.
    """

    def __init__(
        self, waveform: NDArray[np.floating[Any]], from_hz: float, to_hz: float, *, name: str
    ) -> None:
        self.peak = 0.0
        self.duration_s = waveform.shape[1] / from_hz
        self._waveform = waveform
        self._from_hz = from_hz
        self._to_hz = to_hz
        self._name = name

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        n_given = 0
        for block in resampled(self._mixed(), self._from_hz, self._to_hz):
            n_given += len(block)
            yield block
        if n_given == 0:
            raise UsageError(
                f"{self._name} is too short: less than one sample at {self._to_hz:g} Hz"
            )

    def _mixed(self) -> Iterator[NDArray[np.float32]]:
        n_channels, n_samples = self._waveform.shape
        step = block_n_frames(self._from_hz, n_channels)
        for start in range(0, n_samples, step):
            frames = self._waveform[:, start : start + step].T
            with np.errstate(over="ignore"):  # beyond float32: infinite, and refused below
                block = mix_to_mono(np.asarray(frames, np.float32))
            low, high = float(block.min()), float(block.max())
            if not (np.isfinite(low) and np.isfinite(high)):
                raise UsageError(f"{self._name} contains NaN or infinite samples")
            self.peak = max(self.peak, high, -low)
            yield block


def as_waveform(samples: ArrayLike, *, name: str) -> NDArray[np.floating[Any]]:
    """Samples (n,) or (channels, n) -> (channels, n), of floats with full scale 1. No copy is made.

    Args:
        name: what errors call them.

    Raises:
        UsageError: another shape, no samples, or not floats.
    """
    try:
        waveform = np.asarray(samples)
    except (TypeError, ValueError, RuntimeError) as error:  # ragged lists, tensors on a GPU
        reason = str(error).strip().splitlines()[0]
        raise UsageError(f"{name} is not an array of samples: {reason}") from error
    if waveform.ndim not in (1, 2):
        raise UsageError(
            f"{name} has shape {waveform.shape}", hint="expected (n,) or (channels, n)"
        )
    if waveform.size == 0:
        raise UsageError(f"{name} contains no samples: its shape is {waveform.shape}")
    if not np.issubdtype(waveform.dtype, np.floating):
        is_pcm = np.issubdtype(waveform.dtype, np.signedinteger)
        scale = f"divide by {np.iinfo(waveform.dtype).max + 1}; " if is_pcm else ""
        raise UsageError(
            f"{name} is of type {waveform.dtype}", hint=f"{scale}expected floats, full scale 1"
        )
    if waveform.ndim == 2 and waveform.shape[0] > waveform.shape[1]:
        raise UsageError(
            f"{name} has more channels than samples: its shape is {waveform.shape}",
            hint="expected (channels, n); transpose (n, channels)",
        )
    return waveform.reshape(-1, waveform.shape[-1])


def checked_rate(sample_rate_hz: float, *, name: str) -> float:
    """The rate, if it can be that of audio.

    Raises:
        UsageError: it cannot.
    """
    low, high = PLAUSIBLE_RATES_HZ[0], PLAUSIBLE_RATES_HZ[-1]
    try:
        rate_hz = float(sample_rate_hz)
    except (TypeError, ValueError):
        rate_hz = float("nan")
    if not low <= rate_hz <= high:  # false for NaN too
        raise UsageError(
            f"{name} has a sample rate of {sample_rate_hz!r} Hz", hint=f"expected {low} to {high}"
        )
    return rate_hz
