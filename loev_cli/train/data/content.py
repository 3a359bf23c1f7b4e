"""What is kept of a track: features where views are made on features, else the waveform.

FeatureContent    (T, F + 2 margins + 4 S) float16, log power; 35 MB per hour
WaveformContent   (N,) int16, mono; 115 MB per hour at 16 kHz

A track is made in blocks of ``block_n_samples`` that do not depend on each other, so that a long
one needs little memory and any part of it can be made alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import torch

from loev_cli import audio
from loev_cli.model.frontend import FrontendConfig, LogFrequency

FULL_SCALE = 32767  # of an int16 waveform

_BLOCK_S = 60.0


class Content(Protocol):
    """One kind of content. Small and picklable: worker processes are handed it."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """What the rows depend on besides the file; JSON values. Part of a cache entry's name."""
        ...

    @property
    def sample_rate_hz(self) -> int:
        """Of the waveform that :meth:`from_waveform` is given."""
        ...

    @property
    def frames_per_s(self) -> float:
        """Rows per second."""
        ...

    @property
    def block_n_samples(self) -> int:
        """Blocks of this length give the rows of the whole waveform when they are put together."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]: ...

    @property
    def row_shape(self) -> tuple[int, ...]: ...

    def n_frames(self, n_samples: int) -> int:
        """Number of rows for ``n_samples`` samples."""
        ...

    def from_waveform(self, waveform: np.ndarray) -> np.ndarray:
        """(N,) float32 -> (n_frames(N), *row_shape)."""
        ...


@dataclass(frozen=True)
class FeatureContent:
    """Log-frequency features, one row per spectrum frame: its bins, then its four band frames."""

    frontend: FrontendConfig
    dtype: ClassVar[np.dtype[Any]] = np.dtype(np.float16)

    @property
    def identity(self) -> dict[str, Any]:
        return {"kind": "features", "block_s": _BLOCK_S, **asdict(self.frontend)}

    @property
    def sample_rate_hz(self) -> int:
        return self.frontend.sample_rate_hz

    @property
    def frames_per_s(self) -> float:
        return self.frontend.sample_rate_hz / self.frontend.spectrum_hop

    @property
    def block_n_samples(self) -> int:
        return _block_n_samples(_log_frequency(self.frontend))

    @property
    def row_shape(self) -> tuple[int, ...]:
        bands = self.frontend.bands_per_frame * self.frontend.n_bands
        return (self.frontend.n_bins_wide + bands,)

    def n_frames(self, n_samples: int) -> int:
        return -(-n_samples // self.frontend.spectrum_hop)

    def from_waveform(self, waveform: np.ndarray) -> np.ndarray:
        return track_features(waveform, _log_frequency(self.frontend))


@dataclass(frozen=True)
class WaveformContent:
    """The waveform itself; full scale is :data:`FULL_SCALE`, and what is louder is clipped."""

    sample_rate_hz: int
    dtype: ClassVar[np.dtype[Any]] = np.dtype(np.int16)
    row_shape: ClassVar[tuple[int, ...]] = ()

    @property
    def identity(self) -> dict[str, Any]:
        return {"kind": "waveform", "sample_rate_hz": self.sample_rate_hz}

    @property
    def frames_per_s(self) -> float:
        return float(self.sample_rate_hz)

    @property
    def block_n_samples(self) -> int:
        return int(_BLOCK_S * self.sample_rate_hz)

    def n_frames(self, n_samples: int) -> int:
        return n_samples

    def from_waveform(self, waveform: np.ndarray) -> np.ndarray:
        scaled: np.ndarray = np.rint(np.clip(waveform, -1, 1) * np.float32(FULL_SCALE))
        return scaled.astype(np.int16)


@lru_cache(maxsize=4)
def _log_frequency(config: FrontendConfig) -> LogFrequency:
    return LogFrequency(config)


def _block_n_samples(frontend: LogFrequency) -> int:
    block = int(_BLOCK_S * frontend.config.sample_rate_hz)
    return block - block % frontend.block_n_samples


def track_features(waveform: np.ndarray, frontend: LogFrequency) -> np.ndarray:
    """Waveform (N,) -> (T, F + 2 margins + 4 S) float16, T = ceil(N / hop), log power."""
    config = frontend.config
    block = _block_n_samples(frontend)
    parts = []
    for start in range(0, len(waveform), block):
        part = waveform[start : start + block]
        n_frames = -(-len(part) // config.spectrum_hop)
        n_padded = -(-len(part) // frontend.block_n_samples) * frontend.block_n_samples
        # The deepest octave reflects a kernel's length at its edges and needs that much signal.
        padded = np.zeros(max(n_padded, config.kernel_n_samples << config.n_octaves), np.float32)
        padded[: len(part)] = part
        with torch.inference_mode():
            spectrum, bands = frontend(torch.from_numpy(padded)[None])
        per_frame = bands[0].T.reshape(-1, config.bands_per_frame * config.n_bands)
        parts.append(torch.cat([spectrum[0].T, per_frame], dim=1)[:n_frames].half().numpy())
    return np.concatenate(parts)


def waveform_blocks(file: Path, content: Content, max_track_s: float) -> Iterator[np.ndarray]:
    """A file's waveform in blocks of ``content.block_n_samples``, the last one shorter.

    Nothing behind ``max_track_s`` is decoded.

    Raises:
        InputError: the file cannot be read, as :func:`loev_cli.audio.decode`.
    """
    size = content.block_n_samples
    n_left = max(1, int(max_track_s * content.sample_rate_hz))
    waiting: list[np.ndarray] = []
    n_waiting = 0
    for decoded in audio.decode(file, content.sample_rate_hz):
        part = decoded[:n_left]
        n_left -= len(part)
        while n_waiting + len(part) >= size:
            yield np.concatenate([*waiting, part[: size - n_waiting]])
            part, waiting, n_waiting = part[size - n_waiting :], [], 0
        waiting.append(part)
        n_waiting += len(part)
        if n_left == 0:
            break
    if n_waiting:
        yield np.concatenate(waiting)
