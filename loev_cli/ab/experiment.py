"""A classic A/B test: how many units it takes, and a decision that may be looked for every day.

Units (listeners, or sessions where listeners are not known) are given A or B at random, half each,
and every unit gives one row of measures.

interval     of mean(B) - mean(A), +- c standard errors, valid at all looks together: a repeated
             confidence interval (Jennison & Turnbull, J. R. Stat. Soc. B 1989). c is such that by
             a fraction t of the planned units 4 (1 - Phi(z(alpha / 4) / sqrt(t))) of all
             experiments without a difference have alarmed (O'Brien-Fleming spending: Lan & DeMets,
             Biometrika 1983): wide at first, hardly wider than that of a single look at the end
size         n per side with (c + z_power) standard errors = change: the power at the last look.
             Earlier looks can only add to it
guardrails   may change by no more than a margin; alpha is shared among them (Bonferroni)

ship B       the main measure changes as wished and every guardrail is shown to keep its margin
stop         the main measure changes the other way, or a guardrail beyond its margin
keep A       neither at the planned number of units
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import binomtest, norm

from loev_cli.ab.report import JSON_FILE, Decision
from loev_cli.ab.sides import read_csv
from loev_cli.defaults import PALETTE
from loev_cli.errors import UsageError
from loev_cli.evaluate import figures
from loev_cli.evaluate.statistics import ALPHA, Estimate

FEWEST_UNITS = 100  # per side, from which a mean is taken for normal
_MOST_UNLIKELY = 0.001  # p of the split into halves: below it the assignment is broken
SHIP, STOP, KEEP, WAIT, BROKEN = "ship B", "stop, keep A", "keep A", "go on", "invalid"

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Measure:
    """A column of the data.

    Attributes:
        baseline: its mean under A.
        change: the smallest change of the mean that is worth it; of a guardrail the largest that
            is harmless. Its sign says which way.
        sd: its standard deviation between units.
    """

    name: str
    baseline: float
    change: float
    sd: float


@dataclass(frozen=True)
class Plan:
    """What is decided before the first unit.

    Attributes:
        n_per_side: units of A, and of B.
        power: of showing ``main.change``, and each guardrail's margin where nothing changes.
    """

    main: Measure
    guardrails: tuple[Measure, ...]
    power: float
    n_per_side: int

    def alpha(self, measure: Measure) -> float:
        return ALPHA if measure is self.main else ALPHA / len(self.guardrails)


def parse_measure(text: str) -> Measure:
    """``NAME:BASELINE:CHANGE[:SD]``; without SD a share of units, as successes.

    Raises:
        UsageError: not of this form, a change of 0, or no share and no SD.
    """
    name, *numbers = text.split(":")
    try:
        baseline, change, *more = map(float, numbers)
        known = [baseline, change, *more]
    except ValueError:
        known, more = [], []
    if not name or len(more) > 1 or not known or not np.isfinite(known).all():
        raise UsageError(
            f"'{text}' is not NAME:BASELINE:CHANGE[:SD]", hint="for example success:0.30:+0.02"
        )
    if change == 0 or (more and more[0] <= 0):
        raise UsageError(f"'{text}': the change must not be 0, the standard deviation above 0")
    if more:
        return Measure(name, baseline, change, more[0])
    if not (0 < baseline < 1 and 0 < baseline + change < 1):
        raise UsageError(
            f"'{text}' is no share of units before and after",
            hint="add the standard deviation between units: NAME:BASELINE:CHANGE:SD",
        )
    variances = [p * (1 - p) for p in (baseline, baseline + change)]
    return Measure(name, baseline, change, math.sqrt(sum(variances) / 2))


_MOST_STANDARD_ERRORS = 8.0  # what is spent beyond is below the precision of numbers
_MOST_LOOKS = 400  # that are counted for the size; more change nothing
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(129)


@cache
def critical_values(fractions: tuple[float, ...], alpha: float = ALPHA) -> tuple[float, ...]:
    """How many standard errors from 0 are an alarm, at every look.

    Args:
        fractions: of the planned units, rising, the last at most 1.
    """
    # B(t) = Z sqrt(t) is a Brownian motion. Its places after looks without alarm, and how probable
    # each is; before the first look it is at 0.
    places, mass, before, spent = np.zeros(1), np.ones(1), 0.0, 0.0
    found = []
    for t in fractions:
        goal = float(4 * norm.sf(norm.isf(alpha / 4) / math.sqrt(t)))
        step, most = math.sqrt(t - before), _MOST_STANDARD_ERRORS
        spend = partial(_overspent, places=places, mass=mass, t=t, step=step, goal=goal - spent)
        found.append(float(brentq(spend, 0.0, most)) if spend(most) < 0 else most)
        end = found[-1] * math.sqrt(t)
        moved = norm.pdf((end * _NODES[:, None] - places) / step) @ mass / step
        places, mass, before, spent = end * _NODES, end * _WEIGHTS * moved, t, goal
    return tuple(found)


def _overspent(
    z: float, *, places: Floats, mass: Floats, t: float, step: float, goal: float
) -> float:
    """The probability of an alarm at ``z`` standard errors, less that which is to be spent."""
    end = z * math.sqrt(t)
    tails = norm.sf((end - places) / step) + norm.cdf((-end - places) / step)
    return float(mass @ tails) - goal


def plan(main: Measure, guardrails: Sequence[Measure], power: float, units_per_day: int) -> Plan:
    """The number of units that all measures need, looked at every day.

    Raises:
        UsageError: two measures have one name.
    """
    names = [measure.name for measure in (main, *guardrails)]
    if len(set(names)) < len(names):
        raise UsageError(f"a measure is named twice: {', '.join(names)}")
    n, n_looks = FEWEST_UNITS, 1
    for _ in range(3):  # more units are more days, and more looks a few more units
        needed = [units_needed(main, ALPHA, power, n_looks)]
        needed += [units_needed(g, ALPHA / len(guardrails), power, n_looks) for g in guardrails]
        n = max(FEWEST_UNITS, *needed)
        n_looks = min(math.ceil(2 * n / units_per_day), _MOST_LOOKS)
    return Plan(main, tuple(guardrails), power, n)


def units_needed(measure: Measure, alpha: float, power: float, n_looks: int = 1) -> int:
    """Units per side to show the change in as many looks, equally far apart."""
    fractions = tuple((np.arange(1, n_looks + 1) / n_looks).tolist())
    quantile = critical_values(fractions, alpha)[-1] + float(norm.ppf(power))
    return math.ceil(2 * (quantile * measure.sd / measure.change) ** 2)


def describe(p: Plan, units_per_day: int) -> Decision:
    """The page of a plan."""
    days = math.ceil(2 * p.n_per_side / units_per_day)
    rows = []
    for m in (p.main, *p.guardrails):
        needed = [
            units_needed(m, p.alpha(m), p.power, n_looks) for n_looks in (min(days, _MOST_LOOKS), 1)
        ]
        rows.append([
            m.name, "main" if m is p.main else "guardrail", f"{m.baseline:g}", f"{m.change:+g}",
            f"{m.sd:.3g}", *(f"{n:,}" for n in needed),
        ])  # fmt: skip
    return Decision(
        "plan",
        f"Plan of an A/B test of {p.main.name}",
        f"{p.n_per_side:,} units of A and as many of B: {days} days at {units_per_day:,} a day.",
        ["measure", "", "baseline", "change", "SD", "units per side", "if looked at once"],
        rows,
        [
            "Give each unit (a listener, or a session) A or B at random, half each, and write one "
            "row per unit: arm, day, and the measures. Run 'loev ab look' after any day.",
            f"The test calls A different from A in {100 * ALPHA:.0f} % of experiments, looked at "
            "every day. It shows the change in "
            f"{100 * p.power:.0f} % or more of them, and that a guardrail without change holds in "
            "as many, each by itself. A larger change ends it earlier.",
            "The change of the main measure is the smallest that is worth shipping; that of a "
            "guardrail the largest that is harmless. Both are decided now, not after the data.",
            f"Ship B: {p.main.name} changes as wished, and every guardrail is shown to keep its "
            "margin. Stop: it changes the other way, or a guardrail beyond its margin. Keep A: "
            "neither at the planned number of units.",
            f"The first look is at {FEWEST_UNITS} units per side.",
        ],
        {"kind": "plan", "units_per_day": units_per_day, "n_days": days} | asdict(p),
    )


def read_plan(folder: Path) -> Plan:
    """The plan that ``loev ab plan`` wrote into a folder.

    Raises:
        UsageError: there is none.
    """
    file = folder / JSON_FILE
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        measures = [Measure(**one) for one in (found["main"], *found["guardrails"])]
        n = int(found["n_per_side"])
        return Plan(measures[0], tuple(measures[1:]), float(found["power"]), n)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{folder} holds no plan of 'loev ab plan'") from error


@dataclass(frozen=True)
class Data:
    """Units in the order of their days.

    Attributes:
        is_b: (n,). day: (n,) ISO dates. values: measure -> (n,).
    """

    is_b: NDArray[np.bool_]
    day: NDArray[Any]
    values: Mapping[str, Floats]


def read_data(file: Path, p: Plan) -> Data:
    """A CSV of ``arm`` (A or B), ``day`` (ISO), the plan's measures, and perhaps ``unit``.

    Raises:
        UsageError: it cannot be read, a cell is invalid, or a unit has two rows.
    """
    names = [m.name for m in (p.main, *p.guardrails)]
    arms, days, values, seen = [], [], [], set()
    for where, cells in read_csv(file, ["arm", "day", *names]):
        arm, unit = cells["arm"].strip().lower(), cells.get("unit", "")
        if arm not in ("a", "b"):
            raise UsageError(f"{where}: arm '{cells['arm']}' is neither A nor B")
        if unit and unit in seen:
            raise UsageError(
                f"{where}: unit '{unit}' has a second row", hint="add up its rows to one"
            )
        seen.add(unit)
        try:
            days.append(date.fromisoformat(cells["day"].strip()).isoformat())
            values.append([float(cells[name]) for name in names])
        except ValueError as error:
            raise UsageError(f"{where}: {error}") from error
        if not np.isfinite(values[-1]).all():
            raise UsageError(f"{where}: a measure is not finite")
        arms.append(arm == "b")
    if not arms:
        raise UsageError(f"{file} has no rows")
    order = np.argsort(np.array(days), kind="stable")
    columns = np.array(values)[order].T
    return Data(
        np.array(arms)[order], np.array(days)[order], dict(zip(names, columns, strict=True))
    )


@dataclass(frozen=True)
class Look:
    """What is known after a day.

    Attributes:
        n: units of A and B so far.
        changes: measure -> mean of B less that of A, with its interval at all looks.
    """

    day: str
    n: tuple[int, int]
    changes: dict[str, Estimate]
    word: str


def looks(p: Plan, data: Data) -> list[Look]:
    """A look at the end of every day with enough units, up to the first that decides."""
    ends = np.append(np.flatnonzero(data.day[1:] != data.day[:-1]), len(data.day) - 1) + 1
    n_b = np.cumsum(data.is_b)[ends - 1]
    n_a = ends - n_b
    enough = np.minimum(n_a, n_b) >= FEWEST_UNITS
    fractions = ends[enough] / (2 * p.n_per_side)
    n_looks = int((fractions < 1).sum()) + 1  # the first beyond the planned number is the last
    fractions = tuple(np.minimum(fractions, 1.0)[:n_looks].tolist())
    found: list[Look] = []
    for i, end in enumerate(ends[enough][:n_looks].tolist()):
        is_b, n = data.is_b[:end], (int(n_a[enough][i]), int(n_b[enough][i]))
        changes = {}
        for m in (p.main, *p.guardrails):
            x = data.values[m.name][:end]
            a, b = x[~is_b], x[is_b]
            # All units alike so far: nothing is known.
            error = math.sqrt(a.var(ddof=1) / n[0] + b.var(ddof=1) / n[1]) or math.inf
            half = critical_values(fractions, p.alpha(m))[i] * error
            apart = float(b.mean() - a.mean())
            changes[m.name] = Estimate(apart, apart - half, apart + half, end, end, 0.0)
        found.append(Look(str(data.day[end - 1]), n, changes, _word(p, n, changes)))
        if found[-1].word != WAIT:
            break
    return found


def _word(p: Plan, n: tuple[int, int], changes: Mapping[str, Estimate]) -> str:
    if binomtest(n[0], sum(n)).pvalue < _MOST_UNLIKELY:
        return BROKEN
    low, high = _along(changes[p.main.name], p.main.change)
    # Along the direction of harm, of which the margin is the end.
    harm = [(_along(changes[g.name], g.change), abs(g.change)) for g in p.guardrails]
    if high < 0 or any(least > margin for (least, _), margin in harm):
        return STOP
    if low > 0 and all(most < margin for (_, most), margin in harm):
        return SHIP
    return KEEP if sum(n) >= 2 * p.n_per_side else WAIT


def _along(change: Estimate, way: float) -> tuple[float, float]:
    """The interval, turned so that ``way`` is upwards."""
    return (change.low, change.high) if way > 0 else (-change.high, -change.low)


def decide(p: Plan, found: Sequence[Look]) -> Decision:
    """The page of the looks so far.

    Raises:
        UsageError: there is none.
    """
    if not found:
        raise UsageError(f"too few units: the first look is at {FEWEST_UNITS} of A and of B")
    last = found[-1]
    rows = [
        [
            m.name, "main" if m is p.main else "guardrail", f"{m.change:+g}",
            f"{(e := last.changes[m.name]).value:+.4g} [{e.low:+.4g}, {e.high:+.4g}]",
        ]
        for m in (p.main, *p.guardrails)
    ]  # fmt: skip
    said = {
        SHIP: f"Ship B: {p.main.name} changes as wished, and the guardrails hold.",
        STOP: f"Stop and keep A: {p.main.name} or a guardrail changes for the worse.",
        KEEP: f"Keep A: {sum(last.n):,} units show no change of {p.main.name}, or not "
        "that every guardrail holds.",
        WAIT: f"Go on: nothing is decided yet. {sum(last.n):,} of {2 * p.n_per_side:,} units.",
        BROKEN: f"Invalid: {last.n[0]:,} units have A and {last.n[1]:,} have B, which half each "
        "does not explain. Find out where units are lost.",
    }[last.word]
    drawn = {
        m.name: (
            partial(_path, [(look.n[0] + look.n[1], look.changes[m.name]) for look in found], m),
            f"{m.name}: change under B by units so far; the band holds at all looks together. "
            f"Dashed: the {'change' if m is p.main else 'margin'} of the plan.",
        )
        for m in (p.main, *p.guardrails)
    }
    return Decision(
        "look",
        f"A/B test of {p.main.name}, {last.day}",
        said,
        ["measure", "", "change planned for", "B − A [95 %, any look]"],
        rows,
        [
            f"{last.n[0]:,} units of A and {last.n[1]:,} of B in {len(found)} looks; planned are "
            f"{p.n_per_side:,} of each.",
            "The intervals hold at all looks together, one after each day. The first look that "
            "decides is the last: later rows are not read.",
        ],
        {
            "kind": "look", "decision": last.word,
            "looks": [
                {"day": look.day, "n_a": look.n[0], "n_b": look.n[1], "decision": look.word,
                 "changes": {name: e.as_dict() for name, e in look.changes.items()}}
                for look in found
            ],
        },
        drawn,
    )  # fmt: skip


def _path(points: Sequence[tuple[int, Estimate]], measure: Measure) -> Figure:
    """The change of a measure by units so far."""
    figure = figures.wide_figure(2.9)
    axes = figure.subplots()
    n = [n for n, _ in points]
    axes.fill_between(
        n, [e.low for _, e in points], [e.high for _, e in points], alpha=0.25, lw=0,
        color=PALETTE[0],
    )  # fmt: skip
    axes.plot(n, [e.value for _, e in points], "o-", ms=3, lw=1.5, color=PALETTE[0])
    ink = axes.xaxis.label.get_color()
    axes.axhline(0, ls=":", lw=1, color=ink)
    axes.axhline(measure.change, ls="--", lw=1, color=ink)
    axes.set_xlabel("units")
    axes.set_ylabel("B minus A")
    return figure
