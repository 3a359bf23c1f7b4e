"""Training configuration: frozen dataclasses, written to ``config.toml`` with every run.

An unknown key is an error that names the nearest right one; a value out of its range is an error
that names the key.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

from loev_cli.errors import UsageError, did_you_mean
from loev_cli.model.loev import METHODS, TRAINABLE_METHODS, Method
from loev_cli.train.augment.config import EQUIVARIANT, AugmentationsConfig
from loev_cli.train.losses import VIEW_SCHEMES, ViewScheme

T = TypeVar("T")


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides what a run computes.

    Attributes:
        data: folder, file list or manifest of audio.
        steps: optimiser steps; None to train for ``minutes``.
        batch_size: tracks B per step; every track gives V views.
        lr: peak learning rate, after ``warmup_steps`` and before a cosine down to 1 %.
        max_track_s: longer tracks are cut there, so that the feature cache stays small.
    """

    data: str = ""
    method: Method = "loev++"
    encoder: str = "small"
    augs: tuple[str, ...] = ("pitch", "tempo")
    view_scheme: ViewScheme = "shared"
    steps: int | None = None
    minutes: float | None = None
    batch_size: int = 64
    seed: int = 0
    lr: float = 2e-3
    warmup_steps: int = 100
    weight_decay: float = 0.05
    clip_norm: float = 1.0
    temperature: float = 0.1
    head_dims: tuple[int, ...] = (256, 128)
    window_n_samples: int = 163840
    max_track_s: float = 600.0
    checkpoint_every_s: float = 120.0
    encoder_options: dict[str, Any] = field(default_factory=dict)
    augmentations: AugmentationsConfig = field(default_factory=AugmentationsConfig)

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UsageError(f"no method '{self.method}'", hint=f"methods: {', '.join(METHODS)}")
        if self.method not in TRAINABLE_METHODS:
            raise UsageError(
                f"method '{self.method}' cannot be trained yet",
                hint=f"methods today: {', '.join(TRAINABLE_METHODS)}",
            )
        if self.view_scheme not in VIEW_SCHEMES:
            raise UsageError(
                f"no view scheme '{self.view_scheme}'", hint=f"schemes: {', '.join(VIEW_SCHEMES)}"
            )
        if self.view_scheme != "shared":
            raise UsageError("view scheme 'independent' cannot be trained yet", hint="use 'shared'")
        if not self.augs:
            raise UsageError("augs is empty", hint=f"choose from {', '.join(EQUIVARIANT)}")
        for aug in self.augs:
            if aug not in EQUIVARIANT:
                raise UsageError(
                    f"no augmentation '{aug}'", hint=nearest(aug, EQUIVARIANT, "augmentations")
                )
        if len(set(self.augs)) < len(self.augs):
            raise UsageError(f"augs names one twice: {', '.join(self.augs)}")
        for key in ("batch_size", "lr", "temperature", "clip_norm", "max_track_s"):
            if not getattr(self, key) > 0:
                raise UsageError(f"{key} is {getattr(self, key)}, it must be above 0")
        if self.batch_size < 2:
            raise UsageError("batch_size is 1: contrast needs at least 2 tracks")
        for key in ("steps", "minutes"):
            value = getattr(self, key)
            if value is not None and not value > 0:
                raise UsageError(f"{key} is {value}, it must be above 0")


def nearest(name: str, known: Mapping[str, Any] | tuple[str, ...], what: str) -> str:
    """A hint: the nearest known name if there is one, and all of them."""
    return f"{did_you_mean(name, known)}{what}: {', '.join(known)}"


def from_mapping(cls: type[T], raw: Mapping[str, Any], where: str = "") -> T:
    """Build a config dataclass from plain values, e.g. of a TOML file.

    Raises:
        UsageError: an unknown key (with the nearest right one), or a value of the wrong type.
    """
    known = {f.name: f for f in fields(cls)}  # type: ignore[arg-type]
    hints = get_type_hints(cls)
    values: dict[str, Any] = {}
    for key, value in raw.items():
        if key not in known:
            raise UsageError(
                f"unknown key '{where}{key}'", hint=nearest(key, tuple(known), "known keys")
            )
        values[key] = _convert(hints[key], value, f"{where}{key}")
    return cls(**values)


def _convert(kind: Any, value: Any, where: str) -> Any:
    if is_dataclass(kind) and isinstance(kind, type):
        if not isinstance(value, Mapping):
            raise UsageError(f"'{where}' must be a table, not {value!r}")
        return from_mapping(kind, value, f"{where}.")
    origin = getattr(kind, "__origin__", None)
    if origin is tuple:
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
    if kind == float | None and isinstance(value, int):
        return float(value)
    return value


def read_toml(file: Path) -> dict[str, Any]:
    """Raises UsageError where the file is missing or is not TOML."""
    try:
        with file.open("rb") as stream:
            return tomllib.load(stream)
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"cannot read config {file}: {error}") from error


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
        return keys, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return keys, value.strip()
