"""Which views of a track a step compares: the `shared` view scheme.

For K augmentations a track gives V = max(3, K + 1) views. View 0 draws parameters for every
augmentation; view k = 1..K has view 0's parameter of augmentation k and new ones for the others:

    --augs pitch,tempo      view 0   view 1   view 2
              pitch           p1       p1       p2
              tempo           t1       t2       t1

so every head has a pair that agrees in its own augmentation and differs in all the rest, and a
pair that is the same recording and still a negative. With K = 1 a last view shares nothing.
Every view comes from a place of its own in the track.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from loev_cli.errors import UsageError
from loev_cli.model.frontend import FrontendConfig
from loev_cli.train.augment.config import AugmentationsConfig
from loev_cli.train.augment.features import Cut

_N_TRIES = 1000

Number = TypeVar("Number", int, float)


def n_views(augs: Sequence[str]) -> int:
    """V, views per track."""
    return max(3, len(augs) + 1)


@dataclass(frozen=True)
class PlannedView:
    """One view to cut, and the draw of each augmentation it was given (0: view 0's)."""

    cut: Cut
    draws: dict[str, int]


class SharedViewPlanner:
    """Draws the views of one track. Augmentations without a head are drawn anew in every view."""

    def __init__(
        self, augs: Sequence[str], config: AugmentationsConfig, frontend: FrontendConfig
    ) -> None:
        self.augs = tuple(augs)
        self.config = config
        self.frontend = frontend
        per_semitone = frontend.bins_per_semitone
        if max(map(abs, config.pitch.semitones)) * per_semitone > frontend.margin_bins:
            raise UsageError(
                f"augmentations.pitch.semitones {config.pitch.semitones} is wider than the "
                f"features' margin of {frontend.margin_bins / per_semitone:g} semitones"
            )

    def plan(
        self, n_track_frames: int, n_frames: int, rng: np.random.Generator
    ) -> list[PlannedView]:
        """V views of a track of ``n_track_frames``, each ``n_frames`` long."""
        count = n_views(self.augs)
        draws = {
            aug: [0 if view in (0, 1 + i) else view for view in range(count)]
            for i, aug in enumerate(self.augs)
        }
        everywhere_new = list(range(count))
        shifts = self._draw_shifts(draws.get("pitch", everywhere_new), rng)
        rates = self._draw_rates(draws.get("tempo", everywhere_new), rng)
        views = []
        for view in range(count):
            room = n_track_frames - rates[view] * n_frames - 1
            start = rng.uniform(0, room) if room > 0 else rng.uniform(0, n_track_frames)
            cut = Cut(start_frame=start, rate=rates[view], shift_bins=shifts[view])
            views.append(PlannedView(cut, {aug: draws[aug][view] for aug in self.augs}))
        return views

    def _draw_shifts(self, draws: list[int], rng: np.random.Generator) -> list[int]:
        low, high = self.config.pitch.semitones
        by_draw: dict[int, int] = {}
        for draw in draws:
            if draw not in by_draw:
                by_draw[draw] = _apart(
                    lambda: int(rng.integers(low, high + 1)), list(by_draw.values()), gap=1
                )
        return [by_draw[draw] * self.frontend.bins_per_semitone for draw in draws]

    def _draw_rates(self, draws: list[int], rng: np.random.Generator) -> list[float]:
        low, high = (math.log(rate) for rate in self.config.tempo.rate)
        gap = math.log1p(self.config.tempo.min_gap)
        by_draw: dict[int, float] = {}
        for draw in draws:
            if draw not in by_draw:
                by_draw[draw] = _apart(
                    lambda: float(rng.uniform(low, high)), list(by_draw.values()), gap
                )
        return [math.exp(by_draw[draw]) for draw in draws]


def _apart(draw: Callable[[], Number], taken: list[Number], gap: float) -> Number:
    """A draw at least ``gap`` from all values in ``taken``."""
    for _ in range(_N_TRIES):
        value = draw()
        if all(abs(value - other) >= gap for other in taken):
            return value
    raise UsageError(
        f"an augmentation's range has no room for {len(taken) + 1} draws {gap:.3g} apart",
        hint="widen its range or narrow its min_gap",
    )
