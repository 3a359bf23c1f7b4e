"""How sure is it that one method is better than another?

score         the mean over seeds of a figure over tracks
variance      of tracks: bootstrap, whole groups drawn with replacement, the same draws for all
              methods (Efron & Tibshirani 1993); of seeds: sample variance. Seeds are evaluated
              on the same tracks, so the interaction, which both contain, is subtracted once
              (two-way clustering: Cameron, Gelbach & Miller, J. Bus. Econ. Stat. 2011)
interval      95 %: Student's t, its degrees of freedom by Satterthwaite (Biometrics 1946). With one
              seed the percentiles of the bootstrap: the variance of seeds cannot be estimated
test          of two methods' difference, paired by track and by seed: the p value of the same t,
              with one seed of the bootstrap. With G groups p is at least 2^(1 - G), the smallest p
              value of a two-sided sign test
correction    Holm (Scand. J. Statist. 1979) over all tests that are made
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student_t

from loev_cli.evaluate.probes import Metric, Reading, Task
from loev_cli.evaluate.statistics import Estimate

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
        draws: (M, S), that of each seed in each draw of groups; NaN where it is not defined.
    """

    of_seeds: tuple[float, ...]
    draws: Floats

    @property
    def value(self) -> float:
        return float(np.mean(self.of_seeds))


class Draws:
    """The same draws of groups for every method that answers one question.

    Args:
        groups: (n,), the group of every row.
        n_seeds: S of the methods that have several; one that has a single seed, as a foreign
            file, is compared by it with each seed of the others.
    """

    def __init__(
        self, groups: NDArray[Any], n_seeds: int, *, seed: int = 0, n_draws: int = N_DRAWS
    ) -> None:
        names, self._of_row = np.unique(groups, return_inverse=True)
        self.n_rows, self.n_groups, self.n_seeds = len(groups), len(names), n_seeds
        share = np.full(self.n_groups, 1 / max(1, self.n_groups))
        rng = np.random.default_rng([seed, 0])
        self._groups = rng.multinomial(self.n_groups, share, size=n_draws)

    def score(self, statistics: Sequence[Statistic], *, n_draws: int | None = None) -> Score:
        """Of one method: a statistic per seed, either one or ``n_seeds`` of them.

        Args:
            n_draws: fewer than there are, for statistics that take long.
        """
        if len(statistics) not in (1, self.n_seeds):
            raise ValueError(f"{len(statistics)} statistics for {self.n_seeds} seeds")
        once = np.ones((1, self.n_rows), np.int64)
        groups = self._groups[:n_draws]
        values = np.empty((len(groups), len(statistics)))
        for start in range(0, len(groups), _CHUNK):
            drawn = groups[start : start + _CHUNK, self._of_row]
            for s, statistic in enumerate(statistics):
                values[start : start + _CHUNK, s] = statistic(drawn)
        return Score(tuple(float(statistic(once)[0]) for statistic in statistics), values)

    def estimate(self, score: Score, *, chance: float | None = None) -> Estimate:
        """With its interval."""
        low, high, _ = self._infer(score)
        return Estimate(score.value, low, high, self.n_rows, self.n_groups, chance)

    def difference(self, a: Score, b: Score) -> tuple[Estimate, float]:
        """``a`` - ``b`` with its interval, and the p value of there being none."""
        n = min(len(a.draws), len(b.draws))
        of_seeds = np.subtract(a.of_seeds, b.of_seeds)  # one seed goes with each of the others
        apart = Score(tuple(of_seeds.tolist()), a.draws[:n] - b.draws[:n])
        low, high, p = self._infer(apart)
        return Estimate(apart.value, low, high, self.n_rows, self.n_groups, 0.0), p

    def _infer(self, score: Score) -> tuple[float, float, float]:
        """The ends of the interval, and the two-sided p value of the score being 0."""
        found = abs(score.value)
        if len(score.of_seeds) > 1:
            error, n_free = self._error(score)
            reach = float(student_t.ppf(0.975, n_free)) * error
            low, high = score.value - reach, score.value + reach
            p = 2 * float(student_t.sf(found / error, n_free)) if error > 0 else 0.0
            known = not np.isnan(error) and found > 1e-12
        else:
            defined = score.draws[np.isfinite(score.draws)]
            if not len(defined):
                return float("nan"), float("nan"), 1.0
            low, high = map(float, np.quantile(defined, [0.025, 0.975]))
            # The share of the draws, moved to lie about 0, that are as far from it.
            as_far = np.abs(defined - score.value) >= found - 1e-12
            p = float((1 + as_far.sum()) / (1 + len(defined)))
            known = True
        if not known or not np.isfinite(found):
            return low, high, 1.0
        return low, high, max(p, 2.0 ** (1 - self.n_groups))

    def _error(self, score: Score) -> tuple[float, float]:
        """Standard error of a mean over S seeds, and its degrees of freedom."""
        draws = score.draws[np.isfinite(score.draws).all(axis=1)]
        n_seeds, n_groups = len(score.of_seeds), self.n_groups
        if len(draws) < 2 or n_groups < 2:
            return float("nan"), 1.0
        unbiased = n_groups / (n_groups - 1)  # a bootstrap of G groups has (G - 1) / G of it
        of_mean = float(draws.mean(axis=1).var(ddof=1)) * unbiased
        of_one = float(draws.var(axis=0, ddof=1).mean()) * unbiased
        of_both = max(0.0, (of_one - of_mean) / (n_seeds - 1))
        of_seeds = float(np.var(score.of_seeds, ddof=1)) / n_seeds
        of_tracks = max(0.0, of_mean - of_both)
        variance = max(of_seeds + of_tracks, of_mean)
        parts = of_seeds**2 / (n_seeds - 1) + of_tracks**2 / (n_groups - 1)
        n_free = variance**2 / parts if parts > 0 else n_groups - 1
        return float(np.sqrt(variance)), max(1.0, n_free)


def holm(p_values: Sequence[float]) -> list[float]:
    """Corrected for their number: below 0.05 where at most 5 % of all families hold an error."""
    p = np.asarray(p_values, np.float64)
    order = np.argsort(p, kind="stable")
    factors = len(p) - np.arange(len(p))
    corrected = np.minimum(1.0, np.maximum.accumulate(p[order] * factors))
    result = np.empty(len(p))
    result[order] = corrected
    return [float(value) for value in result]
