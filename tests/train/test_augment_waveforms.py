"""Augmentations on waveforms by physics, and their agreement with the same ones on features."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from loev_cli.model.frontend import FrontendConfig, LogFrequency
from loev_cli.train.augment import Augmentation
from loev_cli.train.augment.degradations import FORMATS, Codec, Noise
from loev_cli.train.augment.level import Compression, Distortion, Gain, Polarity
from loev_cli.train.augment.room import Reverb
from loev_cli.train.augment.spectrum import FILTER_KINDS, Eq, Filter
from tests.train.conftest import RATE_HZ

N_SAMPLES = 48000
DB_PER_NAT = 10 / np.log(10)


def changed(augmentation: Augmentation, x: np.ndarray, *params: float, seed: int = 1) -> np.ndarray:
    """One row with the given parameters."""
    row = torch.from_numpy(x.astype(np.float32))[None]
    seeds = np.array([seed], np.uint32)
    return augmentation.on_waveforms(row, np.array([params]), seeds, RATE_HZ)[0].numpy()


def tone(hz: float) -> np.ndarray:
    return 0.3 * np.sin(2 * np.pi * hz * np.arange(N_SAMPLES) / RATE_HZ)


def white(seed: int = 0) -> np.ndarray:
    return 0.1 * np.random.default_rng(seed).standard_normal(N_SAMPLES)


def music() -> np.ndarray:
    """Struck notes with overtones over a soft floor of noise."""
    rng = np.random.default_rng(0)
    time = np.arange(N_SAMPLES) / RATE_HZ
    x = 0.003 * rng.standard_normal(N_SAMPLES)
    for start in np.arange(0, 3, 0.25):
        since = np.maximum(time - start, 0)
        for hz in rng.choice([98.0, 131, 196, 262, 330, 440, 659], 3, replace=False):
            for k in range(1, 9):
                x += 0.05 / k * np.sin(2 * np.pi * hz * k * since) * np.exp(-4 * since)
    return x


def level_db(x: np.ndarray) -> float:
    return float(10 * np.log10((x * x).mean()))


def gain_at_db(augmentation: Augmentation, hz: float, *params: float) -> float:
    """By how much a tone comes out louder, away from the view's ends."""
    middle = slice(8000, -8000)
    return level_db(changed(augmentation, tone(hz), *params)[middle]) - level_db(tone(hz)[middle])


def test_gain_is_the_decibels_asked_for_and_polarity_the_sign() -> None:
    x = white()
    assert level_db(changed(Gain(), x, -7.5)) - level_db(x) == pytest.approx(-7.5, abs=1e-3)
    np.testing.assert_array_equal(changed(Polarity(), x, -1.0), -x.astype(np.float32))


@pytest.mark.parametrize("slope_db", [3.0, 0.0, -6.0])
@pytest.mark.parametrize("snr_db", [3.0, 30.0])
def test_noise_comes_at_its_ratio_and_slope(snr_db: float, slope_db: float) -> None:
    x = music().astype(np.float32)
    noise = changed(Noise(), x, snr_db, slope_db) - x
    assert level_db(x) - level_db(noise) == pytest.approx(snr_db, abs=0.5)
    power = abs(np.fft.rfft(noise)) ** 2
    hz = np.fft.rfftfreq(N_SAMPLES, 1 / RATE_HZ)
    octaves_db = [
        10 * np.log10(power[(hz >= low) & (hz < 2 * low)].sum()) for low in (250, 500, 1000, 2000)
    ]
    assert np.diff(octaves_db) == pytest.approx([slope_db] * 3, abs=0.5)


def test_noise_differs_by_its_seed_only() -> None:
    x = white()
    first, second, again = (changed(Noise(), x, 10, 0, seed=seed) - x for seed in (1, 2, 1))
    np.testing.assert_array_equal(first, again)
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.05


@pytest.mark.parametrize(
    ("kind", "low_hz", "high_hz", "passes_hz", "half_hz", "stops_hz"),
    [
        ("low-pass", 0, 1000, (100, 500), 1000, (3000, 6000)),
        ("high-pass", 1000, 0, (2000, 6000), 1000, (100, 300)),
        ("band-pass", 500, 1000, (690, 720), 500, (100, 4000)),
        ("band-stop", 500, 1000, (100, 4000), 1000, (700, 714)),
    ],
)
def test_a_filter_passes_and_stops_where_it_should(
    kind: str,
    low_hz: float,
    high_hz: float,
    passes_hz: tuple[float, float],
    half_hz: float,
    stops_hz: tuple[float, float],
) -> None:
    params = (FILTER_KINDS.index(kind), low_hz, high_hz)
    for hz in passes_hz:
        assert gain_at_db(Filter(), hz, *params) == pytest.approx(0, abs=0.5)
    assert gain_at_db(Filter(), half_hz, *params) == pytest.approx(-3, abs=0.3)
    for hz in stops_hz:
        assert gain_at_db(Filter(), hz, *params) < -18


def test_a_filter_falls_by_6_db_per_octave_and_order() -> None:
    for order in (1, 2, 4):
        octave = [gain_at_db(Filter(order=order), hz, 0, 0, 400) for hz in (3000, 6000)]
        assert octave[0] - octave[1] == pytest.approx(6 * order, abs=0.3)


def test_eq_follows_its_curve_and_delays_nothing() -> None:
    knots_db = (6.0, -6.0, 3.0, 0.0, -3.0, 6.0)
    for i, gain_db in list(enumerate(knots_db))[1:]:
        hz = 7351.69 / 2**8 * 2 ** (i * 8 / 5)
        # A knot is a corner: a tone on it reads the curve over the tone's own width.
        assert gain_at_db(Eq(), hz, *knots_db) == pytest.approx(gain_db, abs=0.3)
    click = np.zeros(N_SAMPLES)
    click[24000] = 1
    assert abs(changed(Eq(), click, *knots_db)).argmax() == 24000
    assert abs(changed(Eq(), click, *knots_db))[:16000].max() < 1e-3


