"""The report of ``loev compare``: one page, its pictures, ``results.json`` and ``compare.md``."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from loev_cli.evaluate import figures
from loev_cli.evaluate import page as pages
from loev_cli.evaluate.figures import Labeled
from loev_cli.evaluate.page import HTML_FILE, JSON_FILE, write_report
from loev_cli.evaluate.retrieval import GRID_RANKS
from loev_cli.evaluate.statistics import Estimate
from loev_cli.experiments.compare import PRETRAINING_FILE, RUNS
from loev_cli.experiments.judging import CHANGES, EMBEDDINGS, EXCERPTS, PROBES
from loev_cli.experiments.protocol import APART, MOVED, MOVEMENT, NEIGHBORS, SIZE
from loev_cli.experiments.runs import PLAN_FILE, TRIAL_FOLDER
from loev_cli.experiments.scoring import CHOSEN, INVARIANT, OWN, Comparison

__all__ = ["HTML_FILE", "MARKDOWN_FILE", "check_out", "write"]

MARKDOWN_FILE = "compare.md"
_RULES = {CHOSEN: "chosen on validation tracks", "all": "all concatenated"}

_Figures = dict[str, Labeled]


def check_out(out: Path, *, inputs: Iterable[str | Path], overwrite: bool) -> None:
    """Whether a comparison may go into folder ``out``; one that is there is taken up.

    Raises:
        UsageError: as :func:`loev_cli.evaluate.page.check_out`.
    """
    pages.check_out(
        out,
        overwrite=overwrite,
        inputs=inputs,
        files=(HTML_FILE, JSON_FILE, MARKDOWN_FILE, PRETRAINING_FILE, PLAN_FILE),
        command="compare",
        unfinished=(
            *(PRETRAINING_FILE, PLAN_FILE, TRIAL_FOLDER, RUNS),
            *(EMBEDDINGS, CHANGES, EXCERPTS, PROBES),
        ),
    )


def write(c: Comparison, out: Path) -> None:
    """Write the report into folder ``out``, beside the runs.

    Raises:
        OutputError: it cannot be written.
    """
    metric = {d.question: d.metric for d in c.differences}
    with figures.style():
        write_report(
            out,
            "compare.j2",
            c.as_dict(),
            {
                "differences": _differences(c),
                "labels": _labels(c),
                "changes": _changes(c),
                "search": _search(c),
            },
            markdown_file=MARKDOWN_FILE,
            c=c,
            n_groups=len(np.unique(c.manifest.groups[c.splits.judged])),
            n_tests=sum(d.is_tested for d in c.differences),
            header=[f"{question}, {metric[question]}" for question in c.tested],
            table=_table(c),
            grid_ranks=[f"k = {k}" for k in GRID_RANKS],
            grid=_grid(c),
            predictions=_predictions(c),
            apart=[e for e in c.under_change if e.kind == APART],
            seeds_of=lambda e: ", ".join(f"{value:.2f}" for value in e.of_seeds),
        )


def _table(c: Comparison) -> list[tuple[tuple[str, str], list[tuple[str, str]]]]:
    """The paper's table: a row per contestant, a cell per tested question with its subspace."""
    rows = []
    for one in c.contestants:
        cells = []
        for question in c.tested:
            entry = c.entry(question, one.name)
            mark = " †" if c.is_below_best(question, one.name) else ""
            cells.append((f"{entry.estimate}{mark}", entry.subspace) if entry else ("–", ""))
        rows.append(((one.name, one.description), cells))
    chances = [
        next((e.estimate.chance for e in c.entries if e.question == q and e.rule), None)
        for q in c.tested
    ]
    chance = [("–" if x is None else f"{x:.2f}", "") for x in chances]
    return [*rows, (("chance", ""), chance)]


def _grid(c: Comparison) -> list[list[Any]]:
    """A row per method, query and neighbors, by the subspace its probe selected; a cell per k."""
    rows: dict[tuple[str, str], list[Any]] = {}
    for e in c.under_change:
        if e.kind == NEIGHBORS and e.rule == CHOSEN:
            metric, _, k = e.metric.partition("@")
            new = [e.question, (e.contestant, e.subspace), metric, "–", *("–" for _ in GRID_RANKS)]
            row = rows.setdefault((e.question, e.contestant), new)
            row[3] = pages.number(e.estimate.chance)
            row[4 + GRID_RANKS.index(int(k))] = e.estimate
    questions = list(dict.fromkeys(question for question, _ in rows))
    return [rows[key] for key in sorted(rows, key=lambda key: questions.index(key[0]))]


