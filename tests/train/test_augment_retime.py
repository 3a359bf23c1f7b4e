"""Pitch and tempo of waveforms by physics: what is asked for moves, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from loev_cli.train.augment.retime import retime
from tests.train.conftest import RATE_HZ

N_SAMPLES = 48000
ROWS = [  # rate, semitones
    (1.0, 4.0),
    (1.0, -4.0),
    (0.7, 0.0),
    (1.3, 0.0),
    (0.8, 3.0),
    (1.25, -2.5),
    (0.5, 12.0),
    (2.0, -12.0),
    (0.93, 0.37),
]
RATES, SEMITONES = (np.array(values) for values in zip(*ROWS, strict=True))


def played(segments: list[np.ndarray]) -> np.ndarray:
    """Every row of ROWS at once."""
    rows = [torch.from_numpy(segment.astype(np.float32)) for segment in segments]
    return retime(rows, RATES, SEMITONES, N_SAMPLES, RATE_HZ).numpy()


def seconds(rate: float) -> np.ndarray:
    return np.arange(round(rate * N_SAMPLES)) / RATE_HZ


def tone(hz: float, rate: float) -> np.ndarray:
    return 0.3 * np.sin(2 * np.pi * hz * seconds(rate))


def clicks(period_s: float, rate: float, semitones: float) -> np.ndarray:
    """Without what a shift up moves past half the sample rate."""
    x = np.zeros(len(seconds(rate)))
    x[1600 :: round(period_s * RATE_HZ)] = 0.9
    return band_limited(x, semitones)


def band_limited(x: np.ndarray, semitones: float) -> np.ndarray:
    spectrum = np.fft.rfft(x)
    spectrum[int(len(spectrum) * 0.98 * min(1, 2 ** (-semitones / 12))) :] = 0
    return np.fft.irfft(spectrum, len(x))


def level_db(x: np.ndarray) -> float:
    return float(10 * np.log10((x * x).mean()))


def peak_hz(x: np.ndarray, rate_hz: float, low_hz: float, high_hz: float) -> float:
    spectrum = abs(np.fft.rfft(x * np.hanning(len(x)), 2**20))
    hz = np.arange(len(spectrum)) * rate_hz / 2**20
    near = (hz > low_hz) & (hz < high_hz)
    return float(hz[near][spectrum[near].argmax()])


@pytest.mark.parametrize("hz", [82.4, 440.0, 1760.0])
def test_a_tone_lands_within_5_cents_whatever_the_rate(hz: float) -> None:
    for row, (rate, semitones) in zip(played([tone(hz, r) for r in RATES]), ROWS, strict=True):
        wanted_hz = hz * 2 ** (semitones / 12)
        found_hz = peak_hz(row[4000:-4000], RATE_HZ, 20, 8000)
        assert abs(1200 * np.log2(found_hz / wanted_hz)) < 5, (rate, semitones)


def test_a_tone_stays_pure() -> None:
    for row, (rate, semitones) in zip(played([tone(440, r) for r in RATES]), ROWS, strict=True):
        middle = row[4000:-4000]
        power = abs(np.fft.rfft(middle * np.blackman(len(middle)), 2**18)) ** 2
        off = abs(np.arange(len(power)) * RATE_HZ / 2**18 - 440 * 2 ** (semitones / 12)) > 6
        assert 10 * np.log10(power[off].sum() / power.sum()) < -60, (rate, semitones)


def test_the_period_of_clicks_is_within_1_percent_whatever_the_shift() -> None:
    heard = played([clicks(0.5 * r, r, s) for r, s in ROWS])
    for row, (rate, semitones) in zip(heard, ROWS, strict=True):
        envelope = (row[: N_SAMPLES // 64 * 64].reshape(-1, 64) ** 2).sum(axis=1)
        envelope -= envelope.mean()
        found_hz = peak_hz(envelope, RATE_HZ / 64, 1.5, 2.5)
        assert found_hz == pytest.approx(2, rel=0.01), (rate, semitones)


def test_clicks_stay_sharp() -> None:
    heard = played([clicks(0.5 * r, r, s) for r, s in ROWS])
    for row, (rate, semitones) in zip(heard, ROWS, strict=True):
        energy = np.convolve(row**2, np.ones(480), mode="same")  # 30 ms around
        loudest = [
            energy[start : start + 8000].max() for start in range(4000, N_SAMPLES - 8000, 8000)
        ]
        periods = (N_SAMPLES - 12000) / 8000
        inside = sum(loudest) / (row[4000 : N_SAMPLES - 8000] ** 2).sum()
        assert inside > 0.7, (rate, semitones, periods)


def test_an_onset_is_where_its_moment_in_the_track_has_moved_to() -> None:
    segments = []
    for rate in RATES:
        noise = 0.1 * np.random.default_rng(0).standard_normal(len(seconds(rate)))
        noise[seconds(rate) < 1.5 * rate] = 0
        segments.append(noise)
    for row, (rate, semitones) in zip(played(segments), ROWS, strict=True):
        energy = np.cumsum(row**2)
        began_s = np.searchsorted(energy, 0.01 * energy[-1]) / RATE_HZ
        assert began_s == pytest.approx(1.5, abs=0.04), (rate, semitones)


@pytest.mark.parametrize("sound", ["tone", "clicks", "noise", "music"])
def test_the_level_stays_within_1_db(sound: str) -> None:
    rng = np.random.default_rng(0)
    segments = []
    for rate, semitones in ROWS:
        time = seconds(rate)
        if sound == "tone":
            x = tone(440, rate)
        elif sound == "clicks":
            x = clicks(0.5 * rate, rate, semitones)
        elif sound == "noise":
            x = 0.1 * rng.standard_normal(len(time))
        else:
            x = np.zeros(len(time))
            for start in np.arange(0, 3, 0.25) * rate:
                since = np.maximum(time - start, 0)
                for hz in rng.choice([110.0, 131, 165, 220, 262, 330, 440], 3, replace=False):
                    partials = sum(np.sin(2 * np.pi * hz * k * since) / k for k in (1, 2, 3))
                    x += 0.05 * partials * np.exp(-4 * since / rate)
                x += 0.1 * rng.standard_normal(len(time)) * np.exp(-60 * since) * (time > start)
        segments.append(band_limited(x, semitones))
    for row, segment, what in zip(played(segments), segments, ROWS, strict=True):
        assert abs(level_db(row) - level_db(segment)) < 1, what


def test_silence_stays_silent() -> None:
    assert not played([np.zeros(len(seconds(rate))) for rate in RATES]).any()
    half_silent = [tone(440, rate) * (seconds(rate) > rate) for rate in RATES]
    assert np.isfinite(played(half_silent)).all()


def test_rate_1_and_no_shift_return_the_segment() -> None:
    segment = torch.randn(N_SAMPLES, generator=torch.Generator().manual_seed(0))
    row = retime([segment], np.array([1.0]), np.array([0.0]), N_SAMPLES, RATE_HZ)[0]
    assert torch.equal(row, segment)


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    rng = np.random.default_rng(0)
    segments = [0.1 * rng.standard_normal(len(seconds(rate))) for rate in RATES]
    together = played(segments)
    for row, segment in enumerate(segments):
        alone = retime(
            [torch.from_numpy(segment.astype(np.float32))],
            RATES[row : row + 1],
            SEMITONES[row : row + 1],
            N_SAMPLES,
            RATE_HZ,
        )
        assert abs(alone[0].numpy() - together[row]).max() < 1e-5


def test_segments_much_shorter_than_a_window_are_played() -> None:
    rows = [torch.randn(n) for n in (1, 40, 900)]
    out = retime(rows, np.array([0.8, 1.1, 1.0]), np.array([0.0, -3, 2]), 1000, RATE_HZ)
    assert out.shape == (3, 1000) and torch.isfinite(out).all()
