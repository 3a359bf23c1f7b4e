"""``loev export``: a training checkpoint -> a model bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from loev_cli.cli import _options as options
from loev_cli.cli._console import log_to_stderr, say
from loev_cli.errors import needs_extra


def export(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            metavar="CHECKPOINT", help="A run's checkpoints/last.pt.", show_default=False
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            help="Folder of the new bundle.",
            metavar="FOLDER",
            show_default=False,
            rich_help_panel=options.OUTPUT,
        ),
    ],
    name: Annotated[
        str | None,
        typer.Option(
            help="Name of the model; default that of the folder.",
            metavar="NAME",
            show_default=False,
            rich_help_panel=options.OUTPUT,
        ),
    ] = None,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="Replace a bundle that is there.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Turn a training checkpoint into a model bundle: weights, ONNX, config, card.

    Example: loev export runs/mine/checkpoints/last.pt --out models/mine
    """
    with needs_extra("loev export", "train"):
        from loev_cli.export import export_bundle
        from loev_cli.train import pipeline
        from loev_cli.train.card import model_card

    if debug:
        log_to_stderr()
    trained = pipeline.read_checkpoint(checkpoint)
    model_name = name or out.name
    bundle = export_bundle(
        trained.model,
        out,
        name=model_name,
        augmentations=pipeline.augmentation_ranges(trained.config),
        training=trained.facts,
        card=model_card(model_name, trained.model.spec, trained.facts, trained.validation),
        overwrite=overwrite,
    )
    if not quiet:
        steps, minutes = trained.facts["steps"], trained.facts["minutes"]
        say(f"{model_name}: {steps} steps in {minutes} min -> {bundle.path}")
