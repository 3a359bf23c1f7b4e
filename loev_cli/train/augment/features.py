"""Augmentations on log-frequency features: thousands of times cheaper than on waveforms.

Pitch and tempo decide where a view is cut from a track: a shift slices the spectrum's axis, a
stretch reads time faster or slower (:func:`cut_view`). The rest, the base chain that every
subspace is to ignore, changes whole batches of views. Gain and polarity need no code: the
features hold power, and the encoder measures it against the window's own mean.

Random numbers come from the generator that is passed in and from nowhere else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from loev_cli.model.frontend import Features, FrontendConfig
from loev_cli.train.augment.config import (
    AugmentationsConfig,
    BlurConfig,
    CompressionConfig,
    EqConfig,
    NoiseConfig,
)

_NATS_PER_DB = np.log(10) / 10


@dataclass(frozen=True)
class Cut:
    """Where a view comes from.

    Attributes:
        start_frame: first spectrum frame in the track, may be fractional.
        rate: track frames per view frame; 2 plays twice as fast.
        shift_bins: spectrum bins up (positive: the view sounds higher).
    """

    start_frame: float
    rate: float
    shift_bins: int


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
    low = config.margin_bins - cut.shift_bins
    if not 0 <= low <= 2 * config.margin_bins:
        raise ValueError(f"a shift of {cut.shift_bins} bins leaves the margins")
    first = int(cut.start_frame)
    # One more frame than is read: the right neighbour of the last interpolation.
    last = first + int(cut.start_frame - first + cut.rate * n_frames) + 2
    rows = track[first:last] if last <= len(track) else track[np.arange(first, last) % len(track)]
    bands = rows[:, config.n_bins_wide :].reshape(-1, config.n_bands)
    offset = cut.start_frame - first
    per_frame = config.bands_per_frame
    return (
        _resample(rows[:, low : low + config.n_bins], offset, cut.rate, n_frames),
        _resample(bands, offset * per_frame, cut.rate, n_frames * per_frame),
    )


def _resample(x: np.ndarray, start: float, rate: float, n_out: int) -> np.ndarray:
    """Rows start, start + rate, ... of x (T, C), linearly interpolated: (C, n_out) float32."""
    position = start + rate * np.arange(n_out)
    left = position.astype(np.int64)
    fraction = (position - left).astype(np.float32)
    columns = np.ascontiguousarray(x[: left[-1] + 2].T, dtype=np.float32)
    out = np.take(columns, left, axis=1)
    out += (np.take(columns, left + 1, axis=1) - out) * fraction
    return out


class FeatureAugmentation(Protocol):
    """Changes each of R views at random."""

    def __call__(self, views: Features, rng: np.random.Generator) -> Features: ...


def base_chain(
    config: AugmentationsConfig, frontend: FrontendConfig
) -> Sequence[FeatureAugmentation]:
    """The augmentations that every subspace ignores, in the order they are applied."""
    return (
        Blur(config.blur, frontend),
        Compression(config.compression, frontend),
        Eq(config.eq, frontend),
        Noise(config.noise, frontend),
    )


class Eq:
    """A smooth random gain over log-frequency, the same on spectrum and bands."""

    def __init__(self, config: EqConfig, frontend: FrontendConfig) -> None:
        self.config = config
        self.spectrum_octave, self.band_octave = _octaves(frontend)

    def __call__(self, views: Features, rng: np.random.Generator) -> Features:
        n_views = len(views.spectrum)
        knots = np.linspace(0, 8, self.config.n_knots)
        curves = rng.uniform(-1, 1, (n_views, self.config.n_knots)) * self.config.gain_db
        curves *= rng.random((n_views, 1)) < self.config.p
        return Features(
            views.spectrum + _curves(curves, knots, self.spectrum_octave),
            views.bands + _curves(curves, knots, self.band_octave),
        )


class Noise:
    """Stationary noise, its power a straight line over log-frequency, added as power."""

    def __init__(self, config: NoiseConfig, frontend: FrontendConfig) -> None:
        self.config = config
        self.spectrum_octave, self.band_octave = _octaves(frontend)

    def __call__(self, views: Features, rng: np.random.Generator) -> Features:
        n_views = len(views.spectrum)
        snr_db = rng.uniform(*self.config.snr_db, n_views)
        slope_db = rng.uniform(*self.config.slope_db, n_views)
        noisy = np.flatnonzero(rng.random(n_views) < self.config.p)
        if not len(noisy):
            return views
        spectrum, bands = views.spectrum.clone(), views.bands.clone()
        for x, octave in ((spectrum, self.spectrum_octave), (bands, self.band_octave)):
            tilt_db = slope_db[noisy, None] * (octave - octave.mean())
            level = torch.logsumexp(x[noisy], dim=(1, 2), keepdim=True) - np.log(x[0].numel())
            noise = level + _column((tilt_db - snr_db[noisy, None]) * _NATS_PER_DB)
            x[noisy] = torch.logaddexp(x[noisy], noise)
        return Features(spectrum, bands)


class Compression:
    """Scales how far each moment's loudness is from the view's average."""

    def __init__(self, config: CompressionConfig, frontend: FrontendConfig) -> None:
        self.config = config
        self.bands_per_frame = frontend.bands_per_frame

    def __call__(self, views: Features, rng: np.random.Generator) -> Features:
        n_views = len(views.spectrum)
        ratio = rng.uniform(*self.config.ratio, n_views)
        ratio[rng.random(n_views) >= self.config.p] = 1.0
        level = views.bands.logsumexp(dim=1, keepdim=True)  # (R, 1, 4 T)
        change = (level - level.mean(dim=2, keepdim=True)) * _column(ratio[:, None] - 1)
        return Features(
            views.spectrum + F.avg_pool1d(change, self.bands_per_frame), views.bands + change
        )


class Blur:
    """Each band's power runs through an exponential decay of random length."""

    def __init__(self, config: BlurConfig, frontend: FrontendConfig) -> None:
        self.config = config
        self.max_frames = config.width_s * frontend.band_rate_hz
        self.n_taps = int(np.ceil(3 * self.max_frames)) + 1

    def __call__(self, views: Features, rng: np.random.Generator) -> Features:
        n_views = len(views.bands)
        width = rng.uniform(0, self.max_frames, (n_views, 1)) + 1e-3
        width[rng.random(n_views) >= self.config.p] = 1e-3
        decay = np.exp(-np.arange(self.n_taps)[::-1] / width)  # oldest first
        kernel = torch.tensor(decay / decay.sum(axis=1, keepdims=True), dtype=torch.float32)
        power = F.pad(views.bands.exp(), (self.n_taps - 1, 0), mode="replicate")
        # One kernel per view: views become the channels of a grouped convolution over bands.
        smeared = F.conv1d(power.transpose(0, 1), kernel[:, None], groups=n_views)
        return views._replace(bands=smeared.transpose(0, 1).clamp(min=1e-12).log())


def _octaves(frontend: FrontendConfig) -> tuple[np.ndarray, np.ndarray]:
    """Octaves above the lowest bin, of every spectrum bin (F,) and every band (S,)."""
    bins = np.arange(frontend.n_bins) + frontend.margin_bins
    first_band_octave = frontend.n_octaves - frontend.n_band_octaves
    bands = (np.arange(frontend.n_bands) + 0.5) / frontend.bands_per_octave + first_band_octave
    return bins / frontend.bins_per_octave, bands


def _curves(curves_db: np.ndarray, knots: np.ndarray, octave: np.ndarray) -> Tensor:
    """Gains in dB at the knots (R, n_knots) -> log power to add (R, len(octave), 1)."""
    curves = np.stack([np.interp(octave, knots, curve) for curve in curves_db])
    return _column(curves * _NATS_PER_DB)


def _column(values: np.ndarray) -> Tensor:
    """(R, C) -> (R, C, 1), to broadcast over time."""
    return torch.tensor(values, dtype=torch.float32).unsqueeze(2)
