"""Feature augmentations: what is asked for happens, to the right axis, and nothing else moves."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from loev_cli.errors import UsageError
from loev_cli.model.frontend import Features, FrontendConfig, LogFrequency
from loev_cli.train.augment.config import (
    AugmentationsConfig,
    BlurConfig,
    CompressionConfig,
    EqConfig,
    NoiseConfig,
    PitchConfig,
    TempoConfig,
)
from loev_cli.train.augment.features import (
    Blur,
    Compression,
    Cut,
    Eq,
    Noise,
    base_chain,
    cut_view,
)
from loev_cli.train.data import track_features
from loev_cli.train.views import SharedViewPlanner, n_views

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
        track_features(tone(440), frontend), Cut(20, 1.0, 2 * semitones), N_FRAMES, CONFIG
    )
    played, _ = cut_view(
        track_features(tone(440 * 2 ** (semitones / 12)), frontend),
        Cut(20, 1.0, 0),
        N_FRAMES,
        CONFIG,
    )
    assert shifted.shape == (CONFIG.n_bins, N_FRAMES)
    assert shifted.mean(axis=1).argmax() == played.mean(axis=1).argmax()
    loud = played > played.max() - 7
    assert abs(shifted - played)[loud].max() < 0.7


@pytest.mark.parametrize("rate", [0.65, 0.9, 1.0, 1.25, 1.5])
def test_a_cut_changes_the_period_of_clicks_by_its_rate(
    frontend: LogFrequency, rate: float
) -> None:
    _, bands = cut_view(track_features(clicks(0.5), frontend), Cut(31.4, rate, 0), N_FRAMES, CONFIG)
    envelope = np.exp(bands[-8:]).sum(axis=0)
    envelope -= envelope.mean()
    spectrum = abs(np.fft.rfft(envelope * np.hanning(len(envelope)), 2**16))
    expected_hz = 2 * rate
    frequency_hz = np.fft.rfftfreq(2**16, 1 / CONFIG.band_rate_hz)
    near = abs(frequency_hz - expected_hz) < 0.3 * expected_hz
    assert frequency_hz[near][spectrum[near].argmax()] == pytest.approx(expected_hz, rel=0.01)


def test_a_cut_at_rate_one_is_the_track_itself(frontend: LogFrequency) -> None:
    features = track_features(tone(300) + clicks(0.3), frontend)
    spectrum, bands = cut_view(features, Cut(7, 1.0, 0), N_FRAMES, CONFIG)
    low = CONFIG.margin_bins
    rows = features[7 : 7 + N_FRAMES].astype(np.float32)
    np.testing.assert_array_equal(spectrum, rows[:, low : low + CONFIG.n_bins].T)
    np.testing.assert_array_equal(
        bands, rows[:, CONFIG.n_bins_wide :].reshape(-1, CONFIG.n_bands).T
    )


def test_a_cut_past_the_end_repeats_the_track(frontend: LogFrequency) -> None:
    features = track_features(tone(300, seconds=4), frontend)
    spectrum, bands = cut_view(features, Cut(50, 1.5, 0), N_FRAMES, CONFIG)
    assert spectrum.shape == (CONFIG.n_bins, N_FRAMES)
    assert bands.shape == (CONFIG.n_bands, 4 * N_FRAMES)
    assert np.isfinite(spectrum).all() and np.isfinite(bands).all()


def test_a_shift_past_the_margin_is_refused(frontend: LogFrequency) -> None:
    with pytest.raises(ValueError, match="margins"):
        cut_view(track_features(tone(300), frontend), Cut(0, 1.0, 13), N_FRAMES, CONFIG)


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


def test_the_chain_is_decided_by_its_generator_and_keeps_shapes() -> None:
    chain = base_chain(AugmentationsConfig(), CONFIG)
    results = []
    for seed in (1, 1, 2):
        rng, changed = np.random.default_rng(seed), views()
        for augmentation in chain:
            changed = augmentation(changed, rng)
        results.append(changed)
    assert all(a.shape == b.shape for a, b in zip(results[0], views(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(results[0], results[1], strict=True))
    assert not torch.equal(results[0].spectrum, results[2].spectrum)


def test_probability_zero_changes_nothing() -> None:
    rng = np.random.default_rng(0)
    before = views()
    for augmentation in (
        Eq(EqConfig(p=0), CONFIG),
        Noise(NoiseConfig(p=0), CONFIG),
        Compression(CompressionConfig(p=0), CONFIG),
        Blur(BlurConfig(p=0), CONFIG),
    ):
        after = augmentation(before, rng)
        for a, b in zip(after, before, strict=True):
            assert (a - b).abs().max() < 1e-4, type(augmentation).__name__


def test_eq_is_constant_in_time_smooth_in_frequency_and_bounded() -> None:
    before = views()
    after = Eq(EqConfig(gain_db=6, p=1), CONFIG)(before, np.random.default_rng(0))
    change = after.spectrum - before.spectrum
    assert (change - change[:, :, :1]).abs().max() < 1e-4
    assert change.abs().max() <= 6 / 10 * np.log(10) + 1e-4
    assert change.abs().max() > 1
    assert change.diff(dim=1).abs().max() < 0.2


def test_noise_comes_at_the_ratio_asked_for() -> None:
    config = NoiseConfig(snr_db=(10, 10), slope_db=(0, 0), p=1)
    before = views()
    after = Noise(config, CONFIG)(before, np.random.default_rng(0))
    signal = before.spectrum.exp().mean(dim=(1, 2))
    noise = (after.spectrum.exp() - before.spectrum.exp()).mean(dim=(1, 2))
    ratio_db = 10 * torch.log10(signal / noise)
    assert (ratio_db - 10).abs().max() < 0.1


def test_compression_halves_the_contrast_of_loud_and_quiet() -> None:
    spectrum = torch.full((1, CONFIG.n_bins, N_FRAMES), -8.0)
    bands = torch.full((1, CONFIG.n_bands, 4 * N_FRAMES), -8.0)
    spectrum[:, :, 80:] = -4.0
    bands[:, :, 320:] = -4.0
    config = CompressionConfig(ratio=(0.5, 0.5), p=1)
    after = Compression(config, CONFIG)(Features(spectrum, bands), np.random.default_rng(0))
    assert (after.spectrum[0, 0, -1] - after.spectrum[0, 0, 0]).item() == pytest.approx(2, abs=1e-3)
    assert (after.bands[0, 0, -1] - after.bands[0, 0, 0]).item() == pytest.approx(2, abs=1e-3)


def test_blur_is_causal_and_keeps_the_energy() -> None:
    bands = torch.full((4, CONFIG.n_bands, 640), -25.0)
    bands[:, :, 300] = 0.0
    before = Features(torch.zeros(4, CONFIG.n_bins, N_FRAMES), bands)
    after = Blur(BlurConfig(width_s=0.05, p=1), CONFIG)(before, np.random.default_rng(0))
    power = after.bands.exp()
    assert power[:, :, :300].max() < 1e-9
    assert torch.allclose(power.sum(dim=2), bands.exp().sum(dim=2), rtol=1e-3)
    assert (power[:, 0, 301] > 1e-3).any()


def planner(augs: tuple[str, ...], **changes: object) -> SharedViewPlanner:
    return SharedViewPlanner(augs, AugmentationsConfig(**changes), CONFIG)  # type: ignore[arg-type]


def test_views_agree_in_one_augmentation_and_differ_in_the_other() -> None:
    plan_of = planner(("pitch", "tempo"))
    rng = np.random.default_rng(0)
    for _ in range(200):
        base, same_pitch, same_tempo = plan_of.plan(600, N_FRAMES, rng)
        assert same_pitch.cut.shift_bins == base.cut.shift_bins
        assert same_tempo.cut.rate == base.cut.rate
        for a, b in ((base, same_tempo), (same_pitch, same_tempo)):
            assert abs(a.cut.shift_bins - b.cut.shift_bins) >= 2
        for a, b in ((base, same_pitch), (same_pitch, same_tempo)):
            assert abs(np.log(a.cut.rate / b.cut.rate)) >= np.log(1.05) - 1e-9
        draws = [view.draws for view in (base, same_pitch, same_tempo)]
        assert [d["pitch"] for d in draws] == [0, 0, 2]
        assert [d["tempo"] for d in draws] == [0, 1, 0]


def test_with_one_augmentation_a_view_shares_nothing() -> None:
    base, same, other = planner(("pitch",)).plan(600, N_FRAMES, np.random.default_rng(0))
    assert n_views(("pitch",)) == 3
    assert base.cut.shift_bins == same.cut.shift_bins != other.cut.shift_bins
    assert base.cut.rate != same.cut.rate  # tempo has no head: it is drawn anew in every view


def test_draws_fill_their_range_and_stay_in_it() -> None:
    plan_of = planner(("pitch", "tempo"))
    rng = np.random.default_rng(0)
    cuts = [view.cut for _ in range(300) for view in plan_of.plan(600, N_FRAMES, rng)]
    shifts = {cut.shift_bins for cut in cuts}
    assert shifts == set(range(-12, 12, 2))
    rates = [cut.rate for cut in cuts]
    assert 0.65 <= min(rates) < 0.68 and 1.45 < max(rates) <= 1.5
    assert all(cut.start_frame >= 0 and cut.start_frame + cut.rate * 160 <= 600 for cut in cuts)


def test_a_range_too_narrow_for_its_draws_is_a_clear_error() -> None:
    with pytest.raises(UsageError, match="no room"):
        planner(("pitch", "tempo"), tempo=TempoConfig(rate=(1.0, 1.01))).plan(
            600, N_FRAMES, np.random.default_rng(0)
        )
    with pytest.raises(UsageError, match="margin"):
        planner(("pitch",), pitch=PitchConfig(semitones=(-12, 12)))
