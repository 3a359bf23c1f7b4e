"""Music, and runs on it that take seconds."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loev_cli.experiments.runs import Run
from loev_cli.train.config import TrainConfig, to_toml
from loev_cli.train.metrics import METRICS_FILE
from loev_cli.train.pipeline import BUNDLE, CONFIG_FILE
from tests.conftest import make_bundle, write_config
from tests.train.conftest import N_TRACKS, TINY, cache, music

__all__ = ["cache", "music"]


def finish(pool: Any, todo: Sequence[Run]) -> dict[str, str]:
    """In place of ``_Pool.train``: what finished runs leave, with random filters as models."""
    for run in todo:
        home = pool._folder / run.name
        home.mkdir()
        (home / CONFIG_FILE).write_text(to_toml(run.config))
        (home / METRICS_FILE).write_text(f"step,elapsed_s\n{run.config.steps},1.0\n")
        make_bundle(home / BUNDLE, seed=run.config.seed + len(run.name), name=run.name)
        training = {"n_tracks": N_TRACKS, "hardware": "none", "minutes": 0.1}
        write_config(home / BUNDLE, name=run.name, method=run.config.method, training=training)
    return {}


def run_of(data: Path, method: str, seed: int = 0, **changes: Any) -> Run:
    config = TrainConfig(
        data=str(data),
        method=method,
        seed=seed,
        steps=2,
        batch_size=4,
        val_fraction=0.0,  # type: ignore[arg-type]
    )
    return Run(f"{method}-seed{seed}", dataclasses.replace(config, **(TINY | changes)))
