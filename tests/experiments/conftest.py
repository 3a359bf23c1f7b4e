"""Music, and runs on it that take seconds."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from loev_cli.experiments.runs import Run
from loev_cli.train.config import TrainConfig
from tests.train.conftest import TINY, cache, music

__all__ = ["cache", "music"]


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
