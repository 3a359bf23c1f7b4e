"""Changes of audio that can be measured, and embeddings whose answers to them are known."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from numpy.typing import NDArray

from loev_cli.errors import UsageError
from loev_cli.evaluate.equivariance import (
    STRETCH_RATE_HZ,
    STRETCHERS,
    Changed,
    Response,
    changes,
    monotonicity,
    open_stretcher,
    predict_change,
    predicted_embeddings,
    respond,
)

AVAILABLE = [name for name in STRETCHERS[1:] if name != "rubberband" or shutil.which("rubberband")]
RNG = np.random.default_rng(0)
SIZES = (-6.0, -4.0, -2.0, -1.0, 1.0, 2.0, 4.0, 6.0)


def tone(hz: float, seconds: float = 3.0) -> NDArray[np.float32]:
    t = np.arange(round(seconds * STRETCH_RATE_HZ)) / STRETCH_RATE_HZ
    return (0.3 * np.sin(2 * np.pi * hz * t)).astype(np.float32)


def loudest_hz(x: NDArray[np.float32]) -> float:
    spectrum = np.abs(np.fft.rfft(x * np.hanning(len(x))))
    return float(spectrum.argmax()) * STRETCH_RATE_HZ / len(x)


@pytest.mark.parametrize("name", AVAILABLE)
def test_stretchers_do_what_they_are_told(name: str) -> None:
    stretcher = open_stretcher(name)
    assert stretcher.name == name
    pitch, tempo, *_ = changes(stretcher)
    for semitones in (-5, 3):
        shifted = pitch.apply(tone(440), semitones, RNG)
        assert len(shifted) == pytest.approx(3 * STRETCH_RATE_HZ, rel=0.02)
        assert loudest_hz(shifted) == pytest.approx(440 * 2 ** (semitones / 12), rel=0.005)
    for size in (-0.3, 0.3):
        stretched = tempo.apply(tone(440), size, RNG)
        assert len(stretched) == pytest.approx(3 * STRETCH_RATE_HZ / 2**size, rel=0.02)
        assert loudest_hz(stretched) == pytest.approx(440, rel=0.005)


def test_gain_and_noise_have_the_size_they_say() -> None:
    x = tone(440)
    *_, gain, noise = changes(open_stretcher(AVAILABLE[-1]))

    def level(y: NDArray[np.float32]) -> float:
        return float(np.sqrt(np.square(y, dtype=np.float64).mean()))

    assert level(gain.apply(x, -12, RNG)) / level(x) == pytest.approx(10 ** (-12 / 20), rel=1e-4)
    assert level(noise.apply(x, 0.1, RNG) - x) / level(x) == pytest.approx(0.1, rel=0.01)


def test_an_unknown_stretcher_is_one_line() -> None:
    with pytest.raises(UsageError, match="unknown stretcher 'x'"):
        open_stretcher("x")


def heard(plain: NDArray[np.float64], versions: NDArray[np.float64]) -> Changed:
    n = len(plain)
    return Changed(
        rows=np.arange(n),
        groups=np.array([f"g{i}" for i in range(n)]),
        plain={"x": plain.astype(np.float32)},
        changed={"pitch": {"x": versions.astype(np.float32)}},
        sizes={"pitch": SIZES},
        units={"pitch": "semitones"},
        stretcher="none",
    )


def response_of(plain: NDArray[np.float64], versions: NDArray[np.float64]) -> Response:
    (response,) = respond(heard(plain, versions))
    return response


def test_an_embedding_made_invariant_shows_sensitivity_0() -> None:
    plain = RNG.standard_normal((12, 5))
    response = response_of(plain, np.repeat(plain[:, None], len(SIZES), axis=1))
    assert response.sensitivity.value == 0 and not response.sensitivity.has_interval
    assert response.monotonicity.value == 0
    assert all(estimate.value == 0 for estimate in response.curve.values())
    assert response.predicted.value < 0.05


def test_a_constant_embedding_shows_0_too() -> None:
    response = response_of(np.ones((6, 3)), np.ones((6, len(SIZES), 3)))
    assert response.sensitivity.value == 0 and response.predicted.value < 0.05


def test_sensitivity_is_the_distance_moved_over_that_between_tracks() -> None:
    plain = np.zeros((4, 2))
    plain[:, 1] = [0, 1, 2, 3]  # mean distance 10 / 6
    versions = np.repeat(plain[:, None], len(SIZES), axis=1)
    versions[:, :, 0] += 0.5 * np.abs(SIZES)
    response = response_of(plain, versions)
    assert response.sensitivity.value == pytest.approx(0.5 * 3.25 / (10 / 6))
    assert response.curve[4.0].value == pytest.approx(2 / (10 / 6))
    assert response.monotonicity.value == pytest.approx(1)


def test_noise_as_far_as_another_track_is_1() -> None:
    rng = np.random.default_rng(1)
    plain = rng.standard_normal((24, 10))
    response = response_of(plain, rng.standard_normal((24, len(SIZES), 10)))
    assert response.sensitivity.low < 1 < response.sensitivity.high
    assert abs(response.monotonicity.value) < 0.2
    assert response.predicted.value < 0.1


def test_monotonicity_is_spearmans() -> None:
    from scipy.stats import spearmanr

    moved = RNG.standard_normal((5, 8)).round(1)
    sizes = np.abs(SIZES)
    expected = [spearmanr(sizes, row).statistic for row in moved]
    np.testing.assert_allclose(monotonicity(sizes, moved), expected)


def test_a_turn_is_told_from_the_pair() -> None:
    """Tracks at random places of a circle: their difference does not tell by how much they turn."""
    rng = np.random.default_rng(0)
    angle = rng.uniform(0, 2 * np.pi, 24)
    turned = angle[:, None] + np.array(SIZES) * np.pi / 12
    on_circle = [np.stack([np.cos(a), np.sin(a)], axis=-1) for a in (angle, turned)]
    groups = np.arange(24).astype(str)
    found = predict_change(*on_circle, np.array(SIZES), groups)
    assert found.value > 0.9 and found.low > 0.85
    fewer = predict_change(on_circle[0][:2], on_circle[1][:2], np.array(SIZES), groups[:2])
    assert np.isnan(fewer.value)


def test_a_turn_of_known_size_is_predicted_and_chance_is_not() -> None:
    """Each size turns every track by its own angle: linear, though the tracks go different ways."""
    rng = np.random.default_rng(0)
    angle = rng.uniform(0, 2 * np.pi, 40)
    turned = angle[:, None] + np.array(SIZES) * np.pi / 12
    plain, versions = (np.stack([np.cos(a), np.sin(a)], axis=-1) for a in (angle, turned))
    groups = np.arange(40) // 2
    told = predicted_embeddings(plain, versions, groups)
    assert told is not None
    np.testing.assert_allclose(told, versions, atol=0.05)
    # What does not depend on the track moves by its mean, and the tracks held out are not seen.
    noise = rng.standard_normal(versions.shape)
    told = predicted_embeddings(plain, plain[:, None] + 3 + noise, groups)
    assert told is not None
    left = told - plain[:, None] - 3
    assert np.square(left).mean() < 0.1
    assert predicted_embeddings(plain[:4], versions[:4], groups[:4]) is None
