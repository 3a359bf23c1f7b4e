"""Probes on vectors that hold exactly what they should."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from loev_cli.errors import UsageError
from loev_cli.evaluate.manifest import Manifest, split
from loev_cli.evaluate.probes import PROBES, Task, TempoTask, check_folds, probe_all, probe_one
from loev_cli.music_keys import KEYS

N = 240
Make = Callable[..., Manifest]


@pytest.fixture
def manifest(manifest_of: Make) -> Manifest:
    rng = np.random.default_rng(1)
    return manifest_of(
        group=[f"g{i // 2}" for i in range(N)],
        key=[KEYS[i % 24] for i in range(N)],
        tempo=rng.uniform(60, 180, N).round(3),
        genre=[("a", "b", "c")[i % 3] for i in range(N)],
        mood=[("x;y", "y;z", "x")[i % 3] for i in range(N)],
        energy=rng.standard_normal(N).round(4),
    )


def one_hot(values: NDArray[np.int64]) -> NDArray[np.float32]:
    return np.eye(int(values.max()) + 1, dtype=np.float32)[values]


@pytest.mark.usefixtures("few_draws")
@pytest.mark.parametrize("probe", PROBES)
def test_an_oracle_of_the_key_scores_one(manifest: Manifest, probe: str) -> None:
    column = manifest.column("key")
    folds = split(manifest).folds
    result = probe_one("oracle", one_hot(column.values), column, folds, manifest.groups, probe)
    for estimate in result.scores.values():
        assert (estimate.value, estimate.high) == (1, 1)
        assert estimate.low == pytest.approx(0.025 ** (2 / N))  # every group is right
        assert estimate.n_tracks == N and estimate.n_groups == N // 2
    assert sorted(result.read.rows) == list(range(N))


@pytest.mark.parametrize(
    ("probes", "n_seeds", "n_allowed"),
    [(("linear",), 1, 2), pytest.param(PROBES, 3, 4, marks=pytest.mark.slow)],
)
def test_random_vectors_score_chance_within_their_interval(
    manifest_of: Make, probes: tuple[str, ...], n_seeds: int, n_allowed: int
) -> None:
    # Labels drawn independently in every part; folds of balanced labels would make a class that is
    # rare in training frequent in the test, and guesses worse than chance.
    missed, n_figures = [], 0
    for seed in range(n_seeds):
        rng = np.random.default_rng(seed)
        made = manifest_of(
            split=["train"] * 200 + ["val"] * 100 + ["test"] * 200,
            key=[KEYS[k] for k in rng.integers(0, 24, 500)],
            tempo=rng.uniform(60, 180, 500).round(3),
            genre=rng.choice(["a", "b", "c"], 500),
            mood=rng.choice(["x;y", "y;z", "x"], 500),
        )
        x = rng.standard_normal((500, 16)).astype(np.float32)
        columns = [made.column(name) for name in ("key", "tempo", "genre", "mood")]
        for result in probe_all({"x": x}, columns, split(made).folds, made.groups, probes=probes):
            for metric, estimate in result.scores.items():
                assert estimate.chance is not None
                n_figures += 1
                # The balanced accuracy of one answer for all has no spread, and is chance.
                low, high = (
                    (estimate.low, estimate.high)
                    if estimate.has_interval
                    else (estimate.value, estimate.value)
                )
                if not low - 1e-9 <= estimate.chance <= high + 1e-9:
                    missed.append((seed, result.label, result.probe, metric, estimate))
    # Of 95 % intervals one in twenty may miss; these come in pairs.
    assert n_figures == 8 * n_seeds * len(probes) and len(missed) <= n_allowed, missed


@pytest.mark.slow
@pytest.mark.usefixtures("few_draws")
def test_what_is_there_is_found(manifest: Manifest) -> None:
    tempo, energy = manifest.column("tempo"), manifest.column("energy")
    folds = split(manifest).folds
    octave = np.log2(tempo.values)
    bumps = np.exp(-(((octave[:, None] - np.linspace(5.9, 7.5, 40)) / 0.04) ** 2))
    found = probe_one("x", bumps.astype(np.float32), tempo, folds, manifest.groups, "linear")
    assert found.scores["Acc1"].value > 0.9
    line = np.stack([energy.values, np.ones(N)], axis=1).astype(np.float32)
    found = probe_one("x", line, energy, folds, manifest.groups, "linear")
    assert found.scores["R2"].value > 0.99
    mood = manifest.column("mood")
    found = probe_one("x", mood.values.astype(np.float32), mood, folds, manifest.groups, "linear")
    assert found.scores["ROC AUC"].value == 1
    assert found.scores["average precision"].value == 1


@pytest.mark.usefixtures("few_draws")
def test_neighbouring_tempi_help_each_other(
    manifest_of: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few tracks for many classes: what is learned at 100 BPM is to serve at 102."""
    rng = np.random.default_rng(0)
    bpm = np.exp2(rng.uniform(6, 8, 300))
    noisy = np.log2(bpm)[:, None] + 0.02 * rng.standard_normal((300, 1))
    x = np.exp(-(((noisy - np.linspace(5.9, 8.1, 50)) / 0.05) ** 2)).astype(np.float32)
    made = manifest_of(split=["train"] * 100 + ["val"] * 50 + ["test"] * 150, tempo=bpm.round(3))
    column, folds = made.column("tempo"), split(made).folds

    def score() -> float:
        found = probe_one("x", x, column, folds, made.groups, "linear")
        return found.scores["Acc1"].value

    shared = score()
    monkeypatch.setattr(TempoTask, "shares", Task.shares)
    assert shared > score() + 0.05


