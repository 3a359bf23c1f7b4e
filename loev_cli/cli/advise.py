"""``loev advise``: which augmentations should have a subspace of their own for your labels."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loev_cli.bundle import DEFAULT_MODEL
from loev_cli.cli import _options as options
from loev_cli.cli._console import plural, say, show, table
from loev_cli.cli._progress import RunsDisplay
from loev_cli.errors import EXIT_SOME_FAILED, needs_extra

if TYPE_CHECKING:
    from loev_cli.experiments.advise import Advice
    from loev_cli.train.config import TrainConfig

_data = options.panel("Data")
_training = options.panel("Training, the same for all models")
_judging = options.panel("Evaluation")


def advise(
    context: typer.Context,
    data: Annotated[
        str,
        _data(
            help="Music to train on: a folder, a list of paths (.txt), or a manifest (.csv, "
            ".parquet), which may also contain the labels.",
            metavar="DATA",
        ),
    ],
    out: Annotated[
        Path,
        options.output(
            help="Folder for advise.html, results.json, advise.md, PNGs, and the models in runs/. "
            "Existing models are reused, so other labels need no training.",
            metavar="FOLDER",
        ),
    ],
    labels: Annotated[
        list[Path] | None,
        _data(
            help="A CSV or Parquet with a path column (relative to it, or to the folder of "
            "--data), labels, and optionally split and group; several are concatenated. Default: "
            "--data, if it is a manifest.",
            metavar="MANIFEST",
        ),
    ] = None,
    label: Annotated[
        list[str] | None,
        _data(
            help="A column to advise for; may be given several times. Kinds: key, tempo, class, "
            "multilabel (a;b), number. Default: every column that can be used.",
            metavar="COLUMN[:KIND]",
        ),
    ] = None,
    augs: Annotated[
        str,
        _training(
            help="Candidates: augmentations that may get a subspace of their own, of "
            f"{options.AUGMENTATIONS}.",
            metavar="A,B",
        ),
    ] = "pitch,tempo",
    seeds: Annotated[
        int,
        _training(
            min=1, help="Models of each kind; with one seed, seed variance is unknown.", metavar="N"
        ),
    ] = 3,
    steps: Annotated[
        int | None, _training(min=1, help="Steps of each model; default 150.", metavar="N")
    ] = None,
    minutes: Annotated[
        float | None,
        _training(
            help="Minutes of training for all models together, instead of --steps; a few steps "
            "are timed first.",
            metavar="M",
        ),
    ] = None,
    batch_size: Annotated[
        int | None, _training(help="Tracks per step; default 32.", metavar="N")
    ] = None,
    config: Annotated[str | None, _training(**options.CONFIG)] = None,
    set_: Annotated[list[str] | None, _training("--set", **options.SET)] = None,
    model: Annotated[
        str,
        _judging(
            help="Shipped model or bundle folder; embeds the original and the augmented tracks.",
            metavar="NAME|FOLDER",
        ),
    ] = DEFAULT_MODEL,
    tolerance: Annotated[
        float,
        _judging(
            help="Share of the label information that may be lost without a subspace; 0 to 1.",
            metavar="SHARE",
        ),
    ] = 0.2,
    folds: Annotated[int | None, _judging(**options.FOLDS)] = None,
    overwrite: Annotated[
        bool,
        options.output(
            "--overwrite", help="Discard models in --out that were trained with different settings."
        ),
    ] = False,
    seed: Annotated[
        int,
        options.running(
            min=0,
            help="Seed of augmentations, folds and intervals; models use their own seeds, from 0.",
            metavar="S",
        ),
    ] = 0,
    jobs: Annotated[
        int | None,
        options.running(
            min=1,
            help="Models trained in parallel; default one per core, one on a GPU.",
            metavar="N",
        ),
    ] = None,
    cache: options.Cache = None,
    device: options.Device = "auto",
    log_json: options.LogJson = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Find out from labels which augmentations should have a subspace of their own.

    Example: loev advise --data ./music --labels labels.csv --out advice

    The last line on stdout is the options for 'loev train'.
    """
    with needs_extra("loev advise", "all"):
        from loev_cli.experiments import advise as job
        from loev_cli.experiments import advise_report as report

    options.check_budget(steps, minutes)
    report.check_out(out, inputs=[data, *(labels or [])], overwrite=overwrite)
    request = job.Request(
        data=data,
        labels=labels or (),
        out=out,
        config=_settings(config, set_ or [], steps, batch_size),
        wanted=label or (),
        candidates=options.names(augs, "--augs"),
        model=model,
        n_seeds=seeds,
        minutes=minutes,
        n_folds=folds,
        tolerance=tolerance,
        n_parallel=jobs,
        seed=seed,
        device=device,
        cache=cache,
        overwrite=overwrite,
        command=shlex.join(["loev", *context.obj]),
    )
    try:
        with RunsDisplay(quiet=quiet) as display:
            advice = job.advise(request, on_event=display.take)
    except KeyboardInterrupt as interrupt:
        interrupt.add_note(f"run the same command again to resume from {out}")
        raise
    report.write(advice, out)
    _say(advice, out / report.HTML_FILE, quiet=quiet)
    if advice.skipped:
        raise typer.Exit(EXIT_SOME_FAILED)


def _settings(
    config: str | None, assignments: list[str], steps: int | None, batch_size: int | None
) -> TrainConfig:
    """As ``loev train`` has them, for small models unless the file or --set says otherwise."""
    from loev_cli.experiments.advise import DEFAULT_BATCH_SIZE, DEFAULT_N_STEPS
    from loev_cli.train.config import read_toml

    named = {"steps": steps, "minutes": None, "batch_size": batch_size}
    settings = options.settings_of(config, assignments, named)
    said = set(read_toml(config)) if config else set()
    said |= {assignment.partition("=")[0].strip() for assignment in assignments}
    if "batch_size" not in said and batch_size is None:
        settings = dataclasses.replace(settings, batch_size=DEFAULT_BATCH_SIZE)
    if "val_fraction" not in said:
        settings = dataclasses.replace(settings, val_fraction=0.0)
    n_steps = settings.steps or DEFAULT_N_STEPS
    if "warmup_steps" not in said:  # that of long runs would be most of a short one
        warmup_steps = min(settings.warmup_steps, n_steps // 5)
        settings = dataclasses.replace(settings, warmup_steps=warmup_steps)
    return dataclasses.replace(settings, steps=n_steps, minutes=None)


def _say(advice: Advice, html: Path, *, quiet: bool) -> None:
    """The table and the options on stdout, the rest on stderr."""
    from loev_cli.experiments import advise_report as report

    show(table(report.HEADER, report.rows(advice.verdicts)), raw=True)
    show("")
    if not quiet:
        for note in advice.notes:
            say(f"note: {note}")
        for sentence in report.conclusion(advice):
            say(sentence)
        say(f"{plural(len(advice.splits.judged), 'track')} evaluated -> {html}")
    show(report.options(advice))
