"""95 % confidence intervals, and tests of differences between methods.

Groups of tracks are drawn, because tracks of one album are not independent.

score         the mean over seeds of a figure over tracks
variance      of tracks: bootstrap, whole groups drawn with replacement, the same draws for all that
              answers one question (Efron & Tibshirani 1993); of seeds: sample variance. Seeds are
              evaluated on the same tracks, so the interaction, which both contain, is subtracted
              once (two-way clustering: Cameron, Gelbach & Miller, J. Bus. Econ. Stat. 2011)
interval      Student's t, its degrees of freedom by Satterthwaite (Biometrics 1946). Of a score of
              one seed, whose variance of seeds cannot be estimated: percentiles of the bootstrap,
              moved outwards so that of a mean they reach as far as Student's t with G - 1 degrees
              of freedom (expanded percentiles: Hesterberg, Am. Stat. 2015)
no spread     all G groups agree: at an end of the scale, the exact binomial bound on the share of
              groups that would (Clopper & Pearson, Biometrika 1934); elsewhere no interval
test          of two methods' difference, paired by track and by seed: the p value of the same t.
              With G groups p is at least 2^(1 - G), the smallest p value of a two-sided sign test
few groups    below 6 that is above 0.05, and the range of G groups covers a median with less than
              95 %: no interval, no test
correction    Holm (Scand. J. Statist. 1979) over all tests that are made
jackknife     for statistics of a set of vectors (rank, uniformity, CKA, mAP), which duplicate rows
              would distort: a twentieth of the groups is left out at a time, Student's t
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm
from scipy.stats import t as student_t

N_DRAWS = 1000  # of one model
N_DRAWS_TESTED = 4000  # of several
_CHUNK = 500
_N_BLOCKS = 20
ALPHA = 0.05
_SAME = 1e-12  # draws nearer than this differ by rounding
SHARE = (0.0, 1.0)  # the ends of the scale of a share

Index = NDArray[np.int64]
Floats = NDArray[np.float64]
Bounds = tuple[float, float]
# How often each of n rows is drawn, (M, n) -> the figure of each draw, (M,).
Statistic = Callable[[NDArray[np.int64]], Floats]


@dataclass(frozen=True)
class Estimate:
    """A value, its 95 % confidence interval, and the chance level.

    Attributes:
        low, high: NaN if there are too few groups for an interval, or these have no spread.
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
        """``0.82 [0.76, 0.87]``; ``0.82 (4 groups)`` without an interval."""
        if not np.isfinite(self.value):
            return "not defined"
        # Adding 0 makes -0 0.
        value, low, high = (round(x, 2) + 0.0 for x in (self.value, self.low, self.high))
        if not self.has_interval:
            return f"{value:.2f} ({self.n_groups} group{'s' if self.n_groups != 1 else ''})"
        return f"{value:.2f} [{low:.2f}, {high:.2f}]"

    @property
    def has_interval(self) -> bool:
        return bool(np.isfinite([self.low, self.high]).all())

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


def mean_of(outcomes: Floats) -> Statistic:
    """The mean of one outcome per row (n,); NaN is left out."""
    known = np.isfinite(outcomes)
    filled = np.where(known, outcomes, 0.0)

    def statistic(drawn: NDArray[np.int64]) -> Floats:
        return share(drawn @ filled, drawn @ known.astype(np.int64))

    return statistic


def r2_of(truth: Floats, output: Floats) -> Statistic:
    """Share of the variance of ``truth`` (n,) or (n, P) that ``output`` explains."""
    truth, output = truth.reshape(len(truth), -1), output.reshape(len(output), -1)
    centered = truth - truth.mean()  # digits are not lost to a mean far from 0
    sums, squares = centered.sum(axis=1), (centered**2).sum(axis=1)
    errors = ((truth - output) ** 2).sum(axis=1)

    def statistic(drawn: NDArray[np.int64]) -> Floats:
        n = drawn.sum(axis=1) * truth.shape[1]
        total = drawn @ squares - (drawn @ sums) ** 2 / n
        return np.asarray(1 - share(drawn @ errors, np.where(total > 1e-12, total, 0.0)))

    return statistic


def sensitivity_of(moved: Floats, between: Floats) -> Statistic:
    """Mean of ``moved`` (n,) over the mean of ``between`` (n, n), a row and itself left out."""
    apart = between * ~np.eye(len(between), dtype=bool)

    def statistic(drawn: NDArray[np.int64]) -> Floats:
        n = drawn.sum(axis=1)
        # Another version of a track is no other track, so those drawn twice are no pair.
        n_pairs = n**2 - np.square(drawn).sum(axis=1)
        sums = np.einsum("mi,ij,mj->m", drawn, apart, drawn, optimize=True)
        far = np.divide(sums, n_pairs, out=np.zeros(len(n)), where=n_pairs > 0)
        near = drawn @ moved / n
        # All is in one place: nothing has moved.
        return np.where((near == 0) & (far == 0), 0.0, share(near, far))

    return statistic


