"""``loev embed``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from loev_cli.bundle import DEFAULT_MODEL
from loev_cli.cli import _options as options
from loev_cli.cli._console import (
    clock,
    log_to_stderr,
    plural,
    say,
    show,
    size,
    stdin_bytes,
    stdout_bytes,
)
from loev_cli.errors import EXIT_DONE, EXIT_FAILED, EXIT_SOME_FAILED, UsageError

if TYPE_CHECKING:
    from loev_cli.embed import DryRun, Report


def embed(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT",
            help="Audio files, folders (searched recursively), or - for a list of paths on stdin.",
            show_default=False,
        ),
    ],
    out: Annotated[
        str | None,
        typer.Option(
            help="A .npz, .parquet or .jsonl file, or - for JSON lines on stdout; needed unless "
            "with --dry-run.",
            metavar="FILE",
            show_default=False,
            rich_help_panel=options.OUTPUT,
        ),
    ] = None,
    model: options.Model = DEFAULT_MODEL,
    subspaces: Annotated[
        str | None,
        typer.Option(
            help="Which of the model's subspaces ('loev models' lists them); default all.",
            metavar="A,B",
            show_default=False,
            rich_help_panel=options.MODEL,
        ),
    ] = None,
    per_window: Annotated[
        bool,
        typer.Option(
            "--per-window",
            help="Keep the vector of every window instead of the track's mean; a window is the "
            "stretch of audio that the model hears at a time.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = False,
    hop_s: Annotated[
        float | None,
        typer.Option(
            help="Seconds from one window's start to the next; default half a window.",
            metavar="SECONDS",
            show_default=False,
            rich_help_panel=options.MODEL,
        ),
    ] = None,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="Replace an --out that was made with other settings, or is something else.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = False,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict",
            help="Stop at the first bad file and write nothing; else bad files are listed and "
            "the others go on.",
            rich_help_panel=options.RUNNING,
        ),
    ] = False,
    null: Annotated[
        bool,
        typer.Option(
            "--null",
            "-0",
            help="The list on stdin is separated by NUL, as find -print0 makes it.",
            rich_help_panel=options.RUNNING,
        ),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Count files and hours by their headers and check the options; embed nothing.",
            rich_help_panel=options.RUNNING,
        ),
    ] = False,
    device: options.Device = "auto",
    backend: options.Backend = options.BackendName.AUTO,
    precision: options.Precision = options.PrecisionName.AUTO,
    batch_size: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Windows encoded together, which changes speed but no result; default by the "
            "machine.",
            metavar="N",
            show_default=False,
            rich_help_panel=options.RUNNING,
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Threads that decode audio; default by the machine.",
            metavar="N",
            show_default=False,
            rich_help_panel=options.RUNNING,
        ),
    ] = None,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Turn audio into an embedding file with one array per subspace.

    Example: loev embed ~/Music --out emb.npz
    """
    from loev_cli import embed as job

    if debug:
        log_to_stderr()
    request = job.Request(
        inputs=inputs,
        out=out,
        model=model,
        subspaces=None if subspaces is None else _split(subspaces),
        per_window=per_window,
        hop_s=hop_s,
        device=device,
        backend=backend.value,
        precision=precision.value,
        batch_size=batch_size,
        workers=workers,
        strict=strict,
        overwrite=overwrite,
        null=null,
    )
    if dry_run:
        plan = job.dry_run(request, stdin=stdin_bytes())
        _show_plan(plan)
        raise typer.Exit(_exit_code(plan.n_files - len(plan.unreadable), len(plan.unreadable)))

    from loev_cli.cli._progress import Progress

    try:
        with Progress(quiet=quiet) as progress:
            report = job.embed(
                request, stdin=stdin_bytes(), stdout=stdout_bytes(), on_event=progress.take
            )
    except KeyboardInterrupt as interrupt:
        left = "the lines so far are whole" if out == "-" else "nothing was written"
        interrupt.add_note(f"{left}, the same command starts again")
        raise
    _say_report(report, request.out or "", quiet)
    raise typer.Exit(_exit_code(report.n_done, len(report.failures)))


def _split(names: str) -> list[str]:
    parts = [name.strip() for name in names.split(",")]
    if not all(parts):
        raise UsageError(f"--subspaces '{names}' has an empty name", hint="as in --subspaces a,b")
    return parts


def _exit_code(n_done: int, n_failed: int) -> int:
    if n_done == 0:
        return EXIT_FAILED
    return EXIT_SOME_FAILED if n_failed else EXIT_DONE


def _say_report(report: Report, out: str, quiet: bool) -> None:
    from loev_cli.embed import FAILURES_SUFFIX
    from loev_cli.writers import STDOUT

    n_failed = len(report.failures)
    listed = "" if out == STDOUT else f", listed in {out}{FAILURES_SUFFIX}"
    if report.n_done == 0:
        all_failed = "the only file" if n_failed == 1 else f"all {n_failed} files"
        say(f"loev: error: nothing written: {all_failed} failed{listed}")
        return
    if quiet:
        return
    speed = report.audio_s / max(report.wall_s, 1e-9)
    where = "standard output" if out == STDOUT else out
    say(
        f"{plural(report.n_done, 'track')}, {clock(report.audio_s)} of audio in "
        f"{report.wall_s:.1f} s ({speed:.0f} x real time) -> {where}"
    )
    if n_failed:
        say(f"{plural(n_failed, 'file')} failed{listed}")


def _show_plan(plan: DryRun) -> None:
    for failure in plan.unreadable:
        say(f"loev: failed ({failure.stage}): {failure.message}")
    unknown = f" and {plural(plan.n_unknown_length, 'file')} of unknown length"
    show(f"files:      {plan.n_files}")
    show(f"audio:      {clock(plan.audio_s)}{unknown if plan.n_unknown_length else ''}")
    show(f"unreadable: {len(plan.unreadable)}")
    show(f"vectors:    {plan.n_vectors}")
    show(f"output:     {size(plan.out_n_bytes)}")
