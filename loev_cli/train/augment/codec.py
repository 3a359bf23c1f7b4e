"""A lossy codec: the view is really encoded and decoded, in memory."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import soundfile
import torch
from torch import Tensor

from loev_cli.train.augment.base import Augmentation, setting
from loev_cli.train.augment.spectrum import check_choices

FORMATS = ("mp3", "vorbis", "opus")

_SOUNDFILE_NAMES = {
    "mp3": {"format": "MP3", "subtype": "MPEG_LAYER_III", "bitrate_mode": "VARIABLE"},
    "vorbis": {"format": "OGG", "subtype": "VORBIS"},
    "opus": {"format": "OGG", "subtype": "OPUS"},
}
_BLOCK = 4096  # libsndfile's Vorbis encoder overflows the stack when given a long array at once
_HEADROOM = 0.5


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
    param_names: ClassVar[tuple[str, ...]] = ("format", "compression")
    on_features_too: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choices("augmentations.codec.formats", self.formats, FORMATS)

    def draw(self, rng: np.random.Generator) -> np.ndarray:
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
