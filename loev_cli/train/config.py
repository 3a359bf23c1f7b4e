"""Training configuration: frozen dataclasses, written to ``config.toml`` with every run.

An unknown key is an error that names the nearest right one; a value out of its range is an error
that names the key.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from loev_cli.errors import UsageError, known_names
from loev_cli.manifest import OWN_COLUMNS, SUFFIXES, TRACK
from loev_cli.model import GLOBAL, INVARIANT, METHODS, Method
from loev_cli.storage.bounded import parse_toml, read_bytes
from loev_cli.train.domains import domain_kind
from loev_cli.train.losses import VIEW_SCHEMES, ViewScheme

T = TypeVar("T")

ViewsOn = Literal["auto", "features", "waveforms"]
Positives = Literal["same", "adjacent", "random"]
TrainPrecision = Literal["auto", "fp32", "bf16"]


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides what a run computes.

    Attributes:
        domain: what is trained on, see :mod:`loev_cli.train.domains`.
        data: folder, file list or manifest of audio.
        augs: augmentations with a subspace of their own. Method ``cl`` has none, and is to be
            invariant to all of them. A name that is no augmentation is a column of the manifest
            ``data``, which says which variant of its track a file is.
        across_tracks: variants of which one value means the same in every track: the same
            instruments, say. They are positives of each other.
        train_only: subspaces to train, with everything else as the initial weights have it; none
            for all. Method ``loev++``.
        view_scheme: see :mod:`loev_cli.train.views`.
        views_on: where pitch, tempo and the base chain are changed: on the encoder's features or
            on waveforms; `auto` takes features where the encoder's frontend is log-frequency.
        positives: which crops of a track are compared: the `same`, `adjacent` or any (`random`).
        n_views: V, views per track; None for what the scheme needs.
        steps: optimizer steps; None to train for ``minutes``.
        batch_size: tracks B per step, over all processes; every track gives V views.
        micro_batch_size: tracks that go through the encoder at once; None for all. Less memory,
            the same loss over the whole batch (GradCache).
        precision: of the encoder; `auto` is bf16 on CUDA, fp32 on a CPU.
        lr: peak learning rate, after ``warmup_steps`` and before a cosine down to 1 %.
        ema_decay: keep an exponential moving average of the weights and give that; 0 for none.
        head_dims, head_final_relu, window_n_samples: None for what the encoder usually has.
        val_fraction: share of the tracks kept aside to validate on, where a manifest has no
            rows with ``split`` = val: of rows without a split, or of its train rows.
        validate_every: steps between validations.
        max_track_s: longer tracks are cut there, so that the cache stays small.
        augmentations: settings of the domain's augmentations; None for its defaults.
    """

    domain: str = "music"
    data: str = ""
    method: Method = "loev++"
    encoder: str = "small"
    augs: tuple[str, ...] = ("pitch", "tempo")
    across_tracks: tuple[str, ...] = ()
    train_only: tuple[str, ...] = ()
    view_scheme: ViewScheme = "shared"
    views_on: ViewsOn = "auto"
    positives: Positives = "random"
    n_views: int | None = None
    steps: int | None = None
    minutes: float | None = None
    batch_size: int = 64
    micro_batch_size: int | None = None
    precision: TrainPrecision = "auto"
    seed: int = 0
    lr: float = 2e-3
    warmup_steps: int = 100
    weight_decay: float = 0.05
    clip_norm: float = 1.0
    ema_decay: float = 0.0
    temperature: float = 0.1
    head_dims: tuple[int, ...] | None = None
    head_final_relu: bool | None = None
    window_n_samples: int | None = None
    max_track_s: float = 600.0
    val_fraction: float = 0.05
    validate_every: int = 500
    checkpoint_every_s: float = 120.0
    encoder_options: dict[str, Any] = field(default_factory=dict)
    augmentations: Any = None

    def __post_init__(self) -> None:
        kind = domain_kind(self.domain).augmentations
        if self.augmentations is None:
            object.__setattr__(self, "augmentations", kind())
        elif not isinstance(self.augmentations, kind):
            raise UsageError(f"augmentations are not those of domain '{self.domain}'")
        for key, known in _CHOICES.items():
            value = getattr(self, key)
            if value not in known:
                raise UsageError(
                    f"no {key.replace('_', ' ')} '{value}'",
                    hint=known_names(value, known, "known:"),
                )
        if not self.augs:
            raise UsageError("augs is empty", hint=f"choose from {', '.join(kind.names())}")
        for aug in self.variants:
            if Path(self.data).suffix.lower() not in SUFFIXES:
                raise UsageError(
                    f"no augmentation '{aug}'",
                    hint=known_names(aug, kind.names(), "augmentations:"),
                )
            if not aug.isidentifier() or aug in _NO_VARIANTS:
                raise UsageError(f"augs: '{aug}' cannot be the name of a subspace")
        if self.variants and self.view_scheme != "shared":
            raise UsageError(
                f"view scheme '{self.view_scheme}' does not go with variants "
                f"({', '.join(self.variants)}): none of them is unchanged",
                hint="use view_scheme shared",
            )
        _check_among("across_tracks", self.across_tracks, self.variants)
        _check_among("train_only", self.train_only, (INVARIANT, *self.augs))
        if self.train_only and self.method != "loev++":
            raise UsageError(
                f"train_only needs method loev++: with {self.method} all subspaces share weights"
            )
        if len(set(self.augs)) < len(self.augs):
            raise UsageError(f"duplicate augmentation in augs: {', '.join(self.augs)}")
        for key in _ABOVE_ZERO:
            value = getattr(self, key)
            if value is not None and not value > 0:
                raise UsageError(f"{key} is {value}, it must be above 0")
        for key in ("val_fraction", "ema_decay"):
            if not 0 <= getattr(self, key) < 1:
                raise UsageError(f"{key} is {getattr(self, key)}, it must be 0 or more and below 1")
        if self.batch_size < 2:
            raise UsageError("batch_size is 1, the contrastive loss needs at least 2 tracks")
        if self.n_views is not None and self.n_views < 2:
            raise UsageError(
                f"n_views is {self.n_views}, the contrastive loss needs at least 2 views"
            )

    @property
    def variants(self) -> tuple[str, ...]:
        """Those of ``augs`` that are columns of the manifest."""
        return tuple(aug for aug in self.augs if aug not in self.augmentations.names())


