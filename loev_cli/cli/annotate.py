"""``loev annotate``: bpm, key and mode of audio files, or of the tracks of an embedding file."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loev_cli.bundle import DEFAULT_MODEL
from loev_cli.cli import _lists as lists
from loev_cli.cli import _options as options
from loev_cli.cli import _tags as tags
from loev_cli.cli._console import clock, plural, say, stdin_bytes
from loev_cli.errors import EXIT_DONE, EXIT_FAILED, EXIT_SOME_FAILED, UsageError
from loev_cli.storage.remote import is_url

if TYPE_CHECKING:
    from loev_cli.embed import Request
    from loev_cli.formats import Row
    from loev_cli.segments import Segment


LEAST_SHOWN = 0.05  # probability of an alternative tempo in the table


def annotate(
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            show_default=False,
            metavar="INPUT",
            help=f"{options.INPUTS_HELP} Or files of 'loev embed'.",
        ),
    ] = None,
    list_format: lists.Format = None,
    out: lists.Out = lists.STDOUT,
    overwrite: lists.Overwrite = False,
    csv_safe: lists.CsvSafe = False,
    root: options.Root = None,
    model: options.Model = DEFAULT_MODEL,
    bpm_range: options.BpmRange = None,
    segments: Annotated[
        bool,
        options.panel(options.OUTPUT)(
            "--segments",
            help="A line for each stretch with the same key and tempo instead of one for the "
            "track.",
        ),
    ] = False,
    write_tags: tags.WriteTags = False,
    in_camelot: tags.Camelot = False,
    min_confidence: tags.MinConfidence = None,
    replace_tags: tags.ReplaceTags = False,
    yes: tags.Yes = False,
    undo_log: tags.UndoLog = None,
    undo: tags.Undo = None,
    null: options.Null = False,
    strict: Annotated[
        bool,
        options.running(
            "--strict",
            help="Stop at the first bad file; otherwise failures are reported and processing "
            "continues.",
        ),
    ] = False,
    device: options.Device = "auto",
    backend: options.Backend = "auto",
    precision: options.Precision = "auto",
    workers: options.Workers = None,
    log_json: options.LogJson = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Estimate bpm, key and mode of audio files, each with its probability of being correct.

    Of an embedding file the answers are read from its vectors, without the audio.

    Example: loev annotate ~/Music --out answers.csv
    """
    import loev_cli.embed as job
    from loev_cli.cli import _embed_report as tell

    inputs = inputs or []
    of_tags = write_tags or undo is not None
    tags.check_options(
        inputs,
        write=write_tags,
        undo=undo,
        others=bool(in_camelot or replace_tags or undo_log or min_confidence is not None),
        yes=yes,
    )
    chosen = lists.format_of(list_format, out, [each for each in inputs if not Path(each).is_dir()])
    lists.check_root(root, unused=chosen != "m3u")
    if (of_tags or segments) and chosen == "m3u":
        what = "changes of tags" if of_tags else "segments"
        raise UsageError(f"{what} are not a playlist", hint="--format table, csv or jsonl")
    if of_tags and segments:
        raise UsageError("--segments is not for tags, which a file has one of")
    request = job.Request(
        inputs=inputs,
        out=None if out == lists.STDOUT else out,
        model=model,
        bpm_range=options.tempi(bpm_range),
        device=device,
        backend=backend,
        precision=precision,
        workers=workers,
        strict=strict,
        null=null,
        per_window=segments,
    )
    listed = lists.ListWriter(
        "annotate",
        chosen,
        out,
        inputs=[undo] if undo else (),  # the job checks its own once it has listed them
        overwrite=overwrite,
        root=root or (_root_of(inputs) if chosen == "m3u" else None),
        csv_safe=csv_safe,
        quiet=quiet,
        header=tags.COLUMNS if of_tags else (),
        as_table=partial(lists.default_table, empty_columns=True) if of_tags else _table,
    )
    if undo is not None:
        with listed:
            code = tags.take_back(undo, listed, yes=yes, strict=strict, quiet=quiet)
        raise typer.Exit(code)
    tagging: tags.Tagging | None = None
    if write_tags:
        tagging = tags.Tagging(
            inputs,
            log=undo_log,
            in_camelot=in_camelot,
            min_confidence=min_confidence,
            replace=replace_tags,
            yes=yes,
            strict=strict,
            quiet=quiet,
        )

    split = _splitter(request) if segments else None

    def add(row: Row) -> None:
        if tagging is not None:
            tagging.plan(row, listed)
        elif split is None:
            span = {"duration_s": round(row.duration_s, 3)}
            listed.add(_record(row.path, span, row.annotations), row.duration_s)
        else:
            for segment in split(row):
                span = {"start_s": segment.start_s, "end_s": segment.end_s}
                listed.add(_record(row.path, span, segment.answer), row.duration_s)

    with listed, tell.Progress(quiet=quiet) as progress:
        report = job.annotate(
            request,
            add,
            stdin=stdin_bytes(),
            on_event=progress.take,
        )
        if report.n_done:
            listed.finish()
    n_failed = len(report.failures)
    if not report.n_done:
        all_failed = "the only file" if n_failed == 1 else f"all {n_failed} files"
        say(f"loev: error: no results: {all_failed} failed")
        raise typer.Exit(EXIT_FAILED)
    if tagging is not None:
        n_failed += tagging.carry_out()
        raise typer.Exit(EXIT_SOME_FAILED if n_failed else EXIT_DONE)
    if out != lists.STDOUT and not quiet:
        failed = f", {plural(n_failed, 'file')} failed" if n_failed else ""
        say(f"{plural(report.n_done, 'track')} annotated{failed} -> {out}")
    raise typer.Exit(EXIT_SOME_FAILED if n_failed else EXIT_DONE)