def share(part: NDArray[Any], whole: NDArray[Any]) -> Floats:
    """(M,): ``part`` of ``whole``; NaN where that is 0."""
    unknown = np.full(len(part), np.nan)
    return np.asarray(np.divide(part, whole, out=unknown, where=whole > 0))


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
        self, groups: NDArray[Any], n_seeds: int, *, seed: int = 0, n_draws: int = N_DRAWS_TESTED
    ) -> None:
        names, self._of_row = np.unique(groups, return_inverse=True)
        self.n_rows, self.n_groups, self.n_seeds = len(groups), len(names), n_seeds
        p = np.full(self.n_groups, 1 / max(1, self.n_groups))
        rng = np.random.default_rng([seed, 0])
        self._groups = rng.multinomial(self.n_groups, p, size=n_draws)

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

    def estimate(
        self, score: Score, *, chance: float | None = None, bounds: Bounds | None = SHARE
    ) -> Estimate:
        """With its interval.

        Args:
            bounds: the ends of the figure's scale, which the interval keeps; None: it has none.
        """
        low, high = self._interval(score, bounds)
        return Estimate(score.value, low, high, self.n_rows, self.n_groups, chance)

    def difference(self, a: Score, b: Score) -> tuple[Estimate, float]:
        """``a`` - ``b`` with its interval, and the p value of there being none (NaN: no test)."""
        n = min(len(a.draws), len(b.draws))
        of_seeds = np.subtract(a.of_seeds, b.of_seeds)  # one seed goes with each of the others
        apart = Score(tuple(of_seeds.tolist()), a.draws[:n] - b.draws[:n])
        error, n_free = self._error(apart)
        return t_estimate(apart.value, error, n_free, self.n_rows, self.n_groups)

    def _interval(self, score: Score, bounds: Bounds | None) -> Bounds:
        error, n_free = self._error(score)
        if not error > 0:
            return _all_alike(score.value, self.n_groups, bounds)
        reach = float(student_t.ppf(1 - ALPHA / 2, n_free))
        if len(score.of_seeds) > 1:
            low, high = score.value - reach * error, score.value + reach * error
            return (low, high) if bounds is None else (max(low, bounds[0]), min(high, bounds[1]))
        tail = float(norm.sf(reach * np.sqrt(self.n_groups / n_free)))
        low, high = np.quantile(score.draws[np.isfinite(score.draws)], [tail, 1 - tail])
        return float(low), float(high)

    def _error(self, score: Score) -> tuple[float, float]:
        """Standard error of a mean over S seeds, and its degrees of freedom.

        NaN with too few groups, 0 if they have no spread.
        """
        draws = score.draws[np.isfinite(score.draws).all(axis=1)]
        n_seeds, n_groups = len(score.of_seeds), self.n_groups
        if len(draws) < 2 or n_groups < fewest_groups():
            return float("nan"), 1.0
        if n_seeds == 1 and np.ptp(draws) < _SAME:
            return 0.0, n_groups - 1.0
        unbiased = n_groups / (n_groups - 1)  # a bootstrap of G groups has (G - 1) / G of it
        of_mean = float(draws.mean(axis=1).var(ddof=1)) * unbiased
        if n_seeds == 1:
            return float(np.sqrt(of_mean)), n_groups - 1.0
        of_one = float(draws.var(axis=0, ddof=1).mean()) * unbiased
        of_both = max(0.0, (of_one - of_mean) / (n_seeds - 1))
        of_seeds = float(np.var(score.of_seeds, ddof=1)) / n_seeds
        of_tracks = max(0.0, of_mean - of_both)
        variance = max(of_seeds + of_tracks, of_mean)
        if variance < _SAME**2:
            return 0.0, n_groups - 1.0
        parts = of_seeds**2 / (n_seeds - 1) + of_tracks**2 / (n_groups - 1)
        n_free = variance**2 / parts if parts > 0 else n_groups - 1
        return float(np.sqrt(variance)), max(1.0, n_free)


