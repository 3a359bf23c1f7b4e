"""The shipped encoder: equivariance that is built in, and independence of the examples."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from loev_cli.errors import UsageError
from loev_cli.model import LoevModel, Method, ModelSpec
from loev_cli.model.encoders.small import (
    LAGS_PER_OCTAVE,
    N_LAG_OCTAVES,
    Autocorrelation,
    OnsetStrength,
    PitchBranch,
    SpectralShape,
    loudness,
)
from loev_cli.model.frontend import Features


@pytest.fixture(scope="module")
def model() -> LoevModel:
    torch.manual_seed(0)
    return LoevModel(ModelSpec()).eval()


def music(n_windows: int, seed: int = 0) -> torch.Tensor:
    """(B, N): random notes with decays, two per second."""
    rng = np.random.default_rng(seed)
    time = np.arange(16000) / 16000
    windows = []
    for _ in range(n_windows):
        waveform = np.zeros(163840)
        for start in range(0, 163840 - 16000, 8000):
            hz = 220 * 2 ** (rng.integers(0, 24) / 12)
            waveform[start : start + 16000] += (
                0.2 * np.sin(2 * np.pi * hz * time) * np.exp(-4 * time)
            )
        windows.append(waveform)
    return torch.tensor(np.stack(windows), dtype=torch.float32)


def test_subspaces_and_shapes(model: LoevModel) -> None:
    assert model.subspaces == {"invariant": 256, "pitch": 240, "tempo": 256}
    with torch.inference_mode():
        vectors = model(music(2))
    assert {k: tuple(v.shape) for k, v in vectors.items()} == {
        "invariant": (2, 256),
        "pitch": (2, 240),
        "tempo": (2, 256),
    }


def test_a_window_does_not_depend_on_its_batch(model: LoevModel) -> None:
    windows = music(5)
    with torch.inference_mode():
        together = model(windows)
        alone = model(windows[3:4])
    for name in together:
        assert (together[name][3] - alone[name][0]).abs().max() < 1e-5


def test_a_gain_changes_nothing(model: LoevModel) -> None:
    windows = music(2)
    with torch.inference_mode():
        loud, quiet = model(windows), model(0.25 * windows)
    for name in loud:
        assert (loud[name] - quiet[name]).abs().max() < 2e-2 * loud[name].abs().max()


def test_silence_and_full_scale_noise_are_finite(model: LoevModel) -> None:
    noise = torch.randn(1, 163840, generator=torch.Generator().manual_seed(0)).sign()
    with torch.inference_mode():
        for waveform in (torch.zeros(1, 163840), noise):
            assert all(torch.isfinite(v).all() for v in model(waveform).values())


@pytest.mark.parametrize("semitones", [-6, -1, 2, 5])
def test_a_transposition_turns_the_pitch_embedding(model: LoevModel, semitones: int) -> None:
    """Untrained: the circle is in the architecture, only the spectrum's ends break it."""
    features = model.frontend(music(4))
    margin = model.spec.frontend.margin_bins
    n_bins = model.spec.frontend.n_bins

    def pitch(shift: int) -> torch.Tensor:
        low = margin - 2 * shift
        spectrum = features.spectrum[:, low : low + n_bins]
        with torch.inference_mode():
            return model.encode(Features(spectrum, features.bands))["pitch"].reshape(4, 12, 20)

    whole: list[torch.Tensor] = []  # with what is common to the pitch classes
    hook = model.encoder.branches["pitch"].out.register_forward_hook(
        lambda module, inputs, output: whole.append(output)
    )
    plain = pitch(0)
    hook.remove()
    error = (pitch(semitones) - torch.roll(plain, semitones, dims=1)).norm()
    assert error < 0.3 * whole[0].norm()
    assert error < 0.6 * (pitch(semitones) - plain).norm()


def test_pitch_holds_only_what_has_a_pitch_class(model: LoevModel) -> None:
    """Something added to all pitch classes alike does not reach the embedding."""
    branch = model.encoder.branches["pitch"]
    seen = model.features(music(2))

    def pitch() -> torch.Tensor:
        with torch.inference_mode():
            return model.encoder(seen)["pitch"].reshape(2, 12, 20)

    before = pitch()
    hook = branch.out.register_forward_hook(lambda _, inputs, out: out + 3.0)
    after = pitch()
    hook.remove()
    scale = before.abs().max()
    assert before.sum(dim=1).abs().max() < 1e-4 * scale
    assert before.std(dim=1).max() > 0.1 * scale  # and it is not nothing
    assert (after - before).abs().max() < 1e-4 * scale


def test_chroma_finds_the_note() -> None:
    from loev_cli.model.frontend import LogFrequency

    frontend = LogFrequency()
    branch = PitchBranch(8, 7, 24, 48)
    time = torch.arange(163840) / 16000
    for name, midi in {"E": 64, "A": 69, "C": 60}.items():
        hz = 440 * 2 ** ((midi - 69) / 12)
        features = frontend.center(frontend(0.3 * torch.sin(2 * np.pi * hz * time)[None]))
        chroma = branch.chroma(loudness(features.spectrum))[0, :3].sum(dim=0)
        # The lowest row of the spectrum is an E.
        assert int(chroma.argmax()) == (midi - 64) % 12, name


