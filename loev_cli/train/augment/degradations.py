"""What recording and transmission do to a view: noise and lossy codecs."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import soundfile
import torch
from torch import Tensor
from torch.nn import functional as F

from loev_cli.model.frontend import Features, FrontendConfig
from loev_cli.train.augment.base import (
    NATS_PER_DB,
    Augmentation,
    bin_frequencies_hz,
    check_choices,
    column,
    fast_length,
    random_phasors,
    setting,
)

_WHITE_SLOPE_DB = 3.0103  # twice the bandwidth, twice the power
_LOWEST_HZ = 40.0  # where the log-frequency axis ends; below, a steep slope would be all rumble

FORMATS = ("mp3", "vorbis", "opus")

_SOUNDFILE_NAMES = {
    "mp3": {"format": "MP3", "subtype": "MPEG_LAYER_III", "bitrate_mode": "VARIABLE"},
    "vorbis": {"format": "OGG", "subtype": "VORBIS"},
    "opus": {"format": "OGG", "subtype": "OPUS"},
}
_BLOCK = 4096  # libsndfile's Vorbis encoder overflows the stack when given a long array at once
_HEADROOM = 0.5


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


@dataclass(frozen=True)
class Codec(Augmentation):
    """MP3, Vorbis or Opus by libsndfile at a ``compression`` of 0 (best) to 1 (smallest).

    At 16 kHz, 0.3 to 0.95 is 60 down to 30 kbit/s for MP3 and Vorbis. It is the one augmentation
    that runs row by row on the CPU, and the costliest: for 3 s 20 ms as MP3, 9 as Vorbis, 57 as
    Opus, which is therefore not among the default ``formats``. Not on features.
    """

    p: float = setting(0.05, 0, 1)
    formats: tuple[str, ...] = ("mp3", "vorbis")
    compression: tuple[float, float] = setting((0.3, 0.95), 0, 0.99)

    name: ClassVar[str] = "codec"
    on_features_too: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choices("augmentations.codec.formats", self.formats, FORMATS)

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """Number of the format in :data:`FORMATS`, compression."""
        name = self.formats[rng.integers(len(self.formats))]
        return np.array([FORMATS.index(name), rng.uniform(*self.compression)])

    def on_waveforms(
        self, x: Tensor, params: np.ndarray, seeds: np.ndarray, sample_rate_hz: int
    ) -> Tensor:
        rows = x.cpu().numpy()
        coded = [
            _encode_and_decode(row, FORMATS[int(number)], compression, sample_rate_hz)
            for row, (number, compression) in zip(rows, params, strict=True)
        ]
        return torch.from_numpy(np.stack(coded)).to(x.device)


def _encode_and_decode(
    row: np.ndarray, name: str, compression: float, sample_rate_hz: int
) -> np.ndarray:
    """(N,) -> (N,), at the level and in the place it had."""
    peak = float(abs(row).max())
    if peak == 0:
        return row
    scale = _HEADROOM / peak
    memory = io.BytesIO()
    with soundfile.SoundFile(
        memory,
        "w",
        sample_rate_hz,
        channels=1,
        compression_level=compression,
        **_SOUNDFILE_NAMES[name],
    ) as file:
        for start in range(0, len(row), _BLOCK):
            file.write(row[start : start + _BLOCK] * scale)
    memory.seek(0)
    decoded, _ = soundfile.read(memory, dtype="float32")
    decoded = decoded[: len(row)] / scale
    return np.pad(decoded, (0, len(row) - len(decoded))).astype(np.float32)
