"""``sf-nfnet-f0``: the encoder of the paper, a slow-fast NFNet-F0 on mel spectrograms.

Two paths look at the same spectrogram: a slow one with many channels and few frames, a fast one
with few channels and many frames (slow-fast: Kazakos et al., ICASSP 2021). Blocks have no
normalization of activations but of their weights (NFNet: Brock et al., ICML 2021). The whole is
the encoder of MULE (McCallum et al., ISMIR 2022); LOEV++ (Guinot et al., ICASSP 2025) gives every
head the last two blocks of both paths to itself. With F = 96, T = 301:

    (1, 96, 301)
      |------------------------------------------+
    slow stem                                 fast stem
    (128, 24, 19)                             (16, 24, 76)
      | <---------- fusion, 18 frames ----------- |
    stage 0, 1 block   (256, 24, 37)          (32, 24, 76)
      | <---------------- fusion ---------------- |
    stage 1, 2 blocks  (512, 12, 55)          (64, 12, 76)
      | <---------------- fusion ---------------- |
    stage 2, 6 blocks  (1536, 6, 73)          (192, 6, 76)
      | <---------------- fusion ---------------- |
    stage 3, block 0   (1536, 3, 91)          (192, 3, 76)
      |                                           |
      |        for every branch its own           |
    stage 3, blocks 1, 2                      blocks 1, 2
    mean over F and T  (1536)                    (192)
      +--------------- GELU, concatenated --------+ = (1728)

A fusion brings the fast path to the slow one's channels and a quarter of its frames and puts them
behind the slow path's frames, along *time*: that is what the research code computes, and trained
weights expect it. A shared encoder is the one branch ``global``.

The only layers that look at more than one example are the batch norms of the stems, and those
only in training.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from loev_cli.errors import UsageError
from loev_cli.model.frontend import MelConfig
from loev_cli.model.layers import ReweightedConv2d, module_key

ALPHA = 0.2  # scale of a block's residual path
GELU_GAIN = 1.7015043497085571  # keeps the variance of a unit normal through a GELU
N_BLOCKS = (1, 2, 6, 3)
_FREQ_STRIDES = (1, 2, 2, 2)
_FUSION_N_FRAMES = 7
_FREQ_FACTOR = 32  # stems and stages together leave one of so many mel bands


@dataclass(frozen=True)
class _Path:
    """What sets the slow path apart from the fast one. Kernels and strides: (frequency, time)."""

    stem_channels: tuple[int, ...]
    stem_kernels: tuple[tuple[int, int], ...]
    stem_strides: tuple[tuple[int, int], ...]
    channels: tuple[int, ...]
    group_size: int


_SLOW = _Path(
    stem_channels=(16, 32, 64, 128),
    stem_kernels=((3, 1), (3, 1), (3, 1), (3, 3)),
    stem_strides=((2, 8), (1, 1), (1, 1), (2, 2)),
    channels=(256, 512, 1536, 1536),
    group_size=128,
)
_FAST = _Path(
    stem_channels=(2, 4, 8, 16),
    stem_kernels=((3, 3), (3, 3), (3, 3), (3, 3)),
    stem_strides=((2, 2), (1, 1), (1, 1), (2, 2)),
    channels=(32, 64, 192, 192),
    group_size=16,
)


class SfNfnetF0(nn.Module):
    """See the module's text.

    Args:
        frontend: the frontend whose spectrogram is read.
        branches: names of the branches in order, one for every copy of the last blocks.
        window_n_samples: length of a window.
        stochastic_depth: how likely the last block is to be skipped by an example in training;
            rises from 0 at the first block.
    """

    def __init__(
        self,
        frontend: MelConfig,
        branches: Sequence[str],
        *,
        window_n_samples: int,
        stochastic_depth: float = 0.1,
    ) -> None:
        super().__init__()
        if frontend.n_mels % _FREQ_FACTOR:
            raise UsageError(
                f"sf-nfnet-f0 cannot read {frontend.n_mels} mel bands",
                hint=f"n_mels must be a multiple of {_FREQ_FACTOR}",
            )
        shortest = 4 * _FUSION_N_FRAMES * frontend.hop
        if window_n_samples < shortest:
            raise UsageError(
                f"a window of {window_n_samples} samples is too short for sf-nfnet-f0",
                hint=f"it needs {shortest}",
            )
        self.slow_stem = _stem(_SLOW)
        self.fast_stem = _stem(_FAST)
        slow_inputs = (_SLOW.stem_channels[-1], *_SLOW.channels)
        fast_inputs = (_FAST.stem_channels[-1], *_FAST.channels)
        self.fusions = nn.ModuleList(
            Fusion(fast, slow) for fast, slow in zip(fast_inputs[:4], slow_inputs[:4], strict=True)
        )
        self.slow_stages = nn.ModuleList(_trunk_stage(_SLOW, i, stochastic_depth) for i in range(4))
        self.fast_stages = nn.ModuleList(_trunk_stage(_FAST, i, stochastic_depth) for i in range(4))
        self.branches = nn.ModuleDict(
            {module_key(name): Branch(stochastic_depth) for name in branches}
        )
        self.dims: dict[str, int] = dict.fromkeys(branches, slow_inputs[-1] + fast_inputs[-1])

    def forward(self, features: Tensor, branches: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Mel spectrogram (B, 1, F, T) in dB -> {branch: (B, D)}."""
        slow = self.slow_stem(features)  # (B, 128, F / 4, T / 16)
        fast = self.fast_stem(features)  # (B, 16, F / 4, T / 4)
        for fusion, slow_stage, fast_stage in zip(
            self.fusions, self.slow_stages, self.fast_stages, strict=True
        ):
            slow = slow_stage(torch.cat([slow, fusion(fast)], dim=3))
            fast = fast_stage(fast)
        return {name: self.branches[module_key(name)](slow, fast) for name in branches or self.dims}


