"""The plan of an A/B test, its looks, and experiments whose truth is known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import norm

from benchmarks.ab_simulation import last_word, words
from loev_cli.ab.experiment import (
    BROKEN,
    KEEP,
    SHIP,
    STOP,
    WAIT,
    Data,
    critical_values,
    looks,
    parse_measure,
    plan,
    units_needed,
)
from loev_cli.errors import UsageError
from tests.conftest import Loev

SUCCESS, MINUTES = parse_measure("success:0.30:+0.05"), parse_measure("minutes:31:-1:10")


def test_a_single_look_needs_what_the_textbook_says() -> None:
    # Two shares of 0.30 and 0.35, alpha 0.05, power 0.8: Fleiss, Levin & Paik 2003, eq. 4.14
    # without continuity correction gives 1377 with pooled, 1373 with separate variances.
    assert units_needed(SUCCESS, 0.05, 0.8) in range(1373, 1378)
    z = norm.isf(0.025) + norm.ppf(0.8)
    assert units_needed(MINUTES, 0.05, 0.8) == np.ceil(2 * (z * 10) ** 2)


def test_critical_values_are_those_of_the_tables() -> None:
    # gsDesign (Anderson 2024), sfLDOF, five equal looks, alpha 0.025 on each side.
    equal = tuple(i / 5 for i in range(1, 6))
    assert critical_values(equal) == pytest.approx(
        (4.8769, 3.3569, 2.6803, 2.2898, 2.0310), abs=0.0002
    )
    assert critical_values((1.0,)) == pytest.approx((norm.isf(0.025),))
    many = critical_values(tuple(i / 40 for i in range(1, 41)))
    assert list(many) == sorted(many, reverse=True) and many[-1] < 2.2


def test_guardrails_ask_for_units_too() -> None:
    alone, guarded = plan(SUCCESS, [], 0.8, 10**6), plan(SUCCESS, [MINUTES], 0.8, 10**6)
    assert guarded.n_per_side == max(alone.n_per_side, units_needed(MINUTES, 0.05, 0.8))
    two = plan(SUCCESS, [MINUTES, parse_measure("skips:4:+0.5:6")], 0.8, 500)
    assert two.alpha(MINUTES) == 0.025 and two.alpha(SUCCESS) == 0.05


@pytest.mark.parametrize(
    "text", ["success", "success:0.3", "s:0.3:0", "s:3:1", "s:3:1:0", "s:0.3:x", ":0.3:0.1"]
)
def test_measures_that_say_nothing(text: str) -> None:
    with pytest.raises(UsageError, match=text):
        parse_measure(text)


def data(change: float, minutes: float = 0.0, n: int = 12_000, share_b: float = 0.5) -> Data:
    """Of which exactly these shares succeed, day by day."""
    rng = np.random.default_rng(3)
    is_b = rng.random(n) < share_b
    success = (rng.random(n) < SUCCESS.baseline + change * is_b).astype(float)
    day = np.array([f"2026-11-{1 + 10 * i // n:02}" for i in range(n)])
    return Data(is_b, day, {"success": success, "minutes": rng.normal(31 + minutes * is_b, 10)})


@pytest.mark.parametrize(
    ("found", "word"),
    [
        (data(0.10), SHIP),
        (data(-0.10), STOP),
        (data(0.10, minutes=-4), STOP),  # liked more, but at the price of a guardrail
        (data(0.0), KEEP),
        (data(0.0, n=2000), WAIT),
        (data(0.10, share_b=0.4), BROKEN),
    ],
    ids=[SHIP, STOP, "guardrail", KEEP, WAIT, BROKEN],
)
def test_words(found: Data, word: str) -> None:
    looked = looks(plan(SUCCESS, [MINUTES], 0.8, 1200), found)
    assert looked[-1].word == word and all(look.word == WAIT for look in looked[:-1])
    n = looked[-1].n
    first = found.is_b[: sum(n)]
    assert n == (int((~first).sum()), int(first.sum()))
    change = found.values["success"][: sum(n)]
    e = looked[-1].changes["success"]
    assert e.value == pytest.approx(change[first].mean() - change[~first].mean())


def test_from_a_plan_to_a_decision(loev: Loev, tmp_path: Path) -> None:
    folder, out, file = tmp_path / "plan", tmp_path / "out", tmp_path / "units.csv"
    made = loev(
        "ab", "plan", "--measure", "success:0.30:+0.05", "--guardrail", "minutes:31:-1:10",
        "--units-per-day", 900, "--out", folder,
    )  # fmt: skip
    assert made.code == 0 and "minutes" in made.out
    of = data(0.10, n=4000)
    lines = ["arm,day,unit,success,minutes"]
    for i, (b, day, s, m) in enumerate(zip(of.is_b, of.day, *of.values.values(), strict=True)):
        lines.append(f"{'AB'[int(b)]},{day},u{i},{s},{m}")
    file.write_text("\n".join(lines))
    found = loev("ab", "look", file, "--plan", folder, "--out", out)
    assert found.code == 0 and "Ship B" in found.out
    results = json.loads((out / "results.json").read_text())
    assert results["decision"] == SHIP and results["looks"][-1]["decision"] == SHIP
    for text, named in (
        (lines[1].replace("A,", "C,").replace("B,", "C,"), "line 4002"),
        (lines[1], "'u0'"),
        (lines[1].replace("2026", "20x6").replace("u0", "new"), "line 4002"),
    ):
        file.write_text("\n".join([*lines, text]))
        bad = loev("ab", "look", file, "--plan", folder, "--out", out)
        assert bad.code == 2 and named in bad.err
    assert loev("ab", "look", file, "--plan", tmp_path, "--out", out).code == 2


def test_simulated_tests_end() -> None:
    small = plan(parse_measure("success:0.3:0.1"), [], 0.8, 100)
    assert last_word(small, 0.3, np.random.default_rng(0)) == SHIP


# 1000 experiments have a standard error of 0.007 at 0.05 and of 0.013 at 0.8.
@pytest.mark.slow
def test_daily_looks_alarm_in_5_percent_and_power_is_as_planned() -> None:
    small = plan(parse_measure("success:0.30:+0.04"), [], 0.8, 500)
    nothing = words(small, 0.0, 1000)
    assert nothing.get(SHIP, 0) + nothing.get(STOP, 0) == pytest.approx(0.05, abs=0.02)
    assert words(small, 0.04, 1000)[SHIP] >= 0.77
    assert words(small, -0.04, 1000)[STOP] >= 0.77


@pytest.mark.slow
def test_guardrails_keep_their_power() -> None:
    guarded = plan(
        parse_measure("success:0.30:+0.04"), [parse_measure("minutes:31:-1:10")], 0.9, 500
    )
    found = words(guarded, 0.06, 400)
    assert found[SHIP] >= 0.85 and found.get(STOP, 0) <= 0.05
