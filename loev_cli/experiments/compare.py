"""Methods trained alike and judged alike: a request checked before any work, and carried out.

Whatever is finished stays in the folder of the comparison (runs, embeddings, changed excerpts), and
the same request goes on from there.

OUT/pretraining.csv     what models are pretrained on: path (absolute) and group of a manifest's
                        train rows, without their labels; with variants also their columns
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from loev_cli import bundle as bundles
from loev_cli.backends.machine import usable_cpus
from loev_cli.errors import OutputError, UsageError
from loev_cli.evaluate import equivariance, probes
from loev_cli.evaluate.job import DEFAULT_N_CHANGED, Stage, check_names, spread
from loev_cli.evaluate.job import Event as JudgingEvent
from loev_cli.evaluate.manifest import Column, Manifest, check_files, read_manifests, split
from loev_cli.evaluate.vectors import Vectors
from loev_cli.experiments.foreign import read_foreign
from loev_cli.experiments.judging import Encoding, Judged, embed_all, embed_changes, read_all
from loev_cli.experiments.protocol import compare_under_change
from loev_cli.experiments.runs import Run, RunEvent, check_runs, steps_within, train_runs
from loev_cli.experiments.scoring import (
    CHOSEN,
    Comparison,
    Contestant,
    compare_changed,
    compare_labels,
    compare_search,
    corrected,
    describe_geometry,
)
from loev_cli.manifest import TRACK
from loev_cli.model import METHODS
from loev_cli.storage.atomic import write_own
from loev_cli.train.config import TrainConfig
from loev_cli.train.views import usual_n_views

UNTRAINED = "untrained"
KNOWN_METHODS = (*METHODS, UNTRAINED)
_STANDARDIZATION_STEPS = 20  # enough batches for the mean and scale of untrained subspaces
_LR_OF_UNTRAINED = 1e-12  # all steps together move a weight by some 1e-11
RUNS = "runs"
PRETRAINING_FILE = "pretraining.csv"
Event = JudgingEvent | RunEvent


@dataclass(frozen=True)
class Request:
    """What to compare, on what; the options of ``loev compare``.

    Attributes:
        data: manifests, taken as one.
        out: folder of runs and report.
        config: what all methods share; its data, method and seed are set here.
        minutes: of training for all runs together, instead of ``config.steps``.
        against: files with vectors of other tools.
        n_parallel: runs, and probes, side by side; None: one per core on a CPU, else one.
        command: the command line, for the report.
    """

    data: Sequence[Path]
    out: Path
    config: TrainConfig
    methods: Sequence[str] = METHODS
    n_seeds: int = 3
    minutes: float | None = None
    against: Sequence[Path] = ()
    labels: Sequence[str] = ()
    probes: Sequence[str] = ("linear",)
    n_changed: int = DEFAULT_N_CHANGED
    n_folds: int | None = None
    stretcher: str = "auto"
    seed: int = 0
    n_parallel: int | None = None
    device: str = "auto"
    backend: str = "auto"
    precision: str = "auto"
    cache: Path | None = None
    overwrite: bool = False
    command: str = ""


def compare(request: Request, *, on_event: Callable[[Event], None] = lambda e: None) -> Comparison:
    """Carry the request out.

    Raises:
        UsageError: the request cannot be carried out, or its data not be used.
        OutputError: ``out`` cannot be written.
        LoevError: a run failed; the others are kept.
    """
    request, notes = _without_twins(request)
    checked = _check(request)
    checked.notes.extend(notes)
    if UNTRAINED in request.methods:
        checked.notes.append(f"{UNTRAINED} is loev++ as initialized, whatever the steps")
    n_parallel = request.n_parallel or (usable_cpus() if _is_cpu(request.device) else 1)
    pretraining = write_pretraining(
        checked.tracks, request.out, variants=request.config.variants, overwrite=request.overwrite
    )
    base = replace(
        request.config, data=str(pretraining), val_fraction=0.0, steps=request.config.steps or 1
    )
    trained = [m for m in request.methods if m != UNTRAINED]
    if request.minutes is not None and trained:
        trial = [Run(m, config_of(base, m, 0)) for m in trained]
        steps = steps_within(
            request.minutes, trial, request.n_seeds, request.out, n_parallel=n_parallel,
            device=request.device, cache=request.cache, on_event=on_event,
        )  # fmt: skip
        base = replace(base, steps=steps)
    runs = plan_runs(base, request.methods, request.n_seeds)
    models = train_runs(
        runs, request.out / RUNS, n_parallel=n_parallel, device=request.device,
        cache=request.cache, overwrite=request.overwrite, on_event=on_event,
    )  # fmt: skip
    return _judge(request, checked, models, base, n_parallel, on_event)


def _without_twins(request: Request) -> tuple[Request, list[str]]:
    """LOOC has LOEV's positives in either view scheme, and would be bit-identical to LOEV.

    Where LOEV has the `independent` scheme, LOOC is trained in its own (:func:`config_of`).
    """
    methods = list(request.methods)
    if "looc" in methods and request.config.view_scheme != "shared":
        n_views = usual_n_views("shared", request.config.augs)
        return request, [
            f"looc is trained in its own view scheme, 'shared', with {n_views} views of a track: "
            "of independent views it has the same positives as loev"
        ]
    if not {"loev", "looc"} <= set(methods):
        return request, []
    methods.remove("looc")
    note = (
        "looc is left out: in the view scheme 'shared' it has the same positives as loev, so its "
        "runs would be identical; with --set view_scheme=independent loev has the paper's views"
    )
    return replace(request, methods=methods), [note]


def plan_runs(base: TrainConfig, methods: Sequence[str], n_seeds: int) -> list[Run]:
    """Every method with every seed, the seeds outermost: an unfinished comparison is a fair one."""
    return [
        Run(run_name(method, seed), config_of(base, method, seed))
        for seed in range(n_seeds)
        for method in methods
    ]


def config_of(base: TrainConfig, method: str, seed: int) -> TrainConfig:
    """What a run of a method is trained with.

    LOOC learns a head from views that share that head's augmentation (Xiao et al. 2021): always
    the view scheme `shared`. Two independent draws are equal only where neither is applied.
    ``untrained`` is LOEV++ as it is initialized, what frontend and architecture give alone.
    """
    if method == UNTRAINED:
        steps = _STANDARDIZATION_STEPS
        return replace(base, method="loev++", seed=seed, steps=steps, lr=_LR_OF_UNTRAINED)
    config = replace(base, method=method, seed=seed)  # type: ignore[arg-type]
    if method == "looc" and base.view_scheme != "shared":
        config = replace(config, view_scheme="shared", n_views=None)
    return config


def run_name(method: str, seed: int) -> str:
    """Of the folder of a run."""
    return f"{method}-seed{seed}"


@dataclass(frozen=True)
class _Checked:
    manifest: Manifest
    columns: list[Column]
    notes: list[str]  # on the data
    stretcher: equivariance.Stretcher
    foreign: dict[str, Vectors]
    tracks: list[tuple[str, ...]]


def _check(request: Request) -> _Checked:
    """Everything that can be known before hours of training."""
    check_names("method", request.methods, KNOWN_METHODS)
    check_names("probe", request.probes, probes.PROBES)
    for what, names in (("method", request.methods), ("probe", request.probes)):
        if len(set(names)) < len(names) or not names:
            raise UsageError(f"--{what}s is empty or has duplicates: {', '.join(names)}")
    if len(request.methods) + len(request.against) < 2:
        raise UsageError("need at least two methods", hint="two --methods, or --against")
    if request.config.steps is None and request.minutes is None:
        raise UsageError("missing option: --steps or --minutes")
    manifest = read_manifests(request.data)
    if request.config.variants:  # else takes of one work are on both sides of a fold
        manifest = manifest.grouped_by(TRACK)
    columns, notes = manifest.columns(request.labels)
    folds = split(manifest, n_folds=request.n_folds, seed=request.seed).folds
    for column in columns:
        probes.check_folds(column, folds)
    check_files(manifest)
    stretcher = equivariance.open_stretcher(request.stretcher)
    foreign: dict[str, Vectors] = {}
    for file in request.against:
        if file.stem in foreign or file.stem in KNOWN_METHODS:
            raise UsageError(
                f"--against {file}: duplicate name '{file.stem}'", hint="rename the file"
            )
        foreign[file.stem] = read_foreign(manifest, file)
    tracks, sees_all = pretraining_rows(manifest, request.config.variants)
    if sees_all:
        notes = [*notes, "the evaluation tracks were part of (unlabeled) pretraining: "
                 "no row of the manifest has split 'train'"]  # fmt: skip
    trial = replace(request.config, data=str(request.data[0]), steps=request.config.steps or 1)
    works = {row[2] or row[0] for row in tracks} if trial.variants else tracks
    if len(works) < trial.batch_size:
        raise UsageError(
            f"{len(works)} tracks to train on are fewer than the batch of {trial.batch_size}",
            hint="use a smaller --batch-size, or add music",
        )
    check_runs(plan_runs(trial, request.methods, 1), device=request.device)
    return _Checked(manifest, columns, notes, stretcher, foreign, tracks)


def _is_cpu(device: str) -> bool:
    from loev_cli.train.pipeline import pick_device

    return pick_device(device).type == "cpu"


def _judge(
    request: Request,
    checked: _Checked,
    models: dict[str, Path],
    base: TrainConfig,
    n_parallel: int,
    on_event: Callable[[Event], None],
) -> Comparison:
    skipped: list[str] = []

    def tell(event: JudgingEvent) -> None:
        if not isinstance(event, Stage):
            skipped.append(event.message)
        on_event(event)

    how = Encoding(request.device, request.backend, request.precision)
    manifest, vectors = embed_all(checked.manifest, models, request.out, how, tell)
    vectors |= {file.stem: read_foreign(manifest, file) for file in request.against}
    columns = [manifest.column(column.name, column.kind) for column in checked.columns]
    splits = split(manifest, n_folds=request.n_folds, seed=request.seed)
    rows = spread(splits, manifest, request.n_changed, request.seed)
    heard = embed_changes(
        manifest, rows, models, request.out, checked.stretcher, how,
        seed=request.seed, on_event=tell,
    )  # fmt: skip
    readings = read_all(
        vectors, columns, splits.folds, request.probes, request.out,
        n_parallel=n_parallel, seed=request.seed, on_event=tell,
    )  # fmt: skip

    def judged(name: str, seed: int | None) -> Judged:
        return Judged(name, seed, vectors[name], readings[name], heard.get(name))

    seeds = range(request.n_seeds)
    contestants = [
        Contestant(m, True, [judged(run_name(m, s), s) for s in seeds]) for m in request.methods
    ]
    contestants += [Contestant(name, False, [judged(name, None)]) for name in checked.foreign]
    tell(Stage("statistics", 0, 3))
    chance = {"n_seeds": request.n_seeds, "seed": request.seed}
    entries, differences = compare_labels(
        contestants, columns, manifest.groups, request.probes, **chance
    )
    tell(Stage("statistics", 1, 3))
    chosen = {
        (e.question, e.contestant): e.subspace.partition(" in ")[0]
        for e in entries
        if e.rule == CHOSEN and e.probe == request.probes[0]
    }
    entries += compare_search(
        contestants, columns, chosen, splits.judged, manifest.groups, **chance
    )
    tell(Stage("statistics", 2, 3))
    found, more, sensitivity = compare_changed(contestants, **chance)
    under_change = compare_under_change(
        contestants, columns, chosen, request.out, n_parallel=n_parallel, on_event=tell, **chance
    )
    comparison = Comparison(
        command=request.command,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        manifest=manifest,
        columns=columns,
        splits=splits,
        contestants=contestants,
        settings={
            "seed": request.seed,
            "n_seeds": request.n_seeds,
            "probes": list(request.probes),
            "n_changed": len(rows),
            "stretcher": checked.stretcher.name,
        },
        training=_training(base, models, request),
        skipped=skipped,
        notes=[*checked.notes, *splits.notes],
        entries=entries + found,
        differences=corrected(differences + more),
        sensitivity=sensitivity,
        under_change=under_change,
        geometry=describe_geometry(contestants, splits.judged),
    )
    tell(Stage("statistics", 3, 3))
    return comparison


def _training(base: TrainConfig, models: dict[str, Path], request: Request) -> dict[str, Any]:
    """What all runs share, and what each took."""
    trained = {name: bundles.load(bundle).config for name, bundle in models.items()}
    first = next(iter(trained.values()))["training"]
    return {
        "steps": base.steps,
        "batch_size": base.batch_size,
        "n_tracks": first["n_tracks"],
        "encoder": base.encoder,
        "augs": list(base.augs),
        "view_scheme": base.view_scheme,
        "seeds": list(range(request.n_seeds)),
        "hardware": first["hardware"],
        "methods": {
            method: {
                "minutes": [trained[run_name(method, s)]["training"]["minutes"]
                            for s in range(request.n_seeds)],
                "weights_mb": round(
                    trained[run_name(method, 0)]["files"][bundles.WEIGHTS_FILE]["n_bytes"] / 1e6, 1
                ),
            }
            for method in request.methods
        },
    }  # fmt: skip


def pretraining_rows(
    manifest: Manifest, variants: Sequence[str] = ()
) -> tuple[list[tuple[str, ...]], bool]:
    """(path, group) of the tracks to train on, and whether some are judged later.

    Rows with split ``train``; all of them where no row has it.

    Args:
        variants: columns that a row has besides, with the work before them.

    Raises:
        UsageError: no such column.
    """
    chosen = [i for i, split in enumerate(manifest.splits) if split == "train"]
    everything = not chosen
    columns = _columns_of(variants)
    for name in columns:
        if name not in manifest.cells:
            raise UsageError(
                f"no column '{name}' in the manifest", hint="needed to train with variants"
            )
    rows = []
    for i in chosen or range(len(manifest)):
        group = str(manifest.groups[i])
        named = "" if group.startswith("\0") else group
        cells = [manifest.cells[name][i] for name in columns]
        rows.append((manifest.files[i].absolute().as_posix(), named, *cells))
    return rows, everything


def _columns_of(variants: Sequence[str]) -> tuple[str, ...]:
    return (TRACK, *variants) if variants else ()


def write_pretraining(
    rows: Sequence[tuple[str, ...]],
    out: Path,
    *,
    variants: Sequence[str] = (),
    overwrite: bool = False,
) -> Path:
    """Put the rows into folder ``out``, which is made if it is missing.

    Raises:
        UsageError: ``out`` has such a file with other rows, so that its runs saw other music.
        OutputError: it cannot be written.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["path", "group", *_columns_of(variants)])
    writer.writerows(rows)
    content, file = text.getvalue().encode(), out / PRETRAINING_FILE
    try:
        is_same = file.exists() and file.read_bytes() == content
        if file.exists() and not is_same and not overwrite:
            raise UsageError(
                f"the runs in {out} were trained on different tracks, listed in {file.name}",
                hint="give the same --data, choose another --out, or --overwrite",
            )
        out.mkdir(parents=True, exist_ok=True)
        if not is_same:
            write_own(file, content)
    except OSError as error:
        raise OutputError(f"cannot write {file}: {error.strerror}") from error
    return file.absolute()
