"""The frontend against physics: tones land on their bin, shifts translate, gains add."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from loev_cli.model.frontend import EPSILON_POWER, FrontendConfig, LogFrequency

CONFIG = FrontendConfig()
N_SAMPLES = 163840


@pytest.fixture(scope="module")
def frontend() -> LogFrequency:
    return LogFrequency(CONFIG)


def tone(hz: float, amplitude: float = 0.5, n_samples: int = N_SAMPLES) -> torch.Tensor:
    time = torch.arange(n_samples, dtype=torch.float64) / CONFIG.sample_rate_hz
    return (amplitude * torch.sin(2 * np.pi * hz * time)).float()[None]


def bin_of(hz: float) -> float:
    """Where a frequency lies on the wide axis, in bins."""
    return CONFIG.bins_per_octave * np.log2(hz / (CONFIG.top_hz / 2**CONFIG.n_octaves))


def test_shapes(frontend: LogFrequency) -> None:
    features = frontend(tone(440).repeat(3, 1))
    assert features.spectrum.shape == (3, 192, 160)
    assert features.bands.shape == (3, 28, 640)
    assert frontend.center(features).spectrum.shape == (3, 168, 160)


@pytest.mark.parametrize("hz", [41.2, 65.41, 110.0, 261.63, 440.0, 987.77, 2093.0, 5274.0])
def test_a_tone_peaks_at_its_bin_and_at_full_level(frontend: LogFrequency, hz: float) -> None:
    spectrum = frontend(tone(hz)).spectrum[0].mean(dim=1)
    peak = int(spectrum.argmax())
    assert abs(peak - bin_of(hz)) <= 0.75
    # A sine of amplitude a gives |a / 2|^2; between two bins it may lose up to 3.5 dB.
    level_db = 10 / np.log(10) * (spectrum[peak].item() - np.log(0.25**2))
    assert -3.5 < level_db < 0.5


@pytest.mark.parametrize("hz", [110.0, 440.0, 1760.0])
def test_what_is_an_octave_away_is_60_db_down(frontend: LogFrequency, hz: float) -> None:
    spectrum = frontend(tone(hz)).spectrum[0].mean(dim=1) * 10 / np.log(10)
    far = abs(np.arange(CONFIG.n_bins_wide) - bin_of(hz)) > CONFIG.bins_per_octave
    assert spectrum[far].max() < spectrum.max() - 55


def test_the_two_bins_of_a_semitone_straddle_it() -> None:
    a4 = bin_of(440.0)
    assert a4 % CONFIG.bins_per_semitone == pytest.approx(0.5, abs=0.01)


def test_a_semitone_up_is_two_bins_up(frontend: LogFrequency) -> None:
    rng = torch.Generator().manual_seed(0)
    partials = [(220 * k, 0.2 / k) for k in range(1, 9)]
    phases = torch.rand(len(partials), generator=rng)
    time = torch.arange(N_SAMPLES) / CONFIG.sample_rate_hz

    def note(semitones: int) -> torch.Tensor:
        ratio = 2 ** (semitones / 12)
        parts = [
            a * torch.sin(2 * np.pi * (f * ratio * time + p))
            for (f, a), p in zip(partials, phases, strict=True)
        ]
        return torch.stack(parts).sum(dim=0)[None]

    low = frontend(note(0)).spectrum[0, :, 40:120].mean(dim=1)
    high = frontend(note(3)).spectrum[0, :, 40:120].mean(dim=1)
    loud = low[:-6] > low.max() - 7  # within 30 dB of the peak
    assert (high[6:] - low[:-6])[loud].abs().max() < 0.7  # 3 dB


def test_a_gain_adds_a_constant(frontend: LogFrequency) -> None:
    noise = 0.1 * torch.randn(1, N_SAMPLES, generator=torch.Generator().manual_seed(1))
    quiet, loud = frontend(noise), frontend(2 * noise)
    for after, before in zip(loud, quiet, strict=True):
        audible = before > np.log(1e-8)
        assert (after - before - np.log(4.0))[audible].abs().max() < 1e-3


def test_silence_is_the_floor(frontend: LogFrequency) -> None:
    features = frontend(torch.zeros(1, N_SAMPLES))
    assert torch.all(features.spectrum == np.float32(np.log(EPSILON_POWER)))
    assert torch.all(torch.isfinite(features.bands))


@pytest.mark.parametrize("at_s", [1.0, 5.003, 9.1])
def test_a_click_rises_in_its_frame_in_every_octave(frontend: LogFrequency, at_s: float) -> None:
    waveform = torch.zeros(1, N_SAMPLES)
    n_click = int(at_s * CONFIG.sample_rate_hz)
    waveform[0, n_click] = 1.0
    bands = frontend(waveform).bands[0].exp() - EPSILON_POWER
    center = (bands * torch.arange(bands.shape[1])).sum(dim=1) / bands.sum(dim=1)
    # Frame t is centered on sample (t + 0.5) * hop.
    assert (center - (n_click / CONFIG.band_hop - 0.5)).abs().max() < 1.0


def test_every_sample_is_seen(frontend: LogFrequency) -> None:
    """A click anywhere is seen by every bin: no gaps between short kernels."""
    energies = []
    for n_click in range(80000, 80000 + 1024, 61):
        waveform = torch.zeros(1, N_SAMPLES)
        waveform[0, n_click] = 1.0
        power = frontend(waveform).spectrum[0].exp() - EPSILON_POWER
        energies.append(power[96:].sum(dim=1))
    energy = torch.stack(energies)  # (clicks, bins)
    assert (energy.amin(dim=0) > 0.2 * energy.amax(dim=0)).all()


def at_steps(signal: np.ndarray, taps: np.ndarray, step: int) -> np.ndarray:
    """Filters (n_filters, n_taps) every ``step`` samples of a signal (N,) reflected at its edges.

    -> (n_filters, N / step), frame t centered on sample ``(t + 0.5) * step``.
    """
    n_missing = taps.shape[1] - step
    padded = np.pad(signal, (n_missing // 2, n_missing - n_missing // 2), mode="reflect")
    seen = np.lib.stride_tricks.sliding_window_view(padded, taps.shape[1])[::step]
    return np.asarray(taps @ seen.T)


def powers(
    signal: np.ndarray, frequencies: np.ndarray, n_taps: int, n_cycles: float, hop: int
) -> np.ndarray:
    """Power of Hann-windowed complex exponentials, the mean over each hop: (n_bins, N / hop)."""
    time = np.arange(n_taps) - (n_taps - 1) / 2
    width = np.minimum(n_taps, n_cycles / frequencies)[:, None]
    window = np.where(abs(time) < width / 2, np.cos(np.pi * time / width) ** 2, 0)
    window /= window.sum(axis=1, keepdims=True)
    step = min(hop, 2 ** int(np.log2(0.6 * width.min())))
    found = at_steps(signal, window * np.exp(2j * np.pi * np.outer(frequencies, time)), step)
    power = abs(found) ** 2
    return np.asarray(power.reshape(len(power), -1, hop // step).mean(axis=2))


def test_it_equals_its_kernels_applied_one_by_one(frontend: LogFrequency) -> None:
    """In double precision, without blocks: edges, steps and averages of every octave."""
    n_samples = 32 * CONFIG.spectrum_hop
    waveform = 0.1 * np.random.default_rng(0).standard_normal(n_samples).astype(np.float32)
    top = CONFIG.top_hz / CONFIG.sample_rate_hz
    bins = top / 2 * 2 ** (np.arange(CONFIG.bins_per_octave) / CONFIG.bins_per_octave)
    edges = np.linspace(top / 2, top, CONFIG.bands_per_octave + 1)
    time = np.arange(96) - 47.5
    low_pass = np.sinc(time / 2) * np.kaiser(96, 5.0)
    signal, spectrum, bands = waveform.astype(np.float64), [], []
    for i in range(CONFIG.n_octaves):
        hop = CONFIG.spectrum_hop >> i
        spectrum.append(powers(signal, bins, CONFIG.kernel_n_samples, CONFIG.kernel_n_cycles, hop))
        if i < CONFIG.n_band_octaves:
            n_taps = min(64, (CONFIG.sample_rate_hz >> i) * 64 // 1000)
            middles = (edges[:-1] + edges[1:]) / 2
            bands.append(powers(signal, middles, n_taps, np.inf, CONFIG.band_hop >> i))
        signal = at_steps(signal, low_pass[None] / low_pass.sum(), 2)[0]
    features = frontend(torch.from_numpy(np.stack([waveform, 0 * waveform])))
    for got, expected in zip(features, (spectrum, bands), strict=True):
        expected_power = np.concatenate(expected[::-1]) + EPSILON_POWER
        relative = got[0].exp().numpy() / expected_power - 1
        assert abs(relative).max() < 1e-4
        assert np.sqrt((relative**2).mean()) < 5e-6


def test_it_has_no_weights(frontend: LogFrequency) -> None:
    """Nothing of it is in a bundle's weights, so its inner layout is free to change."""
    assert not frontend.state_dict()
