"""``loev compare``: train and evaluate methods under the same settings, on your own tracks."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from typing import Annotated

import typer

from loev_cli.cli import _options as options
from loev_cli.cli._console import plural, say
from loev_cli.cli._progress import RunsDisplay
from loev_cli.cli.table import show_scores
from loev_cli.errors import EXIT_SOME_FAILED, needs_extra

_data = options.panel("Data")
_training = options.panel("Training, the same for all")
_judging = options.panel("Evaluation")


def compare(
    context: typer.Context,
    data: Annotated[
        list[Path],
        _data(
            help="A CSV or Parquet with a path column, labels, and optionally split and group; "
            "several are concatenated. Models are pretrained on its train rows.",
            metavar="MANIFEST",
        ),
    ],
    out: Annotated[
        Path,
        options.output(
            help="Folder for runs, embeddings, report.html, results.json, compare.md and PNGs. "
            "Existing results are reused.",
            metavar="FOLDER",
        ),
    ],
    methods: Annotated[
        str,
        _training(
            help=f"Of {options.METHODS}, and untrained: LOEV++ as initialized.", metavar="A,B"
        ),
    ] = "loev++,loev,looc,cl",
    seeds: Annotated[int, _training(min=1, help="Runs of each method.", metavar="N")] = 3,
    steps: Annotated[int | None, _training(min=1, help="Steps of each run.", metavar="N")] = None,
    minutes: Annotated[
        float | None,
        _training(
            help="Minutes of training for all runs together, instead of --steps; a few steps are "
            "timed first.",
            metavar="M",
        ),
    ] = None,
    batch_size: Annotated[
        int | None, _training(help="Tracks per step; default 64.", metavar="N")
    ] = None,
    augs: Annotated[
        str | None,
        _training(
            help="Augmentations that get a subspace of their own; default pitch,tempo. Known: "
            f"{options.AUGMENTATIONS}.",
            metavar="A,B",
        ),
    ] = None,
    encoder: Annotated[
        str | None, _training(help=f"Of {options.ENCODERS}; default small.", metavar="NAME")
    ] = None,
    config: Annotated[str | None, _training(**options.CONFIG)] = None,
    set_: Annotated[list[str] | None, _training("--set", **options.SET)] = None,
    against: Annotated[
        list[Path] | None,
        _judging(
            help="Embeddings from another tool, evaluated alongside: a file of 'loev embed', or "
            ".npz or .parquet with paths and a vector for each; may be given several times.",
            metavar="FILE",
        ),
    ] = None,
    label: Annotated[
        list[str] | None,
        _judging(
            help="A column to evaluate on; may be given several times. Kinds: key, tempo, class, "
            "multilabel (a;b), number. Default: every column that can be used. Each is tested, "
            "so name those that matter.",
            metavar="COLUMN[:KIND]",
        ),
    ] = None,
    folds: Annotated[int | None, _judging(**options.FOLDS)] = None,
    probes: Annotated[
        str,
        _judging(
            help="linear, mlp (one hidden layer), or both; the first is tested.", metavar="A,B"
        ),
    ] = "linear",
    changed: Annotated[int, _judging(**options.CHANGED)] = 16,
    stretcher: Annotated[str, _judging(**options.STRETCHER)] = "auto",
    overwrite: Annotated[
        bool,
        options.output(
            "--overwrite", help="Discard runs in --out that were trained with different settings."
        ),
    ] = False,
    seed: Annotated[
        int,
        options.running(
            min=0,
            help="Seed of folds, intervals and probes; runs use their own seeds, from 0.",
            metavar="S",
        ),
    ] = 0,
    jobs: Annotated[
        int | None,
        options.running(
            min=1,
            help="Runs, and probes, in parallel; default one per core, one on a GPU.",
            metavar="N",
        ),
    ] = None,
    cache: options.Cache = None,
    device: options.Device = "auto",
    backend: options.Backend = "auto",
    precision: options.Precision = "auto",
    log_json: options.LogJson = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Train and evaluate CL, LooC, LOEV and LOEV++ alike, and test their differences.

    Example: loev compare --data manifest.csv --minutes 120 --out comparison
    """
    with needs_extra("loev compare", "train,eval"):
        from loev_cli.evaluate.page import JSON_FILE
        from loev_cli.experiments import compare as job
        from loev_cli.experiments import report

    options.check_budget(steps, minutes)
    report.check_out(out, inputs=[*data, *(against or [])], overwrite=overwrite)
    named = {
        "data": str(data[0]),  # whose columns --augs may name
        "steps": steps,
        "minutes": minutes,
        "batch_size": batch_size,
        "augs": options.names(augs, "--augs") if augs is not None else None,
        "encoder": encoder,
    }
    settings = options.settings_of(config, set_ or [], named)
    request = job.Request(
        data=data,
        out=out,
        config=dataclasses.replace(settings, minutes=None),
        methods=options.names(methods, "--methods"),
        n_seeds=seeds,
        minutes=minutes,
        against=against or (),
        labels=label or (),
        probes=options.names(probes, "--probes"),
        n_changed=changed,
        n_folds=folds,
        stretcher=stretcher,
        seed=seed,
        n_parallel=jobs,
        device=device,
        backend=backend,
        precision=precision,
        cache=cache,
        overwrite=overwrite,
        command=shlex.join(["loev", *context.obj]),
    )
    try:
        with RunsDisplay(quiet=quiet) as display:
            comparison = job.compare(request, on_event=display.take)
    except KeyboardInterrupt as interrupt:
        interrupt.add_note(f"run the same command again to resume from {out}")
        raise
    report.write(comparison, out)
    if not quiet:
        show_scores(out / JSON_FILE)
        for note in comparison.notes:
            say(f"note: {note}")
        for text in comparison.untested:
            say(f"note: {text}")
        tested = [d for d in comparison.differences if d.is_tested]
        say(
            f"{plural(len(comparison.contestants), 'contestant')}, "
            f"{sum(d.is_clear for d in tested)} of {len(tested)} tested differences are "
            f"significant -> {out / report.HTML_FILE}"
        )
    if comparison.skipped:
        raise typer.Exit(EXIT_SOME_FAILED)
