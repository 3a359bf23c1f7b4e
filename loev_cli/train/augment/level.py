"""How loud, and how loudness is shaped: gain, polarity, compression, distortion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from loev_cli.model.frontend import EPSILON_POWER, Features, FrontendConfig
from loev_cli.train.augment.base import Augmentation, column, setting

_ENVELOPE_S = 0.016  # a band frame of the log-frequency frontend


@dataclass(frozen=True)
class Gain(Augmentation):
    """The whole view louder or softer by ``gain_db``.

    It changes nothing on features: an encoder measures their power against the window's mean.
    """

    gain_db: tuple[float, float] = setting((-15.0, 5.0), -60, 60)

    name: ClassVar[str] = "gain"
    on_features_too: ClassVar[bool] = False

    def on_waveforms(
        self, x: Tensor, params: np.ndarray, seeds: np.ndarray, sample_rate_hz: int
    ) -> Tensor:
        return x * column(10 ** (params[:, 0] / 20), x)


@dataclass(frozen=True)
class Polarity(Augmentation):
    """Polarity inversion with probability 0.5. No effect on features: power has no sign."""

    p: float = setting(1.0, 0, 1)

    name: ClassVar[str] = "polarity"
    on_features_too: ClassVar[bool] = False

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """The sign."""
        return rng.choice([-1.0, 1.0], size=1)

    def on_waveforms(
        self, x: Tensor, params: np.ndarray, seeds: np.ndarray, sample_rate_hz: int
    ) -> Tensor:
        return x * column(params[:, 0], x)


@dataclass(frozen=True)
class Compression(Augmentation):
    """Scales how far each moment's loudness is from the view's average.

    ``ratio`` multiplies the distance in dB: below 1 is compressed, above 1 expanded.
    """

    ratio: tuple[float, float] = setting((0.7, 1.1), 0, 4)

    name: ClassVar[str] = "compression"

    def on_waveforms(
        self, x: Tensor, params: np.ndarray, seeds: np.ndarray, sample_rate_hz: int
    ) -> Tensor:
        hop = round(_ENVELOPE_S * sample_rate_hz)
        power = F.avg_pool1d(x.square().unsqueeze(1), hop, ceil_mode=True)  # (R, 1, ceil(N / hop))
        level = torch.log(power + EPSILON_POWER)
        half_nats = (level - level.mean(dim=2, keepdim=True)) * column(params - 1, x) / 2
        # From the middle of one hop to the middle of the next in a straight line.
        gain = F.interpolate(half_nats, scale_factor=hop, mode="linear").squeeze(1).exp_()
        return gain[:, : x.shape[1]].mul_(x)

    def on_features(
        self, views: Features, params: np.ndarray, seeds: np.ndarray, frontend: FrontendConfig
    ) -> Features:
        level = views.bands.logsumexp(dim=1, keepdim=True)  # (R, 1, 4 T)
        change = (level - level.mean(dim=2, keepdim=True)) * column(params - 1, level)
        return Features(
            views.spectrum + F.avg_pool1d(change, frontend.bands_per_frame), views.bands + change
        )


@dataclass(frozen=True)
class Distortion(Augmentation):
    """Soft clipping by tanh; the view keeps its level.

    ``drive_db`` is how far the view's RMS lies above the level at which tanh bends (1.0). Not on
    features: the overtones it adds depend on phases that features do not hold.
    """

    p: float = setting(0.2, 0, 1)
    drive_db: tuple[float, float] = setting((-15.0, 3.0), -60, 60)

    name: ClassVar[str] = "distortion"
    on_features_too: ClassVar[bool] = False

    def on_waveforms(
        self, x: Tensor, params: np.ndarray, seeds: np.ndarray, sample_rate_hz: int
    ) -> Tensor:
        rms = root_mean_square(x)
        bent = torch.tanh(x * (column(10 ** (params[:, 0] / 20), x) / rms))
        return bent * (rms / root_mean_square(bent))


def root_mean_square(x: Tensor) -> Tensor:
    """(R, N) -> (R, 1), above 0 also in silence."""
    return (x.square().mean(dim=1, keepdim=True) + EPSILON_POWER).sqrt()
