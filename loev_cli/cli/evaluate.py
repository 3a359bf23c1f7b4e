"""``loev evaluate``: what each subspace of a model knows, on tracks of your own."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from loev_cli.bundle import DEFAULT_MODEL
from loev_cli.cli import _options as options
from loev_cli.cli._console import plural, say
from loev_cli.cli._progress import StageDisplay
from loev_cli.cli.table import show_scores
from loev_cli.errors import EXIT_SOME_FAILED, needs_extra

_data = options.panel("Data")
_judging = options.panel("Judging")


def evaluate(
    context: typer.Context,
    data: Annotated[
        list[Path],
        _data(
            help="A CSV or Parquet with a path column and labels (key, tempo, your own), and "
            "optionally split and group; several are concatenated.",
            metavar="MANIFEST",
        ),
    ],
    out: Annotated[
        Path,
        options.output(help="Folder for report.html, results.json and PNGs.", metavar="FOLDER"),
    ],
    model: Annotated[
        str | None,
        options.model(
            help=f"Name of a shipped model, or a bundle folder; default {DEFAULT_MODEL}. With "
            "--embeddings, the model that made them, for the transformed tracks.",
            metavar="NAME|FOLDER",
        ),
    ] = None,
    embeddings: Annotated[
        list[Path] | None,
        options.model(
            help="A file of 'loev embed' with the manifest's tracks, instead of embedding them; "
            "may be given several times.",
            metavar="FILE",
        ),
    ] = None,
    label: Annotated[
        list[str] | None,
        _data(
            help="A column to evaluate on; may be given several times. Kinds: key, tempo, class, "
            "multilabel (a;b), number. Default: every column that can be used, its kind inferred "
            "from its cells.",
            metavar="COLUMN[:KIND]",
        ),
    ] = None,
    folds: Annotated[int | None, _data(**options.FOLDS)] = None,
    parts: Annotated[
        str,
        _judging(
            help="Evaluations to run: probes, equivariance, retrieval, geometry.",
            metavar="A,B",
            show_default="all",
        ),
    ] = "probes,equivariance,retrieval,geometry",
    probes: Annotated[
        str, _judging(help="linear, mlp (one hidden layer), or both.", metavar="A,B")
    ] = "linear,mlp",
    changed: Annotated[int, _judging(**options.CHANGED)] = 16,
    stretcher: Annotated[str, _judging(**options.STRETCHER)] = "auto",
    map_method: Annotated[
        str, options.output("--map", help="Projection used for the maps.", metavar="pca|tsne")
    ] = "pca",
    overwrite: Annotated[
        bool, options.output("--overwrite", help="Replace an existing report in --out.")
    ] = False,
    seed: Annotated[
        int, options.running(min=0, help="Seed of folds, intervals and probes.", metavar="S")
    ] = 0,
    device: options.Device = "auto",
    backend: options.Backend = "auto",
    precision: options.Precision = "auto",
    log_json: options.LogJson = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Evaluate each subspace: probes, equivariance, retrieval, geometry.

    Example: loev evaluate --data manifest.csv --out report
    """
    with needs_extra("loev evaluate", "eval"):
        from loev_cli.evaluate import job, report
        from loev_cli.evaluate.page import JSON_FILE

    report.check_out(out, overwrite=overwrite, inputs=[*data, *(embeddings or [])])
    request = job.Request(
        data=data,
        model=model,
        embeddings=embeddings or (),
        labels=label or (),
        parts=options.names(parts, "--parts"),
        probes=options.names(probes, "--probes"),
        n_changed=changed,
        n_folds=folds,
        stretcher=stretcher,
        map_method=map_method,
        seed=seed,
        device=device,
        backend=backend,
        precision=precision,
        command=shlex.join(["loev", *context.obj]),
    )
    try:
        with StageDisplay(quiet=quiet) as display:
            results = job.evaluate(request, on_event=display.take)
    except KeyboardInterrupt as interrupt:
        interrupt.add_note("nothing was written; run the same command again to start over")
        raise
    report.write(results, out)
    if not quiet:
        show_scores(out / JSON_FILE)
        for note in results.notes:
            say(f"note: {note}")
        say(f"{plural(len(results.splits.judged), 'track')} evaluated -> {out / report.HTML_FILE}")
    if results.skipped:
        raise typer.Exit(EXIT_SOME_FAILED)