class Branch(nn.Module):
    """The last blocks of both paths, and their outputs' mean: one head's embedding."""

    def __init__(self, stochastic_depth: float) -> None:
        super().__init__()
        self.slow = nn.Sequential(*_blocks(_SLOW, 3, range(1, N_BLOCKS[3]), stochastic_depth))
        self.fast = nn.Sequential(*_blocks(_FAST, 3, range(1, N_BLOCKS[3]), stochastic_depth))

    def forward(self, slow: Tensor, fast: Tensor) -> Tensor:
        """Slow (B, 1536, F / 32, T'), fast (B, 192, F / 32, T / 4) -> (B, 1728)."""
        pooled = [self.slow(slow).mean(dim=(2, 3)), self.fast(fast).mean(dim=(2, 3))]
        return F.gelu(torch.cat(pooled, dim=1)) * GELU_GAIN


class Fusion(nn.Module):
    """The fast path as further frames for the slow one, see the module's text."""

    def __init__(self, fast_channels: int, slow_channels: int) -> None:
        super().__init__()
        self.slow_down = ScaledConv2d(
            fast_channels, fast_channels, (1, _FUSION_N_FRAMES), stride=(1, 4)
        )
        self.widen = ScaledConv2d(fast_channels, slow_channels, (1, 1))

    def forward(self, fast: Tensor) -> Tensor:
        """(B, C_fast, F, T) -> (B, C_slow, F, (T - 7) // 4 + 1)."""
        return F.relu_(self.widen(F.relu_(self.slow_down(fast))))


