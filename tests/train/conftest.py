"""A handful of tracks made of random notes, each with a tempo and a scale of its own; tiny runs."""

from __future__ import annotations

import dataclasses
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from loev_cli.train import pipeline
from loev_cli.train.checkpoint import load_checkpoint
from loev_cli.train.config import TrainConfig
from loev_cli.train.data import Cache
from loev_cli.train.metrics import Progress

RATE_HZ = 16000
N_TRACKS = 10

# The shipped encoder with 22 thousand parameters and half its window: a step takes milliseconds.
TINY: dict[str, Any] = {
    "window_n_samples": 81920,
    "head_dims": (16, 8),
    "encoder_options": {"width": 4, "dim": 8, "pitch_dim": 12, "hidden": 6},
}
TINY_OPTIONS = (
    *("--set", "window_n_samples=81920", "--set", "head_dims=[16, 8]"),
    *(f"--set=encoder_options.{key}={value}" for key, value in TINY["encoder_options"].items()),
)


def write_track(file: Path, seed: int, seconds: float = 24.0) -> None:
    """Decaying notes of one major scale on a steady beat, with a click on every beat."""
    rng = np.random.default_rng(seed)
    beat_n = int(RATE_HZ * rng.uniform(0.35, 0.8))
    root_hz = 220 * 2 ** (rng.integers(0, 12) / 12)
    scale = np.array([0, 2, 4, 5, 7, 9, 11, 12])
    time = np.arange(2 * beat_n) / RATE_HZ
    partials = rng.uniform(0.1, 1, 4)
    waveform = np.zeros(int(seconds * RATE_HZ) + 3 * beat_n)
    for start in range(0, int(seconds * RATE_HZ), beat_n):
        hz = root_hz * 2 ** (rng.choice(scale) / 12)
        note = sum(a * np.sin(2 * np.pi * hz * (i + 1) * time) for i, a in enumerate(partials))
        waveform[start : start + len(time)] += 0.1 * note * np.exp(-3 * time)
        waveform[start : start + 160] += 0.3 * rng.standard_normal(160)
    soundfile.write(file, waveform[: int(seconds * RATE_HZ)], RATE_HZ)


@pytest.fixture(scope="session")
def music(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of N_TRACKS short tracks, so old that the cache believes their time stamps."""
    folder = tmp_path_factory.mktemp("music")
    for i in range(N_TRACKS):
        write_track(folder / f"{i:02}.wav", seed=i)
        os.utime(folder / f"{i:02}.wav", (1, 1))
    return folder


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Feature cache shared by all tests."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _without_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing them takes longer than a tiny run; runs made by a fixture of a module have them."""
    monkeypatch.setattr(pipeline, "draw_curves", lambda run, **how: None)


def config_of(music: Path, **changes: Any) -> TrainConfig:
    base = TrainConfig(data=str(music), steps=3, batch_size=4, warmup_steps=2, seed=3)
    return dataclasses.replace(base, **(TINY | changes))


def train(config: TrainConfig, out: Path, cache: Path | None, **more: Any) -> list[Progress]:
    """What every step reported; tracks are decoded in this process."""
    reported: list[Progress] = []
    more.setdefault("events", pipeline.Events(on_step=reported.append))
    pipeline.run(config, out, cache=Cache(cache) if cache else None, n_workers=0, **more)
    return reported


def weights(out: Path, name: str = "last.pt") -> dict[str, torch.Tensor]:
    model: dict[str, torch.Tensor] = load_checkpoint(out / "checkpoints" / name)["model"]
    return model


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)


def n_lines(file: Path) -> int:
    return len(file.read_text().splitlines()) if file.exists() else 0


@contextmanager
def limit(kind: int, value: int) -> Iterator[None]:
    """A lower limit of this process, such as ``resource.RLIMIT_FSIZE``, which fails as a full
    disk does: in the middle of a write."""
    soft, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (value, hard))
    try:
        yield
    finally:
        resource.setrlimit(kind, (soft, hard))
