"""The model: frontend, encoder, projection heads (Guinot et al., ICASSP 2025, section 3).

waveform --frontend--> features --encoder--> branches --heads--> projections --> loss
                                             |
                                             +--standardize--> subspaces: what a bundle gives
                                                               (`invariant` within tracks)

method        branches               heads              subspaces
loev++        invariant, pitch, ...  one per branch     the branches
loev, looc    global                 invariant, pitch,  the heads' outputs, and global
                                     ... on global
cl            global                 invariant          the head's output, and global
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from loev_cli.errors import UsageError
from loev_cli.model.encoders import build_encoder, encoder_kind
from loev_cli.model.frontend import FrontendConfig
from loev_cli.model.layers import GLOBAL, INVARIANT, METHODS, Method, module_key


@dataclass(frozen=True)
class ModelSpec:
    """All that is needed to build a model; saved in checkpoints and bundles.

    :meth:`of` fills in what is usual for an encoder.

    Attributes:
        augs: augmentations with a head of their own, in order. Method ``cl`` has no such heads.
        window_n_samples: length of a window, in samples at the frontend's rate.
        encoder_options: keyword arguments of the encoder.
        head_dims: widths of a projection head's layers.
        head_final_relu: whether a head ends in a ReLU.
    """

    method: Method = "loev++"
    augs: tuple[str, ...] = ("pitch", "tempo")
    encoder: str = "small"
    window_n_samples: int = 163840
    frontend: Any = field(default_factory=FrontendConfig)
    encoder_options: Mapping[str, Any] = field(default_factory=dict)
    head_dims: tuple[int, ...] = (256, 128)
    head_final_relu: bool = False

    @classmethod
    def of(
        cls,
        encoder: str,
        *,
        method: Method = "loev++",
        augs: tuple[str, ...] = ("pitch", "tempo"),
        window_n_samples: int | None = None,
        encoder_options: Mapping[str, Any] | None = None,
        head_dims: tuple[int, ...] | None = None,
        head_final_relu: bool | None = None,
    ) -> ModelSpec:
        """The spec of an encoder; what is left out is what that encoder usually has.

        Args:
            encoder_options: of the encoder; ``frontend`` among them is a table of its frontend's.

        Raises:
            UsageError: no such encoder, or a frontend that cannot be.
        """
        kind = encoder_kind(encoder)
        options = dict(encoder_options or {})
        relu = kind.head_final_relu if head_final_relu is None else head_final_relu
        return cls(
            method=method,
            augs=augs,
            encoder=encoder,
            window_n_samples=window_n_samples or kind.window_n_samples,
            frontend=kind.configured_frontend(options.pop("frontend", {})),
            encoder_options=options,
            head_dims=head_dims or kind.head_dims,
            head_final_relu=relu,
        )

    @property
    def heads(self) -> tuple[str, ...]:
        """Names of the projection heads, `invariant` first."""
        return (INVARIANT,) if self.method == "cl" else (INVARIANT, *self.augs)

    @property
    def is_split(self) -> bool:
        """Whether the encoder has a branch per head (LOEV++) or one for all."""
        return self.method == "loev++"

    @property
    def branches(self) -> tuple[str, ...]:
        """Names of the encoder's branches."""
        return self.heads if self.is_split else (GLOBAL,)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one row of input: (N,) of a waveform."""
        return encoder_kind(self.encoder).input_shape or (self.window_n_samples,)

    @property
    def reads_waveforms(self) -> bool:
        """Whether the input is a waveform, at the frontend's sample rate."""
        return encoder_kind(self.encoder).input_shape is None

    @property
    def window_s(self) -> float:
        """Length of a window of a waveform in seconds."""
        return self.window_n_samples / float(self.frontend.sample_rate_hz)

    @property
    def pads_short(self) -> bool:
        """Whether a track shorter than a window is followed by silence; else it is repeated."""
        return bool(self.encoder_options.get("pad_short", False))

    def to_config(self) -> dict[str, Any]:
        """The model's part of a bundle's ``config.json``."""
        return {
            "method": self.method,
            "augs": list(self.augs),
            "encoder": {"name": self.encoder, **self.encoder_options},
            "frontend": asdict(self.frontend),
            "head_dims": list(self.head_dims),
            "head_final_relu": self.head_final_relu,
            **(
                {
                    "sample_rate_hz": self.frontend.sample_rate_hz,
                    "window_n_samples": self.window_n_samples,
                }
                if self.reads_waveforms
                else {"input_shape": list(self.input_shape)}
            ),
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> ModelSpec:
        """The inverse of :meth:`to_config`; other keys of ``config`` are not looked at.

        Raises:
            KeyError, TypeError: a part is missing or unknown.
            UsageError: no such encoder.
        """
        options = dict(config["encoder"])
        encoder = options.pop("name")
        return cls(
            method=config["method"],
            augs=tuple(config["augs"]),
            encoder=encoder,
            window_n_samples=config.get("window_n_samples", 0),
            frontend=encoder_kind(encoder).frontend_config(**config["frontend"]),
            encoder_options=options,
            head_dims=tuple(config["head_dims"]),
            # Bundles of the first version do not say; their heads had none.
            head_final_relu=config.get("head_final_relu", False),
        )


class Projected(NamedTuple):
    """What training sees of a batch.

    Attributes:
        projections: head -> (R, P), not normalized, what the loss compares.
        embeddings: subspace -> (R, D), not standardized, without gradient.
    """

    projections: dict[str, Tensor]
    embeddings: dict[str, Tensor]


class LoevModel(nn.Module):
    """Frontend, encoder and heads of one of the four methods, see the module's text.

    ``model(waveform)`` is inference: (B, N), or (B, ...) of other input, -> {subspace: (B, D)},
    standardized. Training calls
    :meth:`project` on features of changed views, and :meth:`track` on what that gives.

    Raises:
        UsageError: a method or encoder that does not exist, a window that does not fit.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        if spec.method not in METHODS:
            raise UsageError(f"no method '{spec.method}'", hint=f"methods: {', '.join(METHODS)}")
        self.spec = spec
        self.frontend = encoder_kind(spec.encoder).frontend(spec.frontend)
        if spec.reads_waveforms:
            _check_window(spec.window_n_samples, self.frontend)
        self.encoder = build_encoder(
            spec.encoder,
            spec.frontend,
            spec.branches,
            window_n_samples=spec.window_n_samples,
            options=spec.encoder_options,
        )
        dims: dict[str, int] = self.encoder.dims
        self.heads = nn.ModuleDict(
            {
                name: projection_head(
                    dims[name if spec.is_split else GLOBAL],
                    spec.head_dims,
                    final_relu=spec.head_final_relu,
                )
                for name in spec.heads
            }
        )
        self.subspaces = dims if spec.is_split else dict.fromkeys(spec.heads, spec.head_dims[-1])
        if not spec.is_split:
            self.subspaces[GLOBAL] = dims[GLOBAL]
        self.standardise = nn.ModuleDict(
            {
                module_key(name): StandardizeWithinTracks(dim)
                if name == INVARIANT
                else Standardize(dim)
                for name, dim in self.subspaces.items()
            }
        )

    def forward(self, waveform: Tensor) -> dict[str, Tensor]:
        """Waveform (B, N) -> {subspace: (B, D)}."""
        return self.encode(self.features(waveform))

    def features(self, waveform: Tensor) -> Any:
        """Waveform (B, N) -> what the encoder reads of it."""
        return self.frontend.center(self.frontend(waveform))

    def encode(self, features: Any) -> dict[str, Tensor]:
        """Features of one window each -> {subspace: (B, D)}."""
        vectors: dict[str, Tensor] = self.encoder(features)
        embeddings = self._embeddings(vectors, {} if self.spec.is_split else self._heads(vectors))
        return {
            name: self.standardise[module_key(name)](vector) for name, vector in embeddings.items()
        }

    def project(self, features: Any, heads: Sequence[str] | None = None) -> Projected:
        """Features of one window each -> projections and embeddings of every row.

        Args:
            heads: of a split encoder, the only branches to compute; None for all.
        """
        vectors: dict[str, Tensor] = self.encoder(features, heads)
        projections = self._heads(vectors)
        embeddings = self._embeddings(vectors, projections)
        return Projected(projections, {name: x.detach() for name, x in embeddings.items()})

    def track(self, embeddings: Mapping[str, Tensor], tracks: Tensor) -> None:
        """Take a batch into the statistics: {subspace: (R, D)}, and the number of each row's track.

        :meth:`settle` makes them count.
        """
        for name, vector in embeddings.items():
            self.standardise[module_key(name)].track(vector, tracks)  # type: ignore[operator]

    def settle(self, subspaces: Collection[str] | None = None) -> None:
        """Make the statistics that were tracked those of the embeddings; of all for None."""
        for name in subspaces or self.subspaces:
            self.standardise[module_key(name)].settle()  # type: ignore[operator]

    def extend(self, other: LoevModel) -> None:
        """Take the weights of a model that has all but some of the augmentations of this one.

        A branch that it lacks starts as `invariant` does, if that is built alike.

        Raises:
            UsageError: the architectures differ in more than that.
        """
        same = replace(other.spec, augs=self.spec.augs) == self.spec
        if not same or not set(other.spec.augs) <= set(self.spec.augs):
            raise UsageError(
                "the --init weights have a different architecture",
                hint="use the method, encoder, augs and dimensions of its config",
            )
        self.load_state_dict(other.state_dict(), strict=False)
        for name in set(self.spec.branches) - set(other.spec.branches):
            branch, known = (self.encoder.branches[module_key(n)] for n in (name, INVARIANT))
            if _shapes(branch) == _shapes(known):
                branch.load_state_dict(known.state_dict())

    def train_only(self, subspaces: Collection[str]) -> None:
        """Freeze all but these branches of a split encoder and their heads; all train for none."""
        self.train(not subspaces)
        self.requires_grad_(not subspaces)
        for name in subspaces:
            for part in (self.encoder.branches[module_key(name)], self.heads[name]):
                part.train().requires_grad_()

    def _heads(self, vectors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if self.spec.is_split:
            return {name: self.heads[name](vector) for name, vector in vectors.items()}
        return {name: head(vectors[GLOBAL]) for name, head in self.heads.items()}

    def _embeddings(
        self, vectors: Mapping[str, Tensor], projections: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """What subspaces are before they are standardized.

        A head's output counts by its direction, which is all that the loss has seen of it.
        """
        if self.spec.is_split:
            return dict(vectors)
        by_head = {name: F.normalize(z, dim=1) for name, z in projections.items()}
        return {**by_head, GLOBAL: vectors[GLOBAL]}


def _check_window(n_samples: int, frontend: Any) -> None:
    if n_samples % frontend.block_n_samples:
        raise UsageError(
            f"window_n_samples is {n_samples}, it must be a multiple of {frontend.block_n_samples}"
        )
    if n_samples < frontend.fewest_n_samples:
        raise UsageError(
            f"window_n_samples is {n_samples}, the frontend needs {frontend.fewest_n_samples}",
            hint="a longer window, or fewer octaves",
        )


class Standardize(nn.Module):
    """Subtracts a subspace's mean and scales to a mean squared norm of 1, over what training saw.

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

    def track(self, x: Tensor, tracks: Tensor) -> None:
        """Take in views (R, D) of the tracks that ``tracks`` (R,) numbers."""
        x = x.float()
        self.n_tracked += 1
        self.mean.lerp_(x.mean(dim=0), self.momentum)
        self.mean_square.lerp_((x - self.mean).square().sum(dim=1).mean(), self.momentum)

    def settle(self) -> None:
        """Make what was tracked count in :meth:`forward`."""

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) * torch.rsqrt(self.mean_square)

    @property
    def momentum(self) -> float:
        """Share of the latest batch in the averages: at first all batches count alike."""
        return max(1 / int(self.n_tracked), self.MOMENTUM)


