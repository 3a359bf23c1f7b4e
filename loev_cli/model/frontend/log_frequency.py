"""Waveform -> log-frequency features, the one definition for training, export and inference.

A pyramid of octaves. The waveform is halved in rate seven times; at every rate the same short
complex kernels see the octave just below that rate's Nyquist frequency, so one small set of
kernels measures eight octaves at constant Q (the idea of Brown & Puckette 1992; multirate as in
Schoerkhuber & Klapuri 2010):

    16 kHz   [3676, 7352) Hz  --kernels-->  24 bins      (octave 7)
      | low-pass, /2
     8 kHz   [1838, 3676) Hz  --kernels-->  24 bins      (octave 6)
      :
    125 Hz   [  29,   57) Hz  --kernels-->  24 bins      (octave 0)

On the resulting axis a pitch shift is a translation. The features are deliberately wider than
what an encoder reads: ``margin_bins`` at either end are room to translate into, so training can
shift a spectrogram by slicing it, with real content at both edges and no empty band that would
give the shift away. :meth:`LogFrequency.centre` takes the part that inference reads.

Everything is convolution, so it exports to ONNX and needs no FFT operator.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

EPSILON_POWER = 1e-12  # below the noise of 16-bit audio


class Features(NamedTuple):
    """What the frontend gives. Natural logarithms of power.

    Attributes:
        spectrum: (B, F, T) on a log-frequency axis, low to high, ``spectrum_hop`` samples apart.
        bands: (B, S, 4 T) a few wide sub-bands per octave with short windows, low to high,
            ``band_hop`` samples apart: what onsets are read from.
    """

    spectrum: Tensor
    bands: Tensor


@dataclass(frozen=True)
class FrontendConfig:
    """Parameters of :class:`LogFrequency`; saved in every bundle.

    Attributes:
        top_hz: upper end of the axis. The two bins of a semitone lie 25 cents either side of
            equal temperament at A4 = 440 Hz.
        kernel_n_cycles: length of a kernel's window in cycles of its bin.
    """

    sample_rate_hz: int = 16000
    n_octaves: int = 8
    bins_per_octave: int = 24
    margin_bins: int = 12
    top_hz: float = 7351.69
    spectrum_hop: int = 1024
    kernel_n_samples: int = 256
    kernel_n_cycles: float = 50.0
    band_hop: int = 256
    bands_per_octave: int = 4
    n_band_octaves: int = 7

    @property
    def n_bins_wide(self) -> int:
        return self.n_octaves * self.bins_per_octave

    @property
    def n_bins(self) -> int:
        return self.n_bins_wide - 2 * self.margin_bins

    @property
    def bins_per_semitone(self) -> int:
        return self.bins_per_octave // 12

    @property
    def n_bands(self) -> int:
        return self.n_band_octaves * self.bands_per_octave

    @property
    def bands_per_frame(self) -> int:
        """Band frames per spectrum frame."""
        return self.spectrum_hop // self.band_hop

    @property
    def band_rate_hz(self) -> float:
        return self.sample_rate_hz / self.band_hop


class LogFrequency(nn.Module):
    """Octave pyramid of complex kernels, see the module's text.

    Shapes: waveform (B, N), N a multiple of ``spectrum_hop`` and of :attr:`block_n_samples`,
    to :class:`Features` with T = N / ``spectrum_hop``. Frame t is centred on sample
    ``(t + 0.5) * hop``; the edges are reflected.
    """

    # Outputs computed together by one row of the decimator's convolution: a plain stride-2
    # filter with one output channel spends its time copying, see `_Halve`.
    _HALVE_BLOCK = 16
    _HALVE_N_TAPS = 96

    def __init__(self, config: FrontendConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or FrontendConfig()
        self.halve = _Halve(self._HALVE_N_TAPS, self._HALVE_BLOCK)
        top = config.top_hz / config.sample_rate_hz
        bins = top / 2 * 2 ** (np.arange(config.bins_per_octave) / config.bins_per_octave)
        self.spectrum_kernels = _KernelBank(bins, config.kernel_n_samples, config.kernel_n_cycles)
        band_edges = np.linspace(top / 2, top, config.bands_per_octave + 1)
        self.band_kernels = nn.ModuleList(
            _KernelBank((band_edges[:-1] + band_edges[1:]) / 2, n_taps)
            for n_taps in self._band_n_taps()
        )

    def _band_n_taps(self) -> list[int]:
        """Kernel length per octave, top first: 64 taps, but never longer than 64 ms.

        Low octaves would need 250 ms for their full frequency resolution; an onset detector
        wants to know when, not which note.
        """
        return [
            min(64, self.config.sample_rate_hz // 2**i * 64 // 1000)
            for i in range(self.config.n_band_octaves)
        ]

    @property
    def block_n_samples(self) -> int:
        """A waveform's length must be a multiple of this (and of ``spectrum_hop``)."""
        return 2 * self._HALVE_BLOCK << (self.config.n_octaves - 2)

    def forward(self, waveform: Tensor) -> Features:
        """(B, N) -> spectrum (B, F + 2 margins, T), bands (B, S, 4 T), both log power."""
        config = self.config
        signal = waveform.unsqueeze(1)
        spectrum, bands = [], []
        for i in range(config.n_octaves):
            spectrum.append(self.spectrum_kernels(signal, config.spectrum_hop >> i))
            if i < config.n_band_octaves:
                bands.append(self.band_kernels[i](signal, config.band_hop >> i))
            if i + 1 < config.n_octaves:
                signal = self.halve(signal)
        return Features(
            torch.log(torch.cat(spectrum[::-1], dim=1) + EPSILON_POWER),
            torch.log(torch.cat(bands[::-1], dim=1) + EPSILON_POWER),
        )

    def centre(self, features: Features) -> Features:
        """The part an encoder reads: the spectrum without its margins, (B, F, T)."""
        margin = self.config.margin_bins
        return features._replace(
            spectrum=features.spectrum[:, margin : margin + self.config.n_bins]
        )