def _check_among(key: str, chosen: tuple[str, ...], known: tuple[str, ...]) -> None:
    for name in chosen:
        if name not in known:
            raise UsageError(
                f"{key}: no '{name}'",
                hint=known_names(name, known, "possible:") if known else "augs names no variants",
            )


_NO_VARIANTS = (INVARIANT, GLOBAL, TRACK, *OWN_COLUMNS)
_CHOICES: dict[str, tuple[str, ...]] = {
    "method": METHODS,
    "view_scheme": VIEW_SCHEMES,
    "views_on": get_args(ViewsOn),
    "positives": get_args(Positives),
    "precision": get_args(TrainPrecision),
}
_ABOVE_ZERO = (
    *("steps", "minutes", "batch_size", "micro_batch_size", "lr", "temperature", "clip_norm"),
    *("max_track_s", "window_n_samples", "validate_every"),
)


# What other trainers call a key.
_OTHER_NAMES = {
    "learning_rate": "lr",
    "warmup": "warmup_steps",
    "max_steps": "steps",
    "grad_clip": "clip_norm",
    "gradient_clip_val": "clip_norm",
    "tau": "temperature",
    "model": "encoder",
}


def from_mapping(cls: type[T], raw: Mapping[str, Any], where: str = "") -> T:
    """Build a config dataclass from plain values, e.g. of a TOML file.

    Raises:
        UsageError: an unknown key (with the nearest right one), or a value of the wrong type.
    """
    known = {f.name: f for f in fields(cls)}  # type: ignore[arg-type]
    hints = get_type_hints(cls)
    if cls is TrainConfig:
        hints["augmentations"] = domain_kind(raw.get("domain", TrainConfig.domain)).augmentations
    values: dict[str, Any] = {}
    for key, value in raw.items():
        if key not in known:
            raise UsageError(
                f"unknown key '{where}{key}'",
                hint=known_names(_OTHER_NAMES.get(key, key), known, "known keys:"),
            )
        values[key] = _convert(hints[key], value, f"{where}{key}")
    return cls(**values)


