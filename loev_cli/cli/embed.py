"""``loev embed``."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from loev_cli.bundle import DEFAULT_MODEL
from loev_cli.cli import _options as options
from loev_cli.cli._console import (
    log_to_stderr,
    say_in_json,
    stdin_bytes,
    stdout_bytes,
)
from loev_cli.errors import EXIT_DONE, EXIT_FAILED, EXIT_SOME_FAILED, StoppedError, UsageError


class EngineName(StrEnum):
    """What can do the work."""

    LOCAL = "local"
    RAY = "ray"


def embed(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT",
            help="Audio files, folders (searched recursively), s3:// and other URLs of them, or "
            "- for a list of paths on stdin.",
            show_default=False,
        ),
    ],
    out: Annotated[
        str | None,
        typer.Option(
            help="A .npz, .parquet, .lance or .jsonl file, or - for JSON lines on stdout; required "
            "unless --dry-run is given.",
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
            "excerpt of audio that the model takes as one input.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = False,
    tags: Annotated[
        bool,
        typer.Option(
            "--tags",
            help="Store the files' metadata tags: artist, album, title, date, ISRC, MusicBrainz "
            "ids and so on, as columns tag_artist, ...",
            rich_help_panel=options.OUTPUT,
        ),
    ] = False,
    annotate: Annotated[
        bool,
        typer.Option(
            "--annotate",
            help="Store the model's annotations of each track as columns bpm, bpm_confidence, "
            "bpm_alt, bpm_alt_confidence, key, mode and key_confidence.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = False,
    bpm_range: options.BpmRange = None,
    hop_s: Annotated[
        float | None,
        typer.Option(
            help="Seconds from one window's start to the next; default that of the model.",
            metavar="SECONDS",
            show_default=False,
            rich_help_panel=options.MODEL,
        ),
    ] = None,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="Discard an earlier --out and partial results of a run with different settings.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = False,
    prune: Annotated[
        bool,
        typer.Option(
            "--prune",
            help="Drop rows of an earlier --out whose file is no longer among the inputs; "
            "otherwise they are kept.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = False,
    shard: Annotated[
        str | None,
        typer.Option(
            help="Embed only the I-th of N parts; auto takes I and N from a Slurm, SGE or PBS "
            "array job. 'loev merge' joins the parts.",
            metavar="I/N|auto",
            show_default=False,
            rich_help_panel=options.RUNNING,
        ),
    ] = None,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict",
            help="Stop at the first bad file and write no output; otherwise bad files are "
            "listed and processing continues.",
            rich_help_panel=options.RUNNING,
        ),
    ] = False,
    null: Annotated[
        bool,
        typer.Option(
            "--null",
            "-0",
            help="The list on stdin is NUL-separated, as written by find -print0.",
            rich_help_panel=options.RUNNING,
        ),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Read file headers only: count files and hours, estimate size and time, check the "
            "options.",
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
            help="Windows per batch; affects speed but not the results; default depends on the "
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
            help="Processes that decode audio; default depends on the machine.",
            metavar="N",
            show_default=False,
            rich_help_panel=options.RUNNING,
        ),
    ] = None,
    engine: Annotated[
        EngineName,
        typer.Option(
            help="local, or ray: the cluster at RAY_ADDRESS, or this machine if RAY_ADDRESS is not "
            "set; --workers is then the number of Ray workers.",
            rich_help_panel=options.RUNNING,
        ),
    ] = EngineName.LOCAL,
    file_timeout_s: Annotated[
        float,
        typer.Option(
            min=1,
            help="A file fails if its decoder returns no audio for this many seconds, or falls "
            "this far behind the file's playing time.",
            metavar="SECONDS",
            rich_help_panel=options.RUNNING,
        ),
    ] = 300.0,
    max_download_gb: Annotated[
        float,
        typer.Option(
            min=0,
            help="A remote file fails if it is larger than this.",
            metavar="GB",
            rich_help_panel=options.RUNNING,
        ),
    ] = 16.0,
    download_timeout_s: Annotated[
        float,
        typer.Option(
            min=1,
            help="A remote file fails if its download takes longer than this.",
            metavar="SECONDS",
            rich_help_panel=options.RUNNING,
        ),
    ] = 3600.0,
    stats: Annotated[
        bool,
        typer.Option(
            "--stats",
            help="Report at the end how the time was spent and what the bottleneck is.",
            rich_help_panel=options.REPORTING,
        ),
    ] = False,
    log_json: options.LogJson = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Turn audio into an embedding file with one array per subspace.

    Example: loev embed ~/Music --out emb.npz
    """
    import os

    import loev_cli.embed as job
    from loev_cli.annotations import parse_bpm_range
    from loev_cli.cli import _embed_report as tell
    from loev_cli.remote import Limits

    if log_json:
        say_in_json()
    if debug:
        log_to_stderr()
    if bpm_range is not None and not annotate:
        raise UsageError("--bpm-range needs --annotate", hint="add --annotate")
    request = job.Request(
        inputs=inputs,
        out=out,
        model=model,
        subspaces=None if subspaces is None else _split(subspaces),
        per_window=per_window,
        tags=tags,
        annotate=annotate,
        bpm_range=None if bpm_range is None else parse_bpm_range(bpm_range),
        hop_s=hop_s,
        device=device,
        backend=backend.value,
        precision=precision.value,
        batch_size=batch_size,
        workers=workers,
        engine=engine.value,
        file_timeout_s=file_timeout_s,
        download_limits=Limits(round(max_download_gb * 1e9), download_timeout_s),
        shard=None if shard is None else job.parse_shard(shard, os.environ),
        prune=prune,
        strict=strict,
        overwrite=overwrite,
        null=null,
    )
    if dry_run:
        plan = job.dry_run(request, stdin=stdin_bytes())
        tell.plan(plan)
        raise typer.Exit(_exit_code(plan.n_files - len(plan.unreadable), len(plan.unreadable)))

    with tell.Progress(quiet=quiet, log_json=log_json) as progress:
        try:
            report = job.embed(
                request, stdin=stdin_bytes(), stdout=stdout_bytes(), on_event=progress.take
            )
        except (KeyboardInterrupt, StoppedError) as interrupt:
            interrupt.add_note(progress.how_to_go_on(out or ""))
            raise
    tell.report(report, request, quiet=quiet, stats=stats, log_json=log_json)
    n_failed = len(report.failures)
    if request.shard is not None:  # the hash may give a part nothing, or nothing good
        raise typer.Exit(EXIT_SOME_FAILED if n_failed else EXIT_DONE)
    raise typer.Exit(_exit_code(report.n_rows, n_failed))


def _split(names: str) -> list[str]:
    parts = [name.strip() for name in names.split(",")]
    if not all(parts):
        raise UsageError(f"--subspaces '{names}' has an empty name", hint="as in --subspaces a,b")
    return parts


def _exit_code(n_rows: int, n_failed: int) -> int:
    if n_rows == 0:
        return EXIT_FAILED
    return EXIT_SOME_FAILED if n_failed else EXIT_DONE
