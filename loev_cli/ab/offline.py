"""Two searches on judged queries: nDCG and recall, paired tests, TREC runs and qrels.

nDCG@k     the sum of relevance / log2(rank + 1) over the first k results, by the same sum of the
           best possible order (Järvelin & Kekäläinen 2002; ``ndcg_cut`` of trec_eval)
recall@k   the share of the query's relevant tracks among the first k
test       paired t over queries, clustered where queries have a group; Holm over the measures
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student_t

from loev_cli.ab.report import Decision
from loev_cli.ab.sides import Side, read_csv
from loev_cli.defaults import AB_POWER
from loev_cli.errors import UsageError
from loev_cli.evaluate import figures
from loev_cli.evaluate.page import number, p_text
from loev_cli.evaluate.statistics import (
    ALPHA,
    Bootstrap,
    Estimate,
    clustered_mean,
    fewest_groups,
    holm,
    record,
)

RUN_FILES = ("a.run", "b.run")
QRELS_FILE = "qrels.txt"
_RUN_DEPTH = 100

Floats = NDArray[np.float64]


@dataclass
class Judged:
    """Queries and what is relevant to them.

    Attributes:
        relevance: query -> path -> 0 (not relevant) or more.
        group: query -> its group, such as an album; by default itself.
        n_unknown: judged tracks that are in neither library.
    """

    relevance: dict[str, dict[str, int]] = field(default_factory=dict)
    group: dict[str, str] = field(default_factory=dict)
    n_unknown: int = 0


def read_judged(file: Path, side: Side) -> Judged:
    """A CSV of ``query``, ``path`` and perhaps ``relevance`` (default 1) and ``group``.

    Args:
        side: the tracks that queries and paths name, in full or by their ends.

    Raises:
        UsageError: it cannot be read, a query is no track, or a relevance is no whole number.
    """
    judged = Judged()
    known: dict[str, str] = {}
    for where, cells in read_csv(file, ["query", "path"]):
        text = cells.get("relevance", "").strip() or "1"
        if not (text.isascii() and text.isdigit()):
            raise UsageError(
                f"{where}: relevance '{text}' is not a whole number", hint="0 is not relevant"
            )
        query, path = (cells[name].strip() for name in ("query", "path"))
        if query not in known:
            known[query] = side.path_of(query)
        if path not in known:
            try:
                known[path] = side.path_of(path)
            except UsageError:
                known[path] = path
                judged.n_unknown += 1
        of = judged.relevance.setdefault(known[query], {})
        if known[path] in of:
            raise UsageError(f"{where}: '{path}' is judged twice for '{query}'")
        of[known[path]] = int(text)
        judged.group[known[query]] = cells.get("group", "").strip() or known[query]
    if not any(value for of in judged.relevance.values() for value in of.values()):
        raise UsageError(f"{file} judges no track relevant")
    return judged


def ndcg(gains: Sequence[int], judged: Sequence[int], k: int) -> float:
    """Of one ranking: the relevance of its results, best first, and of all judged tracks."""
    discount = 1 / np.log2(np.arange(2, k + 2))
    found, ideal = np.array(gains[:k]), np.sort(judged)[::-1][:k]
    return float(found @ discount[: len(found)] / (ideal @ discount[: len(ideal)]))


def recall(gains: Sequence[int], judged: Sequence[int], k: int) -> float:
    """The share of the relevant tracks that are among the first ``k`` results."""
    return float(np.count_nonzero(gains[:k]) / np.count_nonzero(judged))


@dataclass(frozen=True)
class Measured:
    """One measure of both searches, and the test of B less A (p NaN: too few groups)."""

    name: str
    a: Estimate
    b: Estimate
    difference: Estimate
    p: float
    p_holm: float = float("nan")


def compare(a: Side, b: Side, judged: Judged, k: int) -> tuple[Decision, dict[str, str]]:
    """The decision, and the TREC files: name -> content."""
    queries = [q for q, of in judged.relevance.items() if any(of.values())]
    runs = [{q: side.ranked(q, max(k, _RUN_DEPTH)) for q in queries} for side in (a, b)]
    found = measured(runs, judged, queries, k)
    files = {
        name: _run_text(run, side.name)
        for name, run, side in zip(RUN_FILES, runs, (a, b), strict=True)
    } | {QRELS_FILE: _qrels_text({q: judged.relevance[q] for q in queries})}
    unjudged = 1 - float(np.mean([
        path in judged.relevance[q] for run in runs for q in queries for path, _ in run[q][:k]
    ]))  # fmt: skip
    n_left_out, first = len(judged.relevance) - len(queries), found[0].difference
    decision = Decision(
        "offline",
        f"{b.name} against {a.name}, on judged queries",
        _verdict(found[0]),
        ["", "A", "B", "B − A [95 %]", "p (Holm)", "detectable"],
        [
            [m.name, str(m.a), str(m.b), str(m.difference), p_text(m.p_holm),
             number(detectable(m.difference))]
            for m in found
        ],
        [
            f"A: {a.name}. B: {b.name}.",
            f"{first.n_tracks} queries in {first.n_groups} groups; a test of {len(found)} measures "
            f"needs {fewest_groups(len(found))} groups.",
            "Detectable: the difference that as many queries show in 8 of 10 experiments.",
            f"{n_left_out} queries without any relevant track are left out." if n_left_out else "",
            f"{judged.n_unknown} judged tracks are in neither library." if judged.n_unknown else "",
            f"{100 * unjudged:.0f} % of the first {k} results are not judged and count as not "
            "relevant: judgments gathered from one of the two searches favor it.",
        ],
        {"kind": "offline", "a": a.name, "b": b.name, "k": k, "unjudged": unjudged,
         "measures": [record(m) for m in found]},
        {
            "differences": (
                partial(
                    figures.forest,
                    {m.name: (m.difference, m.p_holm < ALPHA) for m in found},
                    label="B minus A",
                ),
                "To the right of 0 B is better. Filled: significant after correction.",
            )
        },
    )  # fmt: skip
    return decision, files


def measured(
    runs: Sequence[Mapping[str, Sequence[tuple[str, float]]]],
    judged: Judged,
    queries: Sequence[str],
    k: int,
) -> list[Measured]:
    """Every measure of two runs: query -> path and score, best first."""
    groups = np.array([judged.group[q] for q in queries])
    found = []
    for name, measure in ((f"nDCG@{k}", ndcg), (f"recall@{k}", recall)):
        x, y = (
            np.array([
                measure([of.get(path, 0) for path, _ in run[q]], list(of.values()), k)
                for q, of in ((q, judged.relevance[q]) for q in queries)
            ])
            for run in runs
        )  # fmt: skip
        each = Bootstrap(groups)
        found.append(Measured(name, each.mean(x), each.mean(y), *clustered_mean(y - x, groups)))
    if len(np.unique(groups)) < fewest_groups(len(found)):
        return found
    corrected = holm([m.p for m in found])
    return [replace(m, p_holm=p) for m, p in zip(found, corrected, strict=True)]


def detectable(apart: Estimate, power: float = AB_POWER) -> float:
    """The difference that as many groups would show with this power; NaN without an interval."""
    n_free = apart.n_groups - 1
    quantile = student_t.ppf(1 - ALPHA / 2, n_free) if n_free > 0 else np.nan
    error = (apart.high - apart.low) / 2 / quantile
    return float(error * (quantile + student_t.ppf(power, n_free)))


def _verdict(m: Measured) -> str:
    if np.isnan(m.p_holm):
        return "No decision: too few queries for a test."
    if m.p_holm < ALPHA:
        better, worse = ("B", "A") if m.difference.value > 0 else ("A", "B")
        return f"{better} ranks the judged tracks better than {worse}, by {m.name}."
    return (
        f"No significant difference in {m.name}: keep the simpler one, or judge more queries. "
        f"These show a difference of {detectable(m.difference):.2f}."
    )


def trec_name(path: str) -> str:
    """A path without white space, as TREC files need it; ``urllib.parse.unquote`` undoes it."""
    return quote(path, safe="/")


def _run_text(run: Mapping[str, Sequence[tuple[str, float]]], tag: str) -> str:
    return "".join(
        f"{trec_name(q)} Q0 {trec_name(path)} {rank} {score:.9f} {trec_name(tag)}\n"
        for q, hits in run.items()
        for rank, (path, score) in enumerate(hits, start=1)
    )


def _qrels_text(relevance: Mapping[str, Mapping[str, int]]) -> str:
    return "".join(
        f"{trec_name(q)} 0 {trec_name(path)} {value}\n"
        for q, of in relevance.items()
        for path, value in of.items()
    )
