"""``loev export --annotate``: a model with readouts of key and tempo."""

from __future__ import annotations

import contextlib
import shlex
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from loev_cli import bundle as bundles
from loev_cli.bundle import CARD_FILE, Bundle
from loev_cli.cli._console import plural, say
from loev_cli.errors import EXIT_DONE, EXIT_SOME_FAILED, InputError, UsageError, needs_extra

with needs_extra("loev export", "train"):
    from loev_cli import export
with needs_extra("loev export --annotate", "eval"):
    from loev_cli.evaluate.adaptation import Prior, adapt_readouts, priors_of
    from loev_cli.evaluate.manifest import Manifest, read_manifests
    from loev_cli.evaluate.readout_card import card_with_readouts
    from loev_cli.evaluate.readouts import FittedReadout, fit_readouts, vectors_for


def fit_and_write(
    source: Path,
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
    export_checkpoint: Callable[[Path, Path], Bundle],
    quiet: bool,
) -> int:
    """Fit, and write the bundle ``out``; the exit code.

    Args:
        adapt: start from the readouts that the model has.
        keep: manifests of tracks whose answers are to stay as they are.
        strengths: readout -> penalty on its change, instead of the one that is chosen.
        source: a bundle's folder, a shipped model's name, or a checkpoint.
        export_checkpoint: checkpoint and folder -> bundle.
        command: how we were called, for the record.
    """
    export.check_out(out, overwrite=overwrite, inputs=[source, *manifests, *keep, *embeddings])
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

    with _bundle_of(source, name, export_checkpoint) as bundle:
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
                sources=_sources(usable),
                keep=kept,
                strengths=strengths,
                on_fitted=on_fitted,
            )
            _check_all_adapted(fitted, priors)
        else:
            fitted = fit_readouts(usable, vectors, on_fitted=on_fitted)
        data = f"`{'`, `'.join(f'{path.parent.name}/{path.name}' for path in manifests)}`"
        card = bundle.path / CARD_FILE
        text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
        annotated = export.add_readouts(
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


def _sources(manifest: Manifest) -> NDArray[np.str_]:
    """(N,), the manifest that each track is listed in."""
    return np.array([place.rpartition(" line ")[0] for place in manifest.places])


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
def _bundle_of(
    source: Path, name: str, export_checkpoint: Callable[[Path, Path], Bundle]
) -> Iterator[Bundle]:
    """The bundle that is meant; one of a checkpoint lasts as long as the context."""
    if not source.is_file():
        try:
            found = bundles.find(str(source))
        except UsageError as error:
            raise UsageError(
                f"{source} is not a checkpoint, bundle folder or shipped model", hint=error.hint
            ) from error
        yield found
        return
    with tempfile.TemporaryDirectory(prefix="loev-") as folder:
        yield export_checkpoint(source, Path(folder) / name)
