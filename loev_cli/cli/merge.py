"""``loev merge``."""

from __future__ import annotations

from typing import Annotated

import typer

from loev_cli.cli import _options as options
from loev_cli.cli._console import plural, say


def merge(
    parts: Annotated[
        list[str],
        typer.Argument(
            metavar="PART",
            help="Embedding files of any format, made by the same model with the same settings.",
        ),
    ],
    out: Annotated[
        str, options.output(help="A .npz, .parquet, .lance or .jsonl file.", metavar="FILE")
    ],
    shards: Annotated[
        int | None,
        options.running(
            min=1,
            help="Expected number of parts; each must be given once. Parts made with --shard "
            "record this themselves.",
            metavar="N",
        ),
    ] = None,
    allow_missing: Annotated[
        bool,
        options.running("--allow-missing", help="Merge even if parts of an array job are missing."),
    ] = False,
    overwrite: Annotated[
        bool, options.output("--overwrite", help="Replace an --out that exists.")
    ] = False,
    log_json: options.LogJson = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Join embedding files: parts of an array job, or libraries with the same settings.

    Example: loev merge part-*.npz --out emb.npz
    """
    import loev_cli.embed as job

    merged = job.merge(parts, out, shards=shards, allow_missing=allow_missing, overwrite=overwrite)
    if quiet:
        return
    repeated = f", {plural(merged.n_repeated, 'duplicate row')}" if merged.n_repeated else ""
    say(f"{plural(merged.n_rows, 'track')} of {plural(merged.n_parts, 'part')}{repeated} -> {out}")
