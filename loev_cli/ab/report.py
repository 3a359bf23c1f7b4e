"""The one-page decision: a table, a sentence, figures, and how to read them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from loev_cli import __version__
from loev_cli.evaluate import figures, page
from loev_cli.evaluate.job import plain

HTML_FILE, JSON_FILE = page.HTML_FILE, page.JSON_FILE
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Decision:
    """What a page says.

    Attributes:
        kind: ``offline``, ``clicks``, ``plan`` or ``look``, as the command is called.
        verdict: what to do, in a sentence.
        header, rows: the table on top.
        notes: how to read it, a sentence each.
        results: for ``results.json``.
        figures: name -> what draws the figure, and its caption.
    """

    kind: str
    title: str
    verdict: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str]
    results: Mapping[str, Any]
    figures: Mapping[str, tuple[Callable[[], Figure], str]] = field(default_factory=dict)


def check_out(
    out: Path, kind: str, *, inputs: Iterable[str | Path], overwrite: bool, more: Sequence[str] = ()
) -> None:
    """Whether a decision may go into folder ``out``; an earlier one of its kind is replaced.

    Args:
        more: names of further files.

    Raises:
        UsageError: as :func:`loev_cli.evaluate.page.check_out`.
    """
    page.check_out(
        out,
        overwrite=overwrite,
        inputs=inputs,
        files=(HTML_FILE, JSON_FILE, *more),
        command=f"ab {kind}",
    )


def write(
    decision: Decision, out: Path, *, command: str, files: Mapping[str, str] | None = None
) -> None:
    """Write the page, ``results.json`` and PNGs into folder ``out``.

    Args:
        files: name -> content of further files.

    Raises:
        OutputError: it cannot be written.
    """
    created = datetime.now(UTC).isoformat(timespec="seconds")
    head = {
        "format_version": FORMAT_VERSION,
        "command": command,
        "created": created,
        "loev_version": __version__,
        "verdict": decision.verdict,
    }
    with figures.style():
        page.write_report(
            out,
            "ab.j2",
            plain(head | dict(decision.results)),
            {"all": {name: (draw(), text) for name, (draw, text) in decision.figures.items()}},
            files=files or {},
            d=decision,
            command=command,
            created=created,
        )
