"""``loev train``: a folder of music in, a model bundle out."""

from __future__ import annotations

from dataclasses import fields
from functools import partial
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

_what = partial(typer.Option, rich_help_panel="What to train")
_how = partial(typer.Option, rich_help_panel="How long and how")
_where = partial(typer.Option, rich_help_panel="Where")


# Parameters that are called like fields of TrainConfig set them.
def train(
    context: typer.Context,
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
        _where(
            help="Folder of the run: its config, checkpoints, metrics, and the model as bundle/.",
            metavar="FOLDER",
        ),
    ] = None,
    augs: Annotated[
        str | None,
        _what(
            help="Augmentations that get a subspace of their own; default pitch,tempo. Known: "
            f"{options.AUGMENTATIONS}; and columns of a manifest that name variants of a track.",
            metavar="A,B",
        ),
    ] = None,
    across_tracks: Annotated[
        str | None,
        _what(
            help="Those of --augs whose variants mean the same in every track, such as the same "
            "instruments.",
            metavar="A,B",
        ),
    ] = None,
    train_only: Annotated[
        str | None,
        _what(help="Subspaces to train, with all else as in --init; default all.", metavar="A,B"),
    ] = None,
    method: Annotated[
        str | None,
        _what(
            help=f"How subspaces are learned: {options.METHODS}; default loev++.", metavar="METHOD"
        ),
    ] = None,
    encoder: Annotated[
        str | None,
        _what(
            help=f"Network that is trained: {options.ENCODERS}; default small.", metavar="ENCODER"
        ),
    ] = None,
    name: Annotated[
        str | None,
        _what(help="Name of the model; default that of the run's folder.", metavar="NAME"),
    ] = None,
    view_scheme: Annotated[
        str | None,
        _what(
            help="How views of a track share augmentations: shared (default), or the paper's "
            "independent.",
            metavar="SCHEME",
        ),
    ] = None,
    positives: Annotated[
        str | None,
        _what(
            help="Crops of a track that form positive pairs: same, adjacent or random (default).",
            metavar="CROPS",
        ),
    ] = None,
    steps: Annotated[int | None, _how(help="Number of optimizer steps.", metavar="N")] = None,
    minutes: Annotated[
        float | None,
        _how(
            help="Minutes for training and export, without reading the audio; if --steps is also "
            "given, whichever ends first.",
            metavar="M",
        ),
    ] = None,
    batch_size: Annotated[
        int | None, _how(help="Tracks per step, over all processes; default 64.", metavar="N")
    ] = None,
    micro_batch_size: Annotated[
        int | None,
        _how(
            help="Tracks that go through the encoder at once: less memory, the same loss.",
            metavar="N",
        ),
    ] = None,
    precision: Annotated[
        str | None, _how(help="auto is bf16 on CUDA, fp32 on a CPU.", metavar="auto|fp32|bf16")
    ] = None,
    seed: Annotated[int | None, _how(help="Random seed; default 0.", metavar="N")] = None,
    config: Annotated[
        str | None,
        _how(
            help="TOML file of settings, such as a run's config.toml, or a built-in one: "
            "paper, laptop, loevpp-small. Options override it.",
            metavar="FILE|NAME",
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        _how(
            "--set",
            help="Any setting of the config, such as augmentations.eq.gain_db=3.",
            metavar="KEY=VALUE",
        ),
    ] = None,
    resume: Annotated[
        bool,
        _how(
            "--resume",
            help="Resume the run in --out, with its own config unless options override it.",
        ),
    ] = False,
    init: Annotated[
        Path | None,
        _how(help="Start from the weights of a checkpoint or a bundle.", metavar="FILE|FOLDER"),
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
        _where(
            help="Folder where decoded tracks are cached for later runs; default "
            "~/.cache/loev/features.",
            metavar="FOLDER",
        ),
    ] = None,
    no_cache: Annotated[
        bool,
        _where(
            "--no-cache",
            help="Cache nothing on disk: decode every track each time it is needed. Slow.",
        ),
    ] = False,
    cache_gb: Annotated[
        float | None,
        _where(
            help="Maximum cache size; the least recently used entries are deleted first. "
            "Default 50.",
            metavar="GB",
            show_default=False,
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        _how(
            "--dry-run",
            help="Only show what would be trained, and the memory and disk it needs.",
        ),
    ] = False,
    log_json: options.LogJson = False,
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
    with needs_extra("loev train", "train"):
        from loev_cli import export
        from loev_cli.cli._train_display import TrainDisplay
        from loev_cli.train import pipeline
        from loev_cli.train.checkpoint import FOLDER, LAST
        from loev_cli.train.config import TrainConfig
        from loev_cli.train.distributed import is_main_process
        from loev_cli.train.pipeline import BUNDLE
    if resume and config is None and (out / pipeline.CONFIG_FILE).exists():
        config = str(out / pipeline.CONFIG_FILE)
    known = {field.name for field in fields(TrainConfig)}
    named = {key: value for key, value in context.params.items() if key in known}
    for key in ("augs", "across_tracks", "train_only"):
        if named[key] is not None:
            named[key] = [part.strip() for part in named[key].split(",") if part.strip()]
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
        with TrainDisplay(quiet=quiet, is_main=is_main_process()) as display:
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
                rehearse=export.write_nothing,
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
    from loev_cli.train.pipeline import make_plan, pick_device

    plan = make_plan(Trainer(settings, out, device=pick_device(device)))
    for error in plan.unreadable:
        say(f"unreadable: {error}")
    Console().print(plan_table(plan, settings.batch_size))
