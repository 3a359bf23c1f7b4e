"""``loev merge``."""

from __future__ import annotations

from typing import Annotated

import typer

from loev_cli.cli import _options as options
from loev_cli.cli._console import log_to_stderr, plural, say


def merge(
    parts: Annotated[
        list[str],
        typer.Argument(
            metavar="PART",
            help="Embedding files of any format, made by the same model with the same settings.",
            show_default=False,
        ),
    ],
    out: Annotated[
        str,
        typer.Option(
            help="A .npz, .parquet, .lance or .jsonl file.",
            metavar="FILE",
            show_default=False,
            rich_help_panel=options.OUTPUT,
        ),
    ],
    shards: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Expected number of parts; each must be given once. Parts made with --shard "
            "record this themselves.",
            metavar="N",
            show_default=False,
            rich_help_panel=options.RUNNING,
        ),
    ] = None,
    allow_missing: Annotated[
        bool,
        typer.Option(
            "--allow-missing",
            help="Merge even if parts of an array job are missing.",
            rich_help_panel=options.RUNNING,
        ),
    ] = False,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="Replace an --out that exists.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Join embedding files: parts of an array job, or libraries with the same settings.

    Example: loev merge part-*.npz --out emb.npz
    """
    import loev_cli.embed as job

    if debug:
        log_to_stderr()
    merged = job.merge(parts, out, shards=shards, allow_missing=allow_missing, overwrite=overwrite)
    if quiet:
        return
    repeated = f", {plural(merged.n_repeated, 'duplicate row')}" if merged.n_repeated else ""
    say(f"{plural(merged.n_rows, 'track')} of {plural(merged.n_parts, 'part')}{repeated} -> {out}")
