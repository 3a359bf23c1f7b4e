"""Which augmentations should have a subspace for these labels? Asked, checked, carried out.

labeled tracks --reference model, unchanged and changed--> vectors --> destroyed --.
                                                                                     >-- verdicts
music --train with and without a subspace, several seeds--> models --> gained ------'

Models do not depend on the labels, so a second question to the same folder takes them as they are.

verdict      rule (tolerance t, 0.2 unless told otherwise)
keep         invariance loses more than t of what can be known of the label (the whole 95 % interval
             lies above t), and the models that keep it read the label better (Holm's p < 0.05)
not needed   invariance loses less than t (the whole interval lies below t); or less than half, and
             less than 0.02 of the score itself
undecided    anything else: an interval that holds t, a loss that the trained models do not show,
             or a label of which nothing can be read

The loss says whether a subspace is needed in principle, the models whether it is worth it in
practice. A gain without a loss is no reason to keep: a second subspace may help a label that does
not change at all, by its room alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from loev_cli import __version__
from loev_cli import bundle as bundles
from loev_cli.backends.machine import usable_cpus
from loev_cli.errors import UsageError, known_names
from loev_cli.evaluate import probes
from loev_cli.evaluate.job import Skipped, Stage, plain
from loev_cli.evaluate.manifest import (
    Column,
    Fold,
    Manifest,
    Splits,
    check_files,
    read_manifests,
    split,
)
from loev_cli.evaluate.probes import TASKS, Reading
from loev_cli.evaluate.statistics import record
from loev_cli.experiments.advise_evidence import (
    PROBE,
    Destroyed,
    Gained,
    Vectors,
    destroyed,
    gained,
)
from loev_cli.experiments.advise_vectors import Draw, LabelledEmbedder, draw_changes
from loev_cli.experiments.judging import read_or_keep
from loev_cli.experiments.runs import Run, RunEvent, check_runs, steps_within, train_runs
from loev_cli.model import load_model
from loev_cli.model.frontend import FrontendConfig
from loev_cli.train.augment import EQUIVARIANT
from loev_cli.train.config import TrainConfig
from loev_cli.train.data import listing
from loev_cli.train.music import views_are_on_features
from loev_cli.train.pipeline import pick_device

DEFAULT_TOLERANCE = 0.2
NO_SUBSPACE = "--method cl"
SIGNIFICANT_P = 0.05
# Of a label that is hard to read, a share is a ratio of small numbers, and its interval wide. A
# loss of this little of a score matters to nobody, unless it is most of what there was.
NEGLIGIBLE_SCORE = 0.02
_MOST_NEGLIGIBLE_SHARE = 0.5

Word = Literal["keep", "not needed", "undecided"]


@dataclass(frozen=True)
class Verdict:
    """What to do with one augmentation for one label.

    Attributes:
        reason: a clause that says why.
    """

    label: str
    kind: str
    augmentation: str
    word: Word
    reason: str
    destroyed: Destroyed
    gained: Gained

    @property
    def metric(self) -> str:
        """That the evidence is measured in."""
        return TASKS[self.kind]().main_metric

    def record(self) -> dict[str, Any]:
        """For ``results.json``."""
        return {
            "label": self.label,
            "kind": self.kind,
            "augmentation": self.augmentation,
            "verdict": self.word,
            "reason": self.reason,
            "metric": self.metric,
            "destroyed": record(self.destroyed),
            "gained": record(self.gained),
        }


def judge(
    column: Column, augmentation: str, lost: Destroyed, gain: Gained, tolerance: float
) -> Verdict:
    """The rule of this module's text."""
    word, reason = _rule(lost, gain, tolerance)
    return Verdict(column.name, column.kind, augmentation, word, reason, lost, gain)


def _rule(lost: Destroyed, gain: Gained, tolerance: float) -> tuple[Word, str]:
    share = lost.share
    if not lost.known.has_interval or np.isnan(gain.p_holm):
        return "undecided", f"too few groups of tracks for a test ({lost.known.n_groups})"
    if not lost.is_readable or not np.isfinite([share.low, share.high]).all():
        return "undecided", "the label cannot be predicted above chance from these tracks"
    helps = gain.p_holm < SIGNIFICANT_P and gain.gain.low > 0
    hurts = gain.p_holm < SIGNIFICANT_P and gain.gain.high < 0
    negligible = lost.lost.high < NEGLIGIBLE_SCORE and share.high < _MOST_NEGLIGIBLE_SHARE
    if share.high < tolerance or negligible:
        if helps:
            return "not needed", (
                "the label does not depend on this augmentation; the gain of the models with a "
                "subspace has another cause"
            )
        return "not needed", "the label does not depend on this augmentation"
    if share.low <= tolerance:
        return "undecided", (
            f"whether more or less than {100 * tolerance:.0f} % of the label is lost cannot be "
            "decided from these tracks"
        )
    if helps:
        return (
            "keep",
            "the label depends on this augmentation, and models with its subspace score higher",
        )
    if hurts:
        return (
            "undecided",
            "the label depends on this augmentation, but models with its subspace score lower",
        )
    return "undecided", (
        "the label depends on this augmentation, but models trained this long do not score higher "
        "with its subspace"
    )


