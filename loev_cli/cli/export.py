"""``loev export``: a training checkpoint -> a model bundle; with readouts of key and tempo."""

from __future__ import annotations

import contextlib
import shlex
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loev_cli import bundle as bundles
from loev_cli.cli import _options as options
from loev_cli.cli._console import log_to_stderr, plural, say
from loev_cli.errors import EXIT_DONE, EXIT_SOME_FAILED, InputError, UsageError, needs_extra

if TYPE_CHECKING:
    from loev_cli.bundle import Bundle
    from loev_cli.evaluate.adaptation import Prior
    from loev_cli.evaluate.readouts import FittedReadout
    from loev_cli.storage.hub import Address

_annotations = partial(typer.Option, show_default=False, rich_help_panel="Annotations")
_foreign = partial(typer.Option, rich_help_panel="Weights of the paper's research code")
_hub = partial(typer.Option, show_default=False, rich_help_panel="Hugging Face Hub")
_output = partial(typer.Option, show_default=False, rich_help_panel=options.OUTPUT)


def export(
    context: typer.Context,
    checkpoint: Annotated[
        str,
        typer.Argument(
            metavar="CHECKPOINT",
            help="A run's checkpoints/last.pt; with --from-mulooc a Lightning checkpoint; with "
            "--annotate also a bundle, a shipped model or hf://OWNER/NAME.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None,
        _output(
            help="Folder of the new bundle. Not needed to --push a bundle as it is.",
            metavar="FOLDER",
        ),
    ] = None,
    name: Annotated[
        str | None, _output(help="Name of the model; default that of the folder.", metavar="NAME")
    ] = None,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite", help="Replace an existing bundle.", rich_help_panel=options.OUTPUT
        ),
    ] = False,
    annotate: Annotated[
        list[Path] | None,
        _annotations(
            help="Fit readouts of bpm, key and mode to the columns key and tempo of this manifest "
            "(path,key,tempo,split): fit on train, calibrate on val, report on test. May be "
            "given several times.",
            metavar="CSV",
        ),
    ] = None,
    adapt: Annotated[
        bool,
        _annotations(
            "--adapt",
            help="Start from the model's own readouts and penalize their change; cross-validation "
            "over the groups of the train rows chooses the penalty. Manifests have equal weight, "
            "whatever their length.",
        ),
    ] = False,
    keep: Annotated[
        list[Path] | None,
        _annotations(
            help="With --adapt: manifest of unlabeled tracks whose predictions should not change. "
            "May be given several times.",
            metavar="CSV",
        ),
    ] = None,
    strength: Annotated[
        list[str] | None,
        _annotations(
            help="With --adapt: penalty on the change of a readout, such as tempo=0.01, instead of "
            "cross-validation. May be given once per readout.",
            metavar="NAME=NUMBER",
        ),
    ] = None,
    embeddings: Annotated[
        list[Path] | None,
        _annotations(
            help="Embeddings of the manifest's tracks by 'loev embed' with this model, to reuse "
            "instead of embedding them. May be given several times.",
            metavar="FILE",
        ),
    ] = None,
    from_mulooc: Annotated[
        bool,
        _foreign(
            "--from-mulooc",
            help="CHECKPOINT is from MuLOOC, with encoder sf-nfnet-f0. No code in it is executed.",
        ),
    ] = False,
    augs: Annotated[
        str | None,
        _foreign(
            help="Names of the heads after the first, in order; default pitch,tempo.",
            metavar="A,B",
            show_default=False,
        ),
    ] = None,
    push: Annotated[
        str | None,
        _hub(
            help="Upload the bundle to this model repository, which is made if needed. Of a "
            "CHECKPOINT that is a bundle already, nothing else is done.",
            metavar="hf://OWNER/NAME",
        ),
    ] = None,
    license_id: Annotated[
        str | None,
        _hub("--license", help="For the front matter of the card, such as mit.", metavar="ID"),
    ] = None,
    private: Annotated[
        bool, _hub("--private", help="Make the repository private, if it is made.")
    ] = False,
    log_json: options.LogJson = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Turn a training checkpoint into a model bundle: weights, ONNX, config, card.

    Example: loev export runs/mine/checkpoints/last.pt --out models/mine
    """
    if (license_id or private) and push is None:
        name_of = "--license" if license_id else "--private"
        raise UsageError(f"{name_of} needs --push", hint="name the repository with --push")
    to = _address(push)
    if out is None:
        if to is None or annotate or from_mulooc or Path(checkpoint).is_file():
            raise UsageError("missing option: --out", hint="the folder of the new bundle")
        _push(bundles.find(checkpoint), to, license_id, private, quiet)
        return

    def pushed() -> None:
        if to is not None:
            _push(bundles.load(out), to, license_id, private, quiet)

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
        if debug:
            log_to_stderr()
        code = _export_annotated(
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
            quiet=quiet,
        )
        pushed()
        raise typer.Exit(code)
    if from_mulooc:
        _export_mulooc(Path(checkpoint), out, name or out.name, augs, overwrite, quiet)
        pushed()
        return
    if augs is not None:
        raise UsageError(
            "--augs needs --from-mulooc", hint="a run's checkpoint states its augmentations"
        )
    if debug:
        log_to_stderr()
    export_trained(Path(checkpoint), out, name=name, overwrite=overwrite, quiet=quiet)
    pushed()


def _address(push: str | None) -> Address | None:
    """Where to push to, before anything is done. Raises UsageError where it is no address."""
    from loev_cli.storage.hub import parse_address

    return None if push is None else parse_address(push)


def _push(bundle: Bundle, to: Address, license_id: str | None, private: bool, quiet: bool) -> None:
    address = bundles.push(bundle, to, license_id=license_id, private=private)
    if not quiet:
        say(f"{bundle.name} -> {address}")
        _say_next(to)


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
        from loev_cli.train.metrics import model_card

    check_out(out, overwrite=overwrite, inputs=[checkpoint])
    trained = pipeline.read_checkpoint(checkpoint)
    model_name = name or out.name
    if not quiet:
        say("exporting to ONNX ...")
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
        _say_next(bundle.path)
    return bundle


def _say_next(model: object) -> None:
    say(f"embed with it: loev embed FOLDER --model {model} --out emb.npz")


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


def _export_annotated(
    source: str,
    out: Path,
    *,
    name: str,
    manifests: Sequence[Path],
    embeddings: Sequence[Path],
    adapt: bool,
    keep: Sequence[Path],
    strengths: Mapping[str, float],
    overwrite: bool,
    command: Sequence[str],
    quiet: bool,
) -> int:
    """Fit, and write the bundle ``out``; the exit code.

    Args:
        adapt: start from the readouts that the model has.
        keep: manifests of tracks whose answers are to stay as they are.
        strengths: readout -> penalty on its change, instead of the one that is chosen.
        source: a checkpoint, or a bundle as `--model` takes it.
        command: how we were called, for the record.
    """
    with needs_extra("loev export", "train"):
        from loev_cli.export import add_readouts, check_out
    with needs_extra("loev export --annotate", "eval"):
        import numpy as np

        from loev_cli.evaluate.adaptation import adapt_readouts, priors_of
        from loev_cli.evaluate.manifest import read_manifests
        from loev_cli.evaluate.readouts import card_with_readouts, fit_readouts, vectors_for

    check_out(out, overwrite=overwrite, inputs=[source, *manifests, *keep, *embeddings])
    manifest = read_manifests(manifests)
    to_keep = read_manifests(keep) if keep else None
    n_failed = 0

    def on_track(row: int, error: InputError | None) -> None:
        nonlocal n_failed
        if error is not None:
            n_failed += 1
            say(f"loev: skipped: {error.message}")

    def on_fitted(fitted: FittedReadout) -> None:
        if quiet:
            return
        scores = ", ".join(
            f"{metric} {e.value:.3f} [{e.low:.2f}, {e.high:.2f}]"
            for metric, e in fitted.scores.items()
        )
        kind = "weights tied across the 12 transpositions" if fitted.tied else "linear"
        say(
            f"{fitted.name} from {fitted.readout.subspace} ({kind}), "
            f"{plural(fitted.n_tracks['test'], 'test track')}: {scores}, "
            f"calibration error {fitted.curve.ece:.3f}"
        )

    with _bundle_of(source, name) as bundle:
        priors = priors_of(bundle) if adapt else {}
        if not quiet and not embeddings:
            say(f"embedding {plural(len(manifest), 'track')} ...")
        usable, vectors = vectors_for(bundle, manifest, embeddings, on_track=on_track)
        if adapt:
            kept = None
            if to_keep is not None:
                _, kept = vectors_for(bundle, to_keep, embeddings, on_track=on_track)
            fitted = adapt_readouts(
                usable,
                vectors,
                priors,
                sources=np.array([place.rpartition(" line ")[0] for place in usable.places]),
                keep=kept,
                strengths=strengths,
                on_fitted=on_fitted,
            )
            _check_all_adapted(fitted, priors)
        else:
            fitted = fit_readouts(usable, vectors, on_fitted=on_fitted)
        data = f"`{'`, `'.join(f'{path.parent.name}/{path.name}' for path in manifests)}`"
        card = bundle.path / bundles.CARD_FILE
        text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
        annotated = add_readouts(
            bundle,
            {each.name: (each.readout, each.weight, each.bias) for each in fitted},
            out,
            name=name,
            fitted={
                "command": shlex.join(["loev", *command]),
                **{each.name: each.facts() for each in fitted},
            },
            card=card_with_readouts(text, fitted, data=data, adapted=adapt),
            overwrite=overwrite,
        )
    if not quiet:
        say(f"{name}: annotates {', '.join(each.name for each in fitted)} -> {annotated.path}")
    return EXIT_SOME_FAILED if n_failed else EXIT_DONE


def _check_all_adapted(fitted: Sequence[FittedReadout], priors: Mapping[str, Prior]) -> None:
    """Check that no readout of the model would be lost.

    Raises:
        UsageError: the manifests have no labels for one.
    """
    lost = [name for name in priors if name not in {each.name for each in fitted}]
    if lost:
        raise UsageError(
            f"the manifests have no column '{lost[0]}' to adapt that readout of the model to",
            hint="add the column, or leave --adapt out to fit the others alone",
        )


@contextlib.contextmanager
def _bundle_of(source: str, name: str) -> Iterator[Bundle]:
    """The bundle that is meant; one of a checkpoint lasts as long as the context."""
    if not Path(source).is_file():
        yield bundles.find(source)
        return
    with tempfile.TemporaryDirectory(prefix="loev-") as folder:
        yield export_trained(Path(source), Path(folder) / name, quiet=True)