def _predictions(c: Comparison) -> list[list[Any]]:
    """A row per change, method and subspace: its size, then the moved embedding."""
    found = {(e.question, e.contestant, e.subspace, e.kind, e.metric): e.estimate
             for e in c.under_change}  # fmt: skip
    rows = []
    for change, name, subspace, kind, metric in found:
        if (kind, metric) == (SIZE, "R2"):
            moved = found[change, name, subspace, MOVED, "R2"]
            rows.append(
                [change, name, subspace, found[change, name, subspace, kind, metric], moved,
                 pages.number(moved.chance),
                 found[change, name, subspace, MOVED, MOVEMENT]]
            )  # fmt: skip
    return rows


def _differences(c: Comparison) -> _Figures:
    first = "loev++" if "loev++" in c.methods else c.methods[0]
    drawn: _Figures = {}
    for other in (one.name for one in c.contestants if one.name != first):
        of = {q: d for q in c.tested if (d := c.difference(q, first, other)) is not None}
        if of:
            drawn[f"difference_{other}"] = (
                figures.forest(
                    {q: (d.estimate, d.is_clear) for q, d in of.items()},
                    label=f"{first} minus {other}",
                ),
                f"{first} minus {other}: to the right of 0 {first} is better. Filled: significant "
                "after correction.",
            )
    return drawn


def _labels(c: Comparison) -> _Figures:
    metric = {d.question: d.metric for d in c.differences}
    drawn: _Figures = {}
    for label in dict.fromkeys(e.question for e in c.entries if e.rule == CHOSEN):
        ruled: dict[str, dict[str, Estimate]] = {}
        single: dict[str, dict[str, Estimate]] = {}
        for e in c.entries:
            if (e.question, e.metric, e.probe) != (label, metric[label], c.settings["probes"][0]):
                continue
            if not e.rule:
                single.setdefault(e.contestant, {})[e.subspace] = e.estimate
            elif e.rule != OWN:
                ruled.setdefault(e.contestant, {})[_RULES[e.rule]] = e.estimate
        names = dict.fromkeys(s for one in c.contestants for s in [*one.subspaces])
        columns = [s for s in [*names, "all"] if any(s in of for of in single.values())]
        cells: dict[str, dict[str, Any]] = {
            name: {s: of.get(s) for s in columns} for name, of in single.items()
        }
        drawn[f"scores_{label}"] = (
            figures.bars(ruled, label=metric[label]),
            f"{label}: {metric[label]} by method.",
        )
        drawn[f"subspaces_{label}"] = (
            figures.heat_map(cells, label=metric[label]),
            f"{label}: {metric[label]} in every subspace a method has.",
        )
    return drawn


def _changes(c: Comparison) -> _Figures:
    if not c.sensitivity:
        return {}
    drawn: _Figures = {
        f"sensitivity_{name}": (
            figures.heat_map(rows, label="moved / between tracks"),
            f"{name}: rows are subspaces, columns transformations.",
        )
        for name, rows in c.sensitivity.items()
    }
    again: dict[str, dict[str, Estimate]] = {}
    for e in c.entries:
        if e.rule == INVARIANT:
            again.setdefault(e.contestant, {})[e.question] = e.estimate
    drawn["found_again"] = (
        figures.bars(again, label=f"recall@1, by {INVARIANT}"),
        f"Queries are transformed excerpts, the target is their own track; by {INVARIANT}.",
    )
    return drawn


def _search(c: Comparison) -> _Figures:
    rows: dict[str, dict[str, dict[str, Estimate]]] = {}
    for e in c.entries:
        if e.kind == "search":
            of = rows.setdefault(e.question, {})
            of.setdefault(e.contestant, {})[e.metric] = e.estimate
    return {
        f"search_{question}": (figures.bars(of, label=question), f"{question}.")
        for question, of in rows.items()
    }