class _Halve(nn.Module):
    """Low-pass and drop every other sample: (B, 1, N) -> (B, 1, N / 2).

    A Kaiser-windowed sinc, 0.233 of the old rate kept flat and 0.267 rejected by 50 dB. Output
    sample n sits between input samples 2n and 2n + 1, so the frames of all octaves stay aligned.

    The filter is laid out as `block` shifted copies, one convolution of stride 2 * block whose
    channels are consecutive output samples: a matrix product instead of a copy of every tap.
    """

    kernel: Tensor

    def __init__(self, n_taps: int, block: int) -> None:
        super().__init__()
        time = np.arange(n_taps) - (n_taps - 1) / 2
        taps = 0.5 * np.sinc(0.5 * time) * np.kaiser(n_taps, 5.0)
        taps /= taps.sum()
        kernel = np.zeros((block, 1, n_taps + 2 * (block - 1)))
        for row in range(block):
            kernel[row, 0, 2 * row : 2 * row + n_taps] = taps
        self.register_buffer("kernel", torch.tensor(kernel, dtype=torch.float32), persistent=False)
        self.padding = (n_taps - 2) // 2
        self.stride = 2 * block

    def forward(self, signal: Tensor) -> Tensor:
        padded = F.pad(signal, (self.padding, self.padding), mode="reflect")
        blocks = F.conv1d(padded, self.kernel, stride=self.stride)  # (B, block, N / 2 / block)
        return blocks.transpose(1, 2).flatten(1).unsqueeze(1)


class _KernelBank(nn.Module):
    """Hann-windowed complex exponentials; gives their power, averaged down to one frame per hop.

    Args:
        frequencies: centre of each bin in cycles per sample.
        n_taps: kernel length in samples.
        n_cycles: length of each bin's window in cycles of its own frequency, if that is shorter
            than the kernel: constant Q, so that bins overlap alike along the whole octave.

    Kernels are applied no further apart than 0.6 of the shortest window, whatever the hop, so
    that no part of the signal goes unseen.
    """

    kernel: Tensor

    def __init__(self, frequencies: np.ndarray, n_taps: int, n_cycles: float = math.inf) -> None:
        super().__init__()
        time = np.arange(n_taps) - (n_taps - 1) / 2
        width = np.minimum(n_taps, n_cycles / frequencies)[:, None]
        window = np.where(abs(time) < width / 2, np.cos(math.pi * time / width) ** 2, 0.0)
        window /= window.sum(axis=1, keepdims=True)
        phase = 2 * math.pi * np.outer(frequencies, time)
        kernel = np.concatenate([np.cos(phase) * window, np.sin(phase) * window])
        self.register_buffer(
            "kernel", torch.tensor(kernel[:, None], dtype=torch.float32), persistent=False
        )
        self.n_taps = n_taps
        self.max_step = 2 ** int(np.log2(0.6 * width.min()))

    def forward(self, signal: Tensor, hop: int) -> Tensor:
        """(B, 1, N) -> power (B, n_bins, N / hop)."""
        step = min(hop, self.max_step)
        before = (self.n_taps - step) // 2
        padded = F.pad(signal, (before, self.n_taps - step - before), mode="reflect")
        real, imaginary = F.conv1d(padded, self.kernel, stride=step).chunk(2, dim=1)
        power = real.square() + imaginary.square()
        return F.avg_pool1d(power, hop // step) if hop > step else power