@pytest.mark.parametrize("bins", [1, 7, 40])
def test_the_spectral_shape_does_not_see_a_transposition(bins: int) -> None:
    """Notes that stay on the axis, moved by half semitones: nothing but a phase has changed."""
    rng = np.random.default_rng(0)
    spectrum = torch.zeros(2, 1, 168, 5)
    spectrum[:, :, 20:100] = torch.tensor(rng.random((2, 1, 80, 5)), dtype=torch.float32)
    shape = SpectralShape(168)
    torch.testing.assert_close(
        shape(spectrum.roll(bins, dims=2)), shape(spectrum), atol=1e-4, rtol=1e-4
    )
    reversed_octave = spectrum.flip(2)[:, :, torch.randperm(168)]
    assert (shape(reversed_octave) - shape(spectrum)).abs().mean() > 0.1


def test_the_timbre_branch_is_less_moved_than_its_input(model: LoevModel) -> None:
    features = model.frontend(music(4))
    margin, n_bins = model.spec.frontend.margin_bins, model.spec.frontend.n_bins
    shape = model.encoder.branches["invariant"].shape

    def read(shift: int) -> torch.Tensor:
        low = margin - 2 * shift
        return loudness(features.spectrum[:, low : low + n_bins])

    moved = (shape(read(3)) - shape(read(0))).norm() / shape(read(0)).norm()
    assert moved < 0.1 * (read(3) - read(0)).norm() / read(0).norm()


def test_the_tempo_branch_sees_octaves_of_lag(model: LoevModel) -> None:
    """Beat or half of it? Each place of the last layer knows what the double period does."""
    branch = model.encoder.branches["tempo"]
    n_lags = N_LAG_OCTAVES * LAGS_PER_OCTAVE
    x = torch.rand(1, 8, 1, n_lags, generator=torch.Generator().manual_seed(0)).requires_grad_()
    middle = n_lags // 2
    branch.convs(x)[0, :, 0, middle // 2].sum().backward()
    reached = np.flatnonzero(x.grad[0].abs().sum(dim=(0, 1)).numpy())
    far = 1.5 * LAGS_PER_OCTAVE
    assert reached.min() <= middle - far and reached.max() >= middle + far


def test_registers_keep_the_pitch_class_and_overlap_smoothly() -> None:
    registers = PitchBranch(8, 7, 24, 48).registers.reshape(3, 12, 7, 12)
    for pitch_class in range(12):
        others = [i for i in range(12) if i != pitch_class]
        assert (registers[:, pitch_class, :, others] == 0).all()
    weights = registers.sum(dim=1).flatten(1)  # (registers, rows)
    np.testing.assert_allclose(weights.sum(dim=1), 12.0, rtol=1e-5)
    assert (weights.argmax(dim=1) == torch.tensor([0, weights[1].argmax(), 83])).all()
    assert (weights[:, 1:] - weights[:, :-1]).abs().max() < 0.05 * weights.max()
    branch = PitchBranch(8, 7, 24, 48)
    x = torch.randn(2, 5, 84, 3, generator=torch.Generator().manual_seed(0))
    expected = torch.einsum("rpq,bcqt->brcpt", registers.flatten(2), x).flatten(1, 2)
    torch.testing.assert_close(branch._fold(x), expected)


@pytest.mark.parametrize("n_frames", [64, 63])
def test_autocorrelation_equals_the_sum_it_stands_for(n_frames: int) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 3, n_frames))
    lags = np.array([1.0, 5.0, 17.0, 40.0])
    module = Autocorrelation(n_frames, lags)
    got = module(torch.tensor(x, dtype=torch.float32)).numpy()
    centered = x - x.mean(axis=2, keepdims=True)
    energy = (centered**2).sum(axis=2)
    for i, lag in enumerate(lags.astype(int)):
        products = (centered[:, :, lag:] * centered[:, :, :-lag]).sum(axis=2)
        expected = products / (1 - lag / n_frames) / (energy + 1e-3)
        np.testing.assert_allclose(got[:, :, i], expected, atol=1e-4)


@pytest.mark.parametrize("period_frames", [20.0, 31.25, 50.0])
def test_autocorrelation_peaks_at_the_period(period_frames: float) -> None:
    lags = 10 * 2 ** (np.arange(96) / 24)
    pulses = torch.zeros(1, 1, 640)
    position = torch.arange(0, 640, period_frames)
    for offset, weight in ((0, 1.0), (1, 0.6), (-1, 0.6)):
        index = (position.round().long() + offset).clamp(0, 639)
        pulses[0, 0, index] = weight
    correlation = Autocorrelation(640, lags)(pulses)[0, 0]
    near = abs(np.log2(lags / period_frames)) < 0.4
    best = lags[near][int(correlation[near].argmax())]
    assert abs(np.log2(best / period_frames)) < 1 / 24