def ranked(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """Label by label; in each, what loses most first."""
    labels = list(dict.fromkeys(verdict.label for verdict in verdicts))

    def place(verdict: Verdict) -> tuple[int, float]:
        share = verdict.destroyed.share.value
        return labels.index(verdict.label), -share if np.isfinite(share) else np.inf

    return sorted(verdicts, key=place)


def kept(verdicts: Sequence[Verdict], candidates: Sequence[str]) -> list[str]:
    """The augmentations that any of the labels needs, in the candidates' order."""
    needed = {verdict.augmentation for verdict in verdicts if verdict.word == "keep"}
    return [name for name in candidates if name in needed]


def options(verdicts: Sequence[Verdict], candidates: Sequence[str]) -> str:
    """What to give ``loev train``; empty where nothing is to be kept and something is undecided."""
    names = kept(verdicts, candidates)
    if names:
        return f"--augs {','.join(names)}"
    if any(verdict.word == "undecided" for verdict in verdicts):
        return ""
    return NO_SUBSPACE


def of_label(verdicts: Sequence[Verdict]) -> Iterator[tuple[str, list[Verdict]]]:
    """Label and its verdicts, in order."""
    for label in dict.fromkeys(verdict.label for verdict in verdicts):
        yield label, [verdict for verdict in verdicts if verdict.label == label]


BLIND = "blind"  # the model that keeps nothing
RUNS_FOLDER = "runs"
VECTORS_FOLDER = "vectors"
PROBES_FOLDER = "probes"
DEFAULT_CANDIDATES = ("pitch", "tempo")
DEFAULT_N_SEEDS = 3
DEFAULT_N_STEPS = 150
DEFAULT_BATCH_SIZE = 32
N_DRAWS = 4  # changes of every track by every candidate
_FORMAT_VERSION = 1

Event = Stage | Skipped | RunEvent


@dataclass(frozen=True)
class Request:
    """What to advise on; the options of ``loev advise``.

    Attributes:
        data: folder, file list or manifest to train on.
        labels: manifests of labeled tracks; none: ``data`` is one itself.
        out: folder of the report; models go to ``out/runs``.
        config: of training; data, method, augs and seed are set for every run.
        wanted: ``column`` or ``column:kind``; none means all that can be used.
        candidates: augmentations that may get a subspace.
        model: that embeds unchanged and changed tracks, a name or a bundle.
        tolerance: how much of a label may be lost, of what can be known above chance.
        minutes: of training for all models together, instead of ``config.steps``.
        n_parallel: models trained side by side; None: one per core on a CPU, else one.
        overwrite: train runs anew that other settings made.
        command: the command line, for the report.
    """

    data: str
    labels: Sequence[Path]
    out: Path
    config: TrainConfig
    wanted: Sequence[str] = ()
    candidates: Sequence[str] = DEFAULT_CANDIDATES
    model: str = bundles.DEFAULT_MODEL
    n_seeds: int = DEFAULT_N_SEEDS
    n_folds: int | None = None
    tolerance: float = DEFAULT_TOLERANCE
    minutes: float | None = None
    n_parallel: int | None = None
    seed: int = 0
    device: str = "auto"
    cache: Path | None = None
    overwrite: bool = False
    command: str = ""


@dataclass(frozen=True)
class Advice:
    """What was found, and how.

    Attributes:
        verdicts: label by label, what loses most first.
        draws: augmentation -> what every track was changed by.
        runs: names of the models that were compared.
    """

    command: str
    created: str
    candidates: tuple[str, ...]
    tolerance: float
    manifest: Manifest
    columns: Sequence[Column]
    splits: Splits
    verdicts: Sequence[Verdict]
    draws: dict[str, list[Draw]]
    reference: dict[str, Any]
    training: dict[str, Any]
    runs: Sequence[str]
    skipped: Sequence[str]
    notes: Sequence[str]

    def as_dict(self, options: str) -> dict[str, Any]:
        """For ``results.json``; figures that are not defined are null."""
        document = {
            "format_version": _FORMAT_VERSION,
            "command": self.command,
            "created": self.created,
            "loev_version": __version__,
            "options": options,
            "candidates": list(self.candidates),
            "tolerance": self.tolerance,
            "data": {
                "n_tracks": len(self.manifest),
                "n_groups": len(np.unique(self.manifest.groups)),
                "n_judged": len(self.splits.judged),
                "split": self.splits.description,
            },
            "reference": self.reference,
            "training": self.training,
            "runs": list(self.runs),
            "draws": {
                name: [[float(value) for value in draw.params.ravel()] for draw in draws]
                for name, draws in self.draws.items()
            },
            "interval": "95 %, over groups of tracks, and over seeds where there are some",
            "skipped": list(self.skipped),
            "notes": list(self.notes),
            "verdicts": [verdict.record() for verdict in self.verdicts],
        }
        return dict(plain(document))


def advise(request: Request, *, on_event: Callable[[Event], None] = lambda event: None) -> Advice:
    """Carry the request out.

    Raises:
        UsageError: the request cannot be carried out, or its data not be used.
        LoevError: a training run failed.
    """
    checked = _check(request)
    n_parallel = request.n_parallel or (usable_cpus() if checked.device.type == "cpu" else 1)
    skipped: list[str] = []

    def tell(event: Event) -> None:
        if isinstance(event, Skipped):
            skipped.append(event.message)
        on_event(event)

    embedder = LabelledEmbedder(
        request.config,
        device=checked.device,
        cache=request.cache,
        kept=request.out / VECTORS_FOLDER,
        on_event=tell,
    )
    plain, changed, manifest = embedder.reference(
        checked.bundle, checked.manifest, checked.draws, on_features=checked.on_features
    )
    columns = [manifest.column(column.name, column.kind) for column in checked.columns]
    splits = split(manifest, n_folds=request.n_folds, seed=request.seed)
    for column in columns:
        probes.check_folds(column, splits.folds)

    def read(x: Vectors, column: Column, folds: Sequence[Fold]) -> Reading:
        return read_or_keep(request.out / PROBES_FOLDER, x, column, folds, PROBE, request.seed)

    lost: dict[str, dict[str, Destroyed]] = {}
    for done, column in enumerate(columns):
        tell(Stage("judging changes", done, len(columns)))
        lost[column.name] = destroyed(
            plain, changed, column, splits.folds, manifest.groups, read=read, seed=request.seed
        )
    tell(Stage("judging changes", len(columns), len(columns)))
    runs = checked.runs
    if request.minutes is not None:
        steps = steps_within(
            request.minutes,
            [run for run in runs if run.config.seed == request.config.seed],
            request.n_seeds,
            request.out,
            n_parallel=n_parallel,
            device=request.device,
            cache=request.cache,
            on_event=tell,
        )
        runs = [Run(run.name, dataclasses.replace(run.config, steps=steps)) for run in runs]
    models = train_runs(
        runs,
        request.out / RUNS_FOLDER,
        n_parallel=n_parallel,
        device=request.device,
        cache=request.cache,
        overwrite=request.overwrite,
        on_event=tell,
    )
    of_model = {name: embedder.trained(bundle, manifest, name) for name, bundle in models.items()}
    seeds = range(request.n_seeds)
    verdicts = []
    for done, column in enumerate(columns):
        tell(Stage("judging models", done, len(columns)))
        gain = gained(
            [of_model[name_of_run(BLIND, seed)] for seed in seeds],
            {
                name: [of_model[name_of_run(name, seed)] for seed in seeds]
                for name in request.candidates
            },
            column,
            splits.folds,
            manifest.groups,
            read=read,
            seed=request.seed,
        )
        verdicts += [
            judge(column, name, lost[column.name][name], gain[name], request.tolerance)
            for name in request.candidates
        ]
    tell(Stage("judging models", len(columns), len(columns)))
    return Advice(
        command=request.command,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        candidates=tuple(request.candidates),
        tolerance=request.tolerance,
        manifest=manifest,
        columns=columns,
        splits=splits,
        verdicts=ranked(verdicts),
        draws=checked.draws,
        reference={"name": checked.bundle.name, "sha256": checked.bundle.sha256},
        training={
            "encoder": request.config.encoder,
            "steps": runs[0].config.steps,
            "batch_size": request.config.batch_size,
            "n_seeds": request.n_seeds,
            "augmentations": {
                name: dataclasses.asdict(request.config.augmentations[name])
                for name in request.candidates
            },
        },
        runs=list(models),
        skipped=skipped,
        notes=[*checked.notes, *splits.notes],
    )


def name_of_run(kept: str, seed: int) -> str:
    """Folder of the model that keeps one augmentation, or none (``BLIND``)."""
    return f"{kept}-seed{seed}"


def plan_runs(config: TrainConfig, candidates: Sequence[str], n_seeds: int) -> list[Run]:
    """The models to compare, seed by seed: one invariant to all, one per candidate."""
    base = dataclasses.replace(config, augs=DEFAULT_CANDIDATES)  # of no account where none is kept
    runs = []
    for seed in range(n_seeds):
        of_seed = dataclasses.replace(base, seed=config.seed + seed)
        blind = dataclasses.replace(of_seed, method="cl")
        runs.append(Run(name_of_run(BLIND, seed), blind))
        for name in candidates:
            keeping = dataclasses.replace(of_seed, method="loev++", augs=(name,))
            runs.append(Run(name_of_run(name, seed), keeping))
    return runs


@dataclass(frozen=True)
class _Checked:
    """A request that can be carried out.

    Attributes:
        on_features: whether the reference model's views are changed on features.
    """

    manifest: Manifest
    columns: Sequence[Column]
    notes: Sequence[str]
    bundle: bundles.Bundle
    on_features: bool
    draws: dict[str, list[Draw]]
    runs: Sequence[Run]
    device: torch.device


def _check(request: Request) -> _Checked:
    """Everything that can be known before anything is embedded or trained."""
    config = request.config
    _check_candidates(request.candidates, config)
    if not 0 < request.tolerance < 1:
        raise UsageError(f"--tolerance is {request.tolerance:g}, it must lie between 0 and 1")
    manifest = _labeled(request)
    columns, notes = manifest.columns(request.wanted)
    splits = split(manifest, n_folds=request.n_folds, seed=request.seed)
    for column in columns:
        probes.check_folds(column, splits.folds)
    check_files(manifest)
    listing(request.data)
    bundle = bundles.find(request.model)
    spec = load_model(bundle).spec
    wide = dataclasses.replace(config, augs=tuple(request.candidates), method="loev++")
    on_features = isinstance(spec.frontend, FrontendConfig) and views_are_on_features(
        wide, dataclasses.replace(spec, augs=tuple(request.candidates))
    )
    music = dataclasses.replace(config, data=str(Path(request.data).absolute()))
    runs = plan_runs(music, request.candidates, request.n_seeds)
    check_runs(runs, device=request.device)
    return _Checked(
        manifest=manifest,
        columns=columns,
        notes=notes,
        bundle=bundle,
        on_features=on_features,
        draws={
            name: draw_changes(config.augmentations, name, N_DRAWS, seed=request.seed)
            for name in request.candidates
        },
        runs=runs,
        device=pick_device(request.device),
    )


def _check_candidates(candidates: Sequence[str], config: TrainConfig) -> None:
    if not candidates:
        raise UsageError("--augs is empty", hint=f"choose from {', '.join(EQUIVARIANT)}")
    for name in candidates:
        if name not in EQUIVARIANT:
            raise UsageError(
                f"no augmentation '{name}'", hint=known_names(name, EQUIVARIANT, "augmentations:")
            )
        if candidates.count(name) > 1:
            raise UsageError(f"--augs names '{name}' twice")
        if config.augmentations[name].p == 0:
            raise UsageError(
                f"augmentations.{name}.p is 0: no model would learn to ignore it",
                hint=f"--set augmentations.{name}.p=0.5",
            )


def _labeled(request: Request) -> Manifest:
    """The labeled tracks, wherever they lie: beside their manifest, or in the folder of music."""
    labels = list(request.labels)
    if not labels:
        if Path(request.data).suffix.lower() not in (".csv", ".parquet"):
            raise UsageError(
                f"no labels for {request.data}", hint="--labels LABELS.csv with a path column"
            )
        labels = [Path(request.data)]
    manifest = read_manifests(labels)
    folder = Path(request.data)
    if not folder.is_dir():
        return manifest
    files = [
        file if file.is_file() or not (folder / path).is_file() else folder / path
        for file, path in zip(manifest.files, manifest.paths, strict=True)
    ]
    return dataclasses.replace(manifest, files=files)
