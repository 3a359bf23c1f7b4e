"""Lists of tracks for people and programs: table, JSON lines, CSV, M3U."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from loev_cli.cli import _options as options
from loev_cli.cli._console import (
    UNPRINTABLE,
    plural,
    say,
    show,
    stdout_bytes,
    stdout_is_terminal,
    table,
)
from loev_cli.errors import OutputError, UsageError
from loev_cli.storage.remote import is_url
from loev_cli.track_lists import file_of, m3u_entry, relative_to

if TYPE_CHECKING:
    from loev_cli.formats import AtomicFile

STDOUT = "-"
_N_DECIMALS = 4
_FORMULA = ("=", "+", "-", "@", "\t")
_N_BYTES_LOOKED_AT = 1 << 16


ListFormat = Literal["table", "jsonl", "csv", "m3u"]
_OF_EXTENSION: dict[str, ListFormat] = {
    ".txt": "table",
    ".jsonl": "jsonl",
    ".csv": "csv",
    ".m3u": "m3u",
    ".m3u8": "m3u",
}

# What the lists of a command have in common, in this order. The first column is the first of a
# line, save for the query of several searches.
_COLUMNS = {
    "search": ["rank", "path", "score"],
    "dedup": ["group", "path", "duration_s"],
    "playlist": ["position", "path", "start", "duration_s", "step"],
}

Format = Annotated[
    ListFormat | None,
    options.output(
        "--format",
        help="Default: inferred from the extension of --out (.txt is a table); a table on stdout.",
    ),
]
Out = Annotated[
    str,
    options.output(help="A .txt, .csv, .jsonl, .m3u or .m3u8 file; - is stdout.", metavar="FILE"),
]
Overwrite = Annotated[
    bool,
    options.output("--overwrite", help="Replace --out even if this command did not create it."),
]
CsvSafe = Annotated[
    bool,
    options.output(
        "--csv-safe",
        help="Put an apostrophe before CSV cells that a spreadsheet would evaluate as formulas: "
        "text that begins with =, +, -, @ or a tab.",
    ),
]

Record = dict[str, Any]


def format_of(asked: ListFormat | None, out: str, inputs: Iterable[str | Path]) -> ListFormat:
    """The format asked for, else that of the extension of ``out``, else a table.

    Raises:
        UsageError: ``out`` is an input; its extension is that of no list, or of another format
            than asked for.
    """
    if out != STDOUT:
        from loev_cli.storage.replacing import check_no_input

        check_no_input(Path(out), inputs)  # a clearer error than one about the extension
    suffix = "" if out == STDOUT else Path(out).suffix
    if not suffix:
        return asked or "table"
    found = _OF_EXTENSION.get(suffix.lower())
    if found is None:
        raise UsageError(
            f"{out}: '{suffix}' is not a supported list format",
            hint=f"{', '.join(_OF_EXTENSION)}, or - for stdout",
        )
    if asked is not None and asked != found:
        raise UsageError(f"{out}: --format {asked} does not match the extension '{suffix}'")
    return found


def check_root(root: Path | None, *, unused: bool) -> None:
    """Raises UsageError if ``--root`` is not a folder, or would be unused."""
    if root is None:
        return
    if unused:
        raise UsageError("--root is for playlists and --like-but", hint="add --format m3u")
    if not root.is_dir():
        raise UsageError(f"--root {root}: no such folder")


def default_table(
    records: Sequence[Record], *, empty_columns: bool = False
) -> tuple[list[str], list[list[str]]]:
    """Header and rows; ``path`` comes last, where its length disturbs nothing. Columns in which
    nothing is known are left out unless asked for."""
    names = [
        name
        for name in records[0]
        if name != "path"
        and (empty_columns or any(record.get(name) is not None for record in records))
    ] + ["path"]
    return names, [[_cell(name, record.get(name)) for name in names] for record in records]


def _cell(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.{1 if name == 'bpm' else _N_DECIMALS}f}"
    return "" if value is None else str(value)


class ListWriter:
    """Writes the tracks of a command in a format; a context manager that leaves no partial file.

    JSON lines, CSV and M3U come line by line as tracks are added, a table when all are there.

    Args:
        command: that makes the list, such as ``search``.
        chosen: the format.
        out: a file, or ``-`` for stdout.
        inputs: what the run reads, which ``out`` must not be: paths, or descriptors.
        overwrite: ``out`` may be something else than an earlier list of the command.
        header: of a CSV without any track.
        root: folder that paths are relative to, an attribute too; a playlist has them relative to
            its own folder.
        quiet: no warning of files that a playlist names and that are not there.
        csv_safe: cells of a CSV that look like formulas get an apostrophe.
        as_table: records -> a table's header and rows.

    Raises:
        UsageError, OutputError: nothing may or can be written to ``out``.
    """

    def __init__(
        self,
        command: str,
        chosen: ListFormat,
        out: str,
        *,
        inputs: Iterable[str | Path | int],
        overwrite: bool,
        header: Sequence[str] = (),
        root: Path | None = None,
        csv_safe: bool = False,
        quiet: bool = False,
        as_table: Callable[[Sequence[Record]], tuple[list[str], list[list[str]]]] = default_table,
    ) -> None:
        self._command = command
        self._format = chosen
        self._header: Sequence[str] = header
        self.root = root
        self._csv_safe = csv_safe
        self._quiet = quiet
        self._missing: list[str] = []
        self._as_table = as_table
        self._records: list[Record] = []
        self._begun = False
        self._file: AtomicFile | None = None
        if out == STDOUT:
            return
        from loev_cli.storage.atomic import AtomicFile
        from loev_cli.storage.replacing import check_place

        check_place(
            Path(out),
            inputs=inputs,
            is_earlier=lambda file: is_list_of(command, file),
            overwrite=overwrite,
        )
        self._file = AtomicFile(Path(out))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._file is not None:
            self._file.abort()
            self._file = None

    def add(self, record: Record, duration_s: float) -> None:
        """One track; its record has a ``path``, and the keys of the records before."""
        match self._format:
            case "table":
                self._records.append(record)
            case "jsonl":
                self._write(json.dumps(record, ensure_ascii=False, allow_nan=False))
            case "csv":
                self._begin(list(record))
                self._write(csv_line(list(record.values()), safe=self._csv_safe))
            case "m3u":
                self._begin([])
                self._write_entry(record, duration_s)

    def finish(self) -> None:
        """All tracks are there: the file appears."""
        if self._format == "table" and self._records:
            drawn = self._file is None and stdout_is_terminal()
            self._write(table(*self._as_table(self._records), drawn=drawn), is_safe=True)
        elif self._format == "csv":
            self._begin(self._header)
        elif self._format == "m3u":
            self._begin([])
            self._write(_marker(self._command))
            if self._missing and not self._quiet:
                say(
                    f"loev: warning: {plural(len(self._missing), 'file')} of the playlist not "
                    f"found, such as {self._missing[0]} (--root says which folder has the tracks)"
                )
        if self._file is not None:
            with _writing(self._file.name):
                self._file.commit()
            self._file = None

    def _begin(self, header: Sequence[str]) -> None:
        if self._begun:
            return
        self._begun = True
        self._write("#EXTM3U" if self._format == "m3u" else csv_line(header, safe=False))

    def _write_entry(self, record: Record, duration_s: float) -> None:
        """An entry of an extended M3U. A path with a line break in it cannot be listed."""
        file = file_of(str(record["path"]), self.root)
        if not is_url(file) and not os.path.isfile(file):  # noqa: PTH113
            self._missing.append(file)
        if self.root is not None and self._file is not None:
            file = relative_to(Path(self._file.name).absolute().parent, file)
        try:
            title, artist = record.get("title"), record.get("artist")
            self._write(m3u_entry(file, duration_s, title=title, artist=artist))
        except ValueError:
            name = record["path"]
            say(f"loev: warning: not in the playlist, its name contains a line break: {name}")

    def _write(self, text: str, *, is_safe: bool = False) -> None:
        """A line, or a table, which is safe to show."""
        if self._file is not None:
            with _writing(self._file.name):
                self._file.stream.write(_encoded(text))
        elif is_safe or stdout_is_terminal():
            if self._format == "jsonl":  # escapes that JSON knows
                text = UNPRINTABLE.sub(lambda found: json.dumps(found[0])[1:-1], text)
            show(text, raw=is_safe)
        elif (stream := stdout_bytes()) is not None:
            stream.write(_encoded(text))
            stream.flush()


def _encoded(text: str) -> bytes:
    """UTF-8, and bytes of file names that are none as they are."""
    return text.encode("utf-8", "surrogateescape") + b"\n"


def csv_line(values: Sequence[Any], *, safe: bool) -> str:
    """One line of a CSV, without its end.

    Args:
        safe: put an apostrophe before text that a spreadsheet would take for a formula.
    """
    cells = [
        f"'{value}" if safe and isinstance(value, str) and value.startswith(_FORMULA) else value
        for value in values
    ]
    text = io.StringIO()
    # Before Python 3.13 a lone \r is quoted only where it is part of the line's end.
    csv.writer(text, lineterminator="\r\n").writerow(cells)
    return text.getvalue().removesuffix("\r\n")


def is_list_of(command: str, file: Path) -> bool:
    """Whether a file is a list that ``command`` wrote: by the columns that a CSV, a table or JSON
    lines begin with, or by the last line of an M3U."""
    if command not in _COLUMNS:
        return False
    try:
        with file.open("rb") as stream:
            first = stream.readline(_N_BYTES_LOOKED_AT).decode("utf-8").rstrip("\r\n")
            marker = f"{_marker(command)}\n".encode()
            stream.seek(max(0, file.stat().st_size - len(marker)))
            if first == "#EXTM3U":
                return stream.read() == marker
        if first.startswith("{"):
            return _are_columns_of(command, list(json.loads(first)))
        if _are_columns_of(command, next(csv.reader([first]))):
            return True
        names = first.split()
        return names[-1:] == ["path"] and _are_columns_of(command, names, path_is_last=True)
    except (OSError, ValueError, csv.Error, RecursionError):
        return False


def _are_columns_of(command: str, names: list[str], *, path_is_last: bool = False) -> bool:
    if path_is_last:
        expected = [name for name in _COLUMNS[command] if name != "path"]
    else:
        expected = _COLUMNS[command]
    if names[:1] == ["query"] and command == "search":
        names = names[1:]
    rest = iter(names)
    return names[:1] == expected[:1] and all(name in rest for name in expected)


def _marker(command: str) -> str:
    # A comment for players, which pass over what they do not know.
    return f"#EXT-X-MADE-BY:loev {command}"


@contextlib.contextmanager
def _writing(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(f"cannot write {name}: {error.strerror or error}") from error