def test_onsets_rise_only() -> None:
    log_power = torch.full((1, 4, 100), -10.0)
    log_power[:, :, 50:60] = 0.0
    onsets = OnsetStrength(bands_per_octave=4)(log_power)[0, 0]
    assert onsets[50] > 1
    assert onsets[:50].max() == 0 and onsets[51:].max() == 0


SHORT = {  # for speech: windows of a second at 8 kHz, lags from 20 to 320 ms
    "min_lag_s": 0.02,
    "n_lag_octaves": 4,
    "frontend": {
        "sample_rate_hz": 8000,
        "top_hz": 3675.845,
        "n_octaves": 7,
        "n_band_octaves": 6,
        "spectrum_hop": 128,
        "band_hop": 32,
    },
}


@pytest.mark.parametrize("method", ["loev++", "cl"])
def test_lags_longer_than_the_window_are_refused(method: Method) -> None:
    with pytest.raises(UsageError, match=r"window_n_samples.* 1\.02 s") as caught:
        LoevModel(ModelSpec.of("small", method=method, window_n_samples=16384))
    # The hint holds.
    n_octaves = int(str(caught.value.hint).split("n_lag_octaves ")[1].split()[0])
    options = {"n_lag_octaves": n_octaves}
    spec = ModelSpec.of("small", method=method, window_n_samples=16384, encoder_options=options)
    assert LoevModel(spec)


def test_a_short_window_at_8_khz_hears_the_period_of_a_click_train() -> None:
    spec = ModelSpec.of("small", window_n_samples=8192, encoder_options=SHORT)
    branch = LoevModel(spec).eval().encoder.branches["tempo"]
    frontend = LoevModel(spec).frontend
    assert spec.window_s == 1.024 and ModelSpec.from_config(spec.to_config()) == spec
    for period_s in (0.08, 0.11):
        waveform = torch.zeros(1, 8192)
        waveform[0, :: round(period_s * 8000)] = 1.0
        with torch.no_grad():
            heard = branch.periodicity(frontend.center(frontend(waveform)).bands)[0, -1]
        lag_s = 0.02 * 2 ** (np.arange(len(heard)) / LAGS_PER_OCTAVE)
        one_period = (lag_s > 0.75 * period_s) & (lag_s < 1.5 * period_s)
        found_s = lag_s[one_period][heard[one_period].argmax()]
        assert found_s == pytest.approx(period_s, rel=0.04)


@pytest.mark.parametrize(
    ("frontend", "named"),
    [
        ({"sample_rate_hz": 8000}, "top_hz"),
        ({"spectrum_hop": 1000}, "hop of 1000"),
        ({"band_hop": 32}, "hop of 32"),
        ({"band_hop": 2048}, "bands"),
        ({"rate": 8000}, "'rate'"),
        ({"top_hz": "high"}, "top_hz"),
        ("8 kHz", "frontend"),
    ],
)
def test_a_frontend_that_cannot_be_is_named(frontend: Any, named: str) -> None:
    with pytest.raises(UsageError, match=named):
        ModelSpec.of("small", encoder_options={"frontend": frontend})


def test_a_window_too_short_for_the_deepest_octave_is_refused() -> None:
    with pytest.raises(UsageError, match="the frontend needs 7232"):
        LoevModel(ModelSpec.of("small", window_n_samples=4096, encoder_options=SHORT))


def test_silence_after_a_clip_is_not_heard() -> None:
    """A clip that is followed by silence is embedded nearly as in a window as long as the clip."""
    torch.manual_seed(0)
    spec = ModelSpec.of(
        "small", window_n_samples=16384, encoder_options={**SHORT, "pad_short": True}
    )
    padded = LoevModel(spec).eval()
    of_clip = LoevModel(replace(spec, window_n_samples=8192)).eval()
    options = {**spec.encoder_options, "pad_short": False}
    unmasked = LoevModel(replace(spec, encoder_options=options)).eval()
    unmasked.load_state_dict(padded.state_dict())
    of_clip.load_state_dict(padded.state_dict())
    clip = 0.1 * torch.randn(2, 8192, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        alone = of_clip(clip)
        masked, plain = (m(torch.nn.functional.pad(clip, (0, 8192))) for m in (padded, unmasked))
        for name, wanted in alone.items():
            off, off_plain = ((x[name] - wanted).norm() / wanted.norm() for x in (masked, plain))
            assert off < (1.0 if name == "pitch" else 0.5) * off_plain, name
        # A window that is full is what it was, and silence is embedded.
        full = clip.repeat(1, 2)
        torch.testing.assert_close(padded(full), unmasked(full), rtol=1e-3, atol=1e-4)
        assert all(x.isfinite().all() for x in padded(torch.zeros(1, 16384)).values())
