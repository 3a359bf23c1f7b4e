"""Tracks and vectors whose every property is known."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loev_cli.evaluate import figures, statistics
from loev_cli.evaluate.manifest import Manifest, read_manifests
from loev_cli.music_keys import KEYS
from tests.conftest import write_audio


@pytest.fixture
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that do not look at how wide an interval is."""
    monkeypatch.setattr(statistics, "N_DRAWS", 100)


@pytest.fixture
def no_pngs(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that do not look at the pictures: drawing them is most of the time of a report."""
    monkeypatch.setattr(figures, "save_png", lambda figure, path: path.touch())


def leaves(value: Any) -> list[Any]:
    """Of JSON."""
    if isinstance(value, dict):
        return [leaf for item in value.values() for leaf in leaves(item)]
    if isinstance(value, list):
        return [leaf for item in value for leaf in leaves(item)]
    return [value]


def write_csv(file: Path, columns: Mapping[str, Sequence[object]]) -> Path:
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return file


@pytest.fixture
def manifest_of(tmp_path: Path) -> Callable[..., Manifest]:
    """A manifest with the columns given; paths are made up, the files are not there."""

    def make(**columns: Sequence[object]) -> Manifest:
        n = len(next(iter(columns.values())))
        named = {"path": [f"{i}.wav" for i in range(n)], **columns}
        return read_manifests([write_csv(tmp_path / "manifest.csv", named)])

    return make


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The manifest of 30 short files in 15 groups, with labels of every kind."""
    folder = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    rows = range(30)
    for i in rows:
        write_audio(folder / "audio" / f"{i:02}.wav", 1.3, seed=i)
    return write_csv(
        folder / "manifest.csv",
        {
            "path": [f"audio/{i:02}.wav" for i in rows],
            "group": [f"album {i // 2}" for i in rows],
            "key": [KEYS[i % 3] for i in rows],
            "tempo": [f"{bpm:.2f}" for bpm in rng.uniform(60, 180, 30)],
            "genre": [("jazz", "pop", "<b>rock</b>")[(i // 2 + i % 2) % 3] for i in rows],
            "mood": [("calm;warm", "warm", "loud|calm")[(i + i // 3) % 3] for i in rows],
            "energy": [f"{value:.3f}" for value in rng.standard_normal(30)],
            "label": ["one"] * 30,
        },
    )
