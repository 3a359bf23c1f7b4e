"""A whole training run: list, read, split, train; what its checkpoint holds; what it would need."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import time
import tomllib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from loev_cli import bundle as bundles
from loev_cli.backends.machine import usable_cpus
from loev_cli.errors import OutputError, UsageError
from loev_cli.model import LoevModel, load_model, load_weights
from loev_cli.storage.atomic import write_own
from loev_cli.storage.own import own_folder
from loev_cli.storage.replacing import check_earlier, check_no_input
from loev_cli.train.checkpoint import FOLDER, LAST, best_or_last, load_checkpoint
from loev_cli.train.config import TrainConfig, from_mapping, to_toml
from loev_cli.train.data import (
    Cache,
    Skipped,
    require_enough,
)
from loev_cli.train.distributed import Group, local_rank, process_group, started_by_torchrun
from loev_cli.train.items import Item, of_works, split
from loev_cli.train.loop import Trainer, model_spec
from loev_cli.train.metrics import (
    CURVES_FILE,
    METRICS_FILE,
    VALIDATION_FILE,
    Progress,
    draw_curves,
)
from loev_cli.train.validation import Validation

CONFIG_FILE = "config.toml"
SKIPPED_FILE = "skipped.jsonl"
BUNDLE = "bundle"
_N_PROBED_TRACKS = 2  # go through the encoder to see what a track costs


@dataclass(frozen=True)
class Events:
    """What a run tells whoever shows it; only the main process does."""

    on_features: Callable[[int, int], None] = lambda done, total: None
    on_tracks: Callable[[int, int, list[Skipped]], None] = lambda n_train, n_val, skipped: None
    on_step: Callable[[Progress], None] = lambda progress: None
    on_validation: Callable[[int, Validation], None] = lambda step, validation: None


def run(
    config: TrainConfig,
    out: Path,
    *,
    resume: bool = False,
    init: Path | None = None,
    device: str = "auto",
    cache: Cache | None = None,
    n_workers: int | None = None,
    events: Events | None = None,
    rehearse: Callable[[LoevModel], object] | None = None,
) -> Path | None:
    """Train as ``config`` says, into the folder ``out``; the checkpoint to make a bundle of.

    Under ``torchrun`` this is one process of several; all but the main one return None.

    Args:
        resume: resume from ``out/checkpoints/last.pt``.
        init: checkpoint or bundle whose weights to start from, in a run of its own.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        cache: where decoded tracks are kept; None decodes them whenever they are needed.
        rehearse: what will be done with the model; done once before the first step, its time is
            taken off ``config.minutes``.

    Raises:
        UsageError: nothing to train on, ``out`` taken, a device that is not there.
        OutputError: ``out`` or the cache cannot be written.
        LoevError: training cannot go on.
    """
    torch_device = pick_device(device)
    with process_group(torch_device) as group:
        checkpoint = out / FOLDER / LAST
        if checkpoint.exists() and not resume:
            raise UsageError(
                f"{out} already contains a run", hint="--resume it or choose another --out"
            )
        if resume and not checkpoint.exists():
            raise UsageError(f"{out} has no checkpoint to resume from")
        if config.train_only and init is None and not resume:
            raise UsageError(
                f"train_only = {', '.join(config.train_only)} needs weights for everything else",
                hint="give --init",
            )
        initial = _initial_model(init) if init else None
        trainer = Trainer(config, out, device=torch_device, init=initial, group=group)
        if resume:
            trainer.restore(checkpoint)
        listed = trainer.make_batch.domain.listing()
        told = (events or Events()) if group.is_main else Events()
        if group.is_main:
            _open_run(out, config)
        train_tracks, val_tracks, skipped = _load(trainer, listed, cache, n_workers, group, told)
        if group.is_main:
            _write_skipped(out / SKIPPED_FILE, skipped)
            told.on_tracks(len(train_tracks), len(val_tracks), skipped)
        require_enough(train_tracks, skipped, config.batch_size)
        if rehearse and config.minutes is not None:
            began = time.monotonic()
            if group.is_main:
                rehearse(copy.deepcopy(trainer.model).eval())
            # Once now, once at the end.
            took_s = group.from_main(time.monotonic() - began)
            trainer.reserved_s = 2 * took_s
        trainer.run(
            train_tracks, val_tracks, on_step=told.on_step, on_validation=told.on_validation
        )
        if not group.is_main:
            return None
        n_rows = config.batch_size * trainer.make_batch.n_views
        # Rows without positives count as 0 in the independent scheme, which lowers chance.
        is_shared = config.view_scheme == "shared"
        draw_curves(out, chance=math.log(n_rows - 1) if is_shared else None)
        return best_or_last(out)


def check_out(out: Path, *, inputs: Iterable[str | Path], resume: bool) -> None:
    """Whether a run may go into folder ``out``; an unfinished one that is there begins anew.

    Args:
        inputs: what the run reads: its list, its config, weights to start from.

    Raises:
        UsageError: something else is there by the names of a run's files, or one of the inputs.
    """
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file, not a folder")
    if resume:
        return
    # Folders are searched for audio, which none of these files is.
    here = [each for each in inputs if not Path(each).is_dir()]
    is_ours = _is_config_of_run(out / CONFIG_FILE)
    for name in (CONFIG_FILE, SKIPPED_FILE, METRICS_FILE, VALIDATION_FILE, CURVES_FILE):
        check_no_input(out / name, here)
        check_earlier(out / name, lambda _: is_ours, overwrite=None)


def _is_config_of_run(file: Path) -> bool:
    """Whether ``loev train`` wrote it: it is complete, and word for word as it writes one."""
    try:
        text = file.read_text(encoding="utf-8")
        return to_toml(from_mapping(TrainConfig, tomllib.loads(text))) == text
    except (OSError, ValueError, UsageError):
        return False


def _open_run(out: Path, config: TrainConfig) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        own_folder(out / FOLDER)
        write_own(out / CONFIG_FILE, to_toml(config).encode())
    except OSError as error:
        raise OutputError(f"cannot write to {out}: {error.strerror}") from error


def _load(
    trainer: Trainer,
    listed: Sequence[Any],
    cache: Cache | None,
    n_workers: int | None,
    group: Group,
    events: Events,
) -> tuple[list[Item], list[Item], list[Skipped]]:
    """Training and validation tracks. The main process fills the cache, the others then read it."""
    config = trainer.config
    if not group.is_main and cache is not None:
        group.wait_for_all()
    tracks, skipped = trainer.make_batch.domain.load(
        listed,
        cache,
        n_workers=usable_cpus() if n_workers is None else n_workers,
        on_progress=events.on_features,
    )
    if group.is_main and cache is not None:
        group.wait_for_all()
    train_tracks, val_tracks = split(tracks, val_fraction=config.val_fraction, seed=config.seed)
    return of_works(train_tracks), of_works(val_tracks), skipped


@dataclass(frozen=True)
class Trained:
    """What a checkpoint holds of a finished or unfinished run."""

    model: LoevModel
    config: TrainConfig
    facts: dict[str, Any]
    validation: Validation | None


def read_checkpoint(file: Path) -> Trained:
    """The model of a training checkpoint, on the CPU, and where it came from.

    Raises:
        UsageError: not a checkpoint of ours.
    """
    state = load_checkpoint(file)
    config = from_mapping(TrainConfig, state["config"])
    model = LoevModel(model_spec(config))
    load_weights(model, state.get("average") or state["model"], file)
    model.settle(config.train_only)
    measured = state.get("validation")
    return Trained(model, config, state["facts"], Validation(**measured) if measured else None)


def _initial_model(path: Path) -> LoevModel:
    """The model of a checkpoint, or of a bundle's folder."""
    return load_model(bundles.load(path)) if path.is_dir() else read_checkpoint(path).model


