"""Lists of tracks as files: M3U entries out, any list in."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

from loev_cli.errors import UsageError
from loev_cli.row_names import path_of_row
from loev_cli.storage.remote import is_url


def file_of(row_name: str, root: Path | None) -> str:
    """The path, or URL, of a row below the folder ``root``."""
    path = path_of_row(row_name)
    return path if root is None or is_url(path) else str(root / path)


def m3u_entry(
    file: str, duration_s: float, *, title: str | None = None, artist: str | None = None
) -> str:
    """The two lines of a file in an extended M3U; the file's name is the title if none is known.

    Raises:
        ValueError: the path has a line break in it.
    """
    if "\n" in file or "\r" in file:
        raise ValueError("a line break in a path")
    name = " - ".join(part for part in (artist, title) if part) if title else Path(file).stem
    name = " ".join(name.split())
    return f"#EXTINF:{round(duration_s)},{name}\n{'./' if file.startswith('#') else ''}{file}"


def relative_to(folder: Path, file: str) -> str:
    """A file as seen from a folder; as it is if that is impossible."""
    try:
        return file if is_url(file) else os.path.relpath(file, folder)
    except ValueError:  # another drive
        return file


def paths_in(file: Path) -> list[str]:
    """The paths that a list names.

    Args:
        file: CSV or JSON lines with a ``path``, M3U, or a text with a path a line.

    Raises:
        UsageError: it cannot be read, or has no ``path``.
    """
    try:
        text = file.read_bytes().decode("utf-8-sig", "surrogateescape")
        suffix = file.suffix.lower()
        if suffix == ".csv":
            return [row["path"] for row in csv.DictReader(text.splitlines())]
        if suffix == ".jsonl":
            return [str(json.loads(line)["path"]) for line in text.splitlines()]
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{file} is no list of tracks with a path each") from error
    return [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
