"""``loev train``: a folder of music in, a model bundle out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loev_cli.cli import _options as options
from loev_cli.cli._console import log_to_stderr, say
from loev_cli.cli.export import export_trained
from loev_cli.errors import UsageError, needs_extra

if TYPE_CHECKING:
    from loev_cli.train.config import TrainConfig
    from loev_cli.train.data import Cache

_WHAT = "What to train"
_HOW = "How long and how"
_WHERE = "Where"


def train(
    data: Annotated[
        str | None,
        typer.Argument(
            metavar="DATA",
            help="Folder of audio, manifest (.csv with a path column) or list of paths (.txt); "
            "may be set in --config instead.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the run: its config, checkpoints, metrics, and the model as bundle/.",
            metavar="FOLDER",
            rich_help_panel=_WHERE,
        ),
    ] = None,
    augs: Annotated[
        str | None,
        typer.Option(
            help="Augmentations that get a subspace of their own; default pitch,tempo.",
            metavar="A,B",
            rich_help_panel=_WHAT,
        ),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            help="How subspaces are learned; default loev++.",
            metavar="METHOD",
            rich_help_panel=_WHAT,
        ),
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option(
            help="Network that is trained; default small.",
            metavar="ENCODER",
            rich_help_panel=_WHAT,
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            help="Name of the model; default that of the run's folder.",
            metavar="NAME",
            rich_help_panel=_WHAT,
        ),
    ] = None,
    view_scheme: Annotated[
        str | None,
        typer.Option(
            help="How views of a track share augmentations: shared (default), or the paper's "
            "independent.",
            metavar="SCHEME",
            rich_help_panel=_WHAT,
        ),
    ] = None,
    positives: Annotated[
        str | None,
        typer.Option(
            help="Crops of a track that form positive pairs: same, adjacent or random (default).",
            metavar="CROPS",
            rich_help_panel=_WHAT,
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(help="Number of optimizer steps.", metavar="N", rich_help_panel=_HOW),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(
            help="Minutes to train for; if --steps is also given, whichever ends first.",
            metavar="M",
            rich_help_panel=_HOW,
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            help="Tracks per step, over all processes; default 64.",
            metavar="N",
            rich_help_panel=_HOW,
        ),
    ] = None,
    micro_batch_size: Annotated[
        int | None,
        typer.Option(
            help="Tracks that go through the encoder at once: less memory, the same loss.",
            metavar="N",
            rich_help_panel=_HOW,
        ),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            help="auto is bf16 on CUDA, fp32 on a CPU.",
            metavar="auto|fp32|bf16",
            rich_help_panel=_HOW,
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            help="Random seed; default 0.",
            metavar="N",
            rich_help_panel=_HOW,
        ),
    ] = None,
    config: Annotated[
        str | None,
        typer.Option(
            help="TOML file of settings, such as a run's config.toml, or a built-in one: "
            "paper, laptop, loevpp-small. Options override it.",
            metavar="FILE|NAME",
            rich_help_panel=_HOW,
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Any setting of the config, such as augmentations.eq.gain_db=3.",
            rich_help_panel=_HOW,
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Resume the run in --out, with its own config unless options override it.",
            rich_help_panel=_HOW,
        ),
    ] = False,
    init: Annotated[
        Path | None,
        typer.Option(
            help="Start from the weights of a checkpoint or a bundle.",
            metavar="FILE|FOLDER",
            rich_help_panel=_HOW,
        ),
    ] = None,
    device: options.Device = "auto",
    workers: Annotated[
        int | None,
        typer.Option(
            help="Processes that decode audio; default one per core.",
            metavar="N",
            rich_help_panel=options.RUNNING,
        ),
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(
            help="Folder where decoded tracks are cached for later runs; default "
            "~/.cache/loev/features.",
            metavar="FOLDER",
            rich_help_panel=_WHERE,
        ),
    ] = None,
    no_cache: Annotated[
        bool,
        typer.Option(
            "--no-cache",
            help="Cache nothing on disk: decode every track each time it is needed. Slow.",
            rich_help_panel=_WHERE,
        ),
    ] = False,
    cache_gb: Annotated[
        float | None,
        typer.Option(
            help="Maximum cache size; the least recently used entries are deleted first. "
            "Default 50.",
            metavar="GB",
            show_default=False,
            rich_help_panel=_WHERE,
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Only show what would be trained, and the memory and disk it needs.",
            rich_help_panel=_HOW,
        ),
    ] = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Train a model on a folder of music.

    Example: loev train ./music --augs pitch,tempo --minutes 60 --out runs/mine

    Several processes: torchrun --nproc-per-node 4 -m loev_cli train ./music --out runs/mine
    """
    if debug:
        log_to_stderr()
    if out is None:
        raise UsageError("missing option: --out")
    named = {
        "data": data,
        "augs": [a.strip() for a in augs.split(",") if a.strip()] if augs is not None else None,
        "method": method,
        "encoder": encoder,
        "view_scheme": view_scheme,
        "positives": positives,
        "steps": steps,
        "minutes": minutes,
        "batch_size": batch_size,
        "micro_batch_size": micro_batch_size,
        "precision": precision,
        "seed": seed,
    }
    with needs_extra("loev train", "train"):
        from loev_cli import export
        from loev_cli.cli._train_display import TrainDisplay
        from loev_cli.train import pipeline
        from loev_cli.train.checkpoint import FOLDER, LAST
        from loev_cli.train.distributed import is_main_process
        from loev_cli.train.pipeline import BUNDLE
    if resume and config is None and (out / pipeline.CONFIG_FILE).exists():
        config = str(out / pipeline.CONFIG_FILE)
    settings = options.settings_of(config, set_ or [], named)
    if not settings.data:
        raise UsageError("missing argument: DATA", hint="a folder of audio, for example")
    if dry_run:
        _show_plan(settings, out, device)
        return
    read = [each for each in (settings.data, config, init) if each is not None]
    pipeline.check_out(out, inputs=read, resume=resume)
    if (out / BUNDLE).exists():
        export.check_out(out / BUNDLE, inputs=read, overwrite=True)
    try:
        with TrainDisplay(quiet=quiet or not is_main_process()) as display:
            checkpoint = pipeline.run(
                settings,
                out,
                resume=resume,
                init=init,
                device=device,
                cache=None if no_cache else _cache(cache, cache_gb),
                n_workers=workers,
                events=pipeline.Events(
                    display.features, display.tracks, display.step, display.validation
                ),
            )
    except KeyboardInterrupt as interrupt:
        if (out / FOLDER / LAST).exists():
            interrupt.add_note(f"run the same command with --resume to resume from {out}")
        raise
    if checkpoint is not None:
        export_trained(checkpoint, out / BUNDLE, name=name or out.name, overwrite=True, quiet=quiet)


def _cache(folder: Path | None, max_gb: float | None) -> Cache:
    from loev_cli.train.data import DEFAULT_MAX_BYTES, Cache, default_cache

    if max_gb is not None and max_gb <= 0:
        raise UsageError(f"--cache-gb is {max_gb:g}, must be above 0", hint="or use --no-cache")
    max_bytes = DEFAULT_MAX_BYTES if max_gb is None else int(max_gb * 1e9)
    return Cache(folder or default_cache(), max_bytes)


def _show_plan(settings: TrainConfig, out: Path, device: str) -> None:
    from rich.console import Console

    from loev_cli.cli._train_display import plan_table
    from loev_cli.train.loop import Trainer
    from loev_cli.train.pipeline import pick_device
    from loev_cli.train.plan import make_plan

    plan = make_plan(settings, Trainer(settings, out, device=pick_device(device)))
    for error in plan.unreadable:
        say(f"unreadable: {error}")
    Console().print(plan_table(plan, settings.batch_size))