class Block(nn.Module):
    """Bottleneck block of the NFNet: skip + alpha * gain * excited(convolutions(beta * relu)).

    The first block of a stage (``is_transition``) feeds its skip path with the same scaled
    rectified input, and brings it to the stage's size; other blocks use an identity skip.

    Args:
        beta: brings the input of the convolutions back to unit variance.
        drop_rate: how likely an example is to skip the residual path in training.
    """

    alpha: Tensor
    beta: Tensor

    def __init__(
        self,
        in_channels: int,
        channels: int,
        group_size: int,
        *,
        freq_stride: int,
        is_transition: bool,
        beta: float,
        drop_rate: float,
    ) -> None:
        super().__init__()
        hidden = channels // 2
        groups = hidden // group_size
        self.drop_rate = drop_rate
        self.freq_stride = freq_stride
        self.reduce = ScaledConv2d(in_channels, hidden, (1, 1))
        self.along_time = ScaledConv2d(
            hidden, hidden, (1, 3), stride=(freq_stride, 1), padding=(0, 1), groups=groups
        )
        self.along_freq = ScaledConv2d(hidden, hidden, (3, 1), padding=(1, 0), groups=groups)
        self.expand = ScaledConv2d(hidden, channels, (1, 1))
        self.excite = nn.Sequential(
            nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels), nn.Sigmoid()
        )
        self.skip: ScaledConv2d | None = None
        if is_transition:
            self.skip = ScaledConv2d(in_channels, channels, (1, 1))
        # A new block passes its input on as it is (SkipInit, De & Smith 2020).
        self.gain = nn.Parameter(torch.zeros(()))
        # Buffers, since what a checkpoint says counts: the research code has them in its weights.
        self.register_buffer("alpha", torch.tensor(ALPHA))
        self.register_buffer("beta", torch.tensor(beta))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, F, T) -> (B, C, F / freq_stride, T)."""
        rectified = F.relu(x)
        y = F.relu_(self.reduce(rectified, gain=self.beta))
        y = F.relu_(self.along_time(y))
        y = F.relu_(self.along_freq(y))
        y = self.expand(y)
        # All that scales the residual path, per example and channel, in one pass over it.
        scale = self.excite(y.mean(dim=(2, 3))) * (self.alpha * self.gain)  # (B, C)
        if self.training and self.drop_rate > 0:
            scale = scale * (torch.rand(len(x), 1, device=x.device) >= self.drop_rate)
        if self.skip is not None:
            if self.freq_stride > 1:
                rectified = F.avg_pool2d(rectified, (self.freq_stride, 1))
            x = self.skip(rectified, gain=self.beta)
        return torch.addcmul(x, y, scale[:, :, None, None])


class ScaledConv2d(ReweightedConv2d):
    """Convolution with standardized weights (Brock et al. 2021, eq. 1), as MuLOOC has it.

    Unlike :class:`loev_cli.model.layers.StandardizedConv2d`: no gain, no bias, the variance is
    the unbiased one, and it is kept from below instead of added to.
    """

    _MIN_VARIANCE = 1e-4

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: tuple[int, int],
        *,
        stride: tuple[int, int] = (1, 1),
        padding: tuple[int, int] = (0, 0),
        groups: int = 1,
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=padding,
            groups=groups,
            bias=False,
        )
        nn.init.kaiming_normal_(self.weight, nonlinearity="linear")

    def reweighted(self) -> Tensor:
        fan_in = math.prod(self.weight.shape[1:])
        variance, mean = torch.var_mean(self.weight, dim=(1, 2, 3), keepdim=True)
        scale = torch.rsqrt((variance * fan_in).clamp(min=self._MIN_VARIANCE))
        return (self.weight - mean) * scale

    def forward(self, x: Tensor, gain: Tensor | None = None) -> Tensor:
        """``gain`` scales the output; the weights are fewer to multiply than the activations."""
        weight = self.effective_weight()
        if gain is not None:
            weight = weight * gain
        return F.conv2d(x, weight, None, self.stride, self.padding, self.dilation, self.groups)


def _stem(path: _Path) -> nn.Sequential:
    """Four convolutions, each with batch norm and ReLU."""
    layers: list[nn.Module] = []
    n_in = 1
    for n_out, kernel, stride in zip(
        path.stem_channels, path.stem_kernels, path.stem_strides, strict=True
    ):
        padding = (kernel[0] // 2, kernel[1] // 2)
        layers += [
            nn.Conv2d(n_in, n_out, kernel, stride, padding),
            nn.BatchNorm2d(n_out),
            nn.ReLU(inplace=True),
        ]
        n_in = n_out
    return nn.Sequential(*layers)


def _trunk_stage(path: _Path, stage: int, stochastic_depth: float) -> nn.Sequential:
    """A whole stage; of the last one the first block, which all branches share."""
    n_blocks = N_BLOCKS[stage] if stage < 3 else 1
    return nn.Sequential(*_blocks(path, stage, range(n_blocks), stochastic_depth))


def _blocks(path: _Path, stage: int, indices: range, stochastic_depth: float) -> list[Block]:
    """The blocks of a stage at ``indices``."""
    inputs = (path.stem_channels[-1], *path.channels)
    n_before = sum(N_BLOCKS[:stage])
    return [
        Block(
            inputs[stage] if i == 0 else path.channels[stage],
            path.channels[stage],
            path.group_size,
            freq_stride=_FREQ_STRIDES[stage] if i == 0 else 1,
            is_transition=i == 0,
            # Every block of a stage adds alpha^2 to the variance; the stem gives 1.
            beta=1 / math.sqrt(1 + (i + 1) * ALPHA**2) if stage else 1.0,
            drop_rate=stochastic_depth * (n_before + i) / sum(N_BLOCKS),
        )
        for i in indices
    ]
