"""Team-draft interleaving: one list of both searches, and which of them its clicks prefer.

    list    {"event": "list", "list": ID, "session": S, "query": PATH, "a": NAME, "b": NAME,
             "results": [PATH, ...], "teams": "abba..."}
    click   {"event": "click", "list": ID, "rank": R}        R from 1 on; a second one is ignored

draft        as captains pick teams: whoever has fewer results picks its best that is not taken; a
             coin is thrown where both have as many (Radlinski, Kurup & Joachims, CIKM 2008)
preference   a list is won by the side with more clicks, a tie is half a win for each (Chapelle et
             al., ACM TOIS 2012); the mean of B's wins in a session, and of that over sessions, so
             that none counts for more by asking more. 0.5 is chance
interval     Student's t over sessions, whose lists are not independent
"""

from __future__ import annotations

import json
import os
import secrets
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from loev_cli.ab.offline import detectable
from loev_cli.ab.report import Decision
from loev_cli.ab.sides import Side, read_json_lines
from loev_cli.errors import OutputError, UsageError
from loev_cli.evaluate import figures
from loev_cli.evaluate.page import p_text
from loev_cli.evaluate.statistics import ALPHA, Estimate, clustered_mean, fewest_groups

TEAMS = ("a", "b")
_MOST_UNLIKELY = 0.001  # p of the coin: below it the log is broken


def team_draft(
    a: Sequence[str], b: Sequence[str], k: int, rng: np.random.Generator
) -> tuple[list[str], str]:
    """At most ``k`` results of two rankings, and whose each is: ``abba``.

    It ends early where one side has none left, as the rest would be the other's alone.
    """
    team_of: dict[str, str] = {}
    rankings, at = (a, b), [0, 0]
    while True:
        for picking in (0, 1) if rng.random() < 0.5 else (1, 0):
            for side, ranking in enumerate(rankings):
                while at[side] < len(ranking) and ranking[at[side]] in team_of:
                    at[side] += 1
                if at[side] == len(ranking) or len(team_of) == k:
                    return list(team_of), "".join(team_of.values())
            team_of[rankings[picking][at[picking]]] = TEAMS[picking]


def drawn_list(
    a: Side, b: Side, query: str, session: str, k: int, rng: np.random.Generator
) -> dict[str, Any]:
    """The event of one list, drawn anew for everyone who is shown it."""
    of_a, of_b = ([path for path, _ in side.ranked(query, k)] for side in (a, b))
    results, teams = team_draft(of_a, of_b, k, rng)
    return {
        "event": "list",
        "list": secrets.token_hex(8),
        "session": session,
        "query": query,
        "a": a.name,
        "b": b.name,
        "results": results,
        "teams": teams,
    }


