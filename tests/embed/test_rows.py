"""Rows: what a track's depends on, and above all what it does not."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from loev_cli import bundle as bundles
from loev_cli.audio import load
from loev_cli.backends import open_encoder
from loev_cli.bundle import Bundle
from loev_cli.errors import BundleError
from loev_cli.windows import cut
from tests.conftest import RATE_HZ, WINDOW_N, music, write_config
from tests.embed.common import TOLERANCE, assert_same, embedded, row


def test_a_row_is_the_mean_of_its_windows(bundle: Bundle, library: Path, tmp_path: Path) -> None:
    file, report = embedded(bundle, tmp_path / "x.npz", library)
    assert file.paths == sorted(file.paths)
    assert len(file.paths) == report.n_done == 5
    encoder = open_encoder(bundle, device="cpu")
    for i, path in enumerate(file.paths):
        waveform = load(library / path, RATE_HZ)
        windows = np.stack([c.samples for c in cut(waveform, WINDOW_N, WINDOW_N // 2)])
        for name, vectors in encoder.encode(windows).items():
            mean = vectors.mean(axis=0, dtype=np.float64)
            np.testing.assert_allclose(file.vectors[name][i], mean, atol=1e-6)
        assert file.duration_s[i] == pytest.approx(len(waveform) / RATE_HZ)


@pytest.mark.parametrize("batch_size", [1, 3, 64])
@pytest.mark.parametrize("workers", [1, 4])
def test_batch_and_workers_change_nothing(
    bundle: Bundle, library: Path, tmp_path: Path, batch_size: int, workers: int
) -> None:
    reference, _ = embedded(bundle, tmp_path / "reference.npz", library)
    file, _ = embedded(bundle, tmp_path / "x.npz", library, batch_size=batch_size, workers=workers)
    assert_same(file, reference)


def test_neighbours_change_nothing(bundle: Bundle, library: Path, tmp_path: Path) -> None:
    together, _ = embedded(bundle, tmp_path / "all.npz", library)
    for path in together.paths:
        alone, _ = embedded(bundle, tmp_path / "one.npz", library / path, overwrite=True)
        for name, vector in row(alone, str(library / path)).items():
            np.testing.assert_allclose(vector, row(together, path)[name], atol=TOLERANCE)


@pytest.mark.parametrize("rate_hz", [RATE_HZ, 44100])
def test_mono_equals_dual_mono(bundle: Bundle, tmp_path: Path, rate_hz: int) -> None:
    mono = music(3.3, rate_hz=rate_hz)
    soundfile.write(tmp_path / "mono.wav", mono, rate_hz)
    soundfile.write(tmp_path / "dual.wav", np.stack([mono, mono], 1), rate_hz)
    file, _ = embedded(bundle, tmp_path / "x.npz", tmp_path)
    for vectors in file.vectors.values():
        np.testing.assert_allclose(vectors[0], vectors[1], atol=TOLERANCE, rtol=0)


def test_the_tail_is_not_dropped(bundle: Bundle, tmp_path: Path) -> None:
    seconds = 1.37  # no whole number of hops
    quiet = 0.01 * music(seconds)
    click = quiet.copy()
    click[-RATE_HZ // 100 :] += 0.9 * np.random.default_rng(0).choice([-1, 1], 80)  # 10 ms
    for name, samples in {"click": click, "quiet": quiet}.items():
        soundfile.write(tmp_path / f"{name}.wav", samples, RATE_HZ, "FLOAT")
    file, _ = embedded(bundle, tmp_path / "x.npz", tmp_path)
    for vectors in file.vectors.values():
        assert np.abs(vectors[0] - vectors[1]).max() > np.abs(vectors[1]).max()


def test_a_file_shorter_than_a_window_is_embedded(bundle: Bundle, tmp_path: Path) -> None:
    short = music(0.1)
    soundfile.write(tmp_path / "short.wav", short, RATE_HZ, "FLOAT")
    soundfile.write(tmp_path / "repeated.wav", np.tile(short, 5), RATE_HZ, "FLOAT")
    soundfile.write(tmp_path / "one sample.wav", np.ones(1) / 2, RATE_HZ, "FLOAT")
    file, _ = embedded(bundle, tmp_path / "x.npz", tmp_path)
    assert len(file.paths) == 3
    for name, vector in row(file, "short.wav").items():
        np.testing.assert_allclose(vector, row(file, "repeated.wav")[name], atol=TOLERANCE)
    assert file.duration_s[file.paths.index("short.wav")] == pytest.approx(0.1)
    assert all(np.isfinite(v).all() for v in file.vectors.values())


def test_silence_is_embedded_and_flagged(bundle: Bundle, tmp_path: Path) -> None:
    levels_db = {"digital": -np.inf, "below": -60.5, "above": -59.5, "late": -80.0}
    for name, level_db in levels_db.items():
        samples = np.full(RATE_HZ * 6, 10 ** (level_db / 20))
        if name == "late":
            samples[-1] = 0.1
        soundfile.write(tmp_path / f"{name}.wav", samples, RATE_HZ, "FLOAT")
    opposite = np.stack([music(1.0), -music(1.0)], 1)
    soundfile.write(tmp_path / "opposite.wav", opposite, RATE_HZ, "FLOAT")
    file, report = embedded(bundle, tmp_path / "x.npz", tmp_path)
    assert not report.failures
    silent = dict(zip(file.paths, file.silent.tolist(), strict=True))
    assert silent == {
        "digital.wav": True,
        "below.wav": True,
        "above.wav": False,
        "late.wav": False,
        "opposite.wav": True,  # the mono mix is
    }
    assert all(np.isfinite(v).all() for v in file.vectors.values())


@pytest.mark.parametrize("extension", [".npz", ".parquet", ".jsonl"])
def test_windows_average_to_the_track(
    bundle: Bundle, library: Path, tmp_path: Path, extension: str
) -> None:
    pooled, _ = embedded(bundle, tmp_path / "p.npz", library)
    file, _ = embedded(bundle, tmp_path / f"w{extension}", library, per_window=True)
    assert file.paths == pooled.paths
    assert file.track is not None
    assert file.start_s is not None
    for name, vectors in file.vectors.items():
        for i in range(len(file.paths)):
            mean = vectors[file.track == i].mean(axis=0)
            np.testing.assert_allclose(mean, pooled.vectors[name][i], atol=TOLERANCE)
    longest = file.paths.index("long one.flac")
    starts = file.start_s[file.track == longest]
    assert starts[0] == 0
    assert starts[1] == 0.25  # half a window
    assert starts[-1] == pytest.approx(5.7 - 0.5)  # aligned with the end
    assert (np.diff(starts) > 0).all()


def test_the_hop_is_kept_in_meta(bundle: Bundle, library: Path, tmp_path: Path) -> None:
    file, _ = embedded(bundle, tmp_path / "x.npz", library, hop_s=0.1, per_window=True)
    assert file.meta["hop_s"] == 0.1
    assert file.meta["window_s"] == 0.5
    assert file.start_s is not None
    assert file.start_s[1] == np.float32(0.1)


def test_the_default_hop_is_that_of_the_bundle(
    bundle: Bundle, library: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(bundle.path, tmp_path / "hop"))
    write_config(copy, hop_n_samples=RATE_HZ // 10)
    file, _ = embedded(bundles.load(copy), tmp_path / "x.npz", library, per_window=True)
    asked, _ = embedded(bundle, tmp_path / "y.npz", library, per_window=True, hop_s=0.1)
    assert file.meta["hop_s"] == 0.1
    assert file.start_s is not None and asked.start_s is not None
    np.testing.assert_array_equal(file.start_s, asked.start_s)
    write_config(copy, hop_n_samples=bundle.window_n_samples + 1)
    with pytest.raises(BundleError, match="hop_n_samples"):
        bundles.load(copy)


def test_subspaces_can_be_chosen(bundle: Bundle, library: Path, tmp_path: Path) -> None:
    everything, _ = embedded(bundle, tmp_path / "all.npz", library)
    file, _ = embedded(bundle, tmp_path / "x.npz", library, subspaces=["tempo", "invariant"])
    assert list(file.vectors) == ["invariant", "tempo"]
    np.testing.assert_allclose(file.vectors["tempo"], everything.vectors["tempo"], atol=TOLERANCE)
