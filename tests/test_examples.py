"""The examples of other domains, in miniature, on data made here."""

from __future__ import annotations

import gzip
import json
import tarfile
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import soundfile
import torch

from examples import images, speech
from examples.study import study, trained
from loev_cli import bundle as bundles
from loev_cli import export
from loev_cli.errors import BundleError, UsageError
from loev_cli.model import load_model
from loev_cli.train import pipeline
from loev_cli.train.loop import Trainer
from tests.conftest import ROOT, Loev


@pytest.fixture(scope="module")
def clothes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files like those of Fashion-MNIST: bars of random gray, high or wide by class."""
    folder = tmp_path_factory.mktemp("clothes")
    rng = np.random.default_rng(0)
    for part in ("train", "t10k"):
        classes = (np.arange(160) % 10).astype(np.uint8)
        pixels = np.zeros((160, 28, 28), np.uint8)
        for image, number in zip(pixels, classes, strict=True):
            image[4 : 8 + number, 8 : 24 - number] = rng.integers(120, 255)
            image[10, 12] = rng.integers(255)
        for what, header, data in (("images-idx3", 16, pixels), ("labels-idx1", 8, classes)):
            file = folder / f"{part}-{what}-ubyte.gz"
            file.write_bytes(gzip.compress(bytes(header) + data.tobytes()))
    return folder


def test_each_example_is_short() -> None:
    for name in ("images", "speech", "study"):
        assert len((ROOT / "examples" / f"{name}.py").read_text().splitlines()) < 300


def test_an_image_is_changed_by_what_is_asked() -> None:
    gray = np.zeros((1, 28, 28), np.uint8)
    gray[0, 13:15, 6:22] = 255  # a bar that lies

    def drawn(hue: float, angle: float, size: float) -> torch.Tensor:
        return images.draw(gray, np.array([hue]), np.array([angle]), np.array([size]))[0]

    red = drawn(0, 0, 1)
    assert red[0].sum() > 0 and red[1:].sum() == 0
    assert drawn(120, 0, 1)[1].sum() == red[0].sum() and drawn(360, 0, 1)[0].sum() == red[0].sum()
    yellow = drawn(60, 0, 1)
    assert torch.equal(yellow[0], yellow[1])
    torch.testing.assert_close(drawn(0, 90, 1)[0], red[0].T, atol=1e-4, rtol=0)  # it stands
    half = float(drawn(0, 0, 0.5)[0].sum())
    assert half == pytest.approx(float(red[0].sum()) / 4, rel=0.1)


@pytest.mark.slow
def test_images_train_resume_and_are_exported(clothes: Path, tmp_path: Path, loev: Loev) -> None:
    config = images.config_of(clothes, steps=3, batch_size=8, val_fraction=0.1, validate_every=3)
    model = trained(config, tmp_path / "run")
    validation = pipeline.read_checkpoint(tmp_path / "run" / "checkpoints" / "last.pt").validation
    assert validation and set(validation.sensitivity["color"]) == {"color", "rotation", "scale"}
    assert "audio_s_per_s" not in (tmp_path / "run" / "metrics.csv").read_text()
    plan = pipeline.make_plan(Trainer(config, tmp_path / "plan"))
    assert plan.views_on == "pixels" and plan.n_val_wanted == 16
    bundle = export.export_bundle(
        model, tmp_path / "bundle", name="clothes", augmentations={}, training={}, card=""
    )
    x = np.random.default_rng(0).random((3, 3, 28, 28), np.float32)
    session = onnxruntime.InferenceSession(str(tmp_path / "bundle" / "model.onnx"))
    again = load_model(bundle)(torch.from_numpy(x))
    for name, got in zip(model.subspaces, session.run(None, {"input": x}), strict=True):
        np.testing.assert_allclose(got, model(torch.from_numpy(x))[name].detach(), atol=1e-5)
        np.testing.assert_allclose(got, again[name].detach(), atol=1e-5)
    # It reads no audio, and says so.
    with pytest.raises(BundleError, match="reads no audio"):
        bundles.load(tmp_path / "bundle").sample_rate_hz  # noqa: B018
    done = loev(
        *("embed", ROOT / "examples" / "music", "--model", tmp_path / "bundle"),
        *("--out", tmp_path / "emb.npz"),
    )
    assert done.code == 1 and "reads no audio" in done.err


def test_the_domain_and_its_augmentations_go_together(clothes: Path) -> None:
    with pytest.raises(UsageError, match="no domain 'image'"):
        images.config_of(clothes, steps=1).__class__(domain="image")
    with pytest.raises(UsageError, match="not those of domain 'music'"):
        images.TrainConfig(augmentations=images.ImageAugmentations())
    with pytest.raises(UsageError, match="no augmentation 'pitch'"):
        images.config_of(clothes, steps=1, augs=("pitch",))
    with pytest.raises(UsageError, match="cannot read"):
        images.read_images(clothes / "elsewhere", "train", 1)


@pytest.mark.slow
def test_a_study_of_images(clothes: Path, tmp_path: Path) -> None:
    config = images.config_of(clothes, steps=4, batch_size=8, val_fraction=0.0)
    verdicts = study(config, images.labeled(clothes, 120), tmp_path, n_seeds=2)
    assert len(verdicts) == 4 * 3
    results = json.loads((tmp_path / "results.json").read_text())
    hue = next(row for row in results["table"] if row["label"] == "hue")
    assert hue["scores"]["color"]["value"] > 0.5  # colors reach even an untrained CNN
    assert "| hue (R2) |" in (tmp_path / "report.md").read_text()


@pytest.mark.slow
def test_a_study_of_speech(tmp_path: Path) -> None:
    """Tones instead of speakers: the F0 is what was written."""
    rng = np.random.default_rng(0)
    with tarfile.open(tmp_path / "digits.tar", "w") as tar:
        for i in range(192):
            speaker, number = ("ann", "bob")[i % 2], i // 4
            hz = (210, 110)[i % 2] * rng.uniform(0.9, 1.1)
            time_s = np.arange(round(rng.uniform(0.3, 0.6) * 8000)) / 8000
            wave = sum(np.sin(2 * np.pi * hz * k * time_s) / k for k in range(1, 6))
            file = tmp_path / f"{i % 4 // 2}_{speaker}_{number}.wav"
            soundfile.write(file, 0.2 * wave, 8000)
            assert speech.f0_hz(file) == pytest.approx(hz, rel=0.04)
            tar.add(file, f"fsdd/{file.name}")
    clips = speech.recorded(tmp_path / "digits.tar", tmp_path / "digits")
    assert sum(clip.is_test for clip in clips) == 40
    rows = [f"{clip.file},{'test' if clip.is_test else 'train'}" for clip in clips]
    (manifest := tmp_path / "manifest.csv").write_text("\n".join(["path,split", *rows]))
    config = speech.config_of(manifest, steps=3, batch_size=8)
    labeled = speech.labeled(config, clips)
    verdicts = study(config, labeled, tmp_path / "out", n_seeds=1)
    assert {one.label for one in verdicts} == {"speaker", "digit", "log2 F0"}
    weights = tmp_path / "out" / "runs" / "cl-seed0" / "checkpoints" / "last.pt"
    results, trained_at = (tmp_path / "out" / "results.json").read_text(), weights.stat().st_mtime
    assert {row["own"] for row in json.loads(results)["table"]} == {"invariant", "pitch"}
    study(config, labeled, tmp_path / "out", n_seeds=1)  # goes on from the runs that are there
    assert weights.stat().st_mtime == trained_at
    assert (tmp_path / "out" / "results.json").read_text() == results
