"""``loev dedup``: tracks that are the same recording, or nearly."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from loev_cli.cli import _lists as lists
from loev_cli.cli import _options as options
from loev_cli.cli._console import plural, say
from loev_cli.cli._progress import Bars
from loev_cli.defaults import DUPLICATE_DISTANCE, INVARIANT


def dedup(
    context: typer.Context,
    emb: options.Emb,
    threshold: Annotated[
        float,
        options.searching(
            help="Cosine distance up to which two tracks are the same; see docs/search.md.",
            metavar="D",
        ),
    ] = DUPLICATE_DISTANCE,
    by: Annotated[
        str, options.searching(help="The subspace that is compared.", metavar="SUBSPACE")
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
    """Group tracks that are the same recording: copies, re-encodings, other speeds and keys.

    Example: loev dedup emb.npz
    """
    from loev_cli.search import open_library
    from loev_cli.search.duplicates import find_duplicates
    from loev_cli.search.library import audio_root

    options.refuse_repeats(context)
    chosen = lists.format_of(list_format, out, [emb])
    lists.check_root(root, unused=chosen != "m3u")
    library = open_library(emb)
    with lists.ListWriter(
        "dedup",
        chosen,
        out,
        inputs=[emb],
        overwrite=overwrite,
        header=["group", "path", "duration_s", *library.subspaces, *library.labels_of(0)],
        root=root or audio_root(emb, library.meta, library.paths),
        csv_safe=csv_safe,
        quiet=quiet,
    ) as listed:
        with Bars(shown=not quiet) as bars:
            members = find_duplicates(
                library,
                by=by,
                threshold=threshold,
                where=where,
                on_rows=lambda done, total: bars.update("comparing", done, total),
            )
        for member in members:
            record: dict[str, Any] = {
                "group": member.group,
                "path": member.path,
                "duration_s": round(member.duration_s, 3),
                **member.distances,
                **library.labels_of(member.row),
            }
            listed.add(record, member.duration_s)
        listed.finish()
    if not quiet:
        n_groups = members[-1].group if members else 0
        target = f" -> {out}" if out != lists.STDOUT else ""
        say(
            f"{plural(n_groups, 'group')} of {plural(len(members), 'track')} within {threshold:g} "
            f"by {by}, of {plural(len(library), 'track')}{target}"
        )