def test_reverb_decays_in_its_time_and_keeps_the_energy() -> None:
    click = np.zeros(N_SAMPLES)
    click[8000] = 1
    room = Reverb(rt60_s=(0.1, 1.0))
    response = changed(room, click, 0.6, 0.4)
    assert not abs(response[:7990]).max() > 1e-6
    assert (response**2).sum() == pytest.approx(1, abs=0.05)
    assert (response[8001:] ** 2).sum() == pytest.approx(0.4, abs=0.01)
    left_db = 10 * np.log10(np.cumsum(response[:8000:-1] ** 2)[::-1])  # Schroeder's integral
    fell_by = [np.searchsorted(-left_db, -left_db[0] + db) / RATE_HZ for db in (5, 25)]
    assert 3 * (fell_by[1] - fell_by[0]) == pytest.approx(0.6, rel=0.05)
    other = changed(room, click, 0.6, 0.4, seed=2)
    assert abs(np.corrcoef(response[8001:20000], other[8001:20000])[0, 1]) < 0.1


def test_distortion_adds_the_overtones_of_tanh_and_keeps_the_level() -> None:
    drive_db = -20.0
    amplitude = np.sqrt(2) * 10 ** (drive_db / 20)
    y = changed(Distortion(), tone(500), drive_db)
    spectrum = abs(np.fft.rfft(y))
    third, second = spectrum[4500] / spectrum[1500], spectrum[3000] / spectrum[1500]
    assert third == pytest.approx(amplitude**2 / 12, rel=0.05)  # tanh u = u - u^3 / 3 + ...
    assert second < 1e-4
    for drive_db in (-15.0, 3.0):
        y = changed(Distortion(), white(), drive_db)
        assert level_db(y) == pytest.approx(level_db(white()), abs=0.01)


def test_compression_scales_the_contrast_of_loud_and_quiet() -> None:
    x = tone(440)
    x[:24000] *= 0.1
    for ratio in (0.5, 1.2):
        y = changed(Compression(), x, ratio)
        contrast_db = level_db(y[28000:-4000]) - level_db(y[4000:20000])
        assert contrast_db == pytest.approx(20 * ratio, abs=0.2)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("compression", [0.0, 0.95])
def test_a_codec_loses_a_little_at_the_same_level_and_in_the_same_place(
    name: str, compression: float
) -> None:
    x = music()
    y = changed(Codec(), x, FORMATS.index(name), compression)
    assert level_db(y) == pytest.approx(level_db(x), abs=0.5)
    correlation = np.fft.irfft(np.conj(np.fft.rfft(x, 2**17)) * np.fft.rfft(y, 2**17))
    assert abs((correlation.argmax() + 2**16) % 2**17 - 2**16) <= 2
    lost_db = level_db(y - x) - level_db(x)
    assert -60 < lost_db < -5


def test_a_codec_takes_any_level_and_a_long_row() -> None:
    loud, soft, long = 30 * white(), 1e-4 * white(), np.tile(white(), 20)
    rows = [(x, name) for x in (loud, soft) for name in FORMATS] + [(long, "vorbis")]
    for x, name in rows:
        y = changed(Codec(), x, FORMATS.index(name), 0.5)
        assert y.shape == x.shape
        assert level_db(y) == pytest.approx(level_db(x), abs=2)


N_FRAMES = 44
N_WINDOW = N_FRAMES * 1024


@pytest.mark.parametrize(
    ("augmentation", "params"),
    [
        (Eq(), (6, -6, 3, 0, -3, 6)),
        (Filter(), (FILTER_KINDS.index("low-pass"), 0, 1500)),
        (Filter(), (FILTER_KINDS.index("high-pass"), 300, 0)),
        (Filter(), (FILTER_KINDS.index("band-pass"), 300, 1200)),
        (Filter(), (FILTER_KINDS.index("band-stop"), 600, 1800)),
        (Noise(), (10, 0)),
        (Noise(), (5, -6)),
        (Noise(), (10, 3)),
        (Reverb(), (0.4, 0.4)),
        (Compression(), (0.7,)),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_waveforms_and_features_are_changed_alike(
    augmentation: Augmentation, params: tuple[float, ...]
) -> None:
    """The power of each bin and band over the view, where it is within 40 dB of the loudest.

    To 1 dB in the median and 2.5 dB in nine bins of ten. Bands are so wide that a curve changes
    within one, where features read it at the center: 4 dB in nine bands of ten.
    """
    config = FrontendConfig()
    frontend = LogFrequency(config)
    x = torch.from_numpy(music()[:N_WINDOW].astype(np.float32))[None]
    rows = torch.cat([x] * 8)  # with noises and rooms of their own
    draws, seeds = np.array([params] * 8, np.float64), np.arange(8, dtype=np.uint32)
    with torch.no_grad():
        before = frontend.center(frontend(x))
        heard = frontend(augmentation.on_waveforms(rows, draws, seeds, RATE_HZ))
    on_waveforms = frontend.center(heard)
    on_features = augmentation.on_features(before, draws[:1], seeds[:1], config)
    for a, b, most_db in zip(on_waveforms, on_features, (2.5, 4.0), strict=True):
        a_db = torch.logsumexp(a, dim=(0, 2)).sub(np.log(8)) * DB_PER_NAT
        b_db = torch.logsumexp(b, dim=(0, 2)) * DB_PER_NAT
        difference_db = (a_db - b_db)[b_db > b_db.max() - 40].abs()
        assert difference_db.median() < 1
        assert difference_db.quantile(0.9) < most_db
