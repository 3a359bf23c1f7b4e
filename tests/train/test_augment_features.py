"""Feature augmentations: what is asked for happens, to the right axis, and nothing else moves."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from loev_cli.model.frontend import Features, FrontendConfig, LogFrequency
from loev_cli.train.augment import Augmentation, cut_view
from loev_cli.train.augment.degradations import Noise
from loev_cli.train.augment.level import Compression
from loev_cli.train.augment.room import Blur, Reverb
from loev_cli.train.augment.spectrum import FILTER_KINDS, Eq, Filter
from loev_cli.train.data import track_features

CONFIG = FrontendConfig()
N_FRAMES = 160
RATE_HZ = CONFIG.sample_rate_hz


def clicks(period_s: float, seconds: float = 30.0) -> np.ndarray:
    waveform = np.zeros(int(seconds * RATE_HZ), np.float32)
    waveform[:: round(period_s * RATE_HZ)] = 1.0
    return waveform


def tone(hz: float, seconds: float = 30.0) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * hz * np.arange(seconds * RATE_HZ) / RATE_HZ)).astype(
        np.float32
    )


@pytest.fixture(scope="module")
def frontend() -> LogFrequency:
    return LogFrequency(CONFIG)


@pytest.mark.parametrize("semitones", [-6, -1, 0, 3, 6])
def test_a_cut_shifts_the_pitch_by_what_a_higher_tone_has(
    frontend: LogFrequency, semitones: int
) -> None:
    shifted, _ = cut_view(
        track_features(tone(440), frontend),
        N_FRAMES,
        CONFIG,
        start_frame=20,
        shift_bins=2 * semitones,
    )
    played, _ = cut_view(
        track_features(tone(440 * 2 ** (semitones / 12)), frontend),
        N_FRAMES,
        CONFIG,
        start_frame=20,
    )
    assert shifted.shape == (CONFIG.n_bins, N_FRAMES)
    assert shifted.mean(axis=1).argmax() == played.mean(axis=1).argmax()
    loud = played > played.max() - 7
    assert abs(shifted - played)[loud].max() < 0.7


@pytest.mark.parametrize("semitones", [-5.75, 0.125, 0.25, 0.375, 2.6, 5.9])
def test_a_cut_between_bins_has_the_peak_of_a_higher_tone(
    frontend: LogFrequency, semitones: float
) -> None:
    for hz in (440, 440 * 2 ** (1 / 48)):  # between two bins, and on one
        shifted, _ = cut_view(
            track_features(tone(hz), frontend),
            N_FRAMES,
            CONFIG,
            start_frame=20,
            shift_bins=2 * semitones,
        )
        higher = tone(hz * 2 ** (semitones / 12))
        played, _ = cut_view(track_features(higher, frontend), N_FRAMES, CONFIG, start_frame=20)
        assert abs(shifted.max(axis=0) - played.max(axis=0)).max() < 0.3  # 1.3 dB
        near = played > played.max() - 2.5  # 11 dB
        assert abs(shifted - played)[near].max() < 0.7  # 3 dB


@pytest.mark.parametrize("rate", [0.65, 0.9, 1.0, 1.25, 1.5])
def test_a_cut_changes_the_period_of_clicks_by_its_rate(
    frontend: LogFrequency, rate: float
) -> None:
    _, bands = cut_view(
        track_features(clicks(0.5), frontend), N_FRAMES, CONFIG, start_frame=31.4, rate=rate
    )
    envelope = np.exp(bands[-8:]).sum(axis=0)
    envelope -= envelope.mean()
    spectrum = abs(np.fft.rfft(envelope * np.hanning(len(envelope)), 2**16))
    expected_hz = 2 * rate
    frequency_hz = np.fft.rfftfreq(2**16, 1 / CONFIG.band_rate_hz)
    near = abs(frequency_hz - expected_hz) < 0.3 * expected_hz
    assert frequency_hz[near][spectrum[near].argmax()] == pytest.approx(expected_hz, rel=0.01)


def test_a_cut_at_rate_one_is_the_track_itself(frontend: LogFrequency) -> None:
    features = track_features(tone(300) + clicks(0.3), frontend)
    spectrum, bands = cut_view(features, N_FRAMES, CONFIG, start_frame=7)
    low = CONFIG.margin_bins
    rows = features[7 : 7 + N_FRAMES].astype(np.float32)
    np.testing.assert_array_equal(spectrum, rows[:, low : low + CONFIG.n_bins].T)
    np.testing.assert_array_equal(
        bands, rows[:, CONFIG.n_bins_wide :].reshape(-1, CONFIG.n_bands).T
    )


def test_a_cut_past_the_end_repeats_the_track(frontend: LogFrequency) -> None:
    features = track_features(tone(300, seconds=4), frontend)
    spectrum, bands = cut_view(features, N_FRAMES, CONFIG, start_frame=50, rate=1.5)
    assert spectrum.shape == (CONFIG.n_bins, N_FRAMES)
    assert bands.shape == (CONFIG.n_bands, 4 * N_FRAMES)
    assert np.isfinite(spectrum).all() and np.isfinite(bands).all()


def test_a_shift_past_the_margin_is_refused(frontend: LogFrequency) -> None:
    with pytest.raises(ValueError, match="margins"):
        cut_view(
            track_features(tone(300), frontend), N_FRAMES, CONFIG, start_frame=0, shift_bins=13
        )


def test_long_tracks_are_featurised_block_by_block_without_a_seam(frontend: LogFrequency) -> None:
    long = tone(440 * 2 ** (1 / 48), seconds=130)  # in the middle of a bin
    features = track_features(long, frontend)
    assert len(features) == -(-len(long) // CONFIG.spectrum_hop)
    peak = features[:, : CONFIG.n_bins_wide].argmax(axis=1)
    assert (peak == peak[100]).all()


def views(n: int = 6) -> Features:
    generator = torch.Generator().manual_seed(0)
    return Features(
        torch.randn(n, CONFIG.n_bins, N_FRAMES, generator=generator) - 8,
        torch.randn(n, CONFIG.n_bands, 4 * N_FRAMES, generator=generator) - 8,
    )


def change(augmentation: Augmentation, before: Features, seed: int = 0) -> Features:
    """Every view with a draw of its own."""
    rng = np.random.default_rng(seed)
    params = np.stack([augmentation.draw(rng) for _ in before.spectrum])
    return augmentation.on_features(before, params, np.arange(len(params)), CONFIG)


def test_eq_is_constant_in_time_smooth_in_frequency_and_bounded() -> None:
    before = views()
    after = change(Eq(gain_db=6), before)
    added = after.spectrum - before.spectrum
    assert (added - added[:, :, :1]).abs().max() < 1e-4
    assert added.abs().max() <= 6 / 10 * np.log(10) + 1e-4
    assert added.abs().max() > 1
    assert added.diff(dim=1).abs().max() < 0.2


@pytest.mark.parametrize("slope_db", [-6.0, 0.0, 3.0])
def test_noise_comes_at_the_ratio_asked_for(slope_db: float) -> None:
    before = views()
    after = change(Noise(snr_db=(10, 10), slope_db=(slope_db, slope_db)), before)
    signal = before.spectrum.exp().mean(dim=(1, 2))
    noise = (after.spectrum.exp() - before.spectrum.exp()).mean(dim=(1, 2))
    ratio_db = 10 * torch.log10(signal / noise)
    assert (ratio_db - 10).abs().max() < 0.1


def test_compression_halves_the_contrast_of_loud_and_quiet() -> None:
    spectrum = torch.full((1, CONFIG.n_bins, N_FRAMES), -8.0)
    bands = torch.full((1, CONFIG.n_bands, 4 * N_FRAMES), -8.0)
    spectrum[:, :, 80:] = -4.0
    bands[:, :, 320:] = -4.0
    after = change(Compression(ratio=(0.5, 0.5)), Features(spectrum, bands))
    assert (after.spectrum[0, 0, -1] - after.spectrum[0, 0, 0]).item() == pytest.approx(2, abs=1e-3)
    assert (after.bands[0, 0, -1] - after.bands[0, 0, 0]).item() == pytest.approx(2, abs=1e-3)


def test_blur_is_causal_and_keeps_the_energy() -> None:
    bands = torch.full((4, CONFIG.n_bands, 640), -25.0)
    bands[:, :, 300] = 0.0
    before = Features(torch.zeros(4, CONFIG.n_bins, N_FRAMES), bands)
    after = change(Blur(width_s=0.05), before)
    power = after.bands.exp()
    assert power[:, :, :300].max() < 1e-9
    assert torch.allclose(power.sum(dim=2), bands.exp().sum(dim=2), rtol=1e-3)
    assert (power[:, 0, 301] > 1e-3).any()


@pytest.mark.parametrize("kind", FILTER_KINDS)
def test_a_filter_takes_away_its_side_of_the_axis(kind: str) -> None:
    edges = {
        "low-pass": (0.0, 1000.0),
        "high-pass": (1000.0, 0.0),
        "band-pass": (500.0, 1000.0),
        "band-stop": (500.0, 1000.0),
    }[kind]
    before = views(1)
    params = np.array([[FILTER_KINDS.index(kind), *edges]])
    after = Filter(order=4).on_features(before, params, np.zeros(1), CONFIG)
    added_db = (after.spectrum - before.spectrum)[0, :, 0].numpy() * 10 / np.log(10)
    lowest_bin = CONFIG.top_hz / 2 ** ((CONFIG.n_bins_wide - CONFIG.margin_bins) / 24)
    hz = lowest_bin * 2 ** (np.arange(CONFIG.n_bins) / 24)
    passes = {
        "low-pass": hz < 600,
        "high-pass": hz > 1600,
        "band-pass": (hz > 650) & (hz < 750),
        "band-stop": (hz < 300) | (hz > 1600),
    }[kind]
    stops = {
        "low-pass": hz > 2500,
        "high-pass": hz < 400,
        "band-pass": (hz < 200) | (hz > 2500),
        "band-stop": (hz > 690) & (hz < 725),
    }[kind]
    assert passes.any() and stops.any()
    assert abs(added_db[passes]).max() < 0.5
    assert added_db[stops].max() < -20


def test_reverb_lingers_for_its_time_and_keeps_the_energy() -> None:
    spectrum = torch.full((1, CONFIG.n_bins, N_FRAMES), -25.0)
    bands = torch.full((1, CONFIG.n_bands, 640), -25.0)
    spectrum[:, :, 50] = bands[:, :, 200] = 0.0
    reverb = Reverb(rt60_s=(0.5, 0.5), wet=(0.4, 0.4))
    for before, after, rate_hz in zip(
        (spectrum, bands),
        change(reverb, Features(spectrum, bands)),
        (CONFIG.band_rate_hz / 4, CONFIG.band_rate_hz),
        strict=True,
    ):
        power = after[0, 0].exp()
        loudest = int(before[0, 0].argmax())
        assert power[:loudest].max() < 1e-9
        assert power.sum().item() == pytest.approx(before[0, 0].exp().sum().item(), rel=1e-3)
        assert power[loudest].item() > 0.6
        falls_db = 10 * (after[0, 0, loudest + 1] - after[0, 0, loudest + 5]).item() / np.log(10)
        assert falls_db == pytest.approx(60 * 4 / rate_hz / 0.5, rel=1e-3)
