"""``loev table``: a results.json as a table for a paper."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated, Literal

import typer

from loev_cli.cli import _options as options
from loev_cli.cli._console import show
from loev_cli.errors import UsageError

_shown = options.panel("Table")


def table(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="RESULTS",
            help="results.json of 'loev evaluate' (several make one table) or 'loev compare'.",
            show_default=False,
        ),
    ],
    form: Annotated[
        Literal["markdown", "latex"],
        _shown("--format", help="LaTeX needs \\usepackage{booktabs}.", metavar="markdown|latex"),
    ] = "markdown",
    part: Annotated[
        Literal["probes", "retrieval"],
        _shown(help="Of 'loev evaluate': what to show.", metavar="probes|retrieval"),
    ] = "probes",
    probe: Annotated[
        str | None,
        _shown(help="Which probe; default the first.", metavar="NAME", show_default=False),
    ] = None,
    digits: Annotated[int, _shown(min=0, max=6, help="Digits after the point.", metavar="N")] = 2,
    no_intervals: Annotated[
        bool, _shown("--no-intervals", help="Leave out the 95 % intervals.")
    ] = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Print the scores of a results.json as a Markdown or LaTeX table.

    Example: loev table report/results.json --format latex
    """
    from loev_cli.result_tables import rendered, table_of

    found = table_of(files, part=part, probe=probe)
    show(rendered(found, form, n_digits=digits, intervals=not no_intervals), raw=True)


def show_scores(results: Path) -> None:
    """Print the table of a report's ``results.json``; nothing where it has no scores."""
    from loev_cli.result_tables import rendered, table_of

    with contextlib.suppress(UsageError):
        show(rendered(table_of([results]), "markdown"), raw=True)
