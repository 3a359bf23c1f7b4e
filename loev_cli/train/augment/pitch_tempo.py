"""Pitch and tempo, and how both are realized where a view is cut from a track.

On log-frequency features that is :func:`cut_view`, thousands of times cheaper than on waveforms: a
shift slices the spectrum's axis, between bins if need be, a stretch reads time faster or slower.
On waveforms it is :func:`loev_cli.train.augment.retime.retime`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from loev_cli.model.frontend import FrontendConfig
from loev_cli.train.augment.base import Augmentation, setting

_LEAST_SEMITONES_APART = 0.5


@dataclass(frozen=True)
class Pitch(Augmentation):
    """Transposition by ``semitones``, in steps of ``step`` (0: any fraction), all equally likely.

    A range of 12 or more has draws an octave apart, negatives with the same pitch classes.
    """

    semitones: tuple[float, float] = setting((-4.0, 4.0), -24, 24)
    step: float = setting(1.0, 0, 24)

    name: ClassVar[str] = "pitch"
    is_cut: ClassVar[bool] = True

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """The semitones."""
        low, high = self.semitones
        if self.step == 0:
            return np.array([rng.uniform(low, high)])
        # Multiples of the step, so that 0 is among them; from the low end if none lies within.
        first, last = math.ceil(low / self.step - 1e-9), math.floor(high / self.step + 1e-9)
        if first > last:
            return np.array([low])
        return np.array([rng.integers(first, last + 1) * self.step])

    def differ(self, a: np.ndarray, b: np.ndarray) -> bool:
        return bool(abs(a[0] - b[0]) >= max(self.step, _LEAST_SEMITONES_APART) - 1e-9)


@dataclass(frozen=True)
class Tempo(Augmentation):
    """Time stretch; ``rate`` 2 plays twice as fast. Draws differ by ``min_gap`` (0.05: 5 %)."""

    rate: tuple[float, float] = setting((0.7, 1.3), 0.25, 4)
    min_gap: float = setting(0.05, 0, 4)

    name: ClassVar[str] = "tempo"
    is_cut: ClassVar[bool] = True

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """The rate, all ratios equally likely."""
        low, high = self.rate
        return np.array([math.exp(rng.uniform(math.log(low), math.log(high)))])

    def differ(self, a: np.ndarray, b: np.ndarray) -> bool:
        return bool(abs(math.log(a[0] / b[0])) >= math.log1p(self.min_gap))


def cut_view(
    track: np.ndarray,
    n_frames: int,
    config: FrontendConfig,
    *,
    start_frame: float,
    rate: float = 1.0,
    shift_bins: float = 0.0,
) -> tuple[np.ndarray, np.ndarray]:
    """One view of a track.

    Args:
        track: (T_track, F + 2 margins + 4 S), log power: per spectrum frame its bins, then the
            four band frames that lie within it.
        n_frames: T of the view. Beyond the end the track repeats.
        start_frame: first spectrum frame in the track, may be fractional.
        rate: track frames per view frame; 2 plays twice as fast.
        shift_bins: spectrum bins up (positive: the view sounds higher), may be fractional.

    Returns:
        (F, T) and (S, 4 T), float32.
    """
    lowest = config.margin_bins - shift_bins
    if not 0 <= lowest <= 2 * config.margin_bins:
        raise ValueError(f"a shift of {shift_bins} bins exceeds the margins")
    low = int(lowest)
    first = int(start_frame)
    # One more frame than is read: the right neighbor of the last interpolation.
    last = first + int(start_frame - first + rate * n_frames) + 2
    rows = track[first:last] if last <= len(track) else track[np.arange(first, last) % len(track)]
    bands = rows[:, config.n_bins_wide :].reshape(-1, config.n_bands)
    offset = start_frame - first
    per_frame = config.bands_per_frame
    if lowest == low:
        spectrum = rows[:, low : low + config.n_bins]
    else:
        spectrum = _between_bins(rows[:, : config.n_bins_wide], low, lowest - low, config.n_bins)
    return (
        _resample(spectrum, offset, rate, n_frames),
        _resample(bands, offset * per_frame, rate, n_frames * per_frame),
    )


def _between_bins(x: np.ndarray, low: int, fraction: float, n_bins: int) -> np.ndarray:
    """Columns low + fraction, low + 1 + fraction, ... of x (T, F_wide): (T, n_bins) float32.

    Cubic convolution (Keys 1981). The kernels' main lobe is close to a parabola in log power: a
    cubic keeps the height of a peak to 1.3 dB, a straight line between bins takes up to 4 dB off.
    """
    t = fraction
    weights = (
        (-t + 2 * t**2 - t**3) / 2,
        (2 - 5 * t**2 + 3 * t**3) / 2,
        (t + 4 * t**2 - 3 * t**3) / 2,
        (-(t**2) + t**3) / 2,
    )
    columns = np.arange(low - 1, low + n_bins + 2).clip(0, x.shape[1] - 1)
    wide = np.asarray(x[:, columns], dtype=np.float32)
    out = np.float32(weights[0]) * wide[:, :n_bins]
    for i in (1, 2, 3):
        out += np.float32(weights[i]) * wide[:, i : i + n_bins]
    return out


def _resample(x: np.ndarray, start: float, rate: float, n_out: int) -> np.ndarray:
    """Rows start, start + rate, ... of x (T, C), linearly interpolated: (C, n_out) float32."""
    position = start + rate * np.arange(n_out)
    left = position.astype(np.int64)
    fraction = (position - left).astype(np.float32)
    columns = np.ascontiguousarray(x[: left[-1] + 2].T, dtype=np.float32)
    out = np.take(columns, left, axis=1)
    out += (np.take(columns, left + 1, axis=1) - out) * fraction
    return out
