"""A whole training run: list, featurise, train, and the facts a model card needs."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from loev_cli import bundle as bundles
from loev_cli.errors import OutputError, UsageError
from loev_cli.model import LoevModel, load_model
from loev_cli.train.config import TrainConfig, from_mapping, to_toml
from loev_cli.train.curves import draw_curves
from loev_cli.train.data import Skipped, default_cache, load_tracks, require_enough, tracks_of
from loev_cli.train.loop import LAST_CHECKPOINT, Trainer, load_checkpoint, model_spec
from loev_cli.train.metrics import METRICS_FILE, Progress

CONFIG_FILE = "config.toml"
SKIPPED_FILE = "skipped.jsonl"
CURVES_FILE = "curves.png"


@dataclass(frozen=True)
class Events:
    """What a run tells whoever shows it."""

    on_features: Callable[[int, int], None] = lambda done, total: None
    on_tracks: Callable[[int, list[Skipped]], None] = lambda n_tracks, skipped: None
    on_step: Callable[[Progress], None] = lambda progress: None


def run(
    config: TrainConfig,
    out: Path,
    *,
    resume: bool = False,
    init: Path | None = None,
    device: str = "auto",
    cache: Path | None = None,
    n_workers: int | None = None,
    events: Events | None = None,
) -> Path:
    """Train as ``config`` says, into the folder ``out``; the last checkpoint.

    Args:
        resume: go on from ``out/checkpoints/last.pt``.
        init: checkpoint or bundle whose weights to start from, in a run of its own.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.

    Raises:
        UsageError: nothing to train on, ``out`` taken, a device that is not there.
        OutputError: ``out`` or the cache cannot be written.
    """
    events = events or Events()
    torch_device = _device(device)
    checkpoint = out / "checkpoints" / LAST_CHECKPOINT
    if checkpoint.exists() and not resume:
        raise UsageError(f"{out} holds a run already", hint="--resume it or choose another --out")
    if resume and not checkpoint.exists():
        raise UsageError(f"{out} has no checkpoint to resume from")
    initial = _initial_model(init) if init else None
    trainer = Trainer(config, out, device=torch_device, init=initial)
    if resume:
        trainer.restore(checkpoint)
    files = tracks_of(config.data)
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / CONFIG_FILE).write_text(to_toml(config), encoding="utf-8")
    except OSError as error:
        raise OutputError(f"cannot write to {out}: {error.strerror}") from error
    tracks, skipped = load_tracks(
        files,
        trainer.model.spec.frontend,
        cache or default_cache(),
        max_track_s=config.max_track_s,
        n_workers=n_workers or os.cpu_count() or 1,
        on_progress=events.on_features,
    )
    _write_skipped(out / SKIPPED_FILE, skipped)
    events.on_tracks(len(tracks), skipped)
    require_enough(tracks, skipped, config.batch_size)
    trainer.run(tracks, events.on_step)
    draw_curves(out / METRICS_FILE, out / CURVES_FILE)
    return checkpoint


@dataclass(frozen=True)
class Trained:
    """What a checkpoint holds of a finished or unfinished run."""

    model: LoevModel
    config: TrainConfig
    facts: dict[str, Any]


def read_checkpoint(file: Path) -> Trained:
    """The model of a training checkpoint, on the CPU, and where it came from.

    Raises:
        UsageError: not a checkpoint of ours.
    """
    state = load_checkpoint(file)
    config = from_mapping(TrainConfig, state["config"])
    model = LoevModel(model_spec(config))
    try:
        model.load_state_dict(state["model"])
    except RuntimeError as error:
        raise UsageError(f"{file} does not fit its own config: {error}") from error
    return Trained(model, config, state["facts"])


def _initial_model(path: Path) -> LoevModel:
    """The model of a checkpoint, or of a bundle's folder."""
    return load_model(bundles.load(path)) if path.is_dir() else read_checkpoint(path).model


def augmentation_ranges(config: TrainConfig) -> dict[str, Any]:
    """What a bundle records of each equivariant augmentation."""
    return {aug: dataclasses.asdict(getattr(config.augmentations, aug)) for aug in config.augs}


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"no device '{name}'", hint="auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"device '{name}' asked for, but torch sees no CUDA device")
    return device


def _write_skipped(file: Path, skipped: list[Skipped]) -> None:
    if not skipped:
        file.unlink(missing_ok=True)
        return
    lines = [json.dumps(dataclasses.asdict(s), ensure_ascii=False) for s in skipped]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
