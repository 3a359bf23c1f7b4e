"""Waveform -> mel spectrogram in dB, as the encoder of the paper reads it (`sf-nfnet-f0`).

    frame t, T = N / 160 + 1 of them, centered on sample 160 t, the edges reflected:

        |<------------------- 2048 samples of the FFT ------------------->|
        |000000000000000000000|<--- 400 under a Hann --->|0000000000000000|

Only 400 of the 2048 samples are not zero, and a shift in time leaves the power alone: a frame is
400 samples against 400 taps per frequency, one convolution with a stride of a hop. It exports to
ONNX as that and needs no FFT operator. The tables are computed in float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchaudio.functional import melscale_fbanks

MEL_FLOOR_POWER = 1e-10  # -100 dB


@dataclass(frozen=True)
class MelConfig:
    """Parameters of :class:`MelSpectrogram`; saved in every bundle.

    Attributes:
        window_n_samples: length of the Hann window, in the middle of the FFT.
        low_hz, high_hz: ends of the mel axis (HTK's scale, triangles of height 1).
    """

    sample_rate_hz: int = 16000
    n_fft: int = 2048
    window_n_samples: int = 400
    hop: int = 160
    n_mels: int = 96
    low_hz: float = 0.0
    high_hz: float = 8000.0

    @property
    def n_freqs(self) -> int:
        return self.n_fft // 2 + 1


class MelSpectrogram(nn.Module):
    """Mel bands of the power spectrum in dB, see the module's text.

    Shapes: waveform (B, N), N a multiple of :attr:`block_n_samples`, to (B, 1, F, T) with
    T = N / ``hop`` + 1.
    """

    kernel: Tensor
    bands: Tensor

    def __init__(self, config: MelConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or MelConfig()
        n_taps = config.window_n_samples
        window = torch.hann_window(n_taps, dtype=torch.float64)
        turns = torch.outer(torch.arange(config.n_freqs), torch.arange(n_taps)) % config.n_fft
        phase = 2 * math.pi / config.n_fft * turns.double()
        kernel = torch.cat([phase.cos() * window, phase.sin() * window])
        self.register_buffer("kernel", kernel.float()[:, None], persistent=False)
        bands = melscale_fbanks(
            config.n_freqs,
            config.low_hz,
            config.high_hz,
            config.n_mels,
            config.sample_rate_hz,
            norm=None,
            mel_scale="htk",
        )
        self.register_buffer("bands", bands.T.contiguous(), persistent=False)

    @property
    def block_n_samples(self) -> int:
        """A waveform's length must be a multiple of this."""
        return self.config.hop

    @property
    def fewest_n_samples(self) -> int:
        """A waveform has no fewer: it is reflected at its edges."""
        return self.config.window_n_samples // 2 + 1

    def forward(self, waveform: Tensor) -> Tensor:
        """(B, N) -> (B, 1, F, T), dB."""
        half = self.config.window_n_samples // 2
        padded = F.pad(waveform.unsqueeze(1), (half, half), mode="reflect")
        real, imaginary = F.conv1d(padded, self.kernel, stride=self.config.hop).chunk(2, dim=1)
        mel = self.bands @ (real.square() + imaginary.square())  # (B, F, T)
        return 10 * torch.log10(mel.clamp(min=MEL_FLOOR_POWER)).unsqueeze(1)

    def center(self, features: Tensor) -> Tensor:
        """The part an encoder reads: all of it, there are no margins."""
        return features