@pytest.mark.usefixtures("few_draws")
def test_a_hidden_layer_reads_what_no_line_can(manifest_of: Make) -> None:
    rng = np.random.default_rng(0)
    x = rng.choice([-1.0, 1.0], (300, 2)).astype(np.float32)
    x += 0.1 * rng.standard_normal(x.shape).astype(np.float32)
    either = np.where(x[:, 0] * x[:, 1] > 0, "same", "other")
    made = manifest_of(genre=either)
    column, folds = made.column("genre"), split(made).folds
    score = {
        probe: probe_one("x", x, column, folds, made.groups, probe).scores["accuracy"].value
        for probe in PROBES
    }
    assert score["mlp"] == 1 and score["linear"] < 0.7


def test_a_label_of_one_column_and_a_dead_dimension(manifest_of: Make) -> None:
    # The cells of a track without any: known, and none of the labels.
    made = manifest_of(tag=["on" if i % 2 else ";" for i in range(60)])
    column = made.column("tag", "multilabel")
    x = np.stack([np.arange(60) % 2, np.full(60, 7.0)], axis=1).astype(np.float32)
    found = probe_one("x", x, column, split(made).folds, made.groups, "linear")
    assert found.read.output.shape == (60, 1) and found.scores["ROC AUC"].value == 1


def test_tracks_without_a_label_are_left_out(manifest_of: Make) -> None:
    genre = ["" if i % 3 == 0 else "ab"[i % 2] for i in range(90)]
    made = manifest_of(genre=genre)
    column = made.column("genre")
    x = one_hot(np.maximum(column.values, 0))
    found = probe_one("x", x, column, split(made).folds, made.groups, "linear")
    assert found.scores["accuracy"].value == 1 and found.scores["accuracy"].n_tracks == 60


def test_regularisation_never_sees_the_test_rows(manifest: Manifest) -> None:
    column = manifest.column("key")
    folds = split(manifest).folds
    x = np.random.default_rng(0).standard_normal((N, 8)).astype(np.float32)
    base = probe_one("x", x, column, folds[:1], manifest.groups, "linear")
    moved = x.copy()
    moved[folds[0].test] *= 100
    again = probe_one("x", moved, column, folds[:1], manifest.groups, "linear")
    assert again.read.strength == base.read.strength


def test_a_label_that_does_not_reach_every_part_is_an_error(manifest_of: Make) -> None:
    made = manifest_of(
        genre=["a", "b", "a", "", "a", "b"], split=["train"] * 3 + ["val"] + ["test"] * 2
    )
    with pytest.raises(UsageError, match="column 'genre' has no labels among the val rows"):
        check_folds(made.column("genre"), split(made).folds)
    made = manifest_of(
        genre=["a", "a", "a", "b", "a", "b"], split=["train"] * 3 + ["val"] + ["test"] * 2
    )
    with pytest.raises(UsageError, match="'genre' has one value only among the train rows"):
        check_folds(made.column("genre"), split(made).folds)