class StandardizeWithinTracks(Standardize):
    """Standardizes such that views of one track scatter alike in all D directions.

    A subspace that is to be invariant to changes still moves under them, and in few directions: all
    tracks move together when their tuning does. Multiplied by the inverse square root of the
    covariance within tracks, those directions count for little in a distance (within-class
    covariance normalization, Hatch, Kajarekar & Stolcke, Interspeech 2006; here the classes are
    the training's tracks, and no label is used). ``SHRINKAGE`` of the mean variance is added to all
    directions, so that one in which tracks hardly scatter is not blown up.
    """

    within: Tensor
    total: Tensor
    matrix: Tensor
    SHRINKAGE = 0.1

    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.register_buffer("within", torch.zeros(dim, dim))  # covariance about a track's mean
        self.register_buffer("total", torch.zeros(dim, dim))  # about the mean of all
        self.register_buffer("matrix", torch.eye(dim))

    def track(self, x: Tensor, tracks: Tensor) -> None:
        super().track(x, tracks)
        x = x.float()
        _, place, n_views = torch.unique(tracks, return_inverse=True, return_counts=True)
        sums = x.new_zeros(len(n_views), x.shape[1]).index_add_(0, place, x)
        about_track = x - (sums / n_views[:, None])[place]
        about_all = x - self.mean
        n_free = max(1, len(x) - len(n_views))
        self.within.lerp_(about_track.T @ about_track / n_free, self.momentum)
        self.total.lerp_(about_all.T @ about_all / len(x), self.momentum)

    def settle(self) -> None:
        within, total = self.within.double(), self.total.double()
        floor = self.SHRINKAGE * within.diagonal().mean()
        if not floor > 0:  # nothing was tracked, or no track had two views that differ
            self.matrix.copy_(torch.eye(len(within)) * torch.rsqrt(self.mean_square.cpu()))
            return
        variances, directions = torch.linalg.eigh(within)
        root = (directions * (variances.clamp(min=0) + floor).rsqrt()) @ directions.T
        self.matrix.copy_(root * torch.trace(root @ total @ root).rsqrt())

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = (x - self.mean) @ self.matrix
        return out

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *args: Any) -> None:
        """Older checkpoints have no WCCN matrix, only a scale; reset the statistics."""
        is_old = f"{prefix}matrix" not in state and f"{prefix}mean_square" in state
        if is_old:
            for name in ("within", "total", "matrix", "n_tracked"):
                state[prefix + name] = torch.zeros_like(getattr(self, name))
        super()._load_from_state_dict(state, prefix, *args)
        if is_old:
            self.settle()


def _shapes(module: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in module.state_dict().items()}


def projection_head(in_dim: int, dims: tuple[int, ...], *, final_relu: bool) -> nn.Sequential:
    """Linear layers without bias, ReLU between them and, if asked for, after the last."""
    layers: list[nn.Module] = []
    for n_in, n_out in zip((in_dim, *dims), dims, strict=False):
        layers += [nn.Linear(n_in, n_out, bias=False), nn.ReLU()]
    return nn.Sequential(*(layers if final_relu else layers[:-1]))