class Bootstrap(Draws):
    """Draws for one model. Their random numbers are not those of several models, so that results
    of neither command have changed."""

    def __init__(self, groups: NDArray[Any], *, seed: int = 0) -> None:
        super().__init__(groups, 1, n_draws=0)
        rng, n = np.random.default_rng(seed), self.n_groups
        drawn = [
            np.bincount(rng.integers(0, n, n), minlength=n) for _ in range(N_DRAWS if n else 0)
        ]
        self._groups = np.array(drawn, np.int64).reshape(len(drawn), n)

    def of(
        self, statistic: Statistic, *, chance: float | None = None, bounds: Bounds | None = SHARE
    ) -> Estimate:
        """A statistic of all rows, with its interval; ``bounds`` as in :meth:`estimate`."""
        return self.estimate(self.score([statistic]), chance=chance, bounds=bounds)

    def mean(
        self, scores: Floats, *, chance: float | None = None, bounds: Bounds | None = SHARE
    ) -> Estimate:
        """The mean of one score per row (n,); NaN is left out."""
        return self.of(mean_of(scores), chance=chance, bounds=bounds)


def fewest_groups(n_tests: int = 1) -> int:
    """How many groups of tracks a test needs for p < 0.05 after correction for ``n_tests``."""
    return 1 + math.ceil(math.log2(n_tests / ALPHA))


def _all_alike(value: float, n_groups: int, bounds: Bounds | None) -> Bounds:
    """The interval where every group has the same figure."""
    if bounds is None or n_groups < fewest_groups() or value not in bounds:
        return float("nan"), float("nan")
    span = (bounds[1] - bounds[0]) * (1 - (ALPHA / 2) ** (1 / n_groups))
    return (value - span, value) if value == bounds[1] else (value, value + span)


def t_estimate(
    value: float, error: float, n_free: float, n_rows: int, n_groups: int
) -> tuple[Estimate, float]:
    """A difference with its interval by Student's t, and the two-sided p value of its being 0.

    Args:
        error: its standard error; 0: no interval; NaN: no test, either.
    """
    reach = p = float("nan")
    if error > 0:
        reach = float(student_t.ppf(1 - ALPHA / 2, n_free)) * error
        p = max(2 * float(student_t.sf(abs(value) / error, n_free)), 2.0 ** (1 - n_groups))
    elif error == 0:
        p = 1.0 if abs(value) < _SAME else 2.0 ** (1 - n_groups)
    return Estimate(value, value - reach, value + reach, n_rows, n_groups, 0.0), p


def holm(p_values: Sequence[float]) -> list[float]:
    """Corrected for their number: below 0.05 where at most 5 % of all families hold an error."""
    p = np.asarray(p_values, np.float64)
    order = np.argsort(p, kind="stable")
    factors = len(p) - np.arange(len(p))
    corrected = np.minimum(1.0, np.maximum.accumulate(p[order] * factors))
    result = np.empty(len(p))
    result[order] = corrected
    return [float(value) for value in result]


def clustered_mean(values: Floats, groups: NDArray[Any]) -> tuple[Estimate, float]:
    """Mean of differences (n,), of which those of a group belong together, and its p value.

    The standard error is that of the linearized mean of groups of any size (Liang & Zeger,
    Biometrika 1986); where every row is a group of its own, this is the paired t test.
    """
    names, of_row = np.unique(groups, return_inverse=True)
    n, n_groups = len(values), len(names)
    value, error = float(np.mean(values)), float("nan")
    if n_groups >= fewest_groups():
        sums = np.bincount(of_row, values - value)
        error = float(np.sqrt(n_groups / (n_groups - 1) * np.square(sums).sum()) / n)
    return t_estimate(value, error, n_groups - 1.0, n, n_groups)


def jackknife(
    statistic: Callable[[Index], float], groups: NDArray[Any], *, chance: float | None = None
) -> Estimate:
    """``statistic`` of all rows (n,), with a jackknife interval over blocks of groups."""
    found = jackknife_all(lambda rows: {"": statistic(rows)}, groups, bounds=None)[""]
    return dataclasses.replace(found, chance=chance)


def jackknife_all(
    statistics: Callable[[Index], dict[str, float]],
    groups: NDArray[Any],
    *,
    seed: int = 0,
    bounds: Bounds | None = SHARE,
) -> dict[str, Estimate]:
    """The same for several statistics that are computed together, within ``bounds``."""
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
        k, value = len(values), float(value)
        low = high = float("nan")
        if k >= fewest_groups() and np.ptp(values) >= _SAME:
            error = np.sqrt((k - 1) / k * np.square(values - values.mean()).sum())
            reach = float(student_t.ppf(1 - ALPHA / 2, k - 1) * error)
            low, high = value - reach, value + reach
            if bounds is not None:
                low, high = max(bounds[0], low), min(bounds[1], high)
        elif k:
            low, high = _all_alike(value, len(names), bounds)
        estimates[name] = Estimate(value, low, high, len(groups), len(names))
    return estimates
