"""``loev train``: a folder of music in, a model bundle out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from loev_cli.train.config import TrainConfig

_WHAT = "What to train"
_HOW = "How long and how"
_WHERE = "Where"


def train(
    data: Annotated[
        str | None,
        typer.Argument(help="Folder of audio, manifest (.csv with a path column) or list (.txt)."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run.", rich_help_panel=_WHERE)
    ] = None,
    augs: Annotated[
        str | None,
        typer.Option(
            help="Augmentations that get a subspace, comma separated. [default: pitch,tempo]",
            rich_help_panel=_WHAT,
        ),
    ] = None,
    method: Annotated[
        str | None, typer.Option(help="[default: loev++]", rich_help_panel=_WHAT)
    ] = None,
    encoder: Annotated[
        str | None, typer.Option(help="[default: small]", rich_help_panel=_WHAT)
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the bundle. [default: that of the run's folder]")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Optimiser steps.", rich_help_panel=_HOW)
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(help="Minutes of training.", rich_help_panel=_HOW)
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Tracks per step. [default: 64]", rich_help_panel=_HOW)
    ] = None,
    seed: Annotated[int | None, typer.Option(help="[default: 0]", rich_help_panel=_HOW)] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="TOML file of settings, e.g. a run's.", rich_help_panel=_HOW),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Any setting of the config, e.g. augmentations.eq.gain_db=3.",
            rich_help_panel=_HOW,
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in --out.", rich_help_panel=_HOW)
    ] = False,
    init: Annotated[
        Path | None,
        typer.Option(help="Start from a checkpoint's weights.", rich_help_panel=_HOW),
    ] = None,
    device: Annotated[
        str, typer.Option(help="auto, cpu, cuda or cuda:N.", rich_help_panel=_WHERE)
    ] = "auto",
    workers: Annotated[
        int | None, typer.Option(help="Decoding processes.", rich_help_panel=_WHERE)
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the feature cache. [default: ~/.cache/loev/features]",
            rich_help_panel=_WHERE,
        ),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Only errors.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Tracebacks.")] = False,
) -> None:
    """Train a model on a folder of music.

    Example: loev train ./music --augs pitch,tempo --minutes 60 --out runs/mine
    """
    from loev_cli.errors import UsageError

    if out is None:
        raise UsageError("where should the run go? give --out")
    options = {
        "data": data,
        "augs": [a.strip() for a in augs.split(",") if a.strip()] if augs is not None else None,
        "method": method,
        "encoder": encoder,
        "steps": steps,
        "minutes": minutes,
        "batch_size": batch_size,
        "seed": seed,
    }
    settings = _settings(config, set_ or [], options)
    if not settings.data:
        raise UsageError("what should it train on? give DATA", hint="a folder of audio, say")

    from loev_cli.cli.train_display import TrainDisplay
    from loev_cli.export import export_bundle
    from loev_cli.train import pipeline
    from loev_cli.train.card import model_card

    with TrainDisplay(quiet=quiet) as display:
        trainer = pipeline.run(
            settings,
            out,
            resume=resume,
            init=init,
            device=device,
            cache=cache,
            n_workers=workers,
            events=pipeline.Events(display.features, display.tracks, display.step),
        )
    bundle_name = name or out.name
    facts = pipeline.training_facts(trainer)
    bundle = export_bundle(
        trainer.model.cpu(),
        out / "bundle",
        name=bundle_name,
        augmentations=pipeline.augmentation_ranges(settings),
        training=facts,
        card=model_card(bundle_name, settings, facts, display.recent_losses()),
        overwrite=True,
    )
    if not quiet:
        typer.echo(
            f"{trainer.step} steps in {trainer.elapsed_s / 60:.1f} min -> {bundle.path}", err=True
        )


def _settings(
    config_file: Path | None, assignments: list[str], options: dict[str, Any]
) -> TrainConfig:
    """Defaults, then the file, then --set, then the named options."""
    from loev_cli.train.config import TrainConfig, from_mapping, parse_assignment, read_toml

    raw = read_toml(config_file) if config_file else {}
    for assignment in assignments:
        keys, value = parse_assignment(assignment)
        table = raw
        for key in keys[:-1]:
            table = table.setdefault(key, {})
        table[keys[-1]] = value
    if options["steps"] is not None or options["minutes"] is not None:
        raw.pop("steps", None)
        raw.pop("minutes", None)
    raw.update({key: value for key, value in options.items() if value is not None})
    return from_mapping(TrainConfig, raw)
