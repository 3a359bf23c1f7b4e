"""``loev playlist``: a way through a library that keeps one attribute and lets another move."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loev_cli.cli import _completion
from loev_cli.cli import _lists as lists
from loev_cli.cli import _options as options
from loev_cli.cli._console import clock, plural, say
from loev_cli.defaults import INVARIANT
from loev_cli.errors import UsageError

if TYPE_CHECKING:
    from loev_cli.search.library import Library


def playlist(
    context: typer.Context,
    emb: options.Emb,
    seed: Annotated[
        list[str],
        options.searching(
            help="The first track: its path in EMB, or the end of that path. Given several times: "
            "the first begins, and their mean is the seed.",
            metavar="TRACK",
        ),
    ],
    to: Annotated[
        str | None,
        options.searching(help="The last track; the playlist moves towards it.", metavar="TRACK"),
    ] = None,
    minutes: Annotated[
        float, options.searching(help="Length of the playlist in minutes.", metavar="M")
    ] = 60.0,
    keep: Annotated[
        str | None,
        options.searching(
            help="Subspaces to keep close to the seed; default tempo, with --bpm invariant.",
            metavar="A,B",
            autocompletion=_completion.subspaces,
        ),
    ] = None,
    drift: Annotated[
        str | None,
        options.searching(
            help="The subspace in which the playlist gradually moves away from the seed, or to "
            "--to; default invariant unless it is kept.",
            metavar="SUBSPACE",
            autocompletion=_completion.subspaces,
        ),
    ] = None,
    bpm: Annotated[
        str | None,
        options.searching(
            help="Tempi at evenly spaced times, such as 120,128 for a rise; tracks are within 4 % "
            "of it. Needs the column bpm.",
            metavar="BPM,BPM",
        ),
    ] = None,
    max_key_step: Annotated[
        int | None,
        options.searching(
            min=0,
            help="Steps on the Camelot wheel from a track to the next at most; 1 mixes "
            "harmonically. Needs the column key.",
            metavar="N",
        ),
    ] = None,
    max_distance: Annotated[
        float | None,
        options.searching(
            help="Cosine distance to the seed in every kept subspace at most; default 0.7 in "
            "tempo, 0.5 in pitch, 1 in others.",
            metavar="D",
        ),
    ] = None,
    max_per: Annotated[
        list[str] | None,
        options.searching(
            help="At most N tracks (default 1) with the same value in a column, such as "
            "tag_artist.",
            metavar="COLUMN[=N]",
        ),
    ] = None,
    exclude: Annotated[
        list[Path] | None,
        options.searching(
            help="Leave out the tracks of a list: M3U, CSV, JSON lines, or a path a line.",
            metavar="LIST",
        ),
    ] = None,
    where: options.Where = None,
    list_format: lists.Format = None,
    out: lists.Out = lists.STDOUT,
    overwrite: lists.Overwrite = False,
    csv_safe: lists.CsvSafe = False,
    root: options.Root = None,
    log_json: options.LogJson = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Make a playlist that keeps one attribute steady and lets another move.

    Example: loev playlist emb.npz --seed song.mp3 --minutes 60 --keep tempo --out set.m3u
    """
    from loev_cli.search import open_library
    from loev_cli.search.find import rows_of
    from loev_cli.search.library import audio_root
    from loev_cli.search.playlist import Limits, build_playlist
    from loev_cli.track_lists import paths_in

    options.refuse_repeats(context)
    chosen = lists.format_of(list_format, out, [emb, *(exclude or ())])
    lists.check_root(root, unused=chosen != "m3u")
    curve = [] if bpm is None else _curve(bpm)
    kept = options.names(keep or (INVARIANT if curve else "tempo"), "--keep")
    if drift is None and INVARIANT not in kept:
        drift = INVARIANT
    limits = Limits(max_distance, max_key_step, curve, dict(map(_at_most, max_per or ())))
    library = open_library(emb)
    excluded, n_others = rows_of(
        (path for file in exclude or () for path in paths_in(file)), library.row_of
    )
    with lists.ListWriter(
        "playlist",
        chosen,
        out,
        inputs=[emb, *(exclude or ())],
        overwrite=overwrite,
        root=root or audio_root(emb, library.meta, library.paths),
        csv_safe=csv_safe,
        quiet=quiet,
    ) as listed:
        made = build_playlist(
            library,
            [_row(library, text, "--seed") for text in seed],
            minutes=minutes,
            keep=kept,
            drift=drift,
            to=None if to is None else _row(library, to, "--to"),
            where=where,
            exclude=excluded,
            limits=limits,
        )
        for step in made.steps:
            record: dict[str, Any] = {
                "position": step.position,
                "path": step.path,
                "start": clock(step.start_s),
                "duration_s": round(step.duration_s, 3),
                **step.distances,
                "step": step.moved,
                **library.labels_of(step.row),
            }
            listed.add(record, step.duration_s)
        listed.finish()
    total_s = made.steps[-1].start_s + made.steps[-1].duration_s
    if quiet:
        return
    if made.stopped is not None:
        say(f"loev: warning: ends at {clock(total_s)} of {clock(60 * minutes)}: {made.stopped}")
    if n_others:
        say(f"{plural(n_others, 'path')} of --exclude not in {emb}")
    target = f" -> {out}" if out != lists.STDOUT else ""
    say(f"{plural(len(made.steps), 'track')}, {clock(total_s)}{target}")


def _row(library: Library, text: str, option: str) -> int:
    """The row that an option names."""
    from loev_cli.search.find import RowQuery

    found = library.find(text)
    if not isinstance(found, RowQuery):
        raise UsageError(
            f"{option} {text} is not among the tracks of {library.source}", hint="embed it first"
        )
    return found.row


def _curve(text: str) -> list[float]:
    """``120,128`` -> the tempi."""
    try:
        tempi = [float(part) for part in text.split(",")]
    except ValueError:
        tempi = []
    if not tempi or not all(0 < tempo < 1000 for tempo in tempi):
        raise UsageError(f"--bpm '{text}' is no list of tempi", hint="for example --bpm 120,128")
    return tempi


def _at_most(text: str) -> tuple[str, int]:
    """``tag_artist=2`` -> the column, and how many."""
    name, equals, number = text.partition("=")
    if equals and not (number.isascii() and number.isdigit() and int(number)):
        raise UsageError(
            f"--max-per '{text}': '{number}' is not a number of tracks", hint="COLUMN=N"
        )
    return name, int(number or 1)
