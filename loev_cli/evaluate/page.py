"""The report's layout: one self-contained HTML file, with JSON and PNGs beside it.

The page follows the system's dark or light mode and fits a phone: figures are narrow, tables scroll
by themselves. All text from files is escaped.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from loev_cli.errors import OutputError, UsageError
from loev_cli.evaluate import figures
from loev_cli.writers.replacing import check_no_input

HTML_FILE = "report.html"
JSON_FILE = "results.json"

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
table.open { margin: 1rem 0; }
table.open th { white-space: normal; vertical-align: bottom; }
table.open td:first-child { font-weight: 600; position: sticky; left: 0; background: var(--paper); }
td small { display: block; color: var(--muted); font-weight: 400; }
summary { cursor: pointer; margin: 0.8rem 0; }
"""


@dataclass
class Page:
    """Collects sections; figures are kept to be saved as PNG too."""

    parts: list[str] = field(default_factory=list)
    drawn: dict[str, Figure] = field(default_factory=dict)

    def heading(self, text: str) -> None:
        self.parts.append(f"<h2>{escape(text)}</h2>")

    def sentences(self, texts: Iterable[str]) -> None:
        items = "".join(f"<li>{escape(text)}</li>" for text in texts)
        self.parts.append(f"<ul>{items}</ul>")

    def figures(self, drawn: Mapping[str, tuple[Figure, str]]) -> None:
        """``name`` -> figure and caption, side by side if there is room."""
        cells = []
        for name, (figure, caption) in drawn.items():
            name = self._free(name)
            self.drawn[name] = figure
            svg = figures.as_svg(figure, name)
            # For screen readers; the tables below have the same content.
            svg = svg.replace("<svg", f'<svg role="img" aria-label="{escape(caption)}"', 1)
            cells.append(f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>")
        self.parts.append(f'<div class="figures">{"".join(cells)}</div>')

    def open_table(self, header: Sequence[str], rows: Iterable[Sequence[tuple[str, str]]]) -> None:
        """An expanded table; a cell is a text and a smaller one below it."""
        head = "".join(f"<th scope='col'>{escape(cell)}</th>" for cell in header)
        body = "".join(
            "<tr>"
            + "".join(
                f"<td>{escape(text)}<small>{escape(below)}</small></td>" for text, below in row
            )
            + "</tr>"
            for row in rows
        )
        self.parts.append(
            f"<div class='wide'><table class='open'><tr>{head}</tr>{body}</table></div>"
        )

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
        """``name`` as a valid and unique file name."""
        stem = re.sub(r"[^A-Za-z0-9_-]+", "_", name)[:60]
        return stem if stem not in self.drawn else f"{stem}_{len(self.drawn)}"


def check_out(
    out: Path,
    *,
    overwrite: bool,
    inputs: Iterable[str | Path] = (),
    files: Sequence[str] = (HTML_FILE, JSON_FILE),
    command: str | None = None,
    unfinished: Sequence[str] = (),
) -> None:
    """Check that a report may be written to folder ``out``.

    Args:
        overwrite: replace an existing report.
        inputs: files the run reads.
        files: names of the output files.
        command: may reuse its earlier output in ``out``; None requires an empty folder.
        unfinished: files of an unfinished run of ``command``; the first always exists.

    Raises:
        UsageError: it is a file, has other contents, or its parent is missing; an input would be
            replaced.
    """
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file, not a folder")
    if not out.parent.is_dir():
        raise UsageError(f"cannot write {out}: no folder {out.parent}", hint="create it first")
    # Input folders are only searched for audio, which these files are not.
    here = [each for each in inputs if not Path(each).is_dir()]
    for name in files:
        check_no_input(out / name, here)
    if overwrite or not out.is_dir() or not any(out.iterdir()):
        return
    if command is None:
        raise UsageError(f"{out} is not empty", hint="--overwrite replaces a report in it")
    if not _is_report_of(command, out / JSON_FILE):
        left = {file.name for file in out.iterdir() if not file.name.startswith(".")}
        if not (left <= {*unfinished} and {*unfinished[:1]} <= left):
            raise UsageError(
                f"will not write to {out}: it is not empty, and was not made by 'loev {command}'",
                hint="choose another --out, or pass --overwrite",
            )


def _is_report_of(command: str, file: Path) -> bool:
    try:
        made_by = json.loads(file.read_text(encoding="utf-8"))["command"].split()
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False
    return bool(made_by[:2] == ["loev", command])


def document(page: Page, *, title: str, heading: str, facts: Sequence[str], command: str) -> str:
    """The HTML of a whole page; ``facts`` are paragraphs below the heading."""
    below = "".join(f"<p class='muted'>{escape(fact)}</p>" for fact in facts)
    return (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>"
        f"<h1>{escape(heading)}</h1>{below}"
        f"<p class='muted'><code>{escape(command)}</code></p>"
        + "\n".join(page.parts)
        + f"<p class='muted'>All results with their intervals: {JSON_FILE}.</p></body></html>\n"
    )


def write_report(
    out: Path,
    *,
    html: str,
    results: Mapping[str, Any],
    drawn: Mapping[str, Figure],
    texts: Mapping[str, str] | None = None,
    html_file: str = HTML_FILE,
) -> None:
    """Write the report to folder ``out``, via a temporary folder beside it.

    Files of an earlier report are replaced; other files are kept.

    Args:
        texts: file name -> content of further files.
        html_file: name of the page.

    Raises:
        OutputError: it cannot be written.
    """
    try:
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as made:
            folder = Path(made)
            document = json.dumps(results, indent=2, ensure_ascii=False)
            contents = {html_file: html, JSON_FILE: document + "\n", **(texts or {})}
            for name, text in contents.items():
                (folder / name).write_text(text, encoding="utf-8")
            for name, figure in drawn.items():
                figures.save_png(figure, folder / f"{name}.png")
            out.mkdir(exist_ok=True)
            # The results first, which identify the folder as ours; the page last, when all is
            # there.
            for file in sorted(
                folder.iterdir(), key=lambda f: (f.name == html_file, f.name != JSON_FILE)
            ):
                shutil.move(file, out / file.name)
    except OSError as error:
        raise OutputError(f"cannot write {out}: {error.strerror or error}") from error
