"""How sure is it that one method is better than another?

score         the mean over seeds of a figure over tracks
interval      95 %, hierarchical bootstrap: whole groups of tracks are drawn with replacement, and
              so are seeds; the same draws for all methods (Efron & Tibshirani 1993, percentiles).
              A bootstrap of S seeds shows only (S - 1) / S of their variance; its weights are
              widened by the square root of S / (S - 1) (Rao & Wu, JASA 1988)
test          of two methods' difference, paired by track and by seed: how often would draws about
              0 lie as far away as what was found? Two-sided
correction    Holm (Scand. J. Statist. 1979) over all tests that are made
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loev_cli.evaluate.probes import Reading
from loev_cli.evaluate.statistics import Estimate
from loev_cli.evaluate.tasks import Metric, Task

N_DRAWS = 4000
_CHUNK = 500

Floats = NDArray[np.float64]
# How often each of n rows is drawn, (M, n) -> the figure of each draw, (M,).
Statistic = Callable[[NDArray[np.int64]], Floats]


def mean_of(outcomes: Floats) -> Statistic:
    """The mean of one outcome per row (n,)."""
    return lambda drawn: np.asarray(drawn @ outcomes / drawn.sum(axis=1))


def r2_of(truth: Floats, output: Floats) -> Statistic:
    """Share of the variance of ``truth`` (n,) that ``output`` explains."""
    centred = truth - truth.mean()  # digits are not lost to a mean far from 0

    def statistic(drawn: NDArray[np.int64]) -> Floats:
        n = drawn.sum(axis=1)
        total = drawn @ centred**2 - (drawn @ centred) ** 2 / n
        error = drawn @ (truth - output) ** 2
        share = np.divide(error, total, out=np.full(len(n), np.nan), where=total > 1e-12)
        return np.asarray(1 - share)

    return statistic


def metric_of(read: Reading, metric: Metric) -> Statistic:
    """Any metric of a probe's answers; slow, a draw at a time."""
    rows = np.arange(len(read.rows))

    def statistic(drawn: NDArray[np.int64]) -> Floats:
        return np.array([read.score(metric, np.repeat(rows, times)) for times in drawn])

    return statistic


def statistic_of(task: Task, metric: str, read: Reading) -> Statistic:
    """A metric of a probe's answers, the quickest way there is."""
    outcomes = task.outcomes(metric, read.truth, read.output)
    if outcomes is not None:
        return mean_of(outcomes)
    if metric == "R2":
        return r2_of(read.truth, read.output)
    return metric_of(read, task.metrics[metric])


def sensitivity_of(moved: Floats, between: Floats) -> Statistic:
    """Mean of ``moved`` (n,) over the mean of ``between`` (n, n), a row and itself left out."""
    apart = between * ~np.eye(len(between), dtype=bool)

    def statistic(drawn: NDArray[np.int64]) -> Floats:
        n = drawn.sum(axis=1)
        # Another version of a track is no other track, so those drawn twice are no pair.
        n_pairs = n**2 - np.square(drawn).sum(axis=1)
        sums = np.einsum("mi,ij,mj->m", drawn, apart, drawn, optimize=True)
        far = np.divide(sums, n_pairs, out=np.zeros(len(n)), where=n_pairs > 0)
        unknown = np.full(len(n), np.nan)
        return np.asarray(np.divide(drawn @ moved / n, far, out=unknown, where=far > 0))

    return statistic


@dataclass(frozen=True)
class Score:
    """A figure of one method, and of every draw.

    Attributes:
        of_seeds: (S,), the figure of each seed on all rows.
        draws: (M,), the weighted mean over seeds in each draw.
    """

    of_seeds: tuple[float, ...]
    draws: Floats

    @property
    def value(self) -> float:
        return float(np.mean(self.of_seeds))


class Draws:
    """The same draws of groups and seeds for every method that answers one question.

    Args:
        groups: (n,), the group of every row.
        n_seeds: S of the methods that have several; one that has a single seed, as a foreign
            file, takes part with it in every draw.
    """

    def __init__(
        self, groups: NDArray[Any], n_seeds: int, *, seed: int = 0, n_draws: int = N_DRAWS
    ) -> None:
        names, self._of_row = np.unique(groups, return_inverse=True)
        self.n_rows, self.n_groups, self.n_seeds = len(groups), len(names), n_seeds
        of_groups, of_seeds = (np.random.default_rng([seed, i]) for i in range(2))
        share = np.full(self.n_groups, 1 / max(1, self.n_groups))
        self._groups = of_groups.multinomial(self.n_groups, share, size=n_draws)
        counts = of_seeds.multinomial(n_seeds, np.full(n_seeds, 1 / n_seeds), size=n_draws)
        widened = np.sqrt(n_seeds / (n_seeds - 1)) if n_seeds > 1 else 1.0
        self._seeds = 1 / n_seeds + (counts / n_seeds - 1 / n_seeds) * widened

    def score(self, statistics: Sequence[Statistic], *, n_draws: int | None = None) -> Score:
        """Of one method: a statistic per seed, either one or ``n_seeds`` of them.

        Args:
            n_draws: fewer than there are, for statistics that take long.
        """
        if len(statistics) not in (1, self.n_seeds):
            raise ValueError(f"{len(statistics)} statistics for {self.n_seeds} seeds")
        once = np.ones((1, self.n_rows), np.int64)
        groups = self._groups[:n_draws]
        weights = self._seeds[:n_draws] if len(statistics) > 1 else np.ones((len(groups), 1))
        values = np.empty((len(groups), len(statistics)))
        for start in range(0, len(groups), _CHUNK):
            drawn = groups[start : start + _CHUNK, self._of_row]
            for s, statistic in enumerate(statistics):
                values[start : start + _CHUNK, s] = statistic(drawn)
        of_seeds = tuple(float(statistic(once)[0]) for statistic in statistics)
        return Score(of_seeds, np.asarray((values * weights).sum(axis=1)))

    def estimate(self, score: Score, *, chance: float | None = None) -> Estimate:
        """With its interval."""
        low, high = _interval(score.draws)
        return Estimate(score.value, low, high, self.n_rows, self.n_groups, chance)

    def difference(self, a: Score, b: Score) -> tuple[Estimate, float]:
        """``a`` - ``b`` with its interval, and the p value of there being none."""
        n = min(len(a.draws), len(b.draws))
        found, draws = a.value - b.value, a.draws[:n] - b.draws[:n]
        low, high = _interval(draws)
        return Estimate(found, low, high, self.n_rows, self.n_groups, 0.0), _p_value(found, draws)


def _interval(draws: Floats) -> tuple[float, float]:
    defined = draws[np.isfinite(draws)]
    if not len(defined):
        return float("nan"), float("nan")
    low, high = np.quantile(defined, [0.025, 0.975])
    return float(low), float(high)


def _p_value(found: float, draws: Floats) -> float:
    """Share of the draws, moved to lie about 0, that are as far from it as ``found``."""
    defined = draws[np.isfinite(draws)]
    if not np.isfinite(found) or not len(defined):
        return 1.0
    as_far = np.abs(defined - found) >= abs(found) - 1e-12
    return float((1 + as_far.sum()) / (1 + len(defined)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Corrected for their number: below 0.05 where at most 5 % of all families hold an error."""
    p = np.asarray(p_values, np.float64)
    order = np.argsort(p, kind="stable")
    factors = len(p) - np.arange(len(p))
    corrected = np.minimum(1.0, np.maximum.accumulate(p[order] * factors))
    result = np.empty(len(p))
    result[order] = corrected
    return [float(value) for value in result]
