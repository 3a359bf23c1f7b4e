"""The HEAR interface: the numbers of ``loev embed``, in the shapes HEAR asks for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from loev_cli import bundle as bundles
from loev_cli import hear
from loev_cli.embed import Request, embed
from loev_cli.errors import UsageError
from loev_cli.formats import read
from tests.conftest import music


@pytest.fixture(scope="module")
def model() -> hear.HearModel:
    return hear.load_model()


def sounds(model: hear.HearModel, seconds: float) -> torch.Tensor:
    rows = [music(seconds, rate_hz=model.sample_rate, seed=seed) for seed in range(2)]
    return torch.from_numpy(np.stack(rows))


def test_the_model_has_what_hear_asks_for(model: hear.HearModel) -> None:
    bundle = bundles.find(bundles.DEFAULT_MODEL)
    assert isinstance(model, torch.nn.Module) and not model.training
    assert model.sample_rate == bundle.sample_rate_hz
    assert model.scene_embedding_size == model.timestamp_embedding_size == 752
    by_file = hear.load_model(str(bundle.path / bundles.WEIGHTS_FILE), subspaces=["tempo"])
    assert by_file.scene_embedding_size == bundle.subspaces["tempo"]
    with pytest.raises(UsageError, match="has no subspace 'temp'"):
        hear.load_model(subspaces=["temp"])


def test_a_scene_is_what_embed_gives(model: hear.HearModel, tmp_path: Path) -> None:
    audio = sounds(model, 14.0)
    scenes = hear.get_scene_embeddings(audio, model)
    assert scenes.shape == (2, 752) and scenes.dtype == torch.float32
    for i, waveform in enumerate(audio.numpy()):
        soundfile.write(tmp_path / f"{i}.wav", waveform, model.sample_rate, subtype="FLOAT")
    embed(Request([str(tmp_path)], str(tmp_path / "emb.npz")))
    vectors = read(tmp_path / "emb.npz").vectors
    expected = np.concatenate([vectors[name] for name in model.subspaces], axis=1)
    np.testing.assert_allclose(scenes.numpy(), expected, atol=1e-4)


def test_timestamps_are_regular_and_centered(model: hear.HearModel) -> None:
    audio = sounds(model, 0.5)
    embeddings, times_ms = hear.get_timestamp_embeddings(audio, model, hop_s=0.1)
    assert embeddings.shape == (2, 6, 752)
    np.testing.assert_allclose(times_ms.numpy(), [[0, 100, 200, 300, 400, 500]] * 2, atol=1e-3)
    # Around 300 ms lies the sound over and over, from there on.
    size, center = model.window_n_samples, round(0.3 * model.sample_rate)
    around = np.take(
        audio[0].numpy(), np.arange(center - size // 2, center + size // 2), mode="wrap"
    )
    expected = model(torch.from_numpy(around)[None])[0].detach().numpy()
    np.testing.assert_allclose(embeddings[0, 3].numpy(), expected, atol=1e-5)
    assert hear.TIMESTAMP_HOP_S <= 0.05  # what HEAR suggests at most


def test_short_sounds_and_wrong_shapes(model: hear.HearModel) -> None:
    assert hear.get_scene_embeddings(torch.zeros(1, 100), model).isfinite().all()
    with pytest.raises(ValueError, match=r"has shape \(100,\), not \(n_sounds, n_samples\)"):
        hear.get_scene_embeddings(torch.zeros(100), model)


def test_white_noise_passes_the_checks_of_hear(model: hear.HearModel) -> None:
    """Those of hearvalidator 2021.0.2, on fewer sounds; docs/datasets.md has a run of itself."""
    assert model.sample_rate in (16000, 22050, 32000, 44100, 48000)
    assert isinstance(model.scene_embedding_size, int)
    assert isinstance(model.timestamp_embedding_size, int)
    generator = torch.Generator().manual_seed(0)
    noise = 2 * torch.rand((3, model.sample_rate // 4), generator=generator) - 1
    scenes = hear.get_scene_embeddings(noise, model)
    assert scenes.dtype == torch.float32
    assert scenes.shape == (3, model.scene_embedding_size)
    embeddings, times_ms = hear.get_timestamp_embeddings(noise, model)
    assert embeddings.dtype == torch.float32
    assert embeddings.shape == (*times_ms.shape, model.timestamp_embedding_size)
    assert len(times_ms) == len(noise)
    gaps_ms = torch.diff(times_ms)
    assert gaps_ms.mean() <= 50.0 + 1e-3
    assert (gaps_ms - gaps_ms.mean()).abs().max() < 1e-3
