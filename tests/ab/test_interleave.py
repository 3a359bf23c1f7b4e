"""Team draft, its log, and what simulated listeners prefer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.ab_simulation import LISTENERS, alarms, interleaved, sessions_needed
from loev_cli.ab.interleave import Clicks, decide, preference, read_log, team_draft
from loev_cli.errors import UsageError
from tests.conftest import Loev
from tests.search.common import write_library

RNG = np.random.default_rng(0)


def test_each_side_picks_its_best_that_is_left_and_none_is_ahead_by_two() -> None:
    for _ in range(200):
        a, b = ([str(i) for i in RNG.permutation(12)[:10]] for _ in range(2))
        results, teams = team_draft(a, b, 8, RNG)
        assert len(results) == len(set(results)) == len(teams) == 8
        for at, (path, team) in enumerate(zip(results, teams, strict=True)):
            ranking = a if team == "a" else b
            assert path == next(p for p in ranking if p not in results[:at])
            assert abs(teams[: at + 1].count("a") - teams[: at + 1].count("b")) <= 1


def test_either_side_begins_half_of_the_lists() -> None:
    firsts = [team_draft(["x"], ["y"], 1, RNG)[1] for _ in range(2000)]
    assert abs(firsts.count("a") - 1000) < 4 * np.sqrt(500)


def test_a_list_ends_where_one_side_has_nothing_left() -> None:
    assert len(team_draft(["x", "y"], ["x"], 5, RNG)[0]) <= 2
    assert team_draft([], ["x"], 5, RNG) == ([], "")


def test_from_libraries_to_a_decision(loev: Loev, tmp_path: Path) -> None:
    """Sessions that click whatever B gave: listeners prefer B."""
    for seed, name in enumerate(("old.npz", "new.npz")):
        write_library(tmp_path / name, 30, seed=seed)
    requests, log = tmp_path / "requests.jsonl", tmp_path / "lists.jsonl"
    requests.write_text(
        "".join(json.dumps({"query": f"{i % 20:03}.wav", "session": f"s{i // 2}"}) + "\n"
                for i in range(24))
    )  # fmt: skip
    sides = (tmp_path / "old.npz", f"{tmp_path / 'new.npz'}@pitch=1,tempo=0.5")
    for n_lists in (24, 48):  # a log grows
        assert loev("ab", "interleave", *sides, requests, "--out", log).code == 0
        lists = [json.loads(line) for line in log.read_text().splitlines()]
        assert len(lists) == len({one["list"] for one in lists}) == n_lists
    clicks = tmp_path / "clicks.jsonl"
    clicks.write_text(
        "".join(
            json.dumps({"event": "click", "list": one["list"], "rank": one["teams"].index("b") + 1})
            + "\n"
            for one in lists[:24]
        )
    )
    out = tmp_path / "out"
    found = loev("ab", "clicks", log, clicks, "--out", out)
    assert found.code == 0 and "Listeners prefer B." in found.out
    results = json.loads((out / "results.json").read_text())
    assert (results["n_lists"], results["n_clicked"], results["b_wins"]) == (48, 24, 24)
    assert results["preference"]["n_groups"] == 12
    # What is no log is not added to.
    assert loev("ab", "interleave", *sides, requests, "--out", clicks).code == 0
    requests_before = requests.read_text()
    assert loev("ab", "interleave", *sides, clicks, "--out", requests).code == 2
    assert requests.read_text() == requests_before


def event(name: str, session: str = "s", teams: str = "ab", **more: Any) -> dict[str, Any]:
    return {"event": "list", "list": name, "session": session, "a": "x", "b": "y",
            "teams": teams, "results": list("pq")} | more  # fmt: skip


def log_of(folder: Path, *events: object) -> Path:
    file = folder / "log.jsonl"
    file.write_text("".join(json.dumps(one) + "\n" for one in events))
    return file


def test_clicks_are_counted_once_and_ties_are_halves(tmp_path: Path) -> None:
    def click(name: str, rank: int) -> dict[str, Any]:
        return {"event": "click", "list": name, "rank": rank}

    log = log_of(
        tmp_path, click("1", 2), event("1"), event("2", "t"), event("3"), event("4"),
        click("1", 2), click("2", 1), click("3", 1), click("3", 2),
    )  # fmt: skip
    found = read_log([log])
    assert found.wins.tolist() == [1, 0, 0.5] and found.sessions.tolist() == ["s", "t", "s"]
    assert (found.n_lists, found.n_sessions, found.n_first) == (4, 2, 4)


@pytest.mark.parametrize(
    ("events", "named"),
    [
        ([event("1"), event("1")], "line 2"),
        ([event("1"), event("2", a="z")], "2 comparisons"),
        ([event("1"), {"event": "click", "list": "1", "rank": 3}], "line 2"),
        ([event("1"), {"event": "click", "list": "2", "rank": 1}], "line 2"),
        ([event("1", teams="ax")], "line 1"),
        ([{"event": "play"}], "line 1"),
        ([[1]], "line 1"),
        ([], "no list"),
    ],
)
def test_logs_that_cannot_be_used(tmp_path: Path, events: list[object], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        read_log([log_of(tmp_path, *events)])


def test_a_log_that_lacks_lists_is_not_decided_by() -> None:
    """Only lists that begin with A were kept: the coin cannot have done that."""
    clicks = Clicks(("x", "y"), np.repeat([0.0, 1.0], 20), np.arange(40), 40, 40, 39)
    assert decide(clicks).verdict.startswith("No decision: 39 of 40")


def test_the_interval_is_that_of_sessions() -> None:
    """One session that asks a thousand times is one session."""
    wins, sessions = np.ones(1000), np.zeros(1000, int)
    assert np.isnan(preference(Clicks(("x", "y"), wins, sessions, 1000, 1, 500))[1])
    fair = np.tile([0.0, 1.0], 20)
    busy = np.append(fair, wins)
    whose = np.append(np.arange(40), np.full(1000, 40))
    share, p = preference(Clicks(("x", "y"), busy, whose, 1040, 41, 520))
    assert share.value == pytest.approx(21 / 41) and share.n_groups == 41 and p > 0.5


def test_listeners_of_a_better_search_prefer_it() -> None:
    clicks = interleaved(LISTENERS["cascade"], (0.5, 0.1), 300, RNG)
    share, p = preference(clicks)
    assert share.low > 0.5 and p < 0.01
    assert decide(clicks).verdict == "Listeners prefer B."


# 1000 experiments have a standard error of 0.007 at 0.05, and 400 of 0.02 at 0.8.
@pytest.mark.slow
@pytest.mark.parametrize("listener", LISTENERS)
@pytest.mark.parametrize("same", [True, False])
def test_equal_searches_alarm_in_5_percent(listener: str, same: bool) -> None:
    assert 0.03 <= alarms(LISTENERS[listener], (0.3, 0.3), 100, 1000, same=same) <= 0.07


@pytest.mark.slow
@pytest.mark.parametrize("listener", LISTENERS)
def test_planned_sessions_show_the_preference(listener: str) -> None:
    noise = (0.3, 0.15)
    n_sessions = sessions_needed(LISTENERS[listener], noise)
    assert 0.74 <= alarms(LISTENERS[listener], noise, n_sessions, 400, seed=1) <= 0.88
