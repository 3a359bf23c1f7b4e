"""The model: frontend, encoder, projection heads (Guinot et al., ICASSP 2025, section 3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from loev_cli.errors import UsageError
from loev_cli.model.encoders import build_encoder
from loev_cli.model.frontend import Features, FrontendConfig, LogFrequency

INVARIANT = "invariant"
GLOBAL = "global"

Method = Literal["loev++", "loev", "looc", "cl"]
METHODS: tuple[Method, ...] = get_args(Method)
# Methods that can be trained today; the loss knows all of them already.
TRAINABLE_METHODS: tuple[Method, ...] = ("loev++",)


@dataclass(frozen=True)
class ModelSpec:
    """All that is needed to build a model; saved in checkpoints and bundles.

    Attributes:
        augs: augmentations with a subspace of their own, in order.
        window_n_samples: length of a window, in samples at the frontend's rate.
        encoder_options: keyword arguments of the encoder.
        head_dims: widths of a projection head's layers.
    """

    method: Method = "loev++"
    augs: tuple[str, ...] = ("pitch", "tempo")
    encoder: str = "small"
    window_n_samples: int = 163840
    frontend: FrontendConfig = field(default_factory=FrontendConfig)
    encoder_options: Mapping[str, Any] = field(default_factory=dict)
    head_dims: tuple[int, ...] = (256, 128)

    @property
    def heads(self) -> tuple[str, ...]:
        """Names of the projection heads, `invariant` first."""
        return (INVARIANT, *self.augs)

    @property
    def n_frames(self) -> int:
        """Spectrum frames T of a window."""
        return self.window_n_samples // self.frontend.spectrum_hop

    def to_config(self) -> dict[str, Any]:
        """The model's part of a bundle's ``config.json``."""
        return {
            "method": self.method,
            "augs": list(self.augs),
            "encoder": {"name": self.encoder, **self.encoder_options},
            "frontend": asdict(self.frontend),
            "head_dims": list(self.head_dims),
            "sample_rate_hz": self.frontend.sample_rate_hz,
            "window_n_samples": self.window_n_samples,
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> ModelSpec:
        """The inverse of :meth:`to_config`; other keys of ``config`` are not looked at.

        Raises:
            KeyError, TypeError: a part is missing or unknown.
        """
        options = dict(config["encoder"])
        return cls(
            method=config["method"],
            augs=tuple(config["augs"]),
            encoder=options.pop("name"),
            window_n_samples=config["window_n_samples"],
            frontend=FrontendConfig(**config["frontend"]),
            encoder_options=options,
            head_dims=tuple(config["head_dims"]),
        )


class LoevModel(nn.Module):
    """LOEV++: one branch of the encoder per subspace, one projection head per branch.

    ``model(waveform)`` is inference: (B, N) -> {subspace: (B, D)}, branch outputs before their
    heads, standardised. Training calls :meth:`project` on features that were shifted and stretched.

    Raises:
        UsageError: a method or encoder that does not exist, a window that does not fit.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        if spec.method not in TRAINABLE_METHODS:
            raise UsageError(
                f"no method '{spec.method}' yet", hint=f"methods: {', '.join(TRAINABLE_METHODS)}"
            )
        self.spec = spec
        self.frontend = LogFrequency(spec.frontend)
        if spec.window_n_samples % max(
            self.frontend.block_n_samples, 16 * spec.frontend.spectrum_hop
        ):
            raise UsageError(f"a window of {spec.window_n_samples} samples does not fit the frames")
        self.encoder = build_encoder(
            spec.encoder,
            spec.frontend,
            spec.heads,
            {"window_n_samples": spec.window_n_samples, **spec.encoder_options},
        )
        self.standardise = nn.ModuleDict(
            {name: Standardise(dim) for name, dim in self.encoder.dims.items()}
        )
        self.heads = nn.ModuleDict(
            {name: projection_head(self.encoder.dims[name], spec.head_dims) for name in spec.heads}
        )

    @property
    def subspaces(self) -> dict[str, int]:
        """Subspace name -> dimension D, in order."""
        return dict(self.encoder.dims)

    def forward(self, waveform: Tensor) -> dict[str, Tensor]:
        """Waveform (B, N) -> {subspace: (B, D)}."""
        return self.encode(self.frontend.centre(self.frontend(waveform)))

    def encode(self, features: Features) -> dict[str, Tensor]:
        """Features of one window each -> {subspace: (B, D)}."""
        vectors: dict[str, Tensor] = self.encoder(features)
        return {name: self.standardise[name](vector) for name, vector in vectors.items()}

    def project(self, features: Features) -> dict[str, Tensor]:
        """Features of one window each -> {head: (B, P)}, not normalised."""
        vectors: dict[str, Tensor] = self.encoder(features)
        if self.training:
            for name, vector in vectors.items():
                self.standardise[name].track(vector.detach())  # type: ignore[operator]
        return {name: head(vectors[name]) for name, head in self.heads.items()}


class Standardise(nn.Module):
    """Takes a branch's mean off and scales to a mean squared norm of 1, over what training saw.

    The loss looks at directions only, so nothing holds the size of a branch's output: left alone
    it reaches hundreds, and differs between subspaces. One scale for all D dimensions keeps the
    geometry. Statistics follow the training with a running average, of views of all
    transpositions and tempi; they take no part in the loss.
    """

    mean: Tensor
    mean_square: Tensor
    n_tracked: Tensor
    MOMENTUM = 0.01

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("mean_square", torch.ones(()))  # of the distance from the mean
        self.register_buffer("n_tracked", torch.zeros((), dtype=torch.int64))

    def track(self, x: Tensor) -> None:
        """Take in a batch (B, D)."""
        self.n_tracked += 1
        momentum = max(1 / int(self.n_tracked), self.MOMENTUM)
        self.mean.lerp_(x.mean(dim=0), momentum)
        self.mean_square.lerp_((x - self.mean).square().sum(dim=1).mean(), momentum)

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) * torch.rsqrt(self.mean_square)


def projection_head(in_dim: int, dims: tuple[int, ...]) -> nn.Sequential:
    """Linear layers without bias, ReLU between them."""
    layers: list[nn.Module] = []
    for i, (n_in, n_out) in enumerate(zip((in_dim, *dims), dims, strict=False)):
        if i:
            layers.append(nn.ReLU())
        layers.append(nn.Linear(n_in, n_out, bias=False))
    return nn.Sequential(*layers)
