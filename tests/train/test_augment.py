"""What every augmentation promises: checked settings, draws from a seed, rows on their own."""

from __future__ import annotations

import tomllib
from dataclasses import fields

import numpy as np
import pytest
import torch

from loev_cli.errors import UsageError
from loev_cli.model.frontend import Features, FrontendConfig
from loev_cli.train.augment import EQUIVARIANT, AugmentationsConfig, apply_chain
from loev_cli.train.augment.pitch_tempo import Pitch, Tempo
from loev_cli.train.config import TrainConfig, from_mapping, to_toml

CONFIG = FrontendConfig()
ALL = AugmentationsConfig()
RATE_HZ = 16000
N_ROWS = 6


def waveforms() -> torch.Tensor:
    """Rows of different loudness, one of them silent."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(N_ROWS, 16000, generator=generator)
    return x * torch.tensor([0.1, 0.3, 0.0, 0.01, 0.2, 0.1])[:, None]


def features() -> Features:
    generator = torch.Generator().manual_seed(0)
    return Features(
        torch.randn(N_ROWS, CONFIG.n_bins, 40, generator=generator) - 8,
        torch.randn(N_ROWS, CONFIG.n_bands, 160, generator=generator) - 8,
    )


def draws(name: str, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.stack([ALL[name].draw(rng) for _ in range(N_ROWS)])


SEEDS = np.random.default_rng(9).integers(0, 2**32, N_ROWS, dtype=np.uint32)
ON_WAVEFORMS = [a.name for a in ALL.base_chain if a.on_waveforms_too]
ON_FEATURES = [a.name for a in ALL.base_chain if a.on_features_too]


@pytest.mark.parametrize("name", EQUIVARIANT)
def test_draws_follow_from_the_seed(name: str) -> None:
    augmentation = ALL[name]
    assert augmentation.name == name
    assert draws(name).ndim == 2 and draws(name).dtype == np.float64
    np.testing.assert_array_equal(draws(name), draws(name))
    assert not np.array_equal(draws(name, 0), draws(name, 1))
    many = [augmentation.draw(np.random.default_rng(i)) for i in range(30)]
    assert any(augmentation.differ(many[0], other) for other in many)
    assert not augmentation.differ(many[0], many[0])


@pytest.mark.parametrize("name", ON_WAVEFORMS)
def test_a_row_of_waveforms_does_not_depend_on_its_neighbours(name: str) -> None:
    x, params = waveforms(), draws(name)
    together = ALL[name].on_waveforms(x, params, SEEDS, RATE_HZ)
    assert together.shape == x.shape and together.dtype == x.dtype
    assert torch.isfinite(together).all()
    for row in range(N_ROWS):
        one = slice(row, row + 1)
        alone = ALL[name].on_waveforms(x[one], params[one], SEEDS[one], RATE_HZ)
        assert (alone[0] - together[row]).abs().max() < 1e-5


@pytest.mark.parametrize("name", ON_FEATURES)
def test_a_row_of_features_does_not_depend_on_its_neighbours(name: str) -> None:
    views, params = features(), draws(name)
    together = ALL[name].on_features(views, params, SEEDS, CONFIG)
    for row in range(N_ROWS):
        one = slice(row, row + 1)
        part = Features(views.spectrum[one], views.bands[one])
        alone = ALL[name].on_features(part, params[one], SEEDS[one], CONFIG)
        for a, b in zip(alone, together, strict=True):
            assert torch.isfinite(b).all()
            assert (a[0] - b[row]).abs().max() < 1e-4


@pytest.mark.parametrize("name", ON_WAVEFORMS)
def test_silence_stays_silent(name: str) -> None:
    silent = ALL[name].on_waveforms(torch.zeros(N_ROWS, 16000), draws(name), SEEDS, RATE_HZ)
    assert silent.abs().max() < 1e-6


@pytest.mark.parametrize("on", [waveforms, features], ids=["waveforms", "features"])
def test_the_chain_changes_the_rows_it_is_applied_to_and_no_other(on) -> None:  # type: ignore[no-untyped-def]
    before = on()
    names = ON_WAVEFORMS if on is waveforms else ON_FEATURES
    rows = np.array([True, True, False, False, True, False])
    for name in names:
        arguments = ({name: draws(name)}, {name: rows}, {name: SEEDS})
        after = apply_chain((ALL[name],), before, *arguments, CONFIG)
        again = apply_chain((ALL[name],), on(), *arguments, CONFIG)
        parts = [(before, after, again)] if on is waveforms else zip(before, after, again)  # noqa: B905
        changed = np.zeros(N_ROWS, bool)
        for a, b, c in parts:
            assert torch.equal(b, c), name
            changed |= (a != b).flatten(1).any(dim=1).numpy()
        if name != "polarity":  # half of its draws leave the row as it is
            np.testing.assert_array_equal(changed, rows, err_msg=name)
        assert not changed[~rows].any()


def test_the_chain_skips_what_its_path_does_not_have() -> None:
    everywhere = {name: np.ones(N_ROWS, bool) for name in EQUIVARIANT}
    params = {name: draws(name) for name in EQUIVARIANT}
    seeds = dict.fromkeys(EQUIVARIANT, SEEDS)
    assert "blur" not in ON_WAVEFORMS
    assert not set(ON_FEATURES) & {"codec", "distortion", "gain", "polarity"}
    for x in (waveforms(), features()):
        changed = apply_chain(ALL.base_chain, x, params, everywhere, seeds, CONFIG)
        assert type(changed) is type(x)


def test_pitch_draws_every_step_alike_and_any_fraction_without_steps() -> None:
    rng = np.random.default_rng(0)
    whole = [Pitch(semitones=(-3, 2)).draw(rng)[0] for _ in range(600)]
    values, counts = np.unique(whole, return_counts=True)
    assert list(values) == [-3, -2, -1, 0, 1, 2]
    assert counts.min() > 60
    free = np.array([Pitch(semitones=(-3, 2), step=0).draw(rng)[0] for _ in range(300)])
    assert free.min() >= -3 and free.max() <= 2 and len(np.unique(free)) == 300
    assert Pitch(step=0).differ(np.array([0.0]), np.array([0.5]))
    assert not Pitch(step=0).differ(np.array([0.0]), np.array([0.4]))
    assert not Pitch(step=2).differ(np.array([0.0]), np.array([1.0]))


def test_tempo_draws_differ_by_the_gap_in_either_direction() -> None:
    tempo = Tempo(min_gap=0.1)
    for factor, apart in ((1.09, False), (1.11, True), (1 / 1.09, False), (1 / 1.11, True)):
        assert tempo.differ(np.array([0.8]), np.array([0.8 * factor])) == apart


@pytest.mark.parametrize(
    ("name", "key", "value", "message"),
    [
        (
            "tempo",
            "rate",
            [1.3, 0.7],
            r"augmentations\.tempo\.rate: lower bound exceeds upper bound",
        ),
        (
            "pitch",
            "semitones",
            [4, -4],
            r"augmentations\.pitch\.semitones: lower bound exceeds upper bound",
        ),
        (
            "noise",
            "snr_db",
            [30, 3],
            r"augmentations\.noise\.snr_db: lower bound exceeds upper bound",
        ),
        ("tempo", "rate", [0, 1], r"augmentations\.tempo\.rate is 0"),
        ("reverb", "wet", [0.1, 1.5], r"augmentations\.reverb\.wet is 1.5"),
        ("eq", "gain_db", -1.0, r"augmentations\.eq\.gain_db is -1"),
        ("codec", "compression", [0.5, 1.0], r"augmentations\.codec\.compression is 1"),
        ("filter", "kinds", ["lowpass"], r"augmentations\.filter\.kinds: no 'lowpass'.*'low-pass'"),
        ("codec", "formats", [], r"augmentations\.codec\.formats is empty"),
        ("eq", "gain", 3.0, r"augmentations\.eq\.gain'.*gain_db"),
        *((name, "p", 1.5, rf"augmentations\.{name}\.p is 1.5") for name in EQUIVARIANT),
        ("noise", "p", -0.1, r"augmentations\.noise\.p is -0.1"),
    ],
)
def test_a_setting_out_of_bounds_names_its_key(
    name: str, key: str, value: object, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        from_mapping(TrainConfig, {"augmentations": {name: {key: value}}})


def test_every_setting_is_written_and_read_back() -> None:
    config = TrainConfig()
    written = to_toml(config)
    assert from_mapping(TrainConfig, tomllib.loads(written)) == config
    for name in EQUIVARIANT:
        assert f"[augmentations.{name}]" in written
        assert {f.name for f in fields(ALL[name])} <= set(
            tomllib.loads(written)["augmentations"][name]
        )
