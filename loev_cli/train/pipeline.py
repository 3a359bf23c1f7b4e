"""A whole training run: list, read, split, train, and the facts a model card needs."""

from __future__ import annotations

import dataclasses
import json
import tomllib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from loev_cli import bundle as bundles
from loev_cli.backends.machine import usable_cpus
from loev_cli.errors import OutputError, UsageError
from loev_cli.files.own import own_folder
from loev_cli.model import LoevModel, load_model, load_weights
from loev_cli.train.checkpoint import FOLDER, LAST, best_or_last, load_checkpoint
from loev_cli.train.config import TrainConfig, from_mapping, to_toml
from loev_cli.train.curves import draw_curves
from loev_cli.train.data import (
    Cache,
    Listed,
    Skipped,
    Track,
    listing,
    load_tracks,
    require_enough,
    split,
)
from loev_cli.train.distributed import Group, local_rank, process_group, started_by_torchrun
from loev_cli.train.loop import Trainer, model_spec
from loev_cli.train.metrics import METRICS_FILE, VALIDATION_FILE, Progress
from loev_cli.train.validation import Validation
from loev_cli.writers.atomic import write_own
from loev_cli.writers.replacing import check_earlier, check_no_input

CONFIG_FILE = "config.toml"
SKIPPED_FILE = "skipped.jsonl"
CURVES_FILE = "curves.png"
BUNDLE = "bundle"


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
) -> Path | None:
    """Train as ``config`` says, into the folder ``out``; the checkpoint to make a bundle of.

    Under ``torchrun`` this is one process of several; all but the main one return None.

    Args:
        resume: resume from ``out/checkpoints/last.pt``.
        init: checkpoint or bundle whose weights to start from, in a run of its own.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        cache: where decoded tracks are kept; None decodes them whenever they are needed.

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
        initial = _initial_model(init) if init else None
        trainer = Trainer(config, out, device=torch_device, init=initial, group=group)
        if resume:
            trainer.restore(checkpoint)
        listed = listing(config.data)
        told = (events or Events()) if group.is_main else Events()
        if group.is_main:
            _open_run(out, config)
        train_tracks, val_tracks, skipped = _load(trainer, listed, cache, n_workers, group, told)
        if group.is_main:
            _write_skipped(out / SKIPPED_FILE, skipped)
            told.on_tracks(len(train_tracks), len(val_tracks), skipped)
        require_enough(train_tracks, skipped, config.batch_size)
        trainer.run(
            train_tracks, val_tracks, on_step=told.on_step, on_validation=told.on_validation
        )
        if not group.is_main:
            return None
        draw_curves(out / METRICS_FILE, out / VALIDATION_FILE, out / CURVES_FILE)
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
    listed: Sequence[Listed],
    cache: Cache | None,
    n_workers: int | None,
    group: Group,
    events: Events,
) -> tuple[list[Track], list[Track], list[Skipped]]:
    """Training and validation tracks. The main process fills the cache, the others then read it."""
    config = trainer.config
    if not group.is_main and cache is not None:
        group.wait_for_all()
    tracks, skipped = load_tracks(
        listed,
        trainer.make_batch.content,
        cache,
        max_track_s=config.max_track_s,
        n_workers=usable_cpus() if n_workers is None else n_workers,
        on_progress=events.on_features,
    )
    if group.is_main and cache is not None:
        group.wait_for_all()
    train_tracks, val_tracks = split(tracks, val_fraction=config.val_fraction, seed=config.seed)
    return train_tracks, val_tracks, skipped


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
    model.settle()
    measured = state.get("validation")
    return Trained(model, config, state["facts"], Validation(**measured) if measured else None)


def _initial_model(path: Path) -> LoevModel:
    """The model of a checkpoint, or of a bundle's folder."""
    return load_model(bundles.load(path)) if path.is_dir() else read_checkpoint(path).model


def augmentation_ranges(config: TrainConfig) -> dict[str, Any]:
    """What a bundle records of each equivariant augmentation."""
    return {aug: dataclasses.asdict(config.augmentations[aug]) for aug in config.augs}


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
