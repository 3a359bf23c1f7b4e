"""A waveform in memory -> mono float32 blocks at the model's rate, exactly as from a file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from loev_cli.audio.decoding import PLAUSIBLE_RATES_HZ, block_n_frames, resampled
from loev_cli.audio.readers import mix_to_mono
from loev_cli.errors import UsageError


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
