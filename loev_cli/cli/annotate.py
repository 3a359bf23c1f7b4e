"""``loev annotate``: bpm, key and mode of audio files, for those who only want answers."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import sys
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loev_cli.bundle import DEFAULT_MODEL
from loev_cli.cli import _options as options
from loev_cli.cli._console import clock, log_to_stderr, plural, say, show, stdin_bytes
from loev_cli.errors import EXIT_DONE, EXIT_FAILED, EXIT_SOME_FAILED, OutputError, UsageError

if TYPE_CHECKING:
    from loev_cli.writers import Row

_STDOUT = "-"


class FormatName(StrEnum):
    """How the answers are written."""

    TABLE = "table"
    CSV = "csv"
    JSONL = "jsonl"


def annotate(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT",
            help="Audio files, folders (searched recursively), s3:// and other URLs of them, or "
            "- for a list of paths on stdin.",
            show_default=False,
        ),
    ],
    out: Annotated[
        str,
        typer.Option(
            help="A .csv or .jsonl file, or any other for a table; - is stdout.",
            metavar="FILE",
            rich_help_panel=options.OUTPUT,
        ),
    ] = _STDOUT,
    as_format: Annotated[
        FormatName | None,
        typer.Option(
            "--format",
            help="Default: by the extension of --out, on stdout a table. csv and jsonl come line "
            "by line as the files are done.",
            show_default=False,
            rich_help_panel=options.OUTPUT,
        ),
    ] = None,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite", help="Replace an --out that exists.", rich_help_panel=options.OUTPUT
        ),
    ] = False,
    model: options.Model = DEFAULT_MODEL,
    null: Annotated[
        bool,
        typer.Option(
            "--null",
            "-0",
            help="The list on stdin is separated by NUL, as find -print0 makes it.",
            rich_help_panel=options.RUNNING,
        ),
    ] = False,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict",
            help="Stop at the first bad file; else bad files are told of and the others go on.",
            rich_help_panel=options.RUNNING,
        ),
    ] = False,
    device: options.Device = "auto",
    backend: options.Backend = options.BackendName.AUTO,
    precision: options.Precision = options.PrecisionName.AUTO,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Processes that decode audio; default by the machine.",
            metavar="N",
            show_default=False,
            rich_help_panel=options.RUNNING,
        ),
    ] = None,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Tell bpm, key and mode of audio files, each with the probability that it is right.

    Example: loev annotate ~/Music --out answers.csv
    """
    from loev_cli import embed as job
    from loev_cli.cli import _embed_report as tell

    if debug:
        log_to_stderr()
    lines = _Lines(out, as_format or _format_of(out), overwrite=overwrite)
    request = job.Request(
        inputs=inputs,
        out=None if out == _STDOUT else out,
        model=model,
        device=device,
        backend=backend.value,
        precision=precision.value,
        workers=workers,
        strict=strict,
        null=null,
    )
    with lines, tell.Progress(quiet=quiet, log_json=False) as progress:
        report = job.annotate(request, lines.add, stdin=stdin_bytes(), on_event=progress.take)
        if report.n_done:
            lines.finish()
    n_failed = len(report.failures)
    if not report.n_done:
        all_failed = "the only file" if n_failed == 1 else f"all {n_failed} files"
        say(f"loev: error: no answers: {all_failed} failed")
        raise typer.Exit(EXIT_FAILED)
    if out != _STDOUT and not quiet:
        failed = f", {plural(n_failed, 'file')} failed" if n_failed else ""
        say(f"{plural(report.n_done, 'track')} annotated{failed} -> {out}")
    raise typer.Exit(EXIT_SOME_FAILED if n_failed else EXIT_DONE)


class _Lines:
    """Takes rows and writes them in a format; a context manager that leaves no half a file."""

    def __init__(self, out: str, wanted: FormatName, *, overwrite: bool) -> None:
        from loev_cli.writers import AtomicFile, check_target

        self._format = wanted
        self._records: list[dict[str, Any]] = []
        self._header_is_written = False
        self._file: AtomicFile | None = None
        if out == _STDOUT:
            return
        if Path(out).exists() and not overwrite:
            raise UsageError(f"{out} exists", hint="--overwrite replaces it")
        check_target(Path(out), is_folder=False)
        self._file = AtomicFile(Path(out))

    def __enter__(self) -> _Lines:
        return self

    def __exit__(self, *error: object) -> None:
        if self._file is not None:
            self._file.abort()
            self._file = None

    def add(self, row: Row) -> None:
        record = _record(row)
        if self._format is FormatName.TABLE:
            self._records.append(record)
            return
        if self._format is FormatName.JSONL:
            self._write(json.dumps(record, ensure_ascii=False))
            return
        if not self._header_is_written:
            self._header_is_written = True
            self._write(_csv_line(list(record)))
        self._write(_csv_line(["" if value is None else value for value in record.values()]))

    def finish(self) -> None:
        if self._format is FormatName.TABLE:
            self._write(_table(self._records, drawn=self._file is None))
        if self._file is not None:
            with _writing(self._file.name):
                self._file.commit()
            self._file = None

    def _write(self, text: str) -> None:
        if self._file is None:
            show(text)
            if sys.stdout is not None:
                sys.stdout.flush()
            return
        with _writing(self._file.name):
            self._file.stream.write(text.encode("utf-8", "surrogateescape") + b"\n")


@contextlib.contextmanager
def _writing(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(f"cannot write {name}: {error.strerror or error}") from error


def _format_of(out: str) -> FormatName:
    extension = Path(out).suffix.lower()
    return {".csv": FormatName.CSV, ".jsonl": FormatName.JSONL}.get(extension, FormatName.TABLE)


def _record(row: Row) -> dict[str, Any]:
    """One track for machines; None where there is no answer."""
    from loev_cli.annotations import camelot

    record: dict[str, Any] = {"path": row.path, "duration_s": round(row.duration_s, 3)}
    for name, value in row.annotations.items():
        if isinstance(value, str):
            record[name] = value or None
        elif math.isnan(value):
            record[name] = None
        else:
            record[name] = round(value, 2 if name == "bpm" else 3)
        if name == "mode":
            record["camelot"] = camelot(str(row.annotations["key"])) or None
    return record


def _csv_line(values: list[Any]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(values)
    return text.getvalue()


def _table(records: list[dict[str, Any]], *, drawn: bool) -> str:
    """For people: the mode is in the key, confidences are percentages."""
    from loev_cli.cli._table import table

    names = [name for name in records[0] if name != "mode"]
    titles = {"duration_s": "length", "bpm_confidence": "sure", "key_confidence": "sure"}

    def cell(name: str, value: Any) -> str:
        if value is None:
            return "-"
        if name == "duration_s":
            return clock(value)
        if name == "bpm":
            return f"{value:.1f}"
        return f"{value:.0%}" if name.endswith("_confidence") else str(value)

    return table(
        [titles.get(name, name) for name in names],
        [[cell(name, record[name]) for name in names] for record in records],
        drawn=drawn,
    )
