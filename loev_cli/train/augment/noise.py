"""Coloured noise at a signal-to-noise ratio."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from loev_cli.model.frontend import Features, FrontendConfig
from loev_cli.train.augment.base import (
    NATS_PER_DB,
    Augmentation,
    bin_frequencies_hz,
    column,
    setting,
)
from loev_cli.train.augment.fourier import fast_length, random_phasors

_WHITE_SLOPE_DB = 3.0103  # twice the bandwidth, twice the power
_LOWEST_HZ = 40.0  # where the log-frequency axis ends; below, a steep slope would be all rumble


@dataclass(frozen=True)
class Noise(Augmentation):
    """Stationary noise, ``snr_db`` below the view.

    ``slope_db`` is how much more power the noise has in each octave than in the one below it:
    3 is white, 0 pink, -3 brown.
    """

    p: float = setting(0.4, 0, 1)
    snr_db: tuple[float, float] = setting((3.0, 30.0), -40, 120)
    slope_db: tuple[float, float] = setting((-6.0, 3.0), -24, 24)

    name: ClassVar[str] = "noise"
    param_names: ClassVar[tuple[str, ...]] = ("snr_db", "slope_db")

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        return np.array([rng.uniform(*self.snr_db), rng.uniform(*self.slope_db)])

    def on_waveforms(
        self, x: Tensor, params: np.ndarray, seeds: np.ndarray, sample_rate_hz: int
    ) -> Tensor:
        n_samples = x.shape[1]
        size = fast_length(n_samples)
        first = math.ceil(_LOWEST_HZ * size / sample_rate_hz)
        octave = torch.arange(first, size // 2 + 1, device=x.device).log2()
        slope_db = column(params[:, 1] - _WHITE_SLOPE_DB, x)
        tilt = (slope_db * (NATS_PER_DB / 2)) * (octave - octave[-1])
        spectrum = random_phasors(seeds, len(octave), x.device) * tilt.exp_()
        noise: Tensor = torch.fft.irfft(F.pad(spectrum, (first, 0)), size)
        noise = noise[:, :n_samples]
        ratio = column(10 ** (-params[:, 0] / 10), x)
        power = x.square().mean(dim=1, keepdim=True) * ratio
        return x + noise * (power / noise.square().mean(dim=1, keepdim=True)).sqrt()

    def on_features(
        self, views: Features, params: np.ndarray, seeds: np.ndarray, frontend: FrontendConfig
    ) -> Features:
        snr_db, slope_db = params[:, :1], params[:, 1:]
        changed = []
        for x, hz in zip(views, bin_frequencies_hz(frontend), strict=True):
            octave = np.log2(hz)
            tilt = 10 ** (slope_db * (octave - octave[-1]) / 10)
            share = tilt / tilt.mean(axis=1, keepdims=True) * 10 ** (-snr_db / 10)
            power = x.exp()
            level = power.mean(dim=(1, 2), keepdim=True)
            changed.append(power.add_(level * column(share, x)).log_())
        return Features(*changed)
