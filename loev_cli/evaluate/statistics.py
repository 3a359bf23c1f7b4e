"""95 % confidence intervals over groups, because tracks of one album are not independent.

bootstrap    for per-track scores: groups are resampled with replacement, 1000 times
             (Efron & Tibshirani 1993, percentile interval)
jackknife    for statistics of a set of vectors (rank, uniformity, CKA, mAP), which duplicate rows
             would distort: a twentieth of the groups is left out at a time, normal interval
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

N_DRAWS = 1000
_N_BLOCKS = 20
_NORMAL_95 = 1.96

Index = NDArray[np.int64]
Statistic = Callable[[Index], float]


@dataclass(frozen=True)
class Estimate:
    """A value, its 95 % confidence interval, and the chance level.

    Attributes:
        n_tracks, n_groups: sample size.
        chance: the expected value of random guessing; None if not applicable.
    """

    value: float
    low: float
    high: float
    n_tracks: int
    n_groups: int
    chance: float | None = None

    def __str__(self) -> str:
        """``0.82 [0.76, 0.87]``."""
        if not np.isfinite(self.value):
            return "not defined"
        # Adding 0 makes -0 0.
        value, low, high = (round(x, 2) + 0.0 for x in (self.value, self.low, self.high))
        return f"{value:.2f} [{low:.2f}, {high:.2f}]"

    @property
    def marked(self) -> str:
        """As text, with an asterisk if the whole interval lies above chance."""
        return f"{self} *" if self.chance is not None and self.low > self.chance else str(self)

    def as_dict(self) -> dict[str, Any]:
        return {
            "value": self.value,
            "low": self.low,
            "high": self.high,
            "chance": self.chance,
            "n_tracks": self.n_tracks,
            "n_groups": self.n_groups,
        }


def record(result: Any) -> dict[str, Any]:
    """The fields of a dataclass, for JSON."""
    found = {field.name: getattr(result, field.name) for field in dataclasses.fields(result)}
    return {name: x.as_dict() if isinstance(x, Estimate) else x for name, x in found.items()}


class Bootstrap:
    """Uses the same draws for every statistic of the same rows, so that differences are paired.

    Args:
        groups: (n,), the group of every row.
        n_draws: None for ``N_DRAWS``.
    """

    def __init__(self, groups: NDArray[Any], *, seed: int = 0, n_draws: int | None = None) -> None:
        n_draws = N_DRAWS if n_draws is None else n_draws
        names, of_row = np.unique(groups, return_inverse=True)
        members = [np.flatnonzero(of_row == g) for g in range(len(names))]
        rng = np.random.default_rng(seed)
        self.n_tracks = len(groups)
        self.n_groups = len(names)
        self.draws: list[Index] = [
            np.concatenate([members[g] for g in rng.integers(0, len(names), len(names))])
            for _ in range(n_draws if len(names) else 0)
        ]

    def estimate(self, statistic: Statistic, *, chance: float | None = None) -> Estimate:
        """``statistic`` of all rows, with the interval of its values over the draws.

        Args:
            statistic: rows (indices, repeated as drawn) -> value; NaN if undefined, for example
                if a draw has only one class.
        """
        value = statistic(np.arange(self.n_tracks))
        values = np.array([statistic(draw) for draw in self.draws])
        return self._with_interval(value, values, chance)

    def mean(self, scores: NDArray[np.float64], *, chance: float | None = None) -> Estimate:
        """The mean of one score per row (n,); NaN scores are left out."""
        filled = np.nan_to_num(scores)
        counts = np.isfinite(scores)
        if not counts.any():
            return self._with_interval(float("nan"), np.zeros(0), chance)
        n_counted = np.array([counts[draw].sum() for draw in self.draws])
        sums = np.array([filled[draw].sum() for draw in self.draws])
        values = sums[n_counted > 0] / n_counted[n_counted > 0]
        return self._with_interval(float(scores[counts].mean()), values, chance)

    def _with_interval(
        self, value: float, values: NDArray[np.float64], chance: float | None
    ) -> Estimate:
        values = values[np.isfinite(values)]
        low, high = np.quantile(values, [0.025, 0.975]) if len(values) else (np.nan, np.nan)
        return Estimate(float(value), float(low), float(high), self.n_tracks, self.n_groups, chance)


def jackknife(statistic: Statistic, groups: NDArray[Any], *, seed: int = 0) -> Estimate:
    """``statistic`` of all rows, with a jackknife interval over blocks of groups.

    Args:
        groups: (n,); with fewer than two there is no interval (NaN).
    """
    return jackknife_all(lambda rows: {"": statistic(rows)}, groups, seed=seed)[""]


def jackknife_all(
    statistics: Callable[[Index], dict[str, float]], groups: NDArray[Any], *, seed: int = 0
) -> dict[str, Estimate]:
    """The same for several statistics that are computed together."""
    names, of_row = np.unique(groups, return_inverse=True)
    rows = np.arange(len(groups))
    n_blocks = min(_N_BLOCKS, len(names))
    block_of_group = np.random.default_rng(seed).permutation(len(names)) % max(n_blocks, 1)
    block = block_of_group[of_row]
    without = [statistics(rows[block != b]) for b in range(n_blocks)]
    estimates = {}
    for name, value in statistics(rows).items():
        values = np.array([each.get(name, np.nan) for each in without])
        values = values[np.isfinite(values)]
        k = len(values)
        error = np.sqrt((k - 1) / k * np.square(values - values.mean()).sum()) if k > 1 else np.nan
        reach = float(_NORMAL_95 * error)
        estimates[name] = Estimate(
            float(value), value - reach, value + reach, len(groups), len(names)
        )
    return estimates
