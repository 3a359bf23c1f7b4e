"""Training for real, on CPU, from a folder of audio to a bundle that embeds it."""

from __future__ import annotations

import csv
import dataclasses
import json
import resource
import shutil
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file, save_file

from loev_cli import audio, export
from loev_cli import bundle as bundles
from loev_cli.bundle import WEIGHTS_FILE, file_record
from loev_cli.errors import LoevError, OutputError, UsageError
from loev_cli.model import load_model
from loev_cli.model.frontend import Features
from loev_cli.train import loop, pipeline
from loev_cli.train.batches import Batch, BatchMaker
from loev_cli.train.checkpoint import load_checkpoint
from loev_cli.train.config import TrainConfig, from_mapping
from loev_cli.train.data import Track
from loev_cli.train.loop import Trainer
from loev_cli.train.metrics import Progress
from tests.conftest import Loev
from tests.train.conftest import (
    TINY,
    TINY_OPTIONS,
    assert_same,
    config_of,
    limit,
    train,
    weights,
)

N_STEPS = 40
WINDOW_N = TINY["window_n_samples"]


def long_config(music: Path, **changes: Any) -> TrainConfig:
    return config_of(music, **({"steps": N_STEPS, "batch_size": 8, "warmup_steps": 5} | changes))


@pytest.fixture(scope="module")
def run(
    music: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[Progress]]:
    """One finished run and what it reported."""
    out = tmp_path_factory.mktemp("runs") / "run"
    return out, train(long_config(music), out, cache)


def test_the_loss_of_every_head_falls(run: tuple[Path, list[Progress]]) -> None:
    _, reported = run
    assert [p.step for p in reported] == list(range(1, N_STEPS + 1))
    for head in ("invariant", "pitch", "tempo"):
        first = np.mean([p.losses[head] for p in reported[:5]])
        last = np.mean([p.losses[head] for p in reported[-5:]])
        assert last < 0.9 * first, head
    assert reported[-1].share_done == 1 and reported[-1].lr < reported[10].lr