def _convert(kind: Any, value: Any, where: str) -> Any:
    if get_origin(kind) in (UnionType, Union):  # X | None
        if value is None:
            return None
        kind = next(k for k in get_args(kind) if k is not type(None))
    if is_dataclass(kind) and isinstance(kind, type):
        if not isinstance(value, Mapping):
            raise UsageError(f"'{where}' must be a table, not {value!r}")
        return from_mapping(kind, value, f"{where}.")
    if get_origin(kind) is tuple:
        if not isinstance(value, list | tuple):
            raise UsageError(f"'{where}' must be a list, not {value!r}")
        args = get_args(kind)
        if Ellipsis not in args and len(value) != len(args):
            raise UsageError(f"'{where}' must have {len(args)} values, not {len(value)}")
        return tuple(_convert(args[0], v, where) for v in value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    scalar = {int: int, float: float, str: str, bool: bool}.get(kind)
    if scalar and (not isinstance(value, scalar) or (isinstance(value, bool) and kind is not bool)):
        raise UsageError(f"'{where}' must be of type {kind.__name__}, not {value!r}")
    return value


_MAX_CONFIG_N_BYTES = 1 << 20
_SHIPPED = Path(__file__).parent / "configs"


def shipped_configs() -> list[str]:
    """Names of the built-in configs, for ``--config``."""
    return sorted(file.stem for file in _SHIPPED.glob("*.toml"))


def read_toml(config: str) -> dict[str, Any]:
    """Settings of a TOML file, or of a built-in config, by name.

    Raises:
        UsageError: neither, or not TOML.
    """
    file = _SHIPPED / f"{config}.toml" if config in shipped_configs() else Path(config)
    try:
        return parse_toml(read_bytes(file, _MAX_CONFIG_N_BYTES).decode())
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(
            f"cannot read config {config}: {reason}",
            hint=f"a TOML file, or one of {', '.join(shipped_configs())}",
        ) from error


def to_toml(config: TrainConfig) -> str:
    """The whole config as TOML; ``from_mapping(TrainConfig, ...)`` reads it back."""
    lines: list[str] = []
    _write_table(dataclasses.asdict(config), "", lines)
    return "\n".join(lines) + "\n"


def _write_table(table: Mapping[str, Any], prefix: str, lines: list[str]) -> None:
    for key, value in table.items():
        if value is not None and not isinstance(value, Mapping):
            lines.append(f"{key} = {_toml_value(value)}")
    for key, value in table.items():
        if isinstance(value, Mapping):
            lines.extend(["", f"[{prefix}{key}]"])
            _write_table(value, f"{prefix}{key}.", lines)


def _toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml_value(v) for v in value) + "]"
    escaped = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def parse_assignment(text: str) -> tuple[list[str], Any]:
    """``augmentations.eq.gain_db=3`` -> (["augmentations", "eq", "gain_db"], 3).

    The value is read as TOML, and as a plain string where it is none.

    Raises:
        UsageError: no ``=``, or no key before it.
    """
    key, separator, value = text.partition("=")
    keys = [part.strip() for part in key.split(".")]
    if not separator or not all(keys):
        raise UsageError(f"--set {text}: write KEY=VALUE")
    try:
        return keys, parse_toml(f"value = {value}")["value"]
    except ValueError:
        return keys, value.strip()
