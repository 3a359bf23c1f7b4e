"""The HTML report of ``loev evaluate``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from loev_cli.evaluate import equivariance, figures, words
from loev_cli.evaluate.page import HTML_FILE, Page, check_out, document, write_report
from loev_cli.evaluate.probes import ProbeResult
from loev_cli.evaluate.results import Results
from loev_cli.evaluate.statistics import Estimate
from loev_cli.evaluate.tasks import TASKS

__all__ = ["HTML_FILE", "check_out", "draw", "page_of", "write"]

_MOST_SENTENCES_OF_SKIPPED = 20


def write(results: Results, out: Path) -> None:
    """Write the report into folder ``out``; see :func:`loev_cli.evaluate.page.write_report`."""
    with figures.style():
        page = draw(results)
        html = page_of(results, page)
        write_report(out, html=html, results=results.as_dict(), drawn=page.drawn)


def draw(results: Results) -> Page:
    """All sections for which there are results."""
    page = Page()
    page.sentences(words.of_data(results))
    if results.probes:
        _probes(page, results)
    if results.responses:
        _equivariance(page, results)
    if results.retrieval:
        _retrieval(page, results)
    if results.maps:
        _maps(page, results)
    if results.shapes:
        _geometry(page, results)
    if results.skipped:
        page.heading("Skipped files")
        page.sentences(results.skipped[:_MOST_SENTENCES_OF_SKIPPED])
    return page


def page_of(results: Results, page: Page) -> str:
    """The HTML document."""
    model = results.vectors.model
    subspaces = ", ".join(f"{name} ({dim})" for name, dim in model["subspaces"].items())
    return document(
        page,
        title=f"loev evaluate: {model['name']}",
        heading=f"Evaluation of {model['name']}",
        facts=[
            f"subspaces {subspaces} · SHA-256 {str(model['sha256'])[:12]} · {results.created}",
        ],
        command=results.command,
    )


def _probes(page: Page, results: Results) -> None:
    page.heading("Probes")
    page.sentences(words.of_probes(results.probes))
    labels = dict.fromkeys(probe.label for probe in results.probes)
    page.figures({f"probes_{label}": _probe_bars(results.probes, label) for label in labels})
    keys = [p for p in results.probes if p.kind == "key"]
    if keys:
        best = max(keys, key=lambda p: p.scores["weighted score"].value)
        where = f"{best.probe} probe on {best.subspace}"
        page.figures(
            {
                "key_confusion": (
                    figures.key_confusion(best),
                    f"Keys in the order of the circle of fifths, major then minor: {where}. "
                    "Cells next to the diagonal are errors by a fifth.",
                ),
                "key_errors": (
                    figures.key_errors(best),
                    f"Steps on the circle of fifths from the true to the predicted key: {where}. "
                    "A minor key counts as its relative major.",
                ),
            }
        )
    page.table(
        "All probes",
        ("label", "subspace", "probe", "metric", "value [95 %]", "chance", "tracks", "groups"),
        (
            (p.label, p.subspace, p.probe, metric, *_cells(estimate))
            for p in results.probes
            for metric, estimate in p.scores.items()
        ),
    )


def _probe_bars(probes: Sequence[ProbeResult], label: str) -> tuple[Figure, str]:
    of = [probe for probe in probes if probe.label == label]
    metric = TASKS[of[0].kind]().main_metric
    rows: dict[str, dict[str, Estimate]] = {}
    for probe in of:
        rows.setdefault(probe.subspace, {})[probe.probe] = probe.scores[metric]
    return figures.bars(rows, label=metric), f"{label}: {metric}, by subspace and probe."


def _equivariance(page: Page, results: Results) -> None:
    heard, responses = results.heard, results.responses
    assert heard is not None
    page.heading("Equivariance")
    page.sentences(words.of_responses(responses, heard.stretcher, len(heard.rows)))
    cells = dict(equivariance.matrix(responses))
    drawn: dict[str, tuple[Figure, str]] = {
        "sensitivity": (
            figures.heat_map(cells, label="moved / between tracks"),
            "Sensitivity: rows are subspaces, columns are transformations. Ideally it is large in "
            "the subspace of the transformation and 0 elsewhere.",
        )
    }
    for change in heard.changed:
        drawn[f"curve_{change}"] = (
            figures.curves([r for r in responses if r.change == change], heard.units[change]),
            f"Distance moved by the size of the transformation: {change}. The dotted line is the "
            "mean distance to another track.",
        )
    page.figures(drawn)
    page.table(
        "All transformations",
        ("subspace", "transformation", "sensitivity [95 %]", "rank correlation", "R2 of the size"),
        (
            (
                r.subspace,
                r.change,
                words.shown(r.sensitivity),
                words.shown(r.monotonicity),
                words.shown(r.predicted),
            )
            for r in responses
        ),
    )


def _retrieval(page: Page, results: Results) -> None:
    page.heading("Nearest-neighbor retrieval")
    page.sentences(words.of_retrieval(results.retrieval))
    drawn = {}
    for question in dict.fromkeys(r.question for r in results.retrieval):
        rows = {
            r.subspace: {metric: r.scores[metric] for metric in ("recall@1", "mAP")}
            for r in results.retrieval
            if r.question == question
        }
        drawn[f"retrieval_{question}"] = (
            figures.bars(rows, label=question),
            f"{question}: recall@1 is the share of tracks whose nearest neighbor is correct; mAP "
            "rates the whole ranking.",
        )
    page.figures(drawn)
    page.table(
        "All retrieval tasks",
        ("task", "subspace", "metric", "value [95 %]", "chance", "tracks", "groups"),
        (
            (r.question, r.subspace, metric, *_cells(estimate))
            for r in results.retrieval
            for metric, estimate in r.scores.items()
        ),
    )


def _maps(page: Page, results: Results) -> None:
    page.heading("Maps")
    method = {"pca": "The first two principal components", "tsne": "t-SNE"}[results.map_method]
    page.parts.append(
        f"<p>{method} of each subspace. Hue follows the circle of fifths; triangles are minor "
        "keys.</p>"
    )
    shown = [c for c in results.columns if c.kind in ("key", "tempo")] or results.columns[:1]
    rows = results.splits.judged
    page.figures(
        {
            f"map_{name}": (
                figures.subspace_map(places, list(shown)[:2], rows),
                f"{name}, colored by {' and by '.join(c.name for c in list(shown)[:2])}.",
            )
            for name, places in results.maps.items()
        }
    )


def _geometry(page: Page, results: Results) -> None:
    page.heading("Geometry")
    page.sentences(words.of_geometry(results.shapes, results.leaks))
    names = [shape.subspace for shape in results.shapes]
    if len(names) > 1:
        cka: dict[str, dict[str, Estimate | None]] = {a: dict.fromkeys(names) for a in names}
        cross: dict[str, dict[str, Estimate | None]] = {a: dict.fromkeys(names) for a in names}
        for leak in results.leaks:
            cka[leak.source][leak.target] = leak.cka
            cross[leak.source][leak.target] = leak.cross_r2
        page.figures(
            {
                "cka": (
                    figures.heat_map(cka, label="CKA"),
                    "Linear CKA: 1 is identical up to rotation and scale.",
                ),
                "cross_probing": (
                    figures.heat_map(cross, label="R2"),
                    "Cross-probing: R2 of the column's vectors predicted from the row's.",
                ),
            }
        )
    page.table(
        "All figures",
        ("subspace", "dimensions", "effective rank", "uniformity", "alignment"),
        (
            (
                s.subspace,
                str(s.dim),
                words.shown(s.effective_rank),
                words.shown(s.uniformity),
                words.shown(s.alignment) if s.alignment else "needs windows",
            )
            for s in results.shapes
        ),
    )


def _cells(estimate: Estimate) -> Iterator[str]:
    yield words.shown(estimate)
    yield "–" if estimate.chance is None else f"{estimate.chance:.2f}"
    yield str(estimate.n_tracks)
    yield str(estimate.n_groups)