def _root_of(inputs: Sequence[str]) -> Path | None:
    """The folder that the rows of inputs are relative to; None: a URL, or not known."""
    from loev_cli.embed.presence import root_of
    from loev_cli.formats import AUDIO_ROOT, is_embedding_file, read_meta
    from loev_cli.row_names import path_of_row

    if inputs and is_embedding_file(inputs[0]):
        known = read_meta(inputs[0]).get(AUDIO_ROOT)
        return Path(path_of_row(known)) if isinstance(known, str) else None
    root = root_of(inputs)
    return None if is_url(root) else Path(root).absolute()


def _splitter(request: Request) -> Callable[[Row], list[Segment]]:
    """Row with its windows -> its segments."""
    from loev_cli import bundle as bundles
    from loev_cli.annotations import open_annotator
    from loev_cli.segments import find_segments

    bundle = bundles.find(request.model)
    annotator = open_annotator(bundle, request.bpm_range)

    def split(row: Row) -> list[Segment]:
        assert row.start_s is not None
        return find_segments(
            annotator,
            row.vectors,
            row.start_s,
            window_s=bundle.window_s,
            duration_s=row.duration_s,
            silent=row.silent,
        )

    return split


def _record(path: str, span: dict[str, float], answer: Mapping[str, Any]) -> dict[str, Any]:
    """A track, or a segment, for machines; None where there is no value."""
    from loev_cli.music_keys import camelot, parse_key

    record: dict[str, Any] = {"path": path, **span}
    for name, value in answer.items():
        if isinstance(value, str):
            record[name] = value or None
        elif math.isnan(value):
            record[name] = None
        else:
            record[name] = round(value, 2 if name in ("bpm", "bpm_alt") else 3)
        if name == "mode":
            key = parse_key(str(answer["key"]))
            record["camelot"] = None if key is None else camelot(key)
    return record


def _table(records: Sequence[lists.Record]) -> tuple[list[str], list[list[str]]]:
    """For people: the mode is in the key, confidences are percentages, and an alternative tempo is
    there only if it is at all probable."""
    names = [name for name in records[0] if name not in ("mode", "bpm_alt_confidence")]
    titles = {name: "confidence" for name in names if name.endswith("_confidence")}
    titles |= {"duration_s": "length", "start_s": "start", "end_s": "end", "bpm_alt": "or"}

    def cell(name: str, record: lists.Record) -> str:
        value = record[name]
        if value is None:
            return "-"
        if name == "bpm_alt":
            confidence = record["bpm_alt_confidence"]
            return f"{value:.1f} {confidence:.0%}" if confidence >= LEAST_SHOWN else "-"
        if name in ("duration_s", "start_s", "end_s"):
            return clock(value)
        if name == "bpm":
            return f"{value:.1f}"
        return f"{value:.0%}" if name.endswith("_confidence") else str(value)

    return (
        [titles.get(name, name) for name in names],
        [[cell(name, record) for name in names] for record in records],
    )
