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
give the shift away. :meth:`LogFrequency.center` takes the part that inference reads.

Everything is convolution, so it exports to ONNX and needs no FFT operator. Sixteen samples in a row
are the channels of one position: that makes a filter over 256 samples a convolution over 16
positions, which every runtime has a fast way for, and which no longer copies each sample once for
every kernel that sees it. The low-pass gives 16 samples at a time, the next octave's channels.

    samples   ... 0 1 2 ... 15 | 16 17 ... 31 | 32 ...      16 channels, N / 16 positions
    kernel    [... n_blocks of 16 taps ...]  -->  stride: step / 16 positions
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from loev_cli.errors import UsageError

_HIGHEST = 0.92  # of half the rate: the top octave's kernels end below it
_BLOCK = 16  # samples that are the channels of one position

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

    def __post_init__(self) -> None:
        """Raises UsageError where octaves and hops do not fit the rate."""
        nyquist_hz = self.sample_rate_hz / 2
        if self.top_hz > _HIGHEST * nyquist_hz:
            raise UsageError(
                f"frontend: top_hz is {self.top_hz:g}, too close to half the sample rate, "
                f"{nyquist_hz:g} Hz",
                hint=f"set top_hz to {_HIGHEST * nyquist_hz:.0f} or less",
            )
        for hop, n_octaves in (
            (self.spectrum_hop, self.n_octaves),
            (self.band_hop, self.n_band_octaves),
        ):
            # Every octave halves the rate, and so the hop.
            if hop & (hop - 1) or hop >> (n_octaves - 1) < 1:
                raise UsageError(
                    f"frontend: a hop of {hop} samples does not fit {n_octaves} octaves",
                    hint=f"a power of 2 from {1 << (n_octaves - 1)} on",
                )
        if self.spectrum_hop < self.band_hop or self.n_band_octaves > self.n_octaves:
            raise UsageError(
                "frontend: bands need more frames and no more octaves than the spectrum"
            )

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
    to :class:`Features` with T = N / ``spectrum_hop``. Frame t is centered on sample
    ``(t + 0.5) * hop``; the edges are reflected.
    """

    def __init__(self, config: FrontendConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or FrontendConfig()
        top = config.top_hz / config.sample_rate_hz
        bins = top / 2 * 2 ** (np.arange(config.bins_per_octave) / config.bins_per_octave)
        spectrum = _Kernels(bins, config.kernel_n_samples, config.kernel_n_cycles)
        band_edges = np.linspace(top / 2, top, config.bands_per_octave + 1)
        bands = (band_edges[:-1] + band_edges[1:]) / 2
        self.octaves = nn.ModuleList()
        self._fewest_n_samples = 0
        for i in range(config.n_octaves):
            banks = [_PowerBank(spectrum, config.spectrum_hop >> i)]
            if i < config.n_band_octaves:
                kernels = _Kernels(bands, self._band_n_taps(i))
                banks.append(_PowerBank(kernels, config.band_hop >> i))
            octave = _Octave(banks, is_last=i + 1 == config.n_octaves)
            self._fewest_n_samples = max(self._fewest_n_samples, (max(octave.padding) + 1) << i)
            self.octaves.append(octave)

    def _band_n_taps(self, octave: int) -> int:
        """Kernel length, octaves counted from the top: 64 taps, but never longer than 64 ms.

        Low octaves would need 250 ms for their full frequency resolution; an onset detector
        wants to know when, not which note.
        """
        return min(64, (self.config.sample_rate_hz >> octave) * 64 // 1000)

    @property
    def block_n_samples(self) -> int:
        """A waveform's length must be a multiple of this (and of ``spectrum_hop``)."""
        return _BLOCK << self.config.n_octaves - 1

    @property
    def fewest_n_samples(self) -> int:
        """A waveform has no fewer: the deepest octave reflects it at its edges."""
        return self._fewest_n_samples

    def forward(self, waveform: Tensor) -> Features:
        """(B, N) -> spectrum (B, F + 2 margins, T), bands (B, S, 4 T), both log power."""
        signal = waveform.unsqueeze(1)
        spectrum: list[Tensor] = []
        bands: list[Tensor] = []
        for octave in self.octaves:
            powers, signal = octave(signal)
            for found, power in zip((spectrum, bands), powers, strict=False):
                found.append(power)
        return Features(
            torch.log(torch.cat(spectrum[::-1], dim=1) + EPSILON_POWER),
            torch.log(torch.cat(bands[::-1], dim=1) + EPSILON_POWER),
        )

    def center(self, features: Features) -> Features:
        """The part an encoder reads: the spectrum without its margins, (B, F, T)."""
        margin = self.config.margin_bins
        return features._replace(
            spectrum=features.spectrum[:, margin : margin + self.config.n_bins]
        )


