"""``loev export``: a training checkpoint -> a model bundle; with readouts of key and tempo."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loev_cli.cli import _options as options
from loev_cli.cli._console import log_to_stderr, plural, say
from loev_cli.errors import UsageError, needs_extra

if TYPE_CHECKING:
    from loev_cli.bundle import Bundle

_ANNOTATIONS = "Annotations"
_FOREIGN = "Weights of the paper's research code"


def export(
    context: typer.Context,
    checkpoint: Annotated[
        Path,
        typer.Argument(
            metavar="CHECKPOINT",
            help="A run's checkpoints/last.pt; with --from-mulooc a Lightning checkpoint; with "
            "--annotate also a bundle or a shipped model.",
            show_default=False,
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
            help="Replace an existing bundle.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = False,
    annotate: Annotated[
        list[Path] | None,
        typer.Option(
            help="Fit readouts of bpm, key and mode to the columns key and tempo of this manifest "
            "(path,key,tempo,split): fit on train, calibrate on val, report on test. May be "
            "given several times.",
            metavar="CSV",
            show_default=False,
            rich_help_panel=_ANNOTATIONS,
        ),
    ] = None,
    adapt: Annotated[
        bool,
        typer.Option(
            "--adapt",
            help="Start from the model's own readouts and change them no further than the labels "
            "ask for; cross-validation over the groups of the train rows chooses how far. Several "
            "manifests weigh the same, however long they are.",
            rich_help_panel=_ANNOTATIONS,
        ),
    ] = False,
    keep: Annotated[
        list[Path] | None,
        typer.Option(
            help="With --adapt: a manifest of tracks, without labels, on which the answers should "
            "stay as they are. May be given several times.",
            metavar="CSV",
            show_default=False,
            rich_help_panel=_ANNOTATIONS,
        ),
    ] = None,
    strength: Annotated[
        list[str] | None,
        typer.Option(
            help="With --adapt: the penalty on the change of a readout, for example tempo=0.01, "
            "instead of the one that cross-validation chooses. May be given for each.",
            metavar="NAME=NUMBER",
            show_default=False,
            rich_help_panel=_ANNOTATIONS,
        ),
    ] = None,
    embeddings: Annotated[
        list[Path] | None,
        typer.Option(
            help="Embeddings of the manifest's tracks by 'loev embed' with this model, to reuse "
            "instead of embedding them. May be given several times.",
            metavar="FILE",
            show_default=False,
            rich_help_panel=_ANNOTATIONS,
        ),
    ] = None,
    from_mulooc: Annotated[
        bool,
        typer.Option(
            "--from-mulooc",
            help="CHECKPOINT is from MuLOOC, with encoder sf-nfnet-f0. No code in it is executed.",
            rich_help_panel=_FOREIGN,
        ),
    ] = False,
    augs: Annotated[
        str | None,
        typer.Option(
            help="Names of the heads after the first, in order; default pitch,tempo.",
            metavar="A,B",
            show_default=False,
            rich_help_panel=_FOREIGN,
        ),
    ] = None,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Turn a training checkpoint into a model bundle: weights, ONNX, config, card.

    Example: loev export runs/mine/checkpoints/last.pt --out models/mine
    """
    if embeddings and not annotate:
        raise UsageError("--embeddings needs --annotate", hint="name the labels with --annotate")
    if adapt and not annotate:
        raise UsageError("--adapt needs --annotate", hint="name the labels with --annotate")
    if strength and not adapt:
        raise UsageError("--strength needs --adapt", hint="add --adapt")
    if keep and not adapt:
        raise UsageError("--keep needs --adapt", hint="add --adapt")
    if annotate:
        if from_mulooc:
            raise UsageError(
                "--annotate and --from-mulooc exclude each other",
                hint="export first, then annotate",
            )
        from loev_cli.cli import _fit_readouts

        if debug:
            log_to_stderr()
        raise typer.Exit(
            _fit_readouts.fit_and_write(
                checkpoint,
                out,
                name=name or out.name,
                manifests=annotate,
                embeddings=embeddings or [],
                adapt=adapt,
                keep=keep or [],
                strengths=dict(_strength(text) for text in strength or []),
                overwrite=overwrite,
                command=context.obj,
                export_checkpoint=lambda file, folder: export_trained(file, folder, quiet=True),
                quiet=quiet,
            )
        )
    if from_mulooc:
        _export_mulooc(checkpoint, out, name or out.name, augs, overwrite, quiet)
        return
    if augs is not None:
        raise UsageError(
            "--augs needs --from-mulooc", hint="a run's checkpoint states its augmentations"
        )
    if debug:
        log_to_stderr()
    export_trained(checkpoint, out, name=name, overwrite=overwrite, quiet=quiet)


def _strength(text: str) -> tuple[str, float]:
    """``tempo=0.01`` -> ("tempo", 0.01)."""
    name, _, number = text.partition("=")
    wrong = UsageError(f"invalid --strength '{text}'", hint="key=NUMBER or tempo=NUMBER, above 0")
    try:
        value = float(number)
    except ValueError as error:
        raise wrong from error
    if name not in ("key", "tempo") or not 0 < value < float("inf"):
        raise wrong
    return name, value


def export_trained(
    checkpoint: Path,
    out: Path,
    *,
    name: str | None = None,
    overwrite: bool = False,
    quiet: bool = False,
) -> Bundle:
    """The bundle ``out`` of a run's checkpoint; says so."""
    with needs_extra("loev export", "train"):
        from loev_cli.export import check_out, export_bundle
        from loev_cli.train import pipeline
        from loev_cli.train.card import model_card

    check_out(out, overwrite=overwrite, inputs=[checkpoint])
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
    return bundle


def _export_mulooc(
    checkpoint: Path, out: Path, name: str, augs: str | None, overwrite: bool, quiet: bool
) -> None:
    with needs_extra("loev export", "train"):
        from loev_cli.export import check_out, export_bundle
        from loev_cli.model import mulooc

    check_out(out, overwrite=overwrite, inputs=[checkpoint])
    weights = mulooc.read_mulooc(checkpoint)
    heads = "pitch,tempo" if augs is None and weights.n_heads > 1 else augs or ""
    model = mulooc.build_mulooc(
        weights, tuple(a.strip() for a in heads.split(",") if a.strip()), checkpoint
    )
    bundle = export_bundle(
        model,
        out,
        name=name,
        augmentations={},  # the checkpoint does not say their ranges
        training={"from": "MuLOOC", "checkpoint": checkpoint.name},
        card=mulooc.card(name, model.spec, checkpoint),
        overwrite=overwrite,
    )
    if quiet:
        return
    if weights.left_out:
        say(f"left out, not part of the encoder or heads: {_some(weights.left_out, 'tensor')}")
    if weights.foreign:
        say(f"not imported, not run: {_some(weights.foreign, 'name')}")
    say(f"{name}: {weights.method}, heads {', '.join(model.spec.heads)} -> {bundle.path}")


def _some(names: tuple[str, ...], what: str) -> str:
    more = ", ..." if len(names) > 3 else ""
    return f"{plural(len(names), what)} ({', '.join(names[:3])}{more})"
