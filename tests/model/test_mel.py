"""The mel frontend against the research code's figures, an FFT in float64, and physics."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torchaudio.functional import melscale_fbanks

from loev_cli.model.frontend import MelConfig, MelSpectrogram

REFERENCE = Path(__file__).parent.parent / "reference" / "sf_nfnet.npz"
CONFIG = MelConfig()


@pytest.fixture(scope="module")
def frontend() -> MelSpectrogram:
    return MelSpectrogram(CONFIG).eval()


def noise(n_rows: int, n_samples: int = 48000, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(n_rows, n_samples, generator=torch.Generator().manual_seed(seed))


def check_rounding_only(got_db: np.ndarray, expected_db: np.ndarray) -> None:
    """1e-3 dB for all that float32 can tell from its own rounding of a frame's loudest band.

    The figures of the research code have the rounding of an FFT in float32: next to a band
    100 dB louder they are up to 1 dB off themselves.
    """
    below_top = expected_db.max(axis=2, keepdims=True) - expected_db
    audible = below_top < 70
    assert audible.mean() > 0.2
    assert abs(got_db - expected_db)[audible].max() < 1e-3
    got, expected = 10 ** (got_db / 10), 10 ** (expected_db / 10)
    rounding = 1e-10 * expected.max(axis=2, keepdims=True) + 3e-4 * expected
    assert (abs(got - expected) < rounding).all()


def test_it_gives_what_the_research_code_gives(frontend: MelSpectrogram) -> None:
    with np.load(REFERENCE) as reference:
        got = frontend(torch.from_numpy(reference["wave"])).numpy()
        assert got.shape == (2, 1, 96, 301)
        check_rounding_only(got, reference["melgram_db"])


def test_it_gives_what_an_fft_in_float64_gives(frontend: MelSpectrogram) -> None:
    with np.load(REFERENCE) as reference:
        waveform = torch.cat([torch.from_numpy(reference["wave"]), noise(1)])
    spectrum = torch.stft(
        waveform.double(),
        CONFIG.n_fft,
        CONFIG.hop,
        CONFIG.window_n_samples,
        torch.hann_window(CONFIG.window_n_samples, dtype=torch.float64),
        return_complex=True,
    )
    bands = melscale_fbanks(CONFIG.n_freqs, 0, 8000, 96, 16000, mel_scale="htk").double()
    mel = bands.T @ spectrum.abs().square()
    expected = 10 * torch.log10(mel.clamp(min=1e-10)).unsqueeze(1)
    check_rounding_only(frontend(waveform).numpy(), expected.numpy())


@pytest.mark.parametrize("hz", [220.0, 1000.0, 5000.0])
def test_a_tone_peaks_in_its_band(frontend: MelSpectrogram, hz: float) -> None:
    time = torch.arange(48000, dtype=torch.float64) / CONFIG.sample_rate_hz
    mel = frontend(0.5 * torch.sin(2 * np.pi * hz * time).float()[None])[0, 0, :, 20:-20]
    mel_of = [2595 * np.log10(1 + f / 700) for f in (hz, CONFIG.high_hz)]
    band = mel_of[0] / mel_of[1] * (CONFIG.n_mels + 1) - 1
    assert (mel.argmax(dim=0) - band).abs().max() < 1


def test_a_gain_adds_decibels(frontend: MelSpectrogram) -> None:
    waveform = noise(1)
    assert torch.allclose(frontend(2 * waveform), frontend(waveform) + 6.0206, atol=1e-3)


def test_silence_is_the_floor(frontend: MelSpectrogram) -> None:
    assert torch.all(frontend(torch.zeros(1, 48000)) == -100)


def test_a_click_is_in_the_frames_around_it(frontend: MelSpectrogram) -> None:
    waveform = torch.zeros(1, 48000)
    waveform[0, 160 * 100] = 1.0
    level = frontend(waveform)[0, 0].mean(dim=0)
    assert level.argmax() == 100
    assert torch.all(level[:99] == -100) and torch.all(level[102:] == -100)


def test_its_graph_takes_any_batch(frontend: MelSpectrogram, tmp_path: Path) -> None:
    program = torch.onnx.export(
        frontend,
        (noise(2),),
        input_names=["waveform"],
        dynamic_shapes={"waveform": {0: torch.export.Dim("batch")}},
        dynamo=True,
        optimize=False,
        verbose=False,
    )
    assert program is not None
    onnx.save(program.model_proto, tmp_path / "mel.onnx")
    session = onnxruntime.InferenceSession(
        tmp_path / "mel.onnx", providers=["CPUExecutionProvider"]
    )
    for n_rows in (1, 5):
        waveform = noise(n_rows, seed=n_rows)
        (got,) = session.run(None, {"waveform": waveform.numpy()})
        assert abs(got - frontend(waveform).numpy()).max() < 1e-3
