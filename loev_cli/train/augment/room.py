"""Reverberation and onset smearing: blur (onsets only) and reverb."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from loev_cli.model.frontend import EPSILON_POWER, Features, FrontendConfig
from loev_cli.train.augment.base import (
    Augmentation,
    column,
    fast_length,
    random_phasors,
    setting,
)

_NATS_OF_RT60 = 6 * math.log(10)  # power falls by 60 dB


@dataclass(frozen=True)
class Blur(Augmentation):
    """Onsets smeared over up to ``width_s``, as reverberation and slow attacks do.

    It also hides the width of an onset, which a time stretch made by interpolation changes and
    which would otherwise give the stretch away without listening to the rhythm. A stretched
    waveform keeps its onsets' width and needs none: it exists on features only.
    """

    p: float = setting(0.7, 0, 1)
    width_s: float = setting(0.05, 0, 10)

    name: ClassVar[str] = "blur"
    on_waveforms_too: ClassVar[bool] = False

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """The width in seconds."""
        return rng.uniform(0, self.width_s, 1)

    def on_features(
        self, views: Features, params: np.ndarray, seeds: np.ndarray, frontend: FrontendConfig
    ) -> Features:
        width = params[:, 0] * frontend.band_rate_hz + 1e-3
        n_taps = math.ceil(3 * self.width_s * frontend.band_rate_hz) + 1
        kernel = np.exp(-np.arange(n_taps) / width[:, None])
        kernel /= kernel.sum(axis=1, keepdims=True)
        power = F.pad(views.bands.exp(), (n_taps - 1, 0), mode="replicate")
        return views._replace(bands=_decay(power, kernel).clamp(min=EPSILON_POWER).log())


@dataclass(frozen=True)
class Reverb(Augmentation):
    """A room: an echo of exponentially decaying noise, ``wet`` of the power.

    ``rt60_s`` is the time in which the echo falls by 60 dB. On features their power is smeared by
    the same decay.
    """

    p: float = setting(0.3, 0, 1)
    rt60_s: tuple[float, float] = setting((0.1, 1.0), 0.01, 10)
    wet: tuple[float, float] = setting((0.1, 0.6), 0, 1)

    name: ClassVar[str] = "reverb"

    def on_waveforms(
        self, x: Tensor, params: np.ndarray, seeds: np.ndarray, sample_rate_hz: int
    ) -> Tensor:
        n_samples = x.shape[1]
        # As many taps as the config allows, whatever was drawn: rows do not depend on each other.
        n_taps = min(n_samples, math.ceil(self.rt60_s[1] * sample_rate_hz))
        n_noise = fast_length(n_taps)
        spectrum = random_phasors(seeds, n_noise // 2 + 1, x.device)
        noise = torch.fft.irfft(spectrum, n_noise)[:, :n_taps]
        time_s = torch.arange(n_taps, device=x.device) / sample_rate_hz
        echo = noise * torch.exp(column(-_NATS_OF_RT60 / 2 / params[:, 0], x) * time_s)
        echo = echo / echo.square().sum(dim=1, keepdim=True).sqrt()
        wet = column(params[:, 1], x)
        echo = echo * wet.sqrt()
        echo[:, :1] += (1 - wet).sqrt()
        size = fast_length(n_samples + n_taps)
        product = torch.fft.rfft(x, size) * torch.fft.rfft(echo, size)
        changed: Tensor = torch.fft.irfft(product, size)
        return changed[:, :n_samples]

    def on_features(
        self, views: Features, params: np.ndarray, seeds: np.ndarray, frontend: FrontendConfig
    ) -> Features:
        rt60_s, wet = params[:, :1], params[:, 1:]
        spectrum_rate_hz = frontend.band_rate_hz / frontend.bands_per_frame
        changed = []
        for x, rate_hz in zip(views, (spectrum_rate_hz, frontend.band_rate_hz), strict=True):
            n_taps = min(x.shape[2], math.ceil(self.rt60_s[1] * rate_hz) + 1)
            kernel = np.exp(-_NATS_OF_RT60 * np.arange(n_taps) / rate_hz / rt60_s)
            kernel *= wet / kernel.sum(axis=1, keepdims=True)
            kernel[:, 0] += 1 - wet[:, 0]
            power = F.pad(x.exp(), (n_taps - 1, 0))  # silence before the view, as on waveforms
            changed.append(_decay(power, kernel).clamp(min=EPSILON_POWER).log())
        return Features(*changed)


def _decay(power: Tensor, kernel: np.ndarray) -> Tensor:
    """Each row (R, C, T + n_taps - 1) through its own kernel (R, n_taps), the latest tap first."""
    # Rows become the channels of a grouped convolution over bins.
    oldest_first = torch.as_tensor(
        kernel[:, None, ::-1].copy(), dtype=torch.float32, device=power.device
    )
    return F.conv1d(power.transpose(0, 1), oldest_first, groups=len(kernel)).transpose(0, 1)
