"""An evaluation request: checked before any work, then run; and its results."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from loev_cli import __version__
from loev_cli import bundle as bundles
from loev_cli.api import Model
from loev_cli.backends import open_encoder
from loev_cli.backends.machine import usable_cpus
from loev_cli.errors import InputError, UsageError, known_names
from loev_cli.evaluate import equivariance, figures, geometry, probes, retrieval
from loev_cli.evaluate.equivariance import Changed, Response
from loev_cli.evaluate.geometry import Leak, Shape
from loev_cli.evaluate.manifest import Column, Manifest, Splits, check_files, read_manifests, split
from loev_cli.evaluate.probes import ProbeResult
from loev_cli.evaluate.retrieval import RetrievalResult
from loev_cli.evaluate.statistics import record
from loev_cli.evaluate.vectors import (
    Vectors,
    embed_manifest,
    read_embeddings,
    with_concatenation,
)
from loev_cli.formats import is_made_by, not_made_by, read_meta

PARTS = ("probes", "equivariance", "retrieval", "geometry")
DEFAULT_N_CHANGED = 16
FORMAT_VERSION = 1
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


@dataclass
class Results:
    """Data, settings and results; parts that were not requested are empty.

    Attributes:
        command: the command line to reproduce it.
        created: UTC, ISO 8601.
        settings: other settings that affect the results.
        skipped: files that failed, one line each.
        notes: remarks on the data.
        map_method: one of ``figures.MAP_METHODS``.
    """

    command: str
    created: str
    manifest: Manifest
    columns: Sequence[Column]
    splits: Splits
    vectors: Vectors
    settings: dict[str, Any]
    skipped: Sequence[str]
    notes: Sequence[str]
    map_method: str
    probes: Sequence[ProbeResult] = ()
    heard: Changed | None = None
    responses: Sequence[Response] = ()
    retrieval: list[RetrievalResult] = field(default_factory=list)
    shapes: Sequence[Shape] = ()
    leaks: Sequence[Leak] = ()

    @property
    def n_groups(self) -> int:
        return len(np.unique(self.manifest.groups))

    def as_dict(self) -> dict[str, Any]:
        """For ``results.json``; undefined values are null."""
        heard = self.heard
        document = {
            "format_version": FORMAT_VERSION,
            "command": self.command,
            "created": self.created,
            "loev_version": __version__,
            "model": self.vectors.model,
            "data": {
                "n_tracks": len(self.manifest),
                "n_groups": self.n_groups,
                "n_judged": len(self.splits.judged),
                "split": self.splits.description,
                "labels": {
                    column.name: {
                        "kind": column.kind,
                        "n_known": int(column.known.sum()),
                        "classes": list(column.classes),
                    }
                    for column in self.columns
                },
            },
            "settings": self.settings,
            "interval": "95 %, over groups of tracks",
            "skipped": list(self.skipped),
            "notes": list(self.notes),
            "probes": [each for probe in self.probes for each in probe.records()],
            "equivariance": {
                "stretcher": heard.stretcher if heard else None,
                "tracks": [self.manifest.paths[i] for i in heard.rows] if heard else [],
                "responses": [r.record(heard.units[r.change]) for r in self.responses]
                if heard
                else [],
            },
            "retrieval": [each for result in self.retrieval for each in result.records()],
            "geometry": {
                "subspaces": [record(shape) for shape in self.shapes],
                "between": [record(leak) for leak in self.leaks],
            },
        }
        return dict(plain(document))


def plain(value: Any) -> Any:
    """JSON-compatible: NumPy scalars as Python numbers, NaN and infinity as null."""
    if isinstance(value, dict):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def evaluate(request: Request, *, on_event: Callable[[Event], None] = lambda e: None) -> Results:
    """Run the request.

    Raises:
        UsageError, BundleError: the request or its data are invalid.
    """
    check_names("part", request.parts, PARTS)
    check_names("probe", request.probes, probes.PROBES)
    check_names("map", [request.map_method], figures.MAP_METHODS)
    manifest = read_manifests(request.data)
    columns, notes = manifest.columns(request.labels, needed="probes" in request.parts)
    folds = split(manifest, n_folds=request.n_folds, seed=request.seed).folds
    if "probes" in request.parts:
        for column in columns:
            probes.check_folds(column, folds)
    stretcher = (
        equivariance.open_stretcher(request.stretcher) if "equivariance" in request.parts else None
    )
    model = _open_model(request)
    if model is not None:
        check_files(manifest)
    skipped: list[str] = []

    def tell(event: Event) -> None:
        if isinstance(event, Skipped):
            skipped.append(event.message)
        on_event(event)

    if request.embeddings:
        vectors = read_embeddings(manifest, request.embeddings)
    else:
        assert model is not None
        vectors, rows = embed_manifest(
            manifest, model, on_track=track_events("embedding", len(manifest), tell)
        )
        manifest = manifest.select(rows.tolist())
    columns = [manifest.column(column.name, column.kind) for column in columns]
    splits = split(manifest, n_folds=request.n_folds, seed=request.seed)
    notes += splits.notes
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
        notes=notes,
        map_method=request.map_method,
    )
    together = with_concatenation(vectors.subspaces)
    if "probes" in request.parts:
        n_probes = len(together) * len(columns) * len(request.probes)
        results.probes = probes.probe_all(
            together,
            columns,
            splits.folds,
            manifest.groups,
            probes=request.probes,
            seed=request.seed,
            n_parallel=usable_cpus(),
            on_done=lambda done: tell(Stage("probes", done, n_probes)),
        )
    if stretcher is not None and model is None:
        notes.append("equivariance skipped: pass --model together with --embeddings")
    elif stretcher is not None and model is not None:
        rows = spread(splits, manifest, request.n_changed, request.seed)
        (heard,) = equivariance.embed_changes(
            [manifest.files[i] for i in rows],
            rows,
            manifest.groups[rows],
            [model],
            equivariance.changes(stretcher),
            stretcher.name,
            seed=request.seed,
            on_track=track_events("changes", len(rows), tell),
        )
        results.heard = heard
        results.responses = equivariance.respond(heard, seed=request.seed)
    compared = splits.judged
    if len(compared) > _MOST_COMPARED:
        drawn = np.random.default_rng(request.seed).permutation(compared)[:_MOST_COMPARED]
        compared = np.sort(drawn)
        notes.append(f"retrieval and geometry use {_MOST_COMPARED} randomly drawn tracks")
    if "retrieval" in request.parts:
        tell(Stage("retrieval", 0, 1))
        results.retrieval = retrieval.by_label(
            together, columns, compared, manifest.groups, seed=request.seed
        )
        if results.heard is not None:
            results.retrieval += retrieval.under_change(
                vectors.subspaces, results.heard, seed=request.seed
            )
        tell(Stage("retrieval", 1, 1))
    if "geometry" in request.parts:
        tell(Stage("geometry", 0, 1))
        results.shapes = geometry.shapes(vectors, compared, manifest.groups, seed=request.seed)
        results.leaks = geometry.leaks(
            vectors.subspaces, splits.folds, compared, manifest.groups, seed=request.seed
        )
        tell(Stage("geometry", 1, 1))
    return results


def check_names(what: str, names: Sequence[str], known: Sequence[str]) -> None:
    """Raises UsageError for a name that is not among ``known``."""
    for name in names:
        if name not in known:
            raise UsageError(f"unknown {what} '{name}'", hint=known_names(name, known, f"{what}s:"))


def track_events(
    stage: str, n: int, tell: Callable[[Event], None]
) -> Callable[[int, InputError | None], None]:
    """A callback for each of ``n`` tracks: its index, and the error if it cannot be used."""

    def on_track(i: int, error: InputError | None) -> None:
        if error is not None:
            tell(Skipped(error.message))
        tell(Stage(stage, i + 1, n))

    return on_track


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
            hint = "omit --model, or pass the model that made them"
            raise not_made_by(bundle, meta, "the embeddings were", hint=hint)
    encoder = open_encoder(
        bundle,
        backend=request.backend,
        device=request.device,
        precision=request.precision,
        subspaces=subspaces,
    )
    return Model(encoder)


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
