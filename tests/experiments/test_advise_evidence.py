"""Vectors whose labels depend on exactly one augmentation, by construction."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from loev_cli.evaluate.manifest import Column, Fold
from loev_cli.experiments.advise_evidence import Vectors, compact, destroyed, gained

N_GROUPS, N_PER_GROUP, N_VALUES, N_DRAWS = 120, 3, 4, 4
N = N_GROUPS * N_PER_GROUP
GROUPS = np.repeat(np.arange(N_GROUPS), N_PER_GROUP).astype(str)
_ROWS = np.random.default_rng(5).permutation(N_GROUPS)
FOLDS = [
    Fold(*(np.flatnonzero(np.isin(np.arange(N) // N_PER_GROUP, part)) for part in parts))
    for parts in [(_ROWS[:70], _ROWS[70:90], _ROWS[90:])]
]


def column(kind: str, values: NDArray[np.generic]) -> Column:
    known = np.ones(N, np.bool_)
    return Column("label", kind, values, known, tuple("abcd") if kind == "class" else ())


def circle(values: NDArray[np.int64]) -> NDArray[np.float64]:
    """Which of four places round a circle: what a shift turns."""
    return np.eye(N_VALUES)[values % N_VALUES]


class World:
    """Tracks with a tone that `turn` moves, a size that `swell` moves, and a timbre."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.rng = rng
        self.tone = rng.integers(0, N_VALUES, N)
        self.size = rng.standard_normal(N)
        self.timbre = rng.integers(0, N_VALUES, N)

    def heard(self, *, turn: int = 0, swell: float = 0.0) -> Vectors:
        clean = np.hstack(
            [circle(self.tone + turn), (self.size + swell)[:, None], circle(self.timbre)]
        )
        noise = 0.15 * self.rng.standard_normal((N, clean.shape[1]))
        return (clean + noise).astype(np.float32)

    def changed(self) -> dict[str, Vectors]:
        return {
            "turn": np.stack([self.heard(turn=i) for i in range(N_DRAWS)]),
            "swell": np.stack([self.heard(swell=s) for s in (-2.0, -0.7, 0.7, 2.0)]),
        }


@pytest.fixture(scope="module")
def world() -> World:
    return World()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("label", "kind", "needs"),
    [
        ("tone", "class", "turn"),
        ("size", "number", "swell"),
        ("timbre", "class", None),
        ("timbre", "multilabel", None),
        ("tone", "multilabel", "turn"),
    ],
)
def test_a_label_is_lost_to_what_moves_it_and_to_nothing_else(
    world: World, label: str, kind: str, needs: str | None
) -> None:
    values = getattr(world, label)
    if kind == "multilabel":
        values = np.stack([values == 0, values < 2], axis=1).astype(np.float64)
    found = destroyed(world.heard(), world.changed(), column(kind, values), FOLDS, GROUPS)
    for name, one in found.items():
        assert one.is_readable and one.known.value > 0.85
        assert one.share.low <= one.share.value <= one.share.high
        if name == needs:
            assert one.share.low > 0.4
        else:
            assert abs(one.share.value) < 0.1 and one.share.high < 0.2
            assert abs(one.blind.value - one.known.value) < 0.1


def test_reading_unchanged_tracks_falls_where_nothing_is_lost(world: World) -> None:
    """A change that only pushes all vectors aside: the confound that ``share`` is free of."""
    push = 4 * np.ones(9, np.float32)
    push[5:] *= [1, -1, 1, -1]
    pushed = np.stack([world.heard() + (1 + 0.05 * i) * push for i in range(N_DRAWS)])
    found = destroyed(
        world.heard(), {"push": pushed}, column("class", world.timbre), FOLDS, GROUPS
    )["push"]
    assert found.fallen.low > 0.2
    assert found.share.high < 0.2


def test_what_cannot_be_read_has_no_share(world: World) -> None:
    chance = np.random.default_rng(9).integers(0, N_VALUES, N)
    found = destroyed(world.heard(), world.changed(), column("class", chance), FOLDS, GROUPS)
    assert not any(one.is_readable for one in found.values())


def test_gains_are_paired_over_tracks_and_corrected_over_candidates(world: World) -> None:
    blind = [world.heard()[:, 5:] for _ in range(3)]  # knows the timbre only
    kept = {
        "turn": [world.heard() for _ in range(3)],
        "swell": [world.heard()[:, 4:] for _ in range(3)],
    }
    found = gained(blind, kept, column("class", world.tone), FOLDS, GROUPS)
    assert found["turn"].gain.low > 0.4 and found["turn"].p_holm < 0.01
    assert found["swell"].gain.low < 0 < found["swell"].gain.high
    assert found["swell"].p_holm > 0.05
    assert found["turn"].p_holm == pytest.approx(2 * found["turn"].p)
    assert len(found["turn"].of_seeds) == 3
    assert found["turn"].kept.value - found["turn"].blind.value == pytest.approx(
        found["turn"].gain.value
    )


def test_compact_keeps_distances_where_there_is_room() -> None:
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((300, 8)) @ rng.standard_normal((8, 400))).astype(np.float32)
    small = compact(x)
    assert small.shape == (300, 192)
    apart = np.linalg.norm(x[:20] - x[20:40], axis=1)
    assert np.linalg.norm(small[:20] - small[20:40], axis=1) == pytest.approx(apart, rel=1e-3)
    assert compact(x[:, :5]).shape == (300, 5)
