"""``loev export-vectors``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from loev_cli.cli import _options as options
from loev_cli.cli._console import plural, say
from loev_cli.cli._progress import Bars


def export_vectors(
    context: typer.Context,
    emb: Annotated[Path, typer.Argument(metavar="EMB", help="A file of 'loev embed'.")],
    out: Annotated[
        Path,
        options.output(
            help="A .npz, .parquet, .lance or .jsonl file: the columns of EMB and one named "
            "vector.",
            metavar="FILE",
        ),
    ],
    by: options.By = None,
    weights: options.Weights = None,
    like: Annotated[
        Path | None,
        options.searching(
            "--as",
            help="Center and weight as in this earlier --out: for tracks that are added to it, "
            "and for queries.",
            metavar="FILE",
        ),
    ] = None,
    queries: Annotated[
        bool,
        options.searching(
            "--queries",
            help="Write vectors to search with. They differ from those of rows where a weight is "
            "negative.",
        ),
    ] = False,
    overwrite: Annotated[
        bool, options.output("--overwrite", help="Replace an --out that something else made.")
    ] = False,
    log_json: options.LogJson = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Write vectors for another database, whose inner product is the score of 'loev search'.

    Example: loev export-vectors emb.npz --by tempo --out vectors.parquet
    """
    from loev_cli.search.vectors import export_vectors as export

    options.refuse_repeats(context)
    weighted = options.weights_of(by, weights)
    with Bars(shown=not quiet) as bars:
        n_rows = export(
            emb,
            out,
            weights=weighted,
            like=like,
            queries=queries,
            overwrite=overwrite,
            on_rows=lambda n_done: bars.update("writing", n_done, None),
        )
    if not quiet:
        say(f"{plural(n_rows, 'track')} -> {out}")
