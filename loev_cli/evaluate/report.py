"""The report: ``report.html``, one file that needs no other and no network, ``results.json``, PNGs.

The page follows the reader's choice of dark or light, and fits a phone: figures are drawn narrow,
tables scroll within themselves. Whatever comes from files is escaped.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from matplotlib.figure import Figure

from loev_cli.errors import OutputError, UsageError
from loev_cli.evaluate import equivariance, figures, words
from loev_cli.evaluate.probes import ProbeResult
from loev_cli.evaluate.results import Results
from loev_cli.evaluate.statistics import Estimate
from loev_cli.evaluate.tasks import TASKS

HTML_FILE = "report.html"
JSON_FILE = "results.json"
_MOST_SENTENCES_OF_SKIPPED = 20

_STYLE = """
:root { color-scheme: light dark; --ink: #1a2b3d; --paper: #ffffff; --soft: #f2f4f7;
  --line: #d5dae1; --muted: #5a6675; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ee; --paper: #14181e;
  --soft: #1e242c; --line: #38414d; --muted: #9aa6b5; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 60rem; padding: 1rem; background: var(--paper);
  color: var(--ink); font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; margin: 0.5rem 0; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 0.5rem; border-top: 1px solid var(--line);
  padding-top: 1rem; }
h3 { font-size: 1rem; margin: 0.5rem 0; }
p.muted, figcaption { color: var(--muted); font-size: 0.9rem; }
code { background: var(--soft); padding: 0.1em 0.3em; border-radius: 3px; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 21rem), 1fr));
  gap: 1rem; align-items: start; margin: 1rem 0; }
figure { margin: 0; background: var(--soft); padding: 0.6rem; border-radius: 8px; min-width: 0; }
figure svg { width: 100%; height: auto; max-width: 34rem; display: block; margin: 0 auto; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.85rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 0.25rem 0.6rem; border-bottom: 1px solid var(--line);
  white-space: nowrap; }
