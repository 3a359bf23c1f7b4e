"""A handful of tracks made of random notes, each with a tempo and a scale of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

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
    """Folder of N_TRACKS short tracks."""
    folder = tmp_path_factory.mktemp("music")
    for i in range(N_TRACKS):
        write_track(folder / f"{i:02}.wav", seed=i)
    return folder


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Feature cache shared by all tests."""
    return tmp_path_factory.mktemp("cache")
