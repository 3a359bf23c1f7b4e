"""Console output: lines on stderr, asked-for data and tables on stdout."""

from __future__ import annotations

import io
import json
import logging
import math
import re
import sys
import time
import warnings
from datetime import UTC, datetime
from typing import Any, BinaryIO

# How a line for people begins -> the event it is for machines.
_EVENTS = {
    "loev: error": "error",
    "loev: warning": "warning",
    "loev: interrupted": "interrupted",
}
TELL_EVERY_S = 5.0  # of progress, for machines
# What moves a terminal's cursor, colors or reorders its text, or hides in it: C0 and C1 controls,
# line and paragraph separators, marks and overrides of direction, invisible tags.
UNPRINTABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufff9-\ufffb"
    "\U000e0000-\U000e007f]"
)


def escaped(text: str, *, keep_lines: bool = False) -> str:
    """Text as it may be shown to a person: characters that would do something are spelled out.

    File names, tags and model cards may contain anything; ``\\x1b[2J`` is shown, not obeyed.

    Args:
        keep_lines: the text is of several lines, which stay.
    """
    if keep_lines:
        return "\n".join(escaped(line) for line in text.split("\n"))
    return UNPRINTABLE.sub(lambda found: _spelled(ord(found[0])), text)


def _spelled(code: int) -> str:
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def say(text: str, *, keep_lines: bool = False) -> None:
    """One line on stderr, or several, escaped."""
    if _LOG.in_json:
        event = next((e for start, e in _EVENTS.items() if text.startswith(start)), "message")
        tell(event, text=text)
        return
    if sys.stderr is not None:  # print() would take stdout instead
        print(escaped(text, keep_lines=keep_lines), file=sys.stderr, flush=True)


def show(text: str, *, raw: bool = False) -> None:
    """Asked-for data: lines on stdout, escaped unless ``raw``. What its encoding lacks is spelled
    out."""
    if sys.stdout is None:  # closed by the caller
        return
    if not raw:
        text = escaped(text, keep_lines=True)
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding))


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


def say_in_json(wanted: bool = True) -> bool:
    """Under ``--log-json``: from now on every line on stderr is a JSON object."""
    if wanted and not _LOG.in_json:
        _LOG.in_json = True
        _LOG.shown_before = warnings.showwarning
        warnings.showwarning = _tell_warning
    return wanted


def says_json() -> bool:
    """Whether :func:`say_in_json` was called."""
    return _LOG.in_json


def _tell_warning(message: Warning | str, *about: Any, **more: Any) -> None:
    tell("warning", text=" ".join(str(message).split()))


def tell(event: str, **content: Any) -> None:
    """One event for machines, as a line of JSON on stderr."""
    if sys.stderr is None:
        return
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    line = json.dumps({"event": event, "time": now, **content}, ensure_ascii=True)
    print(line, file=sys.stderr, flush=True)


class Throttle:
    """Lets one of many events pass now and then.

    Args:
        every_s: seconds from one to the next of the same name.
    """

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s
        self._passed: dict[str, float] = {}

    def passes(self, name: str = "", *, always: bool = False) -> bool:
        """Whether the time has come, or this is the first of the name."""
        now = time.monotonic()
        if not always and now - self._passed.get(name, -math.inf) < self._every_s:
            return False
        self._passed[name] = now
        return True


class _Log:
    in_json = False
    shown_before: Any = None


_LOG = _Log()


def stdin_bytes() -> BinaryIO | None:
    """Standard input as bytes; None if the caller closed it."""
    return None if sys.stdin is None else sys.stdin.buffer


def stdout_bytes() -> BinaryIO | None:
    """Standard output as bytes; None if the caller closed it."""
    return None if sys.stdout is None else sys.stdout.buffer


def stdout_is_terminal() -> bool:
    """Whether a person sees stdout, so that nothing in it may act on the terminal."""
    return sys.stdout is not None and sys.stdout.isatty()


def on_terminal() -> bool:
    """Whether a person sees stderr, so that a progress bar makes sense."""
    return sys.stderr is not None and sys.stderr.isatty()


class _SayHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        say(f"loev: {record.name}: {record.getMessage()}")


_LOGGER = logging.getLogger("loev_cli")
_HANDLER = _SayHandler()


def log_to_stderr() -> None:
    """Under ``--debug``: show what the package notes in its log."""
    _LOGGER.addHandler(_HANDLER)
    _LOGGER.setLevel(logging.DEBUG)


def stop_logging() -> None:
    """Undo :func:`log_to_stderr` and :func:`say_in_json`."""
    if _LOG.in_json:
        _LOG.in_json = False
        warnings.showwarning = _LOG.shown_before
    _LOGGER.removeHandler(_HANDLER)
    _LOGGER.setLevel(logging.NOTSET)


def clock(seconds: float) -> str:
    """``h:mm:ss``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"


def size(n_bytes: int) -> str:
    """Bytes in the unit that leaves one to three digits."""
    value = float(n_bytes)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} GB"


def plural(n: int, word: str) -> str:
    return f"{n} {word}" if n == 1 else f"{n} {word}s"
