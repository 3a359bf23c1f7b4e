"""Tables on stdout: drawn on a terminal, plain columns in a pipe."""

from __future__ import annotations

import io

from loev_cli.cli._console import escaped, stdout_is_terminal


def table(header: list[str], rows: list[list[str]], *, drawn: bool | None = None) -> str:
    """A table as text, its cells escaped, drawn with lines: by default if stdout is a terminal."""
    header, rows = [*map(escaped, header)], [[*map(escaped, row)] for row in rows]
    if not (stdout_is_terminal() if drawn is None else drawn):
        lines = [header, *rows]
        widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in lines
        )
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    grid = Table()
    for name in header:
        grid.add_column(Text(name), overflow="fold")  # a path that is cut short is of no use
    for row in rows:
        grid.add_row(*(Text(cell) for cell in row))
    text = io.StringIO()
    Console(file=text, force_terminal=True).print(grid)
    return text.getvalue().rstrip("\n")
