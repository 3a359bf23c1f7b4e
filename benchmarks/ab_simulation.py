"""Simulated listeners for ``loev ab``: false alarms of A against A, and power as planned.

    python benchmarks/ab_simulation.py [--n 400]

Listeners of two kinds look at a list of 10 (Chuklin, Markov & de Rijke, Click Models for Web
Search, 2015):

position    looks at rank r with probability 1 / r, and clicks what it likes there
cascade     looks at one after the other, clicks what it likes, and then stops with probability 0.6

Every session likes more or fewer tracks than others and asks one to six queries, so its lists are
not independent. Both searches rank 50 tracks of known relevance by relevance plus noise: the more
noise, the worse.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from datetime import date, timedelta

import numpy as np
from numpy.typing import NDArray

from loev_cli.ab import experiment, interleave
from loev_cli.evaluate.statistics import ALPHA

N_TRACKS, K = 50, 10
Listener = Callable[[NDArray[np.float64], np.random.Generator], NDArray[np.bool_]]


def position(likes: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.bool_]:
    """Clicks (n, K) on results that are liked with these probabilities (n, K)."""
    looks = rng.random(likes.shape) < 1 / np.arange(1, K + 1)
    return np.asarray(looks & (rng.random(likes.shape) < likes))


def cascade(likes: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.bool_]:
    """The same by looking at one after the other."""
    clicks = rng.random(likes.shape) < likes
    stops = clicks & (rng.random(likes.shape) < 0.6)
    stopped_before = stops.cumsum(axis=1) - stops
    return np.asarray(clicks & (stopped_before == 0))


LISTENERS: dict[str, Listener] = {"position": position, "cascade": cascade}


def interleaved(
    listener: Listener,
    noise: tuple[float, float],
    n_sessions: int,
    rng: np.random.Generator,
    *,
    same: bool = False,
) -> interleave.Clicks:
    """A log of sessions with two searches of this noise; ``same``: B gives the lists of A."""
    session = np.repeat(np.arange(n_sessions), rng.integers(1, 7, n_sessions))
    mood = rng.uniform(0.2, 1.0, n_sessions)[session]
    relevance = rng.random((len(session), N_TRACKS)) ** 3
    a, b = (
        np.argsort(-(relevance + rng.normal(0, sd, relevance.shape)), axis=1)[:, :K] for sd in noise
    )
    lists = [
        interleave.team_draft(of_a, of_b, K, rng)
        for of_a, of_b in zip(
            a.astype(str).tolist(), (a if same else b).astype(str).tolist(), strict=True
        )
    ]
    results = np.array([results for results, _ in lists]).astype(int)
    of_b = np.array([[team == "b" for team in teams] for _, teams in lists])
    likes = mood[:, None] * np.take_along_axis(relevance, results, axis=1)
    clicks = listener(likes, rng)
    clicked = clicks.any(axis=1)
    more = (clicks & of_b).sum(axis=1) - (clicks & ~of_b).sum(axis=1)
    return interleave.Clicks(
        ("a", "b"),
        0.5 + 0.5 * np.sign(more[clicked]),
        session[clicked],
        len(lists),
        n_sessions,
        int((~of_b[:, 0]).sum()),
    )


def alarms(
    listener: Listener,
    noise: tuple[float, float],
    n_sessions: int,
    n: int,
    *,
    same: bool = False,
    seed: int = 0,
) -> float:
    """How many of ``n`` experiments say that listeners prefer one of the two."""
    p = [
        interleave.preference(
            interleaved(listener, noise, n_sessions, np.random.default_rng([seed, i]), same=same)
        )[1]
        for i in range(n)
    ]
    return float(np.mean(np.array(p) < ALPHA))


def sessions_needed(listener: Listener, noise: tuple[float, float], power: float = 0.8) -> int:
    """Sessions that show the preference, from its size and spread in many sessions."""
    pilot = 10_000
    share, _ = interleave.preference(
        interleaved(listener, noise, pilot, np.random.default_rng([7, 7]))
    )
    return int(np.ceil(pilot * (interleave.detectable(share, power) / (share.value - 0.5)) ** 2))


def last_word(
    plan: experiment.Plan, change: float, rng: np.random.Generator, *, n_days: int = 14
) -> str:
    """The last word of an A/B test of a share of successes that is looked at every day."""
    n = 2 * plan.n_per_side
    is_b = rng.permutation(np.arange(n) % 2 == 1)
    success = rng.random(n) < plan.main.baseline + change * is_b
    first = date(2026, 11, 1)
    days = np.array([(first + timedelta(days=d)).isoformat() for d in range(n_days)])
    day = days[np.arange(n) * n_days // n]
    values = {plan.main.name: success.astype(np.float64)}
    for guardrail in plan.guardrails:  # nothing happens to them
        values[guardrail.name] = rng.normal(guardrail.baseline, guardrail.sd, n)
    return experiment.looks(plan, experiment.Data(is_b, day, values))[-1].word


def words(plan: experiment.Plan, change: float, n: int, *, seed: int = 0) -> dict[str, float]:
    """Shares of the words that ``n`` A/B tests end with."""
    found = [last_word(plan, change, np.random.default_rng([seed, i])) for i in range(n)]
    return {word: found.count(word) / n for word in dict.fromkeys(found)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--n", type=int, default=400, help="experiments per figure")
    n = parser.parse_args().n
    print(f"{n} experiments per figure; standard error of 0.05: {np.sqrt(0.05 * 0.95 / n):.3f}")
    for name, listener in LISTENERS.items():
        same = alarms(listener, (0.3, 0.3), 100, n, same=True)
        equal = alarms(listener, (0.3, 0.3), 100, n)
        n_sessions = sessions_needed(listener, (0.3, 0.15))
        power = alarms(listener, (0.3, 0.15), n_sessions, n, seed=1)
        print(
            f"interleaving, {name}: A against A {same:.3f}, against an equal search {equal:.3f}, "
            f"a better one found {power:.3f} of 0.8 planned ({n_sessions} sessions)"
        )
    main_measure = experiment.parse_measure("success:0.30:+0.02")
    minutes = experiment.parse_measure("minutes:31:-1:22")
    for guardrails in ((), (minutes,)):
        plan = experiment.plan(main_measure, guardrails, 0.8, 1200)
        print(f"A/B test, 14 looks, {len(guardrails)} guardrails, {plan.n_per_side} per side:")
        for change in (0.0, 0.02, 0.03, -0.02):
            found = ", ".join(f"{w} {x:.3f}" for w, x in words(plan, change, n).items())
            print(f"    change {change:+.2f}: {found}")


if __name__ == "__main__":
    main()
