"""``loev index``: a database of a library, for searches among very many tracks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from loev_cli.cli import _options as options
from loev_cli.cli._console import plural, say
from loev_cli.errors import needs_extra


def index(
    context: typer.Context,
    emb: Annotated[Path, typer.Argument(metavar="EMB", help="A file of 'loev embed'.")],
    db: Annotated[
        Path,
        options.output(
            help="Folder of the database. An existing one is updated: new and changed rows are "
            "written, removed ones dropped.",
            metavar="DIR",
        ),
    ],
    overwrite: Annotated[
        bool, options.output("--overwrite", help="Rebuild the database, whatever it contains.")
    ] = False,
    log_json: options.LogJson = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Make a LanceDB database of an embedding file, with an index for all subspaces.

    Example: loev index emb.parquet --db library
    """
    with needs_extra("loev index", "db"):
        from loev_cli.search import indexing

    options.refuse_repeats(context)
    try:
        done = indexing.index(
            emb,
            db,
            overwrite=overwrite,
            on_step=lambda step: None if quiet else say(f"{step} ..."),
        )
    except KeyboardInterrupt as interrupt:
        interrupt.add_note("run the same command again to resume")
        raise
    if quiet:
        return
    changes = f"{done.n_added} new, {done.n_changed} changed, {done.n_dropped} dropped"
    how = "indexed" if done.is_indexed else "below the index threshold: exhaustive search"
    say(f"{plural(done.n_rows, 'track')} ({changes}; {how}) -> {db}")