def test_what_a_run_leaves(run: tuple[Path, list[Progress]], music: Path) -> None:
    out, reported = run
    with (out / "metrics.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == N_STEPS
    assert float(rows[-1]["loss_pitch"]) == pytest.approx(reported[-1].losses["pitch"], rel=1e-4)
    saved = from_mapping(TrainConfig, tomllib.loads((out / "config.toml").read_text()))
    assert saved == long_config(music)
    trained = pipeline.read_checkpoint(out / "checkpoints" / "last.pt")
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert trained.facts["steps"] == N_STEPS and trained.facts["n_tracks"] == 10
    assert trained.facts["data"] == music.name  # no folders of this machine in what is given away


def test_each_augmentation_moves_its_own_subspace(run: tuple[Path, list[Progress]]) -> None:
    """Shift the pitch: `pitch` moves more than `tempo`. Stretch the time: the other way round."""
    model = pipeline.read_checkpoint(run[0] / "checkpoints" / "last.pt").model.eval()
    rng = np.random.default_rng(0)
    time_s = np.arange(WINDOW_N) / 16000

    def render(semitones: float, rate: float) -> torch.Tensor:
        waveform = np.zeros(WINDOW_N)
        notes = np.random.default_rng(1).choice([0, 4, 7], 64)  # one chord: a key to move
        for i, note in enumerate(notes):
            start = int(i * 0.5 / rate * 16000)
            if start >= WINDOW_N:
                break
            hz = 261.6 * 2 ** ((note + semitones) / 12)
            length = WINDOW_N - start
            waveform[start:] += (
                0.2 * np.sin(2 * np.pi * hz * time_s[:length]) * np.exp(-6 * time_s[:length])
            )
        return torch.tensor(waveform + 1e-3 * rng.standard_normal(WINDOW_N)).float()[None]

    with torch.inference_mode():
        plain, shifted, stretched = (
            model(render(*change)) for change in ((0, 1.0), (3, 1.0), (0, 1.25))
        )

    def moved(name: str, changed: dict[str, torch.Tensor]) -> float:
        return (plain[name] - changed[name]).norm().item()  # subspaces are standardized

    assert moved("pitch", shifted) > 2 * moved("tempo", shifted)
    assert moved("tempo", stretched) > 2 * moved("pitch", stretched)


def test_same_seed_same_weights_other_seed_others(music: Path, cache: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        train(config_of(music, steps=2, seed=seed), tmp_path / name, cache)
    assert_same(weights(tmp_path / "a"), weights(tmp_path / "b"))
    first = next(iter(weights(tmp_path / "a").values()))
    assert not torch.equal(first, next(iter(weights(tmp_path / "c").values())))


@pytest.fixture(scope="module")
def exported(run: tuple[Path, list[Progress]]) -> bundles.Bundle:
    """The bundle of the finished run."""
    trained = pipeline.read_checkpoint(run[0] / "checkpoints" / "last.pt")
    return export.export_bundle(
        trained.model,
        run[0] / "bundle",
        name="test",
        augmentations=pipeline.augmentation_ranges(trained.config),
        training=trained.facts,
        card="# test\n",
    )


def test_a_run_is_not_overwritten_and_not_resumed_with_other_settings(
    run: tuple[Path, list[Progress]], music: Path, cache: Path
) -> None:
    with pytest.raises(UsageError, match="already contains a run"):
        train(long_config(music), run[0], cache)
    with pytest.raises(UsageError, match="different settings: lr"):
        train(long_config(music, lr=1e-3), run[0], cache, resume=True)


@pytest.mark.slow
def test_init_starts_from_the_weights_given(
    run: tuple[Path, list[Progress]],
    exported: bundles.Bundle,
    music: Path,
    cache: Path,
    tmp_path: Path,
) -> None:
    checkpoint = run[0] / "checkpoints" / "last.pt"
    losses = []
    for init in (checkpoint, exported.path):
        config = long_config(music, steps=1, seed=9, warmup_steps=1000)
        (first,) = train(config, tmp_path / f"from-{init.name}", cache, init=init)
        losses.append(first.loss)
    assert losses[0] == losses[1] < 0.8 * run[1][0].loss
    with pytest.raises(UsageError, match="--init weights have a different architecture"):
        train(config_of(music, augs=("tempo",)), tmp_path / "other", cache, init=checkpoint)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"batch_size": 11}, "10 usable tracks are fewer than the batch of 11"),
        ({"steps": None}, "missing option: --steps or --minutes"),
        ({"encoder": "big"}, "no encoder 'big'"),
        ({"encoder_options": {"pitch_dim": 250}}, "multiple of 12"),
        ({"window_n_samples": 160000}, "must be a multiple of"),
    ],
)
def test_what_cannot_be_trained(
    music: Path, cache: Path, tmp_path: Path, changes: dict[str, object], says: str
) -> None:
    with pytest.raises(UsageError, match=says):
        train(config_of(music, **changes), tmp_path / "run", cache)


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    trainer = Trainer(TrainConfig(steps=1), tmp_path)
    (folder := tmp_path / "checkpoints").mkdir()
    (folder / "last.pt").write_bytes(b"the one before")
    with (
        limit(resource.RLIMIT_FSIZE, 2_000_000),
        pytest.raises(OutputError, match=r"cannot write checkpoint .*: File too large"),
    ):
        trainer.save()
    assert [(f.name, f.read_bytes()) for f in folder.iterdir()] == [("last.pt", b"the one before")]


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_batch(
    music: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(BatchMaker):
        def __call__(self, tracks: Sequence[Track], step: int) -> Batch:
            batch = super().__call__(tracks, step)
            if step == 2:
                spectrum = batch.features.spectrum * float("nan")
                features = Features(spectrum, batch.features.bands)
                return dataclasses.replace(batch, features=features)
            return batch

    monkeypatch.setattr(loop, "BatchMaker", Broken)
    out = tmp_path / "run"
    with pytest.raises(
        LoevError, match=r"the loss is nan at step 2; the batch is saved in .*failed-batch"
    ):
        train(config_of(music), out, cache)
    kept = torch.load(out / "failed-batch.pt", weights_only=True)
    assert kept["step"] == 2 and len(kept["paths"]) == 4
    assert kept["features"][0].isnan().all() and kept["tracks"].shape == (12,)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no", b"cos\nsystem\n(S'true'\ntR."])
def test_what_is_no_checkpoint_is_not_unpickled(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "last.pt"
    file.write_bytes(content)
    with pytest.raises(UsageError, match="not a checkpoint"):
        load_checkpoint(file)


def test_weights_of_other_layers_are_one_line(
    run: tuple[Path, list[Progress]], music: Path, tmp_path: Path
) -> None:
    """As after a change of the encoder: neither exported, nor gone on from, nor loaded."""
    state = load_checkpoint(run[0] / "checkpoints" / "last.pt")
    state["model"]["encoder.gone.bias"] = torch.zeros(3)
    file = tmp_path / "last.pt"
    torch.save(state, file)
    bundle = tmp_path / "bundle"
    shutil.copytree(bundles.find("loevpp-small").path, bundle)
    more = load_file(bundle / WEIGHTS_FILE) | {"encoder.gone.bias": torch.zeros(3)}
    save_file(more, bundle / WEIGHTS_FILE)
    config = json.loads((bundle / "config.json").read_text())
    config["files"][WEIGHTS_FILE] = file_record(bundle / WEIGHTS_FILE)
    (bundle / "config.json").write_text(json.dumps(config))
    for load in (
        lambda: pipeline.read_checkpoint(file),
        lambda: Trainer(long_config(music), tmp_path / "run").restore(file),
        lambda: load_model(bundles.load(bundle)),
    ):
        with pytest.raises(
            LoevError, match=r"does not match the model architecture: .*gone"
        ) as caught:
            load()
        assert "\n" not in str(caught.value)


def test_the_command_from_folder_to_embedding(
    loev: Loev, music: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    done = loev(
        *("train", music, "--augs", "pitch,tempo", "--steps", "3", "--batch-size", "4"),
        *(*TINY_OPTIONS, "--set", "augmentations.eq.gain_db=3", "--cache", cache, "--out", out),
    )
    assert done.code == 0, done.err
    assert done.out == ""
    assert "10 tracks, 0 skipped, no validation tracks" in done.err and "step 3" in done.err
    bundle = bundles.load(out / "bundle")
    assert bundle.name == "run"
    assert list(bundle.subspaces) == ["invariant", "pitch", "tempo"]
    assert bundle.config["training"]["steps"] == 3
    assert bundle.config["augmentations"]["pitch"]["semitones"] == [-4, 4]
    assert tomllib.loads((out / "config.toml").read_text())["augmentations"]["eq"]["gain_db"] == 3

    embedded = loev("embed", music, "--model", out / "bundle", "--out", tmp_path / "emb.npz")
    assert embedded.code == 0, embedded.err
    with np.load(tmp_path / "emb.npz", allow_pickle=False) as emb:
        assert emb["pitch"].shape == (10, bundle.subspaces["pitch"])
        assert json.loads(str(emb["meta"]))["model_sha256"] == bundle.sha256

    assert_torch_and_onnx_agree(bundle, music)

    graph = bundle.path / bundles.ONNX_FILE  # making it takes seconds, and it is no part of sha256
    monkeypatch.setattr(export, "write_onnx", lambda model, file: shutil.copyfile(graph, file))
    again = loev("export", out / "checkpoints" / "last.pt", "--out", tmp_path / "again")
    assert again.code == 0, again.err
    assert bundles.load(tmp_path / "again").sha256 == bundle.sha256
    twice = loev("export", out / "checkpoints" / "last.pt", "--out", tmp_path / "again")
    assert twice.code == 2 and "--overwrite" in twice.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere", "--out", "run", "--steps", "1"], "no such folder"),
        (["--out", "run", "--steps", "1"], "missing argument: DATA"),
        (["nowhere"], "missing option: --out"),
        (["nowhere", "--out", "run", "--augs", "pich"], "did you mean 'pitch'"),
        (["nowhere", "--out", "run", "--set", "lrr=1"], "did you mean 'lr'"),
        (["nowhere", "--out", "run", "--set", "lr=1", "--set", "lr.x=1"], "'lr' is a value"),
        (["nowhere", "--out", "run", "--config", "no.toml"], "cannot read config no.toml"),
        (["nowhere", "--out", "run", "--device", "cuda:x"], "device"),
        (["nowhere", "--out", "run", "--method", "loevv"], "did you mean 'loev'"),
        (["nowhere", "--out", "run", "--steps", "1", "--cache-gb", "0"], "--cache-gb is 0"),
        (["nowhere", "--out", "run", "--config", "papper"], "one of laptop, loevpp-small, paper"),
    ],
)
def test_bad_use_is_one_line_and_exit_2(
    loev: Loev, arguments: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = loev("train", *arguments)
    assert done.code == 2
    assert says in done.err
    assert done.err.count("\n") == 1 and "Traceback" not in done.err


def assert_torch_and_onnx_agree(bundle: bundles.Bundle, music: Path) -> None:
    waveform = audio.load(sorted(music.iterdir())[0], 16000)
    windows = np.stack([waveform[:WINDOW_N], waveform[-WINDOW_N:], np.zeros(WINDOW_N, np.float32)])
    session = onnxruntime.InferenceSession(
        bundle.verified(bundles.ONNX_FILE), providers=["CPUExecutionProvider"]
    )
    outputs = dict(zip(bundle.subspaces, session.run(None, {"waveform": windows}), strict=True))
    with torch.inference_mode():
        vectors = load_model(bundle)(torch.from_numpy(windows))
    for name, dim in bundle.subspaces.items():
        assert outputs[name].shape == (3, dim)
        assert abs(outputs[name] - vectors[name].numpy()).max() < 1e-4
