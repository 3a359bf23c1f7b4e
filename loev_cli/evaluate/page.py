"""Writing a report: a page from a template, with JSON, PNGs and perhaps Markdown beside it.

The page is one HTML file without links to others. It follows the system's dark or light mode and
fits a phone: figures are narrow, tables scroll by themselves. All text from files is escaped.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from loev_cli.errors import OutputError, UsageError
from loev_cli.evaluate import figures
from loev_cli.storage.replacing import check_no_input

HTML_FILE = "report.html"
JSON_FILE = "results.json"

# Section of a report -> name of a figure -> the figure and its caption.
Drawn = Mapping[str, Mapping[str, figures.Labeled]]


def write_report(
    out: Path,
    template: str,
    results: Mapping[str, Any],
    drawn: Drawn,
    *,
    html_file: str = HTML_FILE,
    markdown_file: str | None = None,
    files: Mapping[str, str] | None = None,
    **context: Any,
) -> None:
    """Write the report to folder ``out``, via a temporary folder beside it.

    Files of an earlier report are replaced; other files are kept.

    Args:
        template: its name in ``templates``, for HTML and Markdown.
        results: for ``results.json``.
        markdown_file: what is not folded, as Markdown; None: without.
        files: further text files of the report, name -> content.
        context: what the template refers to.

    Raises:
        OutputError: it cannot be written.
    """
    pngs: dict[str, Figure] = {}
    svgs: dict[str, list[tuple[str, str]]] = {}
    for section, of in drawn.items():
        svgs[section] = []
        for name, (figure, caption) in of.items():
            stem = re.sub(r"[^A-Za-z0-9_-]+", "_", name)[:60]
            stem = stem if stem not in pngs else f"{stem}_{len(pngs)}"
            pngs[stem] = figure
            # For screen readers; the tables have the same content.
            label = Markup('<svg role="img" aria-label="{}"').format(caption)
            svg = figures.as_svg(figure, stem).replace("<svg", label, 1)
            svgs[section].append((Markup(svg), caption))
    contents = {
        **(files or {}),
        html_file: render(template, "html", figures=svgs, **context),
        JSON_FILE: json.dumps(results, indent=2, ensure_ascii=False) + "\n",
    }
    if markdown_file:
        text = render(template, "md", figures=svgs, **context)
        contents[markdown_file] = re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"
    try:
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as made:
            folder = Path(made)
            for name, text in contents.items():
                (folder / name).write_text(text, encoding="utf-8")
            for name, figure in pngs.items():
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


def render(template: str, kind: str, **context: Any) -> str:
    """A template as ``html`` or ``md``."""
    environment = Environment(
        loader=PackageLoader("loev_cli.evaluate"),
        autoescape=kind == "html",
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["cell"] = _cell
    environment.filters["number"] = number
    environment.filters["p"] = p_text
    parts = f"parts.{kind}.j2"
    return environment.get_template(template).render(context, kind=kind, parts=parts)


def _cell(value: object) -> str:
    """For a table in Markdown."""
    return str(value).replace("|", "\\|").replace("\n", " ")


def number(value: float | None) -> str:
    """A figure; a dash where there is none."""
    return "–" if value is None or value != value else f"{value:.2f}"


def p_text(value: float, n_digits: int = 3) -> str:
    """A p value; NaN: there was no test."""
    return "not tested" if value != value else f"{value:.{n_digits}f}"


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
        command: ``compare``, ``ab plan``, ...: may reuse its earlier output in ``out``; None
            requires an empty folder.
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
    words = ["loev", *command.split()]
    return bool(made_by[: len(words)] == words)
