"""Pitch and tempo on log-frequency features: thousands of times cheaper than on waveforms.

They decide where a view is cut from a track: a shift slices the spectrum's axis, between bins if
need be, a stretch reads time faster or slower.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from loev_cli.model.frontend import FrontendConfig


@dataclass(frozen=True)
class Cut:
    """Where a view comes from.

    Attributes:
        start_frame: first spectrum frame in the track, may be fractional.
        rate: track frames per view frame; 2 plays twice as fast.
        shift_bins: spectrum bins up (positive: the view sounds higher), may be fractional.
    """

    start_frame: float
    rate: float
    shift_bins: float


def cut_view(
    track: np.ndarray, cut: Cut, n_frames: int, config: FrontendConfig
) -> tuple[np.ndarray, np.ndarray]:
    """One view of a track.

    Args:
        track: (T_track, F + 2 margins + 4 S), log power: per spectrum frame its bins, then the
            four band frames that lie within it.
        n_frames: T of the view. Beyond the end the track repeats.

    Returns:
        (F, T) and (S, 4 T), float32.
    """
    lowest = config.margin_bins - cut.shift_bins
    if not 0 <= lowest <= 2 * config.margin_bins:
        raise ValueError(f"a shift of {cut.shift_bins} bins exceeds the margins")
    low = int(lowest)
    first = int(cut.start_frame)
    # One more frame than is read: the right neighbor of the last interpolation.
    last = first + int(cut.start_frame - first + cut.rate * n_frames) + 2
    rows = track[first:last] if last <= len(track) else track[np.arange(first, last) % len(track)]
    bands = rows[:, config.n_bins_wide :].reshape(-1, config.n_bands)
    offset = cut.start_frame - first
    per_frame = config.bands_per_frame
    if lowest == low:
        spectrum = rows[:, low : low + config.n_bins]
    else:
        spectrum = _between_bins(rows[:, : config.n_bins_wide], low, lowest - low, config.n_bins)
    return (
        _resample(spectrum, offset, cut.rate, n_frames),
        _resample(bands, offset * per_frame, cut.rate, n_frames * per_frame),
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
