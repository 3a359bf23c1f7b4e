"""Pitch and tempo. They decide which part of a track a view reads, so they are realised where it
is cut: on features by :func:`features.cut_view`, on waveforms by :func:`retime.retime`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from loev_cli.train.augment.base import Augmentation, setting

_LEAST_SEMITONES_APART = 0.5


@dataclass(frozen=True)
class Pitch(Augmentation):
    """Transposition by ``semitones``, in steps of ``step`` (0: any fraction), all equally likely.

    A range of 12 or more has draws an octave apart, negatives with the same pitch classes.
    """

    semitones: tuple[float, float] = setting((-4.0, 4.0), -24, 24)
    step: float = setting(1.0, 0, 24)

    name: ClassVar[str] = "pitch"
    param_names: ClassVar[tuple[str, ...]] = ("semitones",)

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        low, high = self.semitones
        if self.step == 0:
            return np.array([rng.uniform(low, high)])
        # Multiples of the step, so that 0 is among them; from the low end if none lies within.
        first, last = math.ceil(low / self.step - 1e-9), math.floor(high / self.step + 1e-9)
        if first > last:
            return np.array([low])
        return np.array([rng.integers(first, last + 1) * self.step])

    def differ(self, a: np.ndarray, b: np.ndarray) -> bool:
        return bool(abs(a[0] - b[0]) >= max(self.step, _LEAST_SEMITONES_APART) - 1e-9)


@dataclass(frozen=True)
class Tempo(Augmentation):
    """Time stretch; ``rate`` 2 plays twice as fast. Draws differ by ``min_gap`` (0.05: 5 %)."""

    rate: tuple[float, float] = setting((0.7, 1.3), 0.25, 4)
    min_gap: float = setting(0.05, 0, 4)

    name: ClassVar[str] = "tempo"
    param_names: ClassVar[tuple[str, ...]] = ("rate",)

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        low, high = self.rate
        return np.array([math.exp(rng.uniform(math.log(low), math.log(high)))])

    def differ(self, a: np.ndarray, b: np.ndarray) -> bool:
        return bool(abs(math.log(a[0] / b[0])) >= math.log1p(self.min_gap))
