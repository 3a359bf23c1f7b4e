"""What an augmentation is: its settings, what it draws, and how it is realized on either path.

One class is one augmentation. Its fields are the keys of its table in the config:

    [augmentations.noise]
    p = 0.4
    snr_db = [3.0, 30.0]

A view's parameters are drawn first, as plain numbers (:meth:`Augmentation.draw`), and realized
later on whole batches in which every row has parameters of its own. Views may therefore share a
parameter, which is what a subspace learns from, and a row's result depends on that row alone.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from torch import Tensor

from loev_cli.errors import UsageError, known_names
from loev_cli.model.frontend import AnyFrontendConfig, Features, FrontendConfig

NATS_PER_DB = math.log(10) / 10  # of power

Views = TypeVar("Views", Tensor, Features)


def setting(default: Any, low: float = -math.inf, high: float = math.inf) -> Any:
    """A field of a config whose value, or both ends of whose range, lie within [low, high]."""
    return field(default=default, metadata={"bounds": (low, high)})


@dataclass(frozen=True)
class Augmentation:
    """One augmentation with its settings.

    Attributes:
        p: probability that a view is changed at all. A view that a head compares by this
            augmentation's parameters always is.
        name: its key in the config and in ``--augs``.
        on_waveforms_too: False where it exists on features only.
        on_features_too: False where it exists on waveforms only, or is not heard in features.
        is_cut: realized where a view is cut out of its item, and not in the chain after that; such
            an augmentation changes every view of the shared scheme.
    """

    p: float = setting(0.5, 0, 1)

    name: ClassVar[str]
    on_waveforms_too: ClassVar[bool] = True
    on_features_too: ClassVar[bool] = True
    is_cut: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Raises UsageError naming the field that is out of bounds or a reversed range."""
        for part in fields(self):
            value, key = getattr(self, part.name), f"augmentations.{self.name}.{part.name}"
            low, high = part.metadata.get("bounds", (-math.inf, math.inf))
            numbers = value if isinstance(value, tuple) else (value,)
            for number in numbers:
                if not isinstance(number, str) and not low <= number <= high:
                    limits = f"within {low:g} and {high:g}"
                    if math.isinf(high):
                        limits = f"at least {low:g}"
                    raise UsageError(f"{key} is {number:g}, it must be {limits}")
            if len(numbers) == 2 and not isinstance(numbers[0], str) and numbers[0] > numbers[1]:
                raise UsageError(
                    f"{key}: lower bound exceeds upper bound: [{numbers[0]:g}, {numbers[1]:g}]",
                    hint=f"write [{numbers[1]:g}, {numbers[0]:g}]",
                )

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """One view's parameters, (P,) float64: a number from every range of the settings."""
        values = (getattr(self, part.name) for part in fields(self))
        return np.array([rng.uniform(*value) for value in values if isinstance(value, tuple)])

    def differ(self, a: np.ndarray, b: np.ndarray) -> bool:
        """Whether two draws are far enough apart to be told from each other."""
        return not np.array_equal(a, b)

    def on_waveforms(
        self, x: Tensor, params: np.ndarray, seeds: np.ndarray, sample_rate_hz: int
    ) -> Tensor:
        """Change every row.

        Args:
            x: (R, N) float32 on any device.
            params: (R, P), a draw for every row.
            seeds: (R,) uint32, for what differs between rows that share a draw: the noise itself.
        """
        raise NotImplementedError(f"{self.name} on waveforms")

    def on_features(
        self, views: Features, params: np.ndarray, seeds: np.ndarray, frontend: FrontendConfig
    ) -> Features:
        """The same on log-frequency features, (R, F, T) and (R, S, 4 T)."""
        raise NotImplementedError(f"{self.name} on features")


@dataclass(frozen=True)
class Augmentations:
    """Settings of all augmentations of a domain, in the order in which they are applied.

    A domain's own is a frozen dataclass with a field for each, of the augmentation's name.
    """

    def __getitem__(self, name: str) -> Augmentation:
        augmentation: Augmentation = getattr(self, name)
        return augmentation

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """All of them may have a subspace of their own."""
        return tuple(part.name for part in fields(cls))

    @property
    def base_chain(self) -> tuple[Augmentation, ...]:
        """All but those that are realized where a view is cut."""
        return tuple(self[name] for name in self.names() if not self[name].is_cut)


