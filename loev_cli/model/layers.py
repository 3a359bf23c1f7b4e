"""What the encoders and the model share: names of subspaces and methods, building blocks."""

from __future__ import annotations

import keyword
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

INVARIANT = "invariant"
GLOBAL = "global"

Method = Literal["loev++", "loev", "looc", "cl"]
METHODS: tuple[Method, ...] = get_args(Method)

# Keeps the variance of a unit normal through a ReLU (NFNets, Brock et al. 2021, section 3).
RELU_GAIN = 1.7139588594436646


def module_key(name: str) -> str:
    """What a submodule for the subspace ``name`` is called.

    ONNX export writes modules' names into Python code, where `global` is no name.
    """
    return f"{name}_" if keyword.iskeyword(name) else name


class ReweightedConv2d(nn.Conv2d):
    """Convolution with a function of its weights. Base class: says what, and when it is computed.

    In training that is at every step; for inference :func:`fold_weights` does it once.
    """

    is_folded = False

    def effective_weight(self) -> Tensor:
        """What the input is convolved with, (C_out, C_in / groups, F, T)."""
        return self.weight if self.is_folded else self.reweighted()

    def reweighted(self) -> Tensor:
        """:meth:`effective_weight` from the parameters."""
        raise NotImplementedError

    def fold_(self) -> None:
        """Put the effective weight in the place of the parameter."""
        with torch.no_grad():
            self.weight.copy_(self.effective_weight())
        self.is_folded = True


def fold_weights(model: nn.Module) -> None:
    """Make ``model``, in place, one for inference only: same outputs, nothing computed twice.

    Its weights are no longer those of a bundle: not to be saved, not to be trained.
    """
    for module in model.modules():
        if isinstance(module, ReweightedConv2d):
            module.fold_()


class StandardizedConv2d(ReweightedConv2d):
    """Convolution with standardized weights and a learnable gain (Brock et al. 2021, eq. 1).

    ``activation_gain`` makes up for the variance that the activation behind it takes. It goes
    into the weights, where it costs nothing per sample.

    Takes the place of a normalization layer without looking at the activations, so what comes
    out for one example depends on no other example, in training as in inference. That is what
    lets gradients of split batches add up to those of the whole.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: tuple[int, int],
        stride: tuple[int, int] = (1, 1),
        padding: tuple[int, int] = (0, 0),
        dilation: tuple[int, int] = (1, 1),
        *,
        activation_gain: float = 1.0,
        bias: bool = True,
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, bias=bias
        )
        self.activation_gain = activation_gain
        self.gain = nn.Parameter(torch.ones(out_channels, 1, 1, 1))

    def reweighted(self) -> Tensor:
        fan_in = self.weight[0].numel()
        mean = self.weight.mean(dim=(1, 2, 3), keepdim=True)
        centered = self.weight - mean
        scale = torch.rsqrt(centered.square().mean(dim=(1, 2, 3), keepdim=True) * fan_in + 1e-4)
        return centered * (scale * self.gain * self.activation_gain)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(
            x, self.effective_weight(), self.bias, self.stride, self.padding, self.dilation
        )


def conv_relu(
    in_channels: int,
    out_channels: int,
    kernel_size: tuple[int, int],
    stride: tuple[int, int] = (1, 1),
    dilation: tuple[int, int] = (1, 1),
) -> nn.Sequential:
    """Standardized convolution that keeps the size (over its stride), then ReLU."""
    padding = (kernel_size[0] // 2 * dilation[0], kernel_size[1] // 2 * dilation[1])
    return nn.Sequential(
        StandardizedConv2d(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            activation_gain=RELU_GAIN,
        ),
        nn.ReLU(inplace=True),
    )


class PitchClassConv(nn.Module):
    """Convolution around the circle of the 12 pitch classes, all 12 neighbors seen.

    (B, C, 12, T) -> (B, C_out, 12, T). A transposition by one semitone turns the input by one
    step along its third axis, and the output with it.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        activation_gain: float = 1.0,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.conv = StandardizedConv2d(
            in_channels, out_channels, (12, 1), activation_gain=activation_gain, bias=bias
        )

    def forward(self, x: Tensor) -> Tensor:
        wrapped = torch.cat([x, x[:, :, :11]], dim=2)
        out: Tensor = self.conv(wrapped)
        return out
