"""Metrics against mir_eval and scikit-learn, and where they are known in closed form."""

from __future__ import annotations

import mir_eval
import numpy as np
import pytest
from sklearn import metrics as reference

from loev_cli.evaluate.probes import (
    KeyTask,
    TempoTask,
    acc1,
    acc2,
    average_precision,
    balanced_accuracy,
    r2,
    roc_auc,
)
from loev_cli.music_keys import KEYS, parse_key


def test_the_key_score_is_mir_evals() -> None:
    rng = np.random.default_rng(0)
    truth, guess = rng.integers(0, 24, (2, 200))
    expected = np.mean(
        [
            mir_eval.key.evaluate(KEYS[a], KEYS[b])["Weighted Score"]
            for a, b in zip(truth, guess, strict=True)
        ]
    )
    assert KeyTask().metrics["weighted score"](truth, guess) == pytest.approx(expected)


def test_a_fifth_a_relative_and_a_parallel_score_what_mirex_says() -> None:
    def score(truth: str, guess: str) -> float:
        a, b = parse_key(truth), parse_key(guess)
        return KeyTask().metrics["weighted score"](np.array([a]), np.array([b]))

    assert score("C major", "C major") == 1
    assert score("C major", "G major") == 0.5
    assert score("C major", "A minor") == 0.3
    assert score("C major", "C minor") == 0.2
    assert score("C major", "F# major") == 0


def test_tempo_hits_are_mir_evals_of_one_tempo() -> None:
    rng = np.random.default_rng(0)
    truth = rng.uniform(50, 200, 300)
    guess = truth * rng.choice([0.5, 0.97, 1, 1.035, 1.05, 2, 3.1], 300)

    def hit(true_bpm: float, bpm: float) -> float:
        # One of its two reference tempi has all the weight, and no estimate of the other is near.
        pair, said = np.array([true_bpm, 1000.0]), np.array([bpm, 5000.0])
        return float(mir_eval.tempo.detection(pair, 1.0, said, tol=0.04)[0])

    expected = np.mean([hit(a, b) for a, b in zip(truth, guess, strict=True)])
    assert acc1(truth, guess) == pytest.approx(expected)
    assert acc2(np.full(6, 90.0), np.array([90, 180, 270, 45, 30, 135.0])) == pytest.approx(5 / 6)
    assert acc1(np.array([100.0, 100.0]), np.array([104.0, 104.1])) == 0.5


@pytest.mark.parametrize("seed", range(3))
def test_the_others_are_scikit_learns(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = (rng.random((60, 4)) < [0.1, 0.3, 0.5, 0.9]).astype(float)
    score = np.round(rng.random((60, 4)) + 0.3 * truth, 1)  # with ties
    assert roc_auc(truth, score) == pytest.approx(reference.roc_auc_score(truth, score))
    expected = reference.average_precision_score(truth, score)
    assert average_precision(truth, score) == pytest.approx(expected)
    a, b = rng.integers(0, 5, (2, 80))
    assert balanced_accuracy(a, b) == pytest.approx(reference.balanced_accuracy_score(a, b))
    x, y = rng.standard_normal((2, 50))
    assert r2(x, y) == pytest.approx(reference.r2_score(x, y))


def test_labels_that_do_not_vary_are_left_out() -> None:
    truth, score = (
        np.array([[1.0, 0], [1, 1], [1, 0]]),
        np.array([[0.1, 0.2], [0.3, 0.9], [0, 0.5]]),
    )
    assert roc_auc(truth, score) == 1
    assert average_precision(truth, score) == 1
    assert np.isnan(roc_auc(truth[:, :1], score[:, :1]))


def test_tempo_is_read_off_between_bins() -> None:
    task = TempoTask()
    bpm = np.geomspace(50, 200, 400)
    bins = task.targets(bpm)
    classes = np.unique(bins)
    certain = (bins[:, None] == classes[None, :]).astype(float)
    assert np.abs(task.output(certain, classes) / bpm - 1).max() < 0.016
    # Half way between two neighbors: their border.
    halves = np.zeros((1, len(classes)))
    halves[0, 10:12] = 0.5
    assert task.output(halves, classes)[0] == pytest.approx(1.03 ** classes[11])


def test_a_tempo_is_shared_among_the_classes_around_it() -> None:
    task = TempoTask()
    bpm = np.geomspace(50, 200, 400)
    tracks, classes, parts = task.shares(bpm)
    whole = np.bincount(tracks, parts)
    assert len(whole) == len(bpm) and whole.min() > 0.9 and whole.max() < 1 + 1e-6
    # The classes' middles, weighted, are the tempo again.
    middles = (classes + 0.5) * np.log2(1.03)
    assert np.abs(np.bincount(tracks, parts * middles) / whole - np.log2(bpm)).max() < 0.01
    # Most of it belongs to the class that the tempo lies in.
    most = [classes[tracks == i][parts[tracks == i].argmax()] for i in range(len(bpm))]
    np.testing.assert_array_equal(most, task.targets(bpm))
