"""An evaluation request: checked before any work, then run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from loev_cli import bundle as bundles
from loev_cli.api import Model
from loev_cli.backends import open_encoder
from loev_cli.errors import InputError, UsageError, did_you_mean
from loev_cli.evaluate import changes, equivariance, geometry, maps, probes, retrieval
from loev_cli.evaluate.manifest import Manifest, check_files, read_manifests
from loev_cli.evaluate.results import Results
from loev_cli.evaluate.splits import Splits, split
from loev_cli.evaluate.vectors import (
    Vectors,
    embed_manifest,
    read_embeddings,
    with_concatenation,
)
from loev_cli.writers import is_made_by, read_meta

PARTS = ("probes", "equivariance", "retrieval", "geometry")
DEFAULT_N_CHANGED = 16
# Comparing all pairs of tracks takes quadratic time.
_MOST_COMPARED = 3000


@dataclass(frozen=True)
class Request:
    """What to evaluate, and on which data; the options of ``loev evaluate``.

    Attributes:
        data: manifests, concatenated.
        model: a bundle; with ``embeddings`` it only embeds transformed audio. None: the shipped
            one, or, with ``embeddings``, none.
        embeddings: files with the vectors of the manifest's tracks.
        labels: ``column`` or ``column:kind``; empty means all usable columns.
        parts: some of ``PARTS``.
        n_changed: number of tracks to transform in pitch, tempo, level and noise.
        n_folds: None: the manifest's split, or 5.
        command: the command line, for the report.
    """

    data: Sequence[Path]
    model: str | None = None
    embeddings: Sequence[Path] = ()
    labels: Sequence[str] = ()
    parts: Sequence[str] = PARTS
    probes: Sequence[str] = probes.PROBES
    n_changed: int = DEFAULT_N_CHANGED
    n_folds: int | None = None
    stretcher: str = "auto"
    map_method: str = "pca"
    seed: int = 0
    device: str = "auto"
    backend: str = "auto"
    precision: str = "auto"
    command: str = ""


@dataclass(frozen=True)
class Stage:
    """``done`` of ``total`` steps of a stage of the work."""

    name: str
    done: int
    total: int


@dataclass(frozen=True)
class Skipped:
    """A file that could not be used."""

    message: str


Event = Stage | Skipped


def evaluate(request: Request, *, on_event: Callable[[Event], None] = lambda e: None) -> Results:
    """Run the request.

    Raises:
        UsageError, BundleError: the request or its data are invalid.
    """
    check_names("part", request.parts, PARTS)
    check_names("probe", request.probes, probes.PROBES)
    check_names("map", [request.map_method], maps.METHODS)
    manifest = read_manifests(request.data)
    columns, notes = manifest.columns(request.labels, needed="probes" in request.parts)
    check_folds = split(manifest, n_folds=request.n_folds, seed=request.seed).folds
    if "probes" in request.parts:
        for column in columns:
            probes.check_folds(column, check_folds)
    stretcher = (
        changes.open_stretcher(request.stretcher) if "equivariance" in request.parts else None
    )
    model = _open_model(request)
    if model is not None:
        check_files(manifest)

    skipped: list[str] = []

    def skip(message: str) -> None:
        skipped.append(message)
        on_event(Skipped(message))

    manifest, vectors = _vectors(request, manifest, model, skip, on_event)
    columns = [manifest.column(column.name, column.kind) for column in columns]
    splits = split(manifest, n_folds=request.n_folds, seed=request.seed)
    together = with_concatenation(vectors.subspaces)
    results = Results(
        command=request.command,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        manifest=manifest,
        columns=columns,
        splits=splits,
        vectors=vectors,
        settings={
            "seed": request.seed,
            "probes": list(request.probes),
            "n_folds": len(splits.folds),
        },
        skipped=skipped,
        notes=[*notes, *splits.notes],
        map_method=request.map_method,
        maps={
            name: maps.flatten(x[splits.judged], request.map_method, seed=request.seed)
            for name, x in vectors.subspaces.items()
        },
    )
    if "probes" in request.parts:
        results = replace(results, probes=_probe(request, results, on_event))
    if stretcher is not None and model is None:
        reason = "equivariance skipped: pass --model together with --embeddings"
        results = replace(results, notes=[*results.notes, reason])
    elif stretcher is not None and model is not None:
        results = _embed_changes(request, results, model, stretcher, skip, on_event)
    compared = splits.judged
    if len(compared) > _MOST_COMPARED:
        drawn = np.random.default_rng(request.seed).permutation(compared)[:_MOST_COMPARED]
        compared = np.sort(drawn)
        note = f"retrieval and geometry use {_MOST_COMPARED} randomly drawn tracks"
        results = replace(results, notes=[*results.notes, note])
    if "retrieval" in request.parts:
        on_event(Stage("retrieval", 0, 1))
        found = retrieval.by_label(together, columns, compared, manifest.groups, seed=request.seed)
        if results.heard is not None:
            found += retrieval.under_change(vectors.subspaces, results.heard, seed=request.seed)
        results = replace(results, retrieval=found)
        on_event(Stage("retrieval", 1, 1))
    if "geometry" in request.parts:
        on_event(Stage("geometry", 0, 1))
        results = replace(
            results,
            shapes=geometry.shapes(vectors, compared, manifest.groups, seed=request.seed),
            leaks=geometry.leaks(
                vectors.subspaces, splits.folds, compared, manifest.groups, seed=request.seed
            ),
        )
        on_event(Stage("geometry", 1, 1))
    return results


def check_names(what: str, names: Sequence[str], known: Sequence[str]) -> None:
    for name in names:
        if name not in known:
            raise UsageError(
                f"unknown {what} '{name}'", hint=f"{did_you_mean(name, known)}{', '.join(known)}"
            )


def _open_model(request: Request) -> Model | None:
    """The model, if any; checked against the embeddings if there are any."""
    if request.embeddings and request.model is None:
        return None
    bundle = bundles.find(request.model or bundles.DEFAULT_MODEL)
    subspaces = None
    if request.embeddings:
        meta = read_meta(request.embeddings[0])
        subspaces = list(meta["subspaces"])
        if not is_made_by(meta, bundle):
            raise UsageError(
                f"the embeddings were made by {meta['model']} ({meta['model_sha256'][:12]}), "
                f"not by {bundle.name} ({bundle.sha256[:12]})",
                hint="omit --model, or pass the model that made them",
            )
    encoder = open_encoder(
        bundle,
        backend=request.backend,
        device=request.device,
        precision=request.precision,
        subspaces=subspaces,
    )
    return Model(encoder)


def _vectors(
    request: Request,
    manifest: Manifest,
    model: Model | None,
    skip: Callable[[str], None],
    on_event: Callable[[Event], None],
) -> tuple[Manifest, Vectors]:
    """The vectors, and the manifest without the tracks that could not be embedded."""
    if request.embeddings:
        return manifest, read_embeddings(manifest, request.embeddings)
    if model is None:
        raise UsageError("no model or embeddings given", hint="pass --model or --embeddings")
    n = len(manifest)

    def on_track(row: int, error: InputError | None) -> None:
        if error is not None:
            skip(error.message)
        on_event(Stage("embedding", row + 1, n))

    vectors, rows = embed_manifest(manifest, model, on_track=on_track)
    return manifest.select(rows.tolist()), vectors


def _probe(
    request: Request, results: Results, on_event: Callable[[Event], None]
) -> list[probes.ProbeResult]:
    together = with_concatenation(results.vectors.subspaces)
    n = len(together) * len(results.columns) * len(request.probes)
    done = 0

    def on_done(result: probes.ProbeResult) -> None:
        nonlocal done
        done += 1
        on_event(Stage("probes", done, n))

    return probes.probe_all(
        together,
        results.columns,
        results.splits.folds,
        results.manifest.groups,
        probes=request.probes,
        seed=request.seed,
        on_done=on_done,
    )


def _embed_changes(
    request: Request,
    results: Results,
    model: Model,
    stretcher: changes.Stretcher,
    skip: Callable[[str], None],
    on_event: Callable[[Event], None],
) -> Results:
    """Results with the responses to transformations of some test tracks, spread over groups."""
    rows = spread(results.splits, results.manifest, request.n_changed, request.seed)
    n = len(rows)

    def on_track(i: int, error: InputError | None) -> None:
        if error is not None:
            skip(error.message)
        on_event(Stage("changes", i + 1, n))

    heard = equivariance.embed_changes(
        [results.manifest.files[i] for i in rows],
        rows,
        results.manifest.groups[rows],
        model,
        changes.changes(stretcher),
        stretcher.name,
        seed=request.seed,
        on_track=on_track,
    )
    return replace(results, heard=heard, responses=equivariance.respond(heard, seed=request.seed))


def spread(splits: Splits, manifest: Manifest, n: int, seed: int) -> np.ndarray:
    """``n`` of the test rows, drawn so that every group is used once before any is used twice."""
    judged = np.random.default_rng(seed).permutation(splits.judged)
    seen: dict[str, int] = {}
    turn = np.zeros(len(judged), np.int64)
    for place, row in enumerate(judged.tolist()):
        group = str(manifest.groups[row])
        turn[place] = seen.get(group, 0)
        seen[group] = turn[place] + 1
    return np.sort(judged[np.argsort(turn, kind="stable")][:n])