def apply_chain(
    chain: Sequence[Augmentation],
    x: Views,
    params: Mapping[str, np.ndarray],
    applied: Mapping[str, np.ndarray],
    seeds: Mapping[str, np.ndarray],
    frontend: AnyFrontendConfig,
) -> Views:
    """Each augmentation in turn changes the rows it is applied to; ``x`` itself is left as it is.

    Args:
        x: waveforms (R, N), or features of R views; of the latter, ``frontend`` is the config.
        params: by name, (R, P) draws. Those of rows that are left alone do not matter.
        applied: by name, (R,) bool. An augmentation that is missing is applied to no row.
        seeds: by name, (R,) uint32.
    """
    tensors = [tensor.clone() for tensor in (x if isinstance(x, Features) else (x,))]
    for augmentation in chain:
        name = augmentation.name
        possible = (
            augmentation.on_features_too
            if isinstance(x, Features)
            else augmentation.on_waveforms_too
        )
        rows = np.flatnonzero(applied[name]) if possible and name in applied else ()
        if not len(rows):
            continue
        index = torch.from_numpy(rows).to(tensors[0].device)
        before = [tensor[index] for tensor in tensors]
        draws, row_seeds = np.asarray(params[name])[rows], np.asarray(seeds[name])[rows]
        after: tuple[Tensor, ...]
        if isinstance(x, Features):
            assert isinstance(frontend, FrontendConfig)
            after = augmentation.on_features(Features(*before), draws, row_seeds, frontend)
        else:
            rate_hz = frontend.sample_rate_hz
            after = (augmentation.on_waveforms(before[0], draws, row_seeds, rate_hz),)
        for tensor, changed in zip(tensors, after, strict=True):
            tensor[index] = changed
    return Features(*tensors) if isinstance(x, Features) else tensors[0]


def column(values: np.ndarray, like: Tensor) -> Tensor:
    """(R, ...) -> (R, ..., 1) float32 on the device of ``like``, to broadcast over time."""
    return torch.as_tensor(values, dtype=torch.float32, device=like.device).unsqueeze(-1)


def bin_frequencies_hz(frontend: FrontendConfig) -> tuple[np.ndarray, np.ndarray]:
    """Centers of the spectrum's bins (F,), without margins, and of the bands (S,)."""
    octave = (np.arange(frontend.n_bins) + frontend.margin_bins) / frontend.bins_per_octave
    first_band_octave = frontend.n_octaves - frontend.n_band_octaves
    band_octave = (np.arange(frontend.n_bands) + 0.5) / frontend.bands_per_octave
    lowest_hz = frontend.top_hz / 2**frontend.n_octaves
    return lowest_hz * 2**octave, lowest_hz * 2 ** (band_octave + first_band_octave)


def check_choices(key: str, chosen: tuple[str, ...], known: tuple[str, ...]) -> None:
    """Raises UsageError where ``chosen`` is empty or names what is not known."""
    if not chosen:
        raise UsageError(f"{key} is empty", hint=f"choose from {', '.join(known)}")
    for name in chosen:
        if name not in known:
            raise UsageError(f"{key}: no '{name}'", hint=known_names(name, known, "known:"))


@functools.cache
def fast_length(n: int) -> int:
    """The next even length from ``n`` on that is quick to transform: no prime factor above 5."""
    size = n + n % 2
    while max(prime_factors(size)) > 5:
        size += 2
    return size


@functools.cache
def prime_factors(n: int) -> list[int]:
    """With multiplicity, in order; [1] for 1."""
    factors, factor = [], 2
    while factor * factor <= n:
        if n % factor:
            factor += 1
        else:
            factors.append(factor)
            n //= factor
    return [*factors, n] if n > 1 or not factors else factors


def random_phasors(seeds: np.ndarray, n: int, device: torch.device) -> Tensor:
    """Unit complex numbers of random phase, (R, n), from each row's seed alone.

    A counter run through a 32-bit integer hash (lowbias32, Wellons 2018): no state, no loop over
    rows, the same on every device.
    """
    # int32 wraps around as unsigned numbers do; only the right shift must be masked.
    start = torch.as_tensor(seeds.astype(np.uint32).view(np.int32), device=device)
    x = torch.arange(n, dtype=torch.int32, device=device) ^ _hash(start).unsqueeze(1)
    phase = _hash(x).float() * (torch.pi / 2**31)
    return torch.polar(torch.ones_like(phase), phase)


def _hash(x: Tensor) -> Tensor:
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B - 2**32), (16, None)):
        x = x ^ ((x >> shift) & ((1 << (32 - shift)) - 1))
        if factor is not None:
            x = x * factor
    return x