def augmentation_ranges(config: TrainConfig) -> dict[str, Any]:
    """What a bundle records of each equivariant augmentation."""
    return {
        aug: {"variants": True, "across_tracks": aug in config.across_tracks}
        if aug in config.variants
        else dataclasses.asdict(config.augmentations[aug])
        for aug in config.augs
    }


def pick_device(name: str) -> torch.device:
    """The device called ``name``; under torchrun, `auto` and `cuda` are this process's own.

    Raises:
        UsageError: it is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"no device '{name}'", hint="auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise UsageError(f"device '{name}' requested, but torch finds no CUDA device")
        if device.index is None:
            device = torch.device("cuda", local_rank() if started_by_torchrun() else 0)
        torch.cuda.set_device(device)
    return device


def _write_skipped(file: Path, skipped: list[Skipped]) -> None:
    if not skipped:
        file.unlink(missing_ok=True)
        return
    lines = [json.dumps(dataclasses.asdict(s), ensure_ascii=False) for s in skipped]
    write_own(file, ("\n".join(lines) + "\n").encode())


@dataclass(frozen=True)
class Plan:
    """What a run would do and need, without doing it: what ``loev train --dry-run`` shows.

    Attributes:
        n_files: audio files listed, without a manifest's test rows.
        unreadable: those whose header cannot be read, with the reason.
        hours: of music that would be decoded, as far as headers say.
        n_val_wanted: tracks that would be kept aside to validate on, at most.
        views_on: `features` or `waveforms`.
        subspaces: name -> D.
        n_parameters: of encoder and heads.
        cache_bytes: what the decoded tracks take on disk.
        weight_bytes: weights, gradients, the optimizer's moments, an average of the weights.
        activation_bytes: what the encoder keeps for one backward pass.
        similarity_bytes: of the largest head's comparison of all rows with all.
        step_s: how long a step takes on this device without waiting for data, by a trial.
    """

    n_files: int
    unreadable: tuple[str, ...]
    hours: float
    n_val_wanted: int
    views_on: str
    n_views: int
    subspaces: dict[str, int]
    n_parameters: int
    steps_per_epoch: int
    cache_bytes: int
    weight_bytes: int
    activation_bytes: int
    similarity_bytes: int
    step_s: float

    @property
    def memory_bytes(self) -> int:
        """Of the device that trains, on top of the program itself."""
        return self.weight_bytes + self.activation_bytes + self.similarity_bytes


def make_plan(trainer: Trainer) -> Plan:
    """Look at the files' headers and send a few rows of noise through the encoder.

    Raises:
        UsageError: nothing to train on.
    """
    config = trainer.config
    domain = trainer.make_batch.domain
    listed = [item for item in domain.listing() if item.split != "test"]
    look = domain.look(listed)
    train_items, val_items = split(look.items, val_fraction=config.val_fraction, seed=config.seed)
    n_train, n_val = len(of_works(train_items)), len(of_works(val_items))
    if n_train < config.batch_size:
        raise UsageError(
            f"{max(0, n_train)} usable tracks are fewer than the batch of {config.batch_size}",
            hint="use a smaller --batch-size, or add music",
        )
    parameters = list(trainer.model.parameters())
    n_weights = sum(p.numel() for p in parameters)
    n_trained = sum(p.numel() for p in parameters if p.requires_grad)
    activation_bytes, row_s = _try_rows(trainer)
    n_rows = config.batch_size * trainer.make_batch.n_views
    micro = config.micro_batch_size or config.batch_size
    return Plan(
        n_files=len(listed),
        unreadable=look.unreadable,
        hours=look.hours,
        n_val_wanted=n_val,
        views_on=domain.made_on,
        n_views=trainer.make_batch.n_views,
        subspaces=trainer.model.subspaces,
        n_parameters=n_weights,
        steps_per_epoch=n_train // config.batch_size,
        cache_bytes=look.n_bytes,
        weight_bytes=4 * (n_weights * (2 if config.ema_decay else 1) + 3 * n_trained),
        activation_bytes=int(activation_bytes * min(micro, config.batch_size)),
        similarity_bytes=4 * 4 * n_rows**2,
        # Split batches go through the encoder a second time, forward only: a third more.
        step_s=row_s * n_rows * (4 / 3 if micro < config.batch_size else 1),
    )


def _try_rows(trainer: Trainer) -> tuple[float, float]:
    """Bytes that a track's rows keep for the backward pass, and seconds that a row takes."""
    model, n_views = trainer.model, trainer.make_batch.n_views
    n_rows = _N_PROBED_TRACKS * n_views
    noise = 0.1 * torch.randn(n_rows, *model.spec.input_shape, device=trainer.device)
    with torch.no_grad():
        features = model.features(noise)
    owned = {p.data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def keep(x: torch.Tensor) -> torch.Tensor:
        if x.data_ptr() not in owned:
            kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    took_s = 0.0
    for _ in range(2):  # the first time pays for setting up
        kept.clear()
        began = time.perf_counter()
        with (
            torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x),
            trainer.objective.autocast(),
        ):
            projections = model.project(features, trainer.objective.heads).projections
        loss = torch.stack([z.float().square().mean() for z in projections.values()]).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        model.zero_grad(set_to_none=True)
        took_s = time.perf_counter() - began
    return sum(kept.values()) / _N_PROBED_TRACKS, took_s / n_rows
