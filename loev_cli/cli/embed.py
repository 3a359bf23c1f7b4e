"""``loev embed``."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from loev_cli.bundle import DEFAULT_MODEL
from loev_cli.cli import _completion
from loev_cli.cli import _options as options
from loev_cli.cli._console import stdin_bytes, stdout_bytes
from loev_cli.errors import EXIT_DONE, EXIT_FAILED, EXIT_SOME_FAILED, StoppedError


def embed(
    inputs: options.Inputs,
    out: Annotated[
        str | None,
        options.output(
            help="A .npz, .parquet, .lance or .jsonl file, or - for JSON lines on stdout; required "
            "unless --dry-run is given.",
            metavar="FILE",
        ),
    ] = None,
    model: options.Model = DEFAULT_MODEL,
    subspaces: Annotated[
        str | None,
        options.model(
            help="Which of the model's subspaces ('loev models' lists them); default all.",
            metavar="A,B",
            autocompletion=_completion.subspaces,
        ),
    ] = None,
    per_window: Annotated[
        bool,
        options.output(
            "--per-window",
            help="Keep the vector of every window instead of the track's mean; a window is the "
            "excerpt of audio that the model takes as one input.",
        ),
    ] = False,
    tags: Annotated[
        bool,
        options.output(
            "--tags",
            help="Store the files' metadata tags: artist, album, title, date, ISRC, MusicBrainz "
            "ids and so on, as columns tag_artist, ...",
        ),
    ] = False,
    annotate: Annotated[
        bool,
        options.output(
            "--annotate",
            help="Store the model's annotations of each track as columns bpm, bpm_confidence, "
            "bpm_alt, bpm_alt_confidence, key, mode and key_confidence.",
        ),
    ] = False,
    bpm_range: options.BpmRange = None,
    hop_s: Annotated[
        float | None,
        options.model(
            help="Seconds from one window's start to the next; default that of the model.",
            metavar="SECONDS",
        ),
    ] = None,
    overwrite: Annotated[
        bool,
        options.output(
            "--overwrite",
            help="Discard an earlier --out and partial results of a run with different settings.",
        ),
    ] = False,
    prune: Annotated[
        bool,
        options.output(
            "--prune",
            help="Drop rows of an earlier --out whose file is no longer among the inputs; "
            "otherwise they are kept.",
        ),
    ] = False,
    shard: Annotated[
        str | None,
        options.running(
            help="Embed only the I-th of N parts; auto takes I and N from a Slurm, SGE or PBS "
            "array job. 'loev merge' joins the parts.",
            metavar="I/N|auto",
        ),
    ] = None,
    strict: Annotated[
        bool,
        options.running(
            "--strict",
            help="Stop at the first bad file and write no output; otherwise bad files are "
            "listed and processing continues.",
        ),
    ] = False,
    null: options.Null = False,
    dry_run: Annotated[
        bool,
        options.running(
            "--dry-run",
            help="Read file headers only: count files and hours, estimate size and time, check the "
            "options.",
        ),
    ] = False,
    device: options.Device = "auto",
    backend: options.Backend = "auto",
    precision: options.Precision = "auto",
    batch_size: Annotated[
        int | None,
        options.running(
            min=1,
            help="Windows per batch; affects speed but not the results; default depends on the "
            "machine.",
            metavar="N",
        ),
    ] = None,
    workers: options.Workers = None,
    engine: Annotated[
        Literal["local", "ray"],
        options.running(
            help="local, or ray: the cluster at RAY_ADDRESS, or this machine if RAY_ADDRESS is not "
            "set; --workers is then the number of Ray workers."
        ),
    ] = "local",
    file_timeout_s: Annotated[
        float,
        options.running(
            min=1,
            help="A file fails if its decoder returns no audio for this many seconds, or falls "
            "this far behind the file's playing time.",
            metavar="SECONDS",
        ),
    ] = 300.0,
    max_download_gb: Annotated[
        float,
        options.running(min=0, help="A remote file fails if it is larger than this.", metavar="GB"),
    ] = 16.0,
    download_timeout_s: Annotated[
        float,
        options.running(
            min=1,
            help="A remote file fails if its download takes longer than this.",
            metavar="SECONDS",
        ),
    ] = 3600.0,
    stats: Annotated[
        bool,
        options.reporting(
            "--stats", help="Report at the end how the time was spent and what the bottleneck is."
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
    from loev_cli.cli import _embed_report as tell
    from loev_cli.storage.remote import Limits

    request = job.Request(
        inputs=inputs,
        out=out,
        model=model,
        subspaces=None if subspaces is None else options.names(subspaces, "--subspaces"),
        per_window=per_window,
        tags=tags,
        annotate=annotate,
        bpm_range=options.tempi(bpm_range),
        hop_s=hop_s,
        device=device,
        backend=backend,
        precision=precision,
        batch_size=batch_size,
        workers=workers,
        engine=engine,
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

    with tell.Progress(quiet=quiet) as progress:
        try:
            report = job.embed(
                request, stdin=stdin_bytes(), stdout=stdout_bytes(), on_event=progress.take
            )
        except (KeyboardInterrupt, StoppedError) as interrupt:
            interrupt.add_note(progress.how_to_go_on(out or ""))
            raise
    tell.report(report, request, quiet=quiet, stats=stats)
    n_failed = len(report.failures)
    if request.shard is not None:  # the hash may give a part nothing, or nothing good
        raise typer.Exit(EXIT_SOME_FAILED if n_failed else EXIT_DONE)
    raise typer.Exit(_exit_code(report.n_rows, n_failed))


def _exit_code(n_rows: int, n_failed: int) -> int:
    if n_rows == 0:
        return EXIT_FAILED
    return EXIT_SOME_FAILED if n_failed else EXIT_DONE
