"""Encoders, by name. Adding one is one file here and one entry below."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any, Protocol

from torch import Tensor, nn

from loev_cli.errors import UsageError, entry, known_names
from loev_cli.model.encoders.sf_nfnet import SfNfnetF0
from loev_cli.model.encoders.small import SmallEncoder
from loev_cli.model.frontend import FrontendConfig, LogFrequency, MelConfig, MelSpectrogram


class Encoder(Protocol):
    """Features of B windows in, one (B, D) vector per branch out.

    ``dims`` names the branches in order. A split encoder (LOEV++) has one per head, a shared one
    the single branch ``global``. ``branches`` are the only ones to compute; None for all.
    """

    dims: dict[str, int]

    def __call__(
        self, features: Any, branches: Sequence[str] | None = None
    ) -> dict[str, Tensor]: ...


@dataclass(frozen=True)
class NoFrontendConfig:
    """Nothing to set."""


class NoFrontend(nn.Module):
    """The input itself, for encoders that read it as it is."""

    def __init__(self, config: NoFrontendConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, x: Tensor) -> Tensor:
        return x

    def center(self, x: Tensor) -> Tensor:
        return x


@dataclass(frozen=True)
class EncoderKind:
    """An encoder, the frontend it reads, and the settings it is usually trained with.

    Attributes:
        encoder: called with the frontend's config, the branches and its options; where it reads a
            waveform also with ``window_n_samples``.
        frontend: of a waveform to features; where there is no waveform, what comes before the
            weights, :class:`NoFrontend` for nothing.
        window_n_samples: length of a window of a waveform; 0 where the input is none.
        input_shape: of one row of an input that is no waveform.
        head_dims: widths of a projection head's layers.
        head_final_relu: whether a head ends in a ReLU, as the paper's do.
    """

    encoder: Callable[..., Any]
    frontend: Callable[[Any], Any]
    frontend_config: Callable[..., Any]
    window_n_samples: int
    head_dims: tuple[int, ...]
    head_final_relu: bool
    input_shape: tuple[int, ...] | None = None

    @property
    def options(self) -> tuple[str, ...]:
        """Names of the options a config may set."""
        parameters = signature(self.encoder).parameters.values()
        return tuple(
            p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name != "window_n_samples"
        )

    def configured_frontend(self, settings: Mapping[str, Any]) -> Any:
        """The frontend's config with ``settings`` instead of its defaults.

        Raises:
            UsageError: not a table, an unknown setting, or one that cannot be.
        """
        known = tuple(signature(self.frontend_config).parameters)
        if not isinstance(settings, Mapping):
            raise UsageError(f"encoder_options.frontend must be a table, not {settings!r}")
        for key, value in settings.items():
            if key not in known:
                raise UsageError(
                    f"encoder_options.frontend has no '{key}'",
                    hint=known_names(key, known, "settings:"),
                )
            if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
                raise UsageError(
                    f"encoder_options.frontend.{key} is {value!r}, it must be a number above 0"
                )
        return self.frontend_config(**settings)


# A program may add its own; it must have done so before it loads what was made with it.
ENCODERS: dict[str, EncoderKind] = {
    "small": EncoderKind(
        encoder=SmallEncoder,
        frontend=LogFrequency,
        frontend_config=FrontendConfig,
        window_n_samples=163840,
        head_dims=(256, 128),
        head_final_relu=False,
    ),
    "sf-nfnet-f0": EncoderKind(
        encoder=SfNfnetF0,
        frontend=MelSpectrogram,
        frontend_config=MelConfig,
        window_n_samples=48000,
        head_dims=(512, 128),
        head_final_relu=True,
    ),
}


def encoder_kind(name: str) -> EncoderKind:
    """The entry of the encoder called ``name``.

    Raises:
        UsageError: there is none.
    """
    return entry(ENCODERS, name, "encoder")


def build_encoder(
    name: str,
    frontend: Any,
    branches: Sequence[str],
    *,
    window_n_samples: int,
    options: Mapping[str, Any],
) -> Any:
    """The encoder called ``name`` with one branch per entry of ``branches``.

    Args:
        frontend: config of the frontend it reads.

    Raises:
        UsageError: no such encoder, an option it does not have, a window that does not fit.
    """
    kind = encoder_kind(name)
    for option in options:
        if option not in kind.options:
            raise UsageError(
                f"encoder '{name}' has no option '{option}'",
                hint=f"options: {', '.join(kind.options) or 'none'}",
            )
    window = {} if kind.input_shape else {"window_n_samples": window_n_samples}
    return kind.encoder(frontend, branches, **window, **options)
