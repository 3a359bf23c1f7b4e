"""What passes at which frequency: eq and filter, each one curve of gain over frequency.

The curve is the augmentation; the waveform is multiplied by it in the frequency domain (zero
phase, so nothing is delayed), features get it added to their log power.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from loev_cli.model.frontend import EPSILON_POWER, Features, FrontendConfig
from loev_cli.train.augment.base import (
    NATS_PER_DB,
    Augmentation,
    bin_frequencies_hz,
    check_choices,
    column,
    fast_length,
    setting,
)

_LOWEST_HZ = 7351.69 / 2**8  # the log-frequency frontend's axis begins here
_N_OCTAVES = 8
_RING_S = 0.05  # room for what a filter rings after the view's end, or it would wrap around
_FLOOR_DB = -120.0

FILTER_KINDS = ("low-pass", "high-pass", "band-pass", "band-stop")


class _Curve(Augmentation):
    """An augmentation that is a gain over frequency."""

    def curve_db(self, params: np.ndarray, hz: np.ndarray) -> np.ndarray:
        """Gain of every row at every frequency, (R, len(hz)); hz above 0."""
        raise NotImplementedError

    def on_waveforms(
        self, x: Tensor, params: np.ndarray, seeds: np.ndarray, sample_rate_hz: int
    ) -> Tensor:
        n_samples = x.shape[1]
        size = fast_length(n_samples + round(_RING_S * sample_rate_hz))
        # Curves are smooth: evaluated on a coarse grid and read off it.
        hz = np.arange(size // 2 + 1) * (sample_rate_hz / size)
        hz[0] = hz[1]
        grid = np.geomspace(hz[0], hz[-1], 512)
        position = np.log(hz / hz[0]) / np.log(grid[1] / grid[0])
        left = np.minimum(position.astype(np.int64), len(grid) - 2)
        fraction = torch.as_tensor(position - left, dtype=torch.float32, device=x.device)
        index = torch.as_tensor(left, device=x.device)
        curve = 10 ** (np.maximum(self.curve_db(params, grid), _FLOOR_DB) / 20)
        amplitude = torch.as_tensor(curve, dtype=torch.float32, device=x.device)
        gain = torch.lerp(amplitude[:, index], amplitude[:, index + 1], fraction)
        changed: Tensor = torch.fft.irfft(torch.fft.rfft(x, size) * gain, size)
        return changed[:, :n_samples]

    def on_features(
        self, views: Features, params: np.ndarray, seeds: np.ndarray, frontend: FrontendConfig
    ) -> Features:
        changed = (
            (x + column(self.curve_db(params, hz) * NATS_PER_DB, x)).clamp(
                min=math.log(EPSILON_POWER)
            )
            for x, hz in zip(views, bin_frequencies_hz(frontend), strict=True)
        )
        return Features(*changed)


@dataclass(frozen=True)
class Eq(_Curve):
    """A smooth random curve over log-frequency, up to ``gain_db`` either way.

    Straight lines between ``n_knots`` knots, evenly spaced over the eight octaves above 29 Hz.
    """

    p: float = setting(0.8, 0, 1)
    gain_db: float = setting(6.0, 0, 60)
    n_knots: int = setting(6, 2, 64)

    name: ClassVar[str] = "eq"

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """A gain in dB for every knot."""
        return rng.uniform(-self.gain_db, self.gain_db, self.n_knots)

    def curve_db(self, params: np.ndarray, hz: np.ndarray) -> np.ndarray:
        octave = np.log2(hz / _LOWEST_HZ)
        knots = np.linspace(0, _N_OCTAVES, params.shape[1])
        return np.stack([np.interp(octave, knots, gains) for gains in params])


@dataclass(frozen=True)
class Filter(_Curve):
    """One of low-pass, high-pass, band-pass and band-stop, with the slopes of a Butterworth filter.

    Attributes:
        kinds: of which one is drawn; its number in :data:`FILTER_KINDS` is the first parameter.
        low_pass_hz: what lies above is removed.
        high_pass_hz: what lies below is removed.
        centre_hz: of the band that is kept or removed, and ``width_octaves`` its width.
        order: of the filter; 6 dB per octave each.
    """

    p: float = setting(0.3, 0, 1)
    kinds: tuple[str, ...] = FILTER_KINDS
    low_pass_hz: tuple[float, float] = setting((600.0, 7500.0), 20, 24000)
    high_pass_hz: tuple[float, float] = setting((40.0, 2000.0), 10, 24000)
    centre_hz: tuple[float, float] = setting((200.0, 4000.0), 10, 24000)
    width_octaves: tuple[float, float] = setting((0.5, 2.0), 0.1, 10)
    order: int = setting(2, 1, 8)

    name: ClassVar[str] = "filter"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choices("augmentations.filter.kinds", self.kinds, FILTER_KINDS)

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """Number of the kind, edges in Hz of what is kept or removed; 0 where there is none."""
        kind = self.kinds[rng.integers(len(self.kinds))]
        if kind == "low-pass":
            low_hz, high_hz = 0.0, _log_uniform(self.low_pass_hz, rng)
        elif kind == "high-pass":
            low_hz, high_hz = _log_uniform(self.high_pass_hz, rng), 0.0
        else:
            centre_hz = _log_uniform(self.centre_hz, rng)
            half = 2 ** (rng.uniform(*self.width_octaves) / 2)
            low_hz, high_hz = centre_hz / half, centre_hz * half
        return np.array([FILTER_KINDS.index(kind), low_hz, high_hz])

    def curve_db(self, params: np.ndarray, hz: np.ndarray) -> np.ndarray:
        kind, low_hz, high_hz = (column[:, None] for column in params.T)
        # Squared magnitude of a Butterworth filter, 1 / (1 + d^(2 n)): d is how far a frequency
        # lies from the pass band, 1 at its edges.
        with np.errstate(divide="ignore", invalid="ignore"):
            beyond = abs(hz * hz - low_hz * high_hz) / (hz * (high_hz - low_hz))
            distance = np.select(
                [kind == 0, kind == 1, kind == 2], [hz / high_hz, low_hz / hz, beyond], 1 / beyond
            )
            power_db: np.ndarray = -10 * np.log10(1 + distance ** (2 * self.order))
        return power_db


def _log_uniform(bounds: tuple[float, float], rng: np.random.Generator) -> float:
    return float(np.exp(rng.uniform(*np.log(bounds))))
