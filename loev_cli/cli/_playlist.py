"""Lists of tracks for people and programs: table, JSON lines, CSV, M3U."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

from loev_cli.cli._console import say, show
from loev_cli.errors import UsageError

_CONTROL_CHARACTERS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))}
_N_DECIMALS = 4


class ListFormat(StrEnum):
    TABLE = "table"
    JSONL = "jsonl"
    CSV = "csv"
    M3U = "m3u"


class GroupFormat(StrEnum):
    TABLE = "table"
    JSONL = "jsonl"
    CSV = "csv"


_OF_EXTENSION = {
    ".jsonl": ListFormat.JSONL,
    ".csv": ListFormat.CSV,
    ".m3u": ListFormat.M3U,
    ".m3u8": ListFormat.M3U,
}


def format_of(asked: StrEnum | None, out: Path | None) -> str:
    """The format asked for, else the one ``out`` is called after, else a table."""
    if asked is not None:
        return asked.value
    found = _OF_EXTENSION.get(out.suffix.lower()) if out else None
    return (found or ListFormat.TABLE).value


def check_out(out: Path | None) -> None:
    """Raises UsageError or OutputError where ``out`` cannot be written; before the work."""
    if out is not None:
        from loev_cli.writers.atomic import check_target

        check_target(out)


def write(text: str, out: Path | None) -> None:
    """Text to a file, whole or not at all, or to stdout; nothing if it is empty there."""
    if out is None:
        if text:
            show(text.removesuffix("\n"))
        return
    from loev_cli.errors import OutputError
    from loev_cli.writers.atomic import AtomicFile

    file = AtomicFile(out)
    try:
        file.stream.write(text.encode("utf-8", "surrogateescape"))
        file.commit()
    except OSError as error:
        file.abort()
        raise OutputError(f"cannot write {out}: {error.strerror}") from error
    except BaseException:
        file.abort()
        raise


def as_table(records: Sequence[dict[str, Any]]) -> str:
    """Records as a table; ``path`` comes last, where its length disturbs nothing."""
    from loev_cli.cli._table import table

    if not records:
        return ""
    names = [name for name in records[0] if name != "path"] + ["path"]
    return table(names, [[_cell(record.get(name)) for name in names] for record in records]) + "\n"


def as_jsonl(records: Sequence[dict[str, Any]]) -> str:
    return "".join(
        json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n" for record in records
    )


def as_csv(records: Sequence[dict[str, Any]], header: Sequence[str]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, header, lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()


def as_m3u(
    records: Sequence[dict[str, Any]], durations_s: Sequence[float], root: Path | None
) -> str:
    """An extended M3U. Paths go behind ``root``; one with a line break in it cannot be listed."""
    lines = ["#EXTM3U"]
    for record, duration_s in zip(records, durations_s, strict=True):
        path = str(record["path"])
        entry = path if root is None else str(root / path)
        if "\n" in entry or "\r" in entry:
            say(f"loev: warning: left out of the playlist, a line break in its name: {path}")
            continue
        title = Path(path).stem
        lines.append(f"#EXTINF:{round(duration_s)},{title}")
        lines.append(f"./{entry}" if entry.startswith("#") else entry)
    return "\n".join(lines) + "\n"


def check_root(root: Path | None, *, unused: bool) -> None:
    """Raises UsageError where ``--root`` is no folder, or nothing would look at it."""
    if root is None:
        return
    if unused:
        raise UsageError("--root is for playlists and --like-but", hint="add --format m3u")
    if not root.is_dir():
        raise UsageError(f"--root: no folder {root}")


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.{_N_DECIMALS}f}"
    return "" if value is None else str(value).translate(_CONTROL_CHARACTERS)
