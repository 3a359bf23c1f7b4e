"""``loev playlist``: a way through a library that keeps one attribute and lets another move."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from loev_cli.cli import _lists as lists
from loev_cli.cli import _options as options
from loev_cli.cli._console import clock, plural, say
from loev_cli.defaults import INVARIANT
from loev_cli.errors import UsageError


def playlist(
    context: typer.Context,
    emb: options.Emb,
    seed: Annotated[
        str,
        options.searching(
            help="The first track: its path in EMB, or the end of that path.", metavar="TRACK"
        ),
    ],
    minutes: Annotated[
        float, options.searching(help="Length of the playlist in minutes.", metavar="M")
    ] = 60.0,
    keep: Annotated[
        str, options.searching(help="Subspaces to keep close to the seed.", metavar="A,B")
    ] = "tempo",
    drift: Annotated[
        str,
        options.searching(
            help="The subspace in which the playlist gradually moves away from the seed.",
            metavar="SUBSPACE",
        ),
    ] = INVARIANT,
    where: options.Where = None,
    list_format: lists.Format = None,
    out: lists.Out = lists.STDOUT,
    overwrite: lists.Overwrite = False,
    csv_safe: lists.CsvSafe = False,
    root: options.Root = None,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Make a playlist that keeps one attribute steady and lets another move.

    Example: loev playlist emb.npz --seed song.mp3 --minutes 60 --keep tempo --out set.m3u
    """
    from loev_cli.search import open_library
    from loev_cli.search.find import RowQuery
    from loev_cli.search.playlist import build_playlist

    options.refuse_repeats(context)
    chosen = lists.format_of(list_format, out, [emb])
    lists.check_root(root, unused=chosen != "m3u")
    library = open_library(emb)
    found = library.find(seed)
    if not isinstance(found, RowQuery):
        raise UsageError(f"--seed {seed} is not among the tracks of {emb}", hint="embed it first")
    kept = [name.strip() for name in keep.split(",")]
    with lists.ListWriter(
        "playlist",
        chosen,
        out,
        inputs=[emb],
        overwrite=overwrite,
        root=root,
        csv_safe=csv_safe,
    ) as listed:
        steps = build_playlist(
            library, found.row, minutes=minutes, keep=kept, drift=drift, where=where
        )
        for step in steps:
            record: dict[str, Any] = {
                "position": step.position,
                "path": step.path,
                "start": clock(step.start_s),
                "duration_s": round(step.duration_s, 3),
                **step.kept,
                drift: step.drifted,
                "step": step.moved,
                **library.labels_of(step.row),
            }
            listed.add(record, step.duration_s)
        listed.finish()
    if not quiet:
        total_s = steps[-1].start_s + steps[-1].duration_s
        short = total_s < 60 * minutes - max(step.duration_s for step in steps)
        target = f" -> {out}" if out != lists.STDOUT else ""
        say(
            f"{plural(len(steps), 'track')}, {clock(total_s)}"
            f"{'; no further matching tracks' if short else ''}{target}"
        )
