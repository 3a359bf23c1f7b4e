"""What is said of subspaces that hold a change by construction."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from loev_cli.evaluate.equivariance import Changed
from loev_cli.evaluate.manifest import Column
from loev_cli.evaluate.vectors import Vectors
from loev_cli.experiments.judging import Judged
from loev_cli.experiments.protocol import compare_under_change
from loev_cli.experiments.scoring import Contestant

N = 24
SIZES = {"pitch": (-2.0, -1.0, 1.0, 2.0), "tempo": (-0.2, 0.2)}
KEYS = np.arange(N) % 24


def circle(semitones: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(...) -> (..., 2): a semitone is a twelfth of a turn; a little noise."""
    at = np.stack([np.cos(semitones * np.pi / 6), np.sin(semitones * np.pi / 6)], axis=-1)
    return np.asarray(at + 0.02 * rng.standard_normal(at.shape), np.float32)


def run(seed: int, *, separate: bool) -> Judged:
    """`pitch` turns with pitch and `tempo` runs with tempo; or each holds what the other should."""
    rng = np.random.default_rng(seed)
    place = rng.uniform(-3, 3, N)
    names = ("pitch", "tempo") if separate else ("tempo", "pitch")

    def vectors(semitones: np.ndarray, octaves: np.ndarray) -> dict[str, np.ndarray]:
        line = np.stack([place[(...,) + (None,) * (octaves.ndim - 1)] + 9 * octaves, octaves], -1)
        held = line + 0.02 * rng.standard_normal(line.shape)
        return dict(zip(names, (circle(semitones, rng), held.astype(np.float32)), strict=True))

    zero, keys = np.zeros(N), KEYS.astype(np.float64)
    pitch, tempo = (np.repeat(np.array(SIZES[c])[None], N, axis=0) for c in ("pitch", "tempo"))
    plain = vectors(keys, zero)
    changed = {
        "pitch": vectors(keys[:, None] + pitch, 0 * pitch),
        "tempo": vectors(keys[:, None] + 0 * tempo, tempo),
    }
    heard = Changed(
        np.arange(N), np.arange(N).astype(str), plain, changed, SIZES, {}, "none",
    )  # fmt: skip
    return Judged(f"x{seed}", seed, Vectors(plain, None, {}), {}, heard)


@pytest.mark.parametrize("separate", [True, False])
def test_what_a_subspace_holds_is_told_and_what_the_other_holds_is_not(
    separate: bool, tmp_path: Path
) -> None:
    contestant = Contestant("x", True, [run(seed, separate=separate) for seed in range(3)])
    key = Column("key", "key", KEYS, np.ones(N, np.bool_), tuple(map(str, range(24))))
    told: list[tuple[int, int]] = []
    holder = "pitch" if separate else "tempo"
    entries = compare_under_change(
        [contestant], [key], {("key", "x"): holder}, tmp_path, n_seeds=3, n_parallel=1, seed=0,
        on_event=lambda stage: told.append((stage.done, stage.total)),
    )  # fmt: skip
    assert told == [(i, 4) for i in range(5)]
    found = {(e.kind, e.question, e.metric, e.subspace): e.estimate for e in entries}
    other = "tempo" if separate else "pitch"
    assert found["size", "pitch", "R2", holder].low > 0.9
    assert found["size", "pitch", "R2", other].value < 0.1
    moved = found["moved", "pitch", "R2", holder]
    assert moved.chance is not None and moved.value > 0.95 > 0.8 > moved.chance
    assert found["moved", "pitch", "R2 of the movement", holder].low > 0.9
    assert found["moved", "pitch", "R2 of the movement", other].value < 0.3
    apart = found["own - other", "pitch", "R2", "pitch - tempo"]
    assert (apart.low > 0.8) if separate else (apart.high < -0.8)
    cell = "key: changed query, clean neighbors"
    assert found["neighbors", cell, "weighted score@1", holder].value > 0.4
    assert {e.rule for e in entries if e.subspace == holder and e.kind == "neighbors"} == {"chosen"}