summary { cursor: pointer; margin: 0.8rem 0; }
"""


@dataclass
class Page:
    """A section at a time; figures are kept to be written as PNG too."""

    parts: list[str] = field(default_factory=list)
    drawn: dict[str, Figure] = field(default_factory=dict)

    def heading(self, text: str) -> None:
        self.parts.append(f"<h2>{escape(text)}</h2>")

    def sentences(self, texts: Iterable[str]) -> None:
        items = "".join(f"<li>{escape(text)}</li>" for text in texts)
        self.parts.append(f"<ul>{items}</ul>")

    def figures(self, drawn: Mapping[str, tuple[Figure, str]]) -> None:
        """``name`` -> figure and caption, side by side where there is room."""
        cells = []
        for name, (figure, caption) in drawn.items():
            name = self._free(name)
            self.drawn[name] = figure
            svg = figures.as_svg(figure, name)
            # A picture of text says nothing to who cannot see it; the tables below hold the same.
            svg = svg.replace("<svg", f'<svg role="img" aria-label="{escape(caption)}"', 1)
            cells.append(f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>")
        self.parts.append(f'<div class="figures">{"".join(cells)}</div>')

    def table(self, title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
        body = "".join(
            "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
        )
        self.parts.append(
            f"<details><summary>{escape(title)}</summary><div class='wide'><table>"
            f"<tr>{head}</tr>{body}</table></div></details>"
        )

    def _free(self, name: str) -> str:
        """``name`` as a file can be called, and unlike those before."""
        stem = re.sub(r"[^A-Za-z0-9_-]+", "_", name)[:60]
        return stem if stem not in self.drawn else f"{stem}_{len(self.drawn)}"


def check_out(out: Path, *, overwrite: bool) -> None:
    """Whether a report may be written to folder ``out``.

    Raises:
        UsageError: it is a file, holds something already, or its own folder is missing.
    """
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file, not a folder")
    if not out.parent.is_dir():
        raise UsageError(f"cannot write {out}: no folder {out.parent}", hint="create it first")
    if out.is_dir() and any(out.iterdir()) and not overwrite:
        raise UsageError(f"{out} is not empty", hint="--overwrite replaces a report in it")


def write(results: Results, out: Path) -> None:
    """Write the report into folder ``out``: made beside it, then put in its place.

    Files of an earlier report are replaced; others in the folder stay.

    Raises:
        OutputError: the system will not have it.
    """
    with figures.style():
        page = draw(results)
        html = page_of(results, page)
        try:
            with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as made:
                folder = Path(made)
                (folder / HTML_FILE).write_text(html, encoding="utf-8")
                document = json.dumps(results.as_dict(), indent=2, ensure_ascii=False)
                (folder / JSON_FILE).write_text(document + "\n", encoding="utf-8")
                for name, figure in page.drawn.items():
                    figures.save_png(figure, folder / f"{name}.png")
                out.mkdir(exist_ok=True)
                # The page last: it is there when all is.
                for file in sorted(folder.iterdir(), key=lambda f: f.name == HTML_FILE):
                    shutil.move(file, out / file.name)
        except OSError as error:
            raise OutputError(f"cannot write {out}: {error.strerror or error}") from error


def draw(results: Results) -> Page:
    """All sections that the results fill."""
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
        page.heading("Files that could not be used")
        page.sentences(results.skipped[:_MOST_SENTENCES_OF_SKIPPED])
    return page


def page_of(results: Results, page: Page) -> str:
    """The HTML document."""
    model = results.vectors.model
    title = f"loev evaluate: {model['name']}"
    subspaces = ", ".join(f"{name} ({dim})" for name, dim in model["subspaces"].items())
    return (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>"
        f"<h1>What {escape(str(model['name']))} knows</h1>"
        f"<p class='muted'>subspaces {escape(subspaces)} · SHA-256 "
        f"{escape(str(model['sha256'])[:12])} · {escape(results.created)}</p>"
        f"<p class='muted'><code>{escape(results.command)}</code></p>"
        + "\n".join(page.parts)
        + f"<p class='muted'>Every figure with its interval: {JSON_FILE}.</p></body></html>\n"
    )


def _probes(page: Page, results: Results) -> None:
    page.heading("What can be read from each subspace")
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
                    "Beside the diagonal lie the fifths.",
                ),
                "key_errors": (
                    figures.key_errors(best),
                    f"Steps on the circle of fifths from the true key to the answer: {where}. "
                    "A minor key stands where its relative major does.",
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
    page.heading("How each subspace moves when the music is changed")
    page.sentences(words.of_responses(responses, heard.stretcher, len(heard.rows)))
    cells = dict(equivariance.matrix(responses))
    drawn: dict[str, tuple[Figure, str]] = {
        "sensitivity": (
            figures.heat_map(cells, label="moved / between tracks"),
            "Sensitivity: rows subspaces, columns changes. The ideal is large where a subspace is "
            "the change's own and 0 elsewhere.",
        )
    }
    for change in heard.changed:
        drawn[f"curve_{change}"] = (
            figures.curves([r for r in responses if r.change == change], heard.units[change]),
            f"How far each subspace moves by the size of the change: {change}. The dotted line is "
            "as far as another track.",
        )
    page.figures(drawn)
    page.table(
        "All changes",
        ("subspace", "change", "sensitivity [95 %]", "rank correlation", "R2 of the change"),
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
    page.heading("What lies next to what")
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
            f"{question}: recall@1 is the share of tracks whose nearest neighbour is right, mAP "
            "judges the whole order.",
        )
    page.figures(drawn)
    page.table(
        "All questions",
        ("question", "subspace", "metric", "value [95 %]", "chance", "tracks", "groups"),
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
        f"<p>{method} of each subspace. Neighbours in key are neighbours in hue, by the circle of "
        "fifths; triangles are minor.</p>"
    )
    shown = [c for c in results.columns if c.kind in ("key", "tempo")] or results.columns[:1]
    rows = results.splits.judged
    page.figures(
        {
            f"map_{name}": (
                figures.subspace_map(places, list(shown)[:2], rows),
                f"{name}, coloured by {' and by '.join(c.name for c in list(shown)[:2])}.",
            )
            for name, places in results.maps.items()
        }
    )


def _geometry(page: Page, results: Results) -> None:
    page.heading("How the subspaces use their dimensions, and what they share")
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
                "cka": (figures.heat_map(cka, label="CKA"), "Linear CKA: 1 is alike."),
                "cross_probing": (
                    figures.heat_map(cross, label="R2"),
                    "Cross-probing: the column's vectors predicted from the row's.",
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
