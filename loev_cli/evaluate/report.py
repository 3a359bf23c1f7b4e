"""The HTML report of ``loev evaluate``."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np

from loev_cli.evaluate import figures
from loev_cli.evaluate.figures import Labeled
from loev_cli.evaluate.job import Results
from loev_cli.evaluate.page import HTML_FILE, check_out, number, write_report
from loev_cli.evaluate.probes import TASKS
from loev_cli.evaluate.statistics import Estimate, fewest_groups

__all__ = ["HTML_FILE", "check_out", "write"]

_Figures = dict[str, Labeled]


def write(results: Results, out: Path) -> None:
    """Write the report into folder ``out``; see :func:`loev_cli.evaluate.page.write_report`."""
    judged = results.splits.judged
    dims = results.vectors.model["subspaces"]
    with figures.style():
        write_report(
            out,
            "evaluate.j2",
            results.as_dict(),
            {
                "probes": _probes(results),
                "equivariance": _equivariance(results),
                "retrieval": _retrieval(results),
                "maps": _maps(results),
                "geometry": _geometry(results),
            },
            r=results,
            subspaces=", ".join(f"{name} ({dim})" for name, dim in dims.items()),
            n_groups=len(np.unique(results.manifest.groups[judged])),
            main_scores=_main_scores(results),
            n_needed=fewest_groups(),
        )


def _main_scores(results: Results) -> list[list[str]]:
    """A header, then what is asked, metric, chance, and the score of every subspace.

    By the first probe, and by the nearest neighbor.
    """
    asked: dict[tuple[str, str], dict[str, Estimate]] = {}
    for p in results.probes:
        if p.probe == results.probes[0].probe:
            metric = TASKS[p.kind]().main_metric
            asked.setdefault((p.label, metric), {})[p.subspace] = p.scores[metric]
    for found in results.retrieval:
        row = asked.setdefault((found.question, "recall@1"), {})
        row[found.subspace] = found.scores["recall@1"]
    subspaces = list(dict.fromkeys(name for row in asked.values() for name in row))
    rows = [["label", "metric", "chance", *subspaces]] if asked else []
    for (question, metric), of in asked.items():
        scores = [of[name].marked if name in of else "–" for name in subspaces]
        rows.append([question, metric, number(next(iter(of.values())).chance), *scores])
    return rows


def _probes(results: Results) -> _Figures:
    drawn: _Figures = {}
    for (label, kind), of in itertools.groupby(results.probes, key=lambda p: (p.label, p.kind)):
        metric = TASKS[kind]().main_metric
        rows: dict[str, dict[str, Estimate]] = {}
        for probe in of:
            rows.setdefault(probe.subspace, {})[probe.probe] = probe.scores[metric]
        drawn[f"probes_{label}"] = (
            figures.bars(rows, label=metric),
            f"{label}: {metric}, by subspace and probe.",
        )
    keys = [p for p in results.probes if p.kind == "key"]
    if keys:
        best = max(keys, key=lambda p: p.scores["weighted score"].value)
        where = f"{best.probe} probe on {best.subspace}"
        drawn["key_confusion"] = (
            figures.key_confusion(best),
            f"Keys in the order of the circle of fifths, major then minor: {where}. Cells next to "
            "the diagonal are errors by a fifth.",
        )
        drawn["key_errors"] = (
            figures.key_errors(best),
            f"Steps on the circle of fifths from the true to the predicted key: {where}. A minor "
            "key counts as its relative major.",
        )
    return drawn


def _equivariance(results: Results) -> _Figures:
    heard = results.heard
    if heard is None:
        return {}
    rows: dict[str, dict[str, Estimate]] = {}
    for response in results.responses:
        rows.setdefault(response.subspace, {})[response.change] = response.sensitivity
    drawn: _Figures = {
        "sensitivity": (
            figures.heat_map(rows, label="moved / between tracks"),
            "Sensitivity: rows are subspaces, columns are transformations. Ideally it is large in "
            "the subspace of the transformation and 0 elsewhere.",
        )
    }
    for change, unit in heard.units.items():
        drawn[f"curve_{change}"] = (
            figures.curves([r for r in results.responses if r.change == change], unit),
            f"Distance moved by the size of the transformation: {change}. The dotted line is the "
            "mean distance to another track.",
        )
    return drawn


def _retrieval(results: Results) -> _Figures:
    drawn: _Figures = {}
    for question, of in itertools.groupby(results.retrieval, key=lambda r: r.question):
        rows = {r.subspace: {m: r.scores[m] for m in ("recall@1", "mAP")} for r in of}
        drawn[f"retrieval_{question}"] = (
            figures.bars(rows, label=question),
            f"{question}: recall@1 is the share of tracks whose nearest neighbor is correct; mAP "
            "rates the whole ranking.",
        )
    return drawn


def _maps(results: Results) -> _Figures:
    columns = [c for c in results.columns if c.kind in ("key", "tempo")] or results.columns[:1]
    columns, rows = list(columns)[:2], results.splits.judged
    drawn: _Figures = {}
    for name, x in results.vectors.subspaces.items():
        places = figures.flatten(x[rows], results.map_method, seed=results.settings["seed"])
        drawn[f"map_{name}"] = (
            figures.subspace_map(places, columns, rows),
            f"{name}, colored by {' and by '.join(c.name for c in columns)}.",
        )
    return drawn


def _geometry(results: Results) -> _Figures:
    names = [shape.subspace for shape in results.shapes]
    if len(names) < 2:
        return {}
    cka: dict[str, dict[str, Any]] = {a: dict.fromkeys(names) for a in names}
    cross: dict[str, dict[str, Any]] = {a: dict.fromkeys(names) for a in names}
    for leak in results.leaks:
        cka[leak.source][leak.target] = leak.cka
        cross[leak.source][leak.target] = leak.cross_r2
    return {
        "cka": (
            figures.heat_map(cka, label="CKA"),
            "Linear CKA: 1 is identical up to rotation and scale.",
        ),
        "cross_probing": (
            figures.heat_map(cross, label="R2"),
            "Cross-probing: R2 of the column's vectors predicted from the row's.",
        ),
    }
