"""Readouts fitted to vectors whose truth is known, and the measures of calibration."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from loev_cli.errors import UsageError
from loev_cli.evaluate.manifest import Manifest
from loev_cli.evaluate.readouts import (
    best_temperature,
    card_with_readouts,
    draw,
    fit_readouts,
    judge,
    reliability,
    turned,
)
from loev_cli.music_keys import KEYS

Make = Callable[..., Manifest]
PER_CLASS = 3


def test_a_turned_vector_has_its_logits_turned() -> None:
    rng = np.random.default_rng(0)
    template = torch.from_numpy(rng.standard_normal((2, 12, PER_CLASS)).astype(np.float32))
    weight = turned(template).numpy()
    vector = rng.standard_normal((12, PER_CLASS)).astype(np.float32)
    logits = (weight @ vector.reshape(-1)).reshape(2, 12)
    for k in range(12):
        moved = (weight @ np.roll(vector, k, axis=0).reshape(-1)).reshape(2, 12)
        np.testing.assert_allclose(moved, np.roll(logits, k, axis=1), atol=1e-5)


def test_a_curve_by_hand() -> None:
    confidence = np.array([0.05, 0.15, 0.15, 0.95, 1.0])
    right = np.array([False, True, False, True, True])
    curve = reliability(confidence, right)
    np.testing.assert_allclose(curve.low, [0, 0.1, 0.9])
    np.testing.assert_array_equal(curve.counts, [1, 2, 2])
    np.testing.assert_allclose(curve.confidence, [0.05, 0.15, 0.975])
    np.testing.assert_allclose(curve.right, [0, 0.5, 1])
    assert curve.ece == pytest.approx((0.05 + 2 * 0.35 + 2 * 0.025) / 5)
    merged = curve.merged(2)
    np.testing.assert_array_equal(merged.counts, [3, 2])
    np.testing.assert_allclose(merged.low, [0, 0.9])
    np.testing.assert_allclose(merged.confidence, [0.35 / 3, 0.975])
    np.testing.assert_allclose(merged.right, [1 / 3, 1])
    np.testing.assert_array_equal(curve.merged(4).counts, [5])
    np.testing.assert_array_equal(curve.merged(1).counts, curve.counts)


def test_honest_confidences_lie_on_the_diagonal() -> None:
    rng = np.random.default_rng(1)
    confidence = rng.uniform(0, 1, 50_000)
    curve = reliability(confidence, rng.uniform(0, 1, 50_000) < confidence)
    assert curve.ece < 0.01
    assert reliability(confidence, np.zeros(50_000, bool)).ece == pytest.approx(0.5, abs=0.01)


def test_the_temperature_undoes_what_was_done_to_the_logits() -> None:
    rng = np.random.default_rng(2)
    logits = rng.standard_normal((20_000, 5))
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    truth = (p.cumsum(axis=1) > rng.uniform(0, 1, (20_000, 1))).argmax(axis=1)

    def log_loss(temperature: float) -> float:
        scaled = 3 * logits / temperature
        return float(
            (np.log(np.exp(scaled).sum(axis=1)) - scaled[np.arange(len(truth)), truth]).mean()
        )

    temperature, loss = best_temperature(log_loss)
    assert temperature == pytest.approx(3.0, rel=0.1)
    assert loss == pytest.approx(log_loss(3.0), abs=1e-3)


def corpus(make: Make, n: int = 480, noise: float = 0.3) -> tuple[Manifest, dict[str, np.ndarray]]:
    """Vectors that hold the key as a turned pattern, and the tempo on an axis of its log."""
    rng = np.random.default_rng(3)
    keys, bpm = rng.integers(0, 24, n), 60 * 2 ** rng.uniform(0, 1.5, n)
    patterns = rng.standard_normal((2, 12, PER_CLASS))
    pitch = np.stack([np.roll(patterns[k // 12], k % 12, axis=0) for k in keys]).reshape(n, -1)
    axis = np.linspace(np.log2(50), np.log2(200), 40)
    tempo = np.exp(-0.5 * ((np.log2(bpm)[:, None] - axis) / 0.05) ** 2)
    vectors = {"pitch": pitch, "tempo": tempo}
    vectors = {
        name: (x + noise * x.std() * rng.standard_normal(x.shape)).astype(np.float32)
        for name, x in vectors.items()
    }
    manifest = make(
        path=[f"{i}.wav" for i in range(n)],
        key=[KEYS[k] for k in keys],
        tempo=bpm.tolist(),
        split=[("train", "train", "val", "test")[i % 4] for i in range(n)],
    )
    return manifest, vectors


def test_readouts_of_a_known_truth(manifest_of: Make) -> None:
    manifest, vectors = corpus(manifest_of)
    key, tempo = fit_readouts(manifest, vectors)
    assert key.tied and "free" in key.rivals and not tempo.tied
    assert key.weight.shape == (24, 36) and tempo.weight.shape == (125, 40)
    assert key.scores["accuracy"].value > 0.98
    assert tempo.scores["Acc1"].value > 0.95
    assert key.n_tracks == {"train": 240, "val": 120, "test": 120}
    # The weights are for the vectors as they are, not as they were prepared.
    logits = vectors["pitch"] @ key.weight.T + key.bias
    said = [KEYS[i] for i in logits.argmax(axis=1)]
    right = np.array([a == b for a, b in zip(said, manifest.cells["key"], strict=True)])
    assert right[3::4].mean() == pytest.approx(key.scores["accuracy"].value)
    draw({each.name: each.curve for each in (key, tempo)})


def test_a_card_gets_its_section_once(manifest_of: Make) -> None:
    manifest, vectors = corpus(manifest_of, n=120)
    fitted = fit_readouts(manifest, vectors)
    card = "# mine\n\nText.\n\n## Limits\n\n- Some.\n"
    once = card_with_readouts(card, fitted, data="`m.csv`")
    assert once.index("## Annotations") < once.index("## Limits")
    assert card_with_readouts(once, fitted, data="`m.csv`") == once
    assert "## Annotations" in card_with_readouts("# mine\n", fitted, data="`m.csv`")


def test_what_cannot_be_fitted(manifest_of: Make) -> None:
    manifest, vectors = corpus(manifest_of, n=40)
    with pytest.raises(UsageError, match="no subspace 'pitch'"):
        fit_readouts(manifest, {"tempo": vectors["tempo"]})
    plain = manifest_of(path=["a.wav", "b.wav"], mood=["calm", "loud"])
    with pytest.raises(UsageError, match="neither a 'key' nor a 'tempo'"):
        fit_readouts(plain, vectors)
    fast = manifest_of(
        path=[f"{i}.wav" for i in range(12)],
        tempo=[300 + i for i in range(12)],
        split=["train", "val", "test"] * 4,
    )
    with pytest.raises(UsageError, match="no usable labels among the train rows"):
        fit_readouts(fast, {"tempo": vectors["tempo"][:12]})


def test_answers_are_judged_by_their_columns() -> None:
    answers = [
        {
            "key": "C major",
            "mode": "major",
            "key_confidence": 0.9,
            "bpm": 100.0,
            "bpm_confidence": 0.5,
        },
        {
            "key": "A minor",
            "mode": "minor",
            "key_confidence": 0.6,
            "bpm": 60.0,
            "bpm_confidence": 0.5,
        },
    ]
    truth = {"key": np.array([0, 0]), "tempo": np.array([103.0, 120.0])}
    judged = judge(answers, truth, np.array(["a", "b"]))  # type: ignore[arg-type]
    key, curve = judged["key"]
    assert {name: e.value for name, e in key.items()} == pytest.approx(
        {"accuracy": 0.5, "weighted score": 0.65, "mode": 0.5}
    )
    assert curve.counts.sum() == 2
    assert {name: e.value for name, e in judged["tempo"][0].items()} == {"Acc1": 0.5, "Acc2": 1.0}


def test_the_figure_is_drawn(tmp_path: Path) -> None:
    curve = reliability(np.array([0.3, 0.8]), np.array([False, True]))
    draw({"key": curve}).savefig(tmp_path / "x.png")
    assert (tmp_path / "x.png").stat().st_size > 1000