class Log:
    """A file of events that grows by a line at a time; thread-safe.

    Raises:
        UsageError: the file holds something else.
        OutputError: it cannot be written.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._writing = threading.Lock()
        if file.exists() and file.stat().st_size:
            _, first = next(read_json_lines(file))
            if first.get("event") not in ("list", "click"):
                raise UsageError(f"will not write to {file}: it is no log of shown lists")
        self.add()

    def add(self, *events: dict[str, Any]) -> None:
        text = "".join(json.dumps(event, ensure_ascii=False) + "\n" for event in events)
        try:
            with self._writing, self._file.open("a", encoding="utf-8") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            raise OutputError(f"cannot write {self._file}: {error.strerror}") from error


class Interleaver:
    """Draws lists for listeners and logs what they are shown and click; thread-safe."""

    def __init__(self, a: Side, b: Side, log: Path) -> None:
        self._sides = a, b
        self._log = Log(log)
        self._rng = np.random.default_rng()
        self._n_shown: dict[str, int] = {}
        self._drawing = threading.Lock()

    def show(self, query: str, session: str, k: int) -> tuple[str, list[str]]:
        """A new list for a row: its name, and paths."""
        with self._drawing:
            event = drawn_list(*self._sides, query, session, k, self._rng)
            self._n_shown[event["list"]] = len(event["results"])
        self._log.add(event)
        return event["list"], event["results"]

    def click(self, name: str, rank: int) -> bool:
        """Log a click; False if that was not shown."""
        if not 1 <= rank <= self._n_shown.get(name, 0):
            return False
        self._log.add({"event": "click", "list": name, "rank": rank})
        return True


@dataclass
class Clicks:
    """What a log says.

    Attributes:
        names: of A and B.
        wins: (n,) of every list with clicks: 1 where B has more, 0 where A has, 0.5 where none.
        sessions: (n,) its session.
        n_lists, n_sessions: shown, with or without a click.
        n_first: how many lists began with a result of A.
    """

    names: tuple[str, str]
    wins: NDArray[np.float64]
    sessions: NDArray[Any]
    n_lists: int
    n_sessions: int
    n_first: int
    notes: list[str] = field(default_factory=list)


def read_log(files: Iterable[Path]) -> Clicks:
    """Read lists and clicks, in whatever order and files they are.

    Raises:
        UsageError: a line is no event, clicks a list that was not shown, or lists are of several
            comparisons.
    """
    lists: dict[str, dict[str, Any]] = {}
    clicked: dict[str, set[int]] = {}
    asked: list[tuple[str, str, int]] = []
    for file in files:
        for where, event in read_json_lines(file):
            kind, name = event.get("event"), event.get("list")
            if kind == "list" and isinstance(name, str):
                if name in lists:
                    raise UsageError(
                        f"{where}: list {name} was shown before",
                        hint="draw a list for everyone it is shown to",
                    )
                _check_list(where, event)
                lists[name] = event
            elif kind == "click" and isinstance(name, str) and isinstance(event.get("rank"), int):
                asked.append((where, name, event["rank"]))
            else:
                raise UsageError(f"{where} is no event of a list or a click")
    if not lists:
        raise UsageError("no list was shown", hint="give the log of the lists, too")
    for where, name, rank in asked:
        if name not in lists or not 1 <= rank <= len(lists[name]["teams"]):
            raise UsageError(f"{where}: rank {rank} of list {name} was not shown")
        clicked.setdefault(name, set()).add(rank)
    names = {(event["a"], event["b"]) for event in lists.values()}
    if len(names) > 1:
        raise UsageError(f"the lists are of {len(names)} comparisons, such as {sorted(names)[:2]}")
    won, sessions = [], []
    for name, ranks in clicked.items():
        of = Counter(lists[name]["teams"][rank - 1] for rank in ranks)
        won.append(0.5 + 0.5 * np.sign(of["b"] - of["a"]))
        sessions.append(lists[name]["session"])
    return Clicks(
        names.pop(),
        np.array(won),
        np.array(sessions),
        sum(bool(event["teams"]) for event in lists.values()),
        len({event["session"] for event in lists.values()}),
        sum(event["teams"][:1] == "a" for event in lists.values()),
    )


def _check_list(where: str, event: dict[str, Any]) -> None:
    texts = [event.get(name) for name in ("session", "a", "b", "teams")]
    if not all(isinstance(text, str) for text in texts) or set(event["teams"]) - set(TEAMS):
        raise UsageError(f"{where} lacks session, a, b or teams")


def preference(clicks: Clicks) -> tuple[Estimate, float]:
    """The share of lists that B wins, mean over sessions with clicks; p of its being 0.5."""
    names, of_list = np.unique(clicks.sessions, return_inverse=True)
    means = np.bincount(of_list, clicks.wins - 0.5) / np.bincount(of_list)
    apart, p = clustered_mean(means, names)
    moved = {end: getattr(apart, end) + 0.5 for end in ("value", "low", "high", "chance")}
    return replace(apart, **moved), p


def decide(clicks: Clicks) -> Decision:
    """The decision from a log."""
    a, b = clicks.names
    if not len(clicks.wins):
        raise UsageError("no list was clicked")
    share, p = preference(clicks)
    n_a, n_ties, n_b = (int((clicks.wins == x).sum()) for x in (0, 0.5, 1))
    fair = binomtest(clicks.n_first, clicks.n_lists).pvalue
    if fair < _MOST_UNLIKELY:
        verdict = (
            f"No decision: {clicks.n_first} of {clicks.n_lists} lists begin with A, which the "
            f"draft's coin does not explain (p = {fair:.1g}). Lists are missing from the log."
        )
    elif np.isnan(p):
        verdict = (
            f"No decision: clicks of {share.n_groups} sessions, {fewest_groups()} are the least."
        )
    elif p < ALPHA:
        verdict = f"Listeners prefer {'B' if share.value > 0.5 else 'A'}."
    else:
        verdict = (
            f"No preference shown. As many sessions show one of {0.5 + detectable(share):.2f} or "
            f"more, or {0.5 - detectable(share):.2f} or less, in 8 of 10 experiments."
        )
    return Decision(
        "clicks",
        f"{b} against {a}, interleaved",
        verdict,
        ["", "B preferred [95 %]", "chance", "p", "A wins", "ties", "B wins", "sessions"],
        [[
            "mean of sessions", str(share), "0.50",
            p_text(p, 4), str(n_a), str(n_ties), str(n_b),
            str(share.n_groups),
        ]],
        [
            f"A: {a}. B: {b}.",
            f"{clicks.n_lists} lists were shown in {clicks.n_sessions} sessions, "
            f"{len(clicks.wins)} of them were clicked; {clicks.n_first} began with a result of A.",
            "A list is won by the side whose results have more clicks; a tie counts half for each. "
            "Sessions count alike, however many lists they saw.",
            "The interval is over sessions. It holds for one look, at a number of sessions decided "
            "before: whoever looks until it is clear finds a difference of nothing more often than "
            "in 5 %.",
        ],
        {
            "kind": "clicks", "a": a, "b": b, "preference": share.as_dict(), "p": p,
            "n_lists": clicks.n_lists, "n_clicked": len(clicks.wins), "a_wins": n_a,
            "ties": n_ties, "b_wins": n_b, "n_first_a": clicks.n_first, "p_draft": fair,
        },
        {
            "preference": (
                partial(figures.bars, {"B": {"preferred": share}}, label="share of lists won"),
                "The dotted line is chance: as many lists won by A.",
            )
        },
    )  # fmt: skip


def requests(file: Path) -> Iterator[tuple[str, str]]:
    """Query and session of a file of JSON lines: ``{"query": PATH, "session": S}``.

    Raises:
        UsageError: a line lacks one of them.
    """
    for where, found in read_json_lines(file):
        texts = [found.get("query"), found.get("session")]
        if not all(isinstance(text, str) and text for text in texts):
            raise UsageError(f'{where} is not {{"query": PATH, "session": NAME}}')
        yield str(texts[0]), str(texts[1])