class _Octave(nn.Module):
    """What is measured at one rate, and the signal at half that rate.

    The signal is reflected at its edges once, far enough for the filter that reaches furthest.
    Filters that reach less far give frames too many at either end, which are cut off.
    """

    def __init__(self, banks: Sequence[_PowerBank], *, is_last: bool) -> None:
        super().__init__()
        self.banks = nn.ModuleList(banks)
        # Kept flat up to 0.233 of the old rate, down by 50 dB from 0.267. Output sample n sits
        # between input samples 2 n and 2 n + 1, so the frames of all octaves stay aligned.
        self.halve = None if is_last else _Filters(_low_pass()[None], step=2, n_steps=_BLOCK)
        filters = [bank.filters for bank in banks] + ([] if self.halve is None else [self.halve])
        n_before = max(-f.first_block for f in filters)
        for each in filters:
            each.start_at(-n_before)
        n_after = max(f.n_blocks_after for f in filters)
        self.padding = (n_before * _BLOCK, n_after * _BLOCK)

    def forward(self, signal: Tensor) -> tuple[list[Tensor], Tensor]:
        """(B, 1, N) -> power of every bank, (B, n_bins, N / hop), and (B, 1, N / 2).

        The last octave gives the signal as it is: nobody reads it.
        """
        n_blocks = signal.shape[2] // _BLOCK
        padded = F.pad(signal, self.padding, mode="reflect")
        by_sample = padded.reshape(-1, 1, padded.shape[2] // _BLOCK, _BLOCK)
        blocks = by_sample.permute(0, 3, 1, 2)  # (B, 16, 1, blocks)
        powers = [bank(blocks, n_blocks) for bank in self.banks]
        if self.halve is None:
            return powers, signal
        halved = self.halve(blocks).permute(0, 2, 3, 1).flatten(2)  # (B, 1, N / 2 + extra)
        start = self.halve.n_extra * _BLOCK
        return powers, halved[:, :, start : start + signal.shape[2] // 2]


class _Kernels:
    """Hann-windowed complex exponentials.

    Args:
        frequencies: center of each bin in cycles per sample.
        n_taps: kernel length in samples.
        n_cycles: length of each bin's window in cycles of its own frequency, if that is shorter
            than the kernel: constant Q, so that bins overlap alike along the whole octave.

    Attributes:
        taps: (2 n_bins, n_taps), real parts and then imaginary ones.
        max_step: samples from one application to the next, at most: 0.6 of the shortest window
            (a power of two), so that no part of the signal goes unseen.
    """

    def __init__(self, frequencies: np.ndarray, n_taps: int, n_cycles: float = math.inf) -> None:
        time = np.arange(n_taps) - (n_taps - 1) / 2
        width = np.minimum(n_taps, n_cycles / frequencies)[:, None]
        window = np.where(abs(time) < width / 2, np.cos(math.pi * time / width) ** 2, 0.0)
        window /= window.sum(axis=1, keepdims=True)
        phase = 2 * math.pi * np.outer(frequencies, time)
        self.taps = np.concatenate([np.cos(phase) * window, np.sin(phase) * window])
        self.max_step = 2 ** int(np.log2(0.6 * width.min()))


def _low_pass(n_taps: int = 96) -> np.ndarray:
    """A Kaiser-windowed sinc that passes what is below a quarter of the rate, (n_taps,)."""
    time = np.arange(n_taps) - (n_taps - 1) / 2
    taps = 0.5 * np.sinc(0.5 * time) * np.kaiser(n_taps, 5.0)
    return np.asarray(taps / taps.sum())


class _Filters(nn.Module):
    """FIR filters that take a step of samples at a time, on blocks of 16 samples.

    Args:
        taps: (n_filters, n_taps). What frame t sees is centered on sample ``(t + 0.5) * step``.
        step: samples from frame to frame.
        n_steps: frames that are computed together, each an output channel per filter, so that a
            convolution moves by whole blocks and gives channels enough to keep a machine busy.

    Attributes:
        first_block: the first block that the first frames see; blocks of the signal count from 0.
        n_blocks_after: blocks that the last frames see beyond the signal.
        n_extra: positions in the output that come before that of the first frames.
    """

    kernel: Tensor
    bias: Tensor

    def __init__(self, taps: np.ndarray, *, step: int, n_steps: int) -> None:
        super().__init__()
        self.stride = n_steps * step // _BLOCK  # in blocks
        # Windows may be shorter than their kernel.
        used = np.flatnonzero(taps.any(axis=0))
        taps, first_n = taps[:, used[0] : used[-1] + 1], used[0] - (taps.shape[1] - step) // 2
        self.first_block = int(first_n // _BLOCK)
        end_n = first_n + (n_steps - 1) * step + taps.shape[1]
        n_blocks = -(-end_n // _BLOCK) - self.first_block
        kernel = np.zeros((n_steps, len(taps), n_blocks * _BLOCK))
        for i in range(n_steps):
            start = first_n + i * step - self.first_block * _BLOCK
            kernel[i, :, start : start + taps.shape[1]] = taps
        by_block = kernel.reshape(-1, 1, n_blocks, _BLOCK).transpose(0, 3, 1, 2)
        self.register_buffer(
            "kernel", torch.tensor(by_block.copy(), dtype=torch.float32), persistent=False
        )
        # ONNX Runtime's fast convolution wants one; the exporter would write it as an expression.
        self.register_buffer("bias", torch.zeros(len(by_block)), persistent=False)
        self.n_extra = 0

    def start_at(self, block: int) -> None:
        """Take a signal that begins at ``block``, which is no later than ``first_block``."""
        n_empty = (self.first_block - block) % self.stride
        self.kernel = F.pad(self.kernel, (n_empty, 0))
        self.first_block -= n_empty
        self.n_extra = (self.first_block - block) // self.stride

    @property
    def n_blocks_after(self) -> int:
        return self.first_block + self.kernel.shape[3] - self.stride

    def forward(self, blocks: Tensor) -> Tensor:
        """(B, 16, 1, blocks) -> (B, n_steps * n_filters, 1, blocks / stride or more)."""
        return F.conv2d(blocks, self.kernel, self.bias, stride=(1, self.stride))


class _PowerBank(nn.Module):
    """Power of complex kernels, averaged down to one frame per hop."""

    def __init__(self, kernels: _Kernels, hop: int) -> None:
        super().__init__()
        step = min(hop, kernels.max_step)
        n_filters = len(kernels.taps)
        self.n_bins = n_filters // 2
        n_steps = max(1, _BLOCK // step, _BLOCK // n_filters)
        self.filters = _Filters(kernels.taps, step=step, n_steps=n_steps)
        # A frame is the mean of `hop / step` applications, some of which are computed together.
        self.n_together = min(n_steps, hop // step)
        self.n_apart = hop // step // self.n_together
        self.n_frames = n_steps // self.n_together

    def forward(self, blocks: Tensor, n_blocks: int) -> Tensor:
        """(B, 16, 1, blocks) -> (B, n_bins, N / hop)."""
        parts: Tensor = self.filters(blocks)
        power = parts * parts  # not square(), which ONNX has no operator for
        n_frames = n_blocks // self.filters.stride
        if power.shape[3] > n_frames:
            power = power[:, :, :, self.filters.n_extra : self.filters.n_extra + n_frames]
        if self.n_apart > 1:
            power = F.avg_pool2d(power, (1, self.n_apart))
        # Channels are (frames, together, real and imaginary, bins).
        power = power.reshape(-1, self.n_frames, 2 * self.n_together, self.n_bins, power.shape[3])
        power = power.sum(dim=2)
        if self.n_together > 1:
            power = power / self.n_together
        if self.n_frames == 1:
            return power.squeeze(1)
        return power.permute(0, 2, 3, 1).flatten(2)
