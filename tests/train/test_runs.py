"""Runs of every kind: methods, encoders, both paths of views, validation, resuming, planning."""

from __future__ import annotations

import csv
import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from loev_cli import bundle as bundles
from loev_cli.cli._train_display import TrainDisplay
from loev_cli.errors import InputError, UsageError
from loev_cli.model import load_model
from loev_cli.train import pipeline
from loev_cli.train.augment import AugmentationsConfig
from loev_cli.train.augment.pitch_tempo import Pitch
from loev_cli.train.checkpoint import load_checkpoint
from loev_cli.train.config import TrainConfig, from_mapping
from loev_cli.train.loop import Trainer
from loev_cli.train.metrics import Progress
from loev_cli.train.pipeline import make_plan
from loev_cli.train.validation import Validation
from tests.conftest import Loev, environment
from tests.train.conftest import TINY_OPTIONS, assert_same, config_of, n_lines, train, weights

PAPERS_ENCODER: dict[str, Any] = {
    "encoder": "sf-nfnet-f0",
    "encoder_options": {},
    "head_dims": None,
    "window_n_samples": None,
}


@pytest.mark.parametrize("scheme", ["shared", "independent"])
@pytest.mark.parametrize("method", ["cl", "looc", "loev", "loev++"])
def test_every_method_trains_in_both_schemes(
    music: Path, cache: Path, tmp_path: Path, method: Any, scheme: Any
) -> None:
    config = config_of(music, method=method, view_scheme=scheme, steps=2)
    reported = train(config, tmp_path / "run", cache)
    heads = ["invariant"] if method == "cl" else ["invariant", "pitch", "tempo"]
    assert all(list(p.losses) == heads for p in reported)
    assert all(np.isfinite(p.loss) for p in reported)


@pytest.mark.slow
def test_a_third_subspace_goes_all_the_way_to_an_embedding(
    loev: Loev, music: Path, cache: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    done = loev(
        *("train", music, "--augs", "pitch,tempo,eq", "--steps", "3", "--batch-size", "4"),
        *("--method", "loev", "--cache", cache, "--out", out, *TINY_OPTIONS),
    )
    assert done.code == 0, done.err
    with (out / "metrics.csv").open() as stream:
        assert {"loss_invariant", "loss_pitch", "loss_tempo", "loss_eq"} < set(
            next(csv.DictReader(stream))
        )
    bundle = bundles.load(out / "bundle")
    assert list(bundle.subspaces) == ["invariant", "pitch", "tempo", "eq", "global"]
    assert list(bundle.config["augmentations"]) == ["pitch", "tempo", "eq"]
    done = loev("embed", music, "--model", out / "bundle", "--out", tmp_path / "emb.npz")
    assert done.code == 0, done.err
    with np.load(tmp_path / "emb.npz", allow_pickle=False) as embedded:
        for name, dim in bundle.subspaces.items():
            assert embedded[name].shape == (10, dim)
    # What torch says, ONNX has said.
    model = load_model(bundle)
    assert model.subspaces == bundle.subspaces


def test_views_made_on_waveforms_give_a_loss_of_every_head(
    music: Path, cache: Path, tmp_path: Path
) -> None:
    config = config_of(music, views_on="waveforms", steps=2, batch_size=2)
    reported = train(config, tmp_path / "run", cache)
    assert all(list(p.losses) == ["invariant", "pitch", "tempo"] for p in reported)
    assert all(np.isfinite(p.loss) for p in reported)


@pytest.mark.slow
def test_views_made_on_waveforms_train_the_same_encoder(
    music: Path, cache: Path, tmp_path: Path
) -> None:
    config = config_of(music, views_on="waveforms", steps=24, batch_size=8)
    reported = train(config, tmp_path / "run", cache)
    for head in ("invariant", "pitch", "tempo"):
        first = np.mean([p.losses[head] for p in reported[:3]])
        last = np.mean([p.losses[head] for p in reported[-6:]])
        assert last < 0.95 * first, head


@pytest.mark.slow
def test_the_papers_encoder_takes_a_step(music: Path, cache: Path, tmp_path: Path) -> None:
    config = config_of(
        music,
        **PAPERS_ENCODER,
        view_scheme="independent",
        positives="same",
        steps=1,
        batch_size=2,
        micro_batch_size=1,
    )
    before = {n: p.clone() for n, p in Trainer(config, tmp_path).model.named_parameters()}
    (progress,) = train(config, tmp_path / "run", cache)
    assert np.isfinite(progress.loss) and list(progress.losses) == ["invariant", "pitch", "tempo"]
    after = weights(tmp_path / "run")
    moved = [name for name, p in before.items() if not torch.equal(p, after[name])]
    assert any(name.startswith("encoder.") for name in moved)


def test_without_a_cache_the_weights_are_the_same(music: Path, cache: Path, tmp_path: Path) -> None:
    train(config_of(music), tmp_path / "cached", cache)
    train(config_of(music), tmp_path / "decoded", None)
    assert_same(weights(tmp_path / "cached"), weights(tmp_path / "decoded"))


@pytest.fixture(scope="module")
def validated(
    music: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[int, Validation]]:
    """A run that keeps an average of its weights and is validated twice."""
    out = tmp_path_factory.mktemp("runs") / "run"
    found: dict[int, Validation] = {}
    config = config_of(music, steps=6, val_fraction=0.4, validate_every=3, ema_decay=0.9)
    train(config, out, cache, events=pipeline.Events(on_validation=found.__setitem__))
    return out, found


def test_validation_measures_every_subspace(validated: tuple[Path, dict[int, Validation]]) -> None:
    out, found = validated
    assert list(found) == [3, 6]
    for validation in found.values():
        assert list(validation.losses) == ["invariant", "pitch", "tempo"]
        for name in ("invariant", "pitch", "tempo"):
            assert set(validation.sensitivity[name]) == {"pitch", "tempo"}
            assert all(value > 0 for value in validation.sensitivity[name].values())
            assert validation.alignment[name] >= 0 >= validation.uniformity[name]
    with (out / "validation.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["step"] for row in rows] == ["3", "6"]
    assert float(rows[1]["loss"]) == pytest.approx(found[6].loss, rel=1e-4)
    trained = pipeline.read_checkpoint(out / "checkpoints" / "best.pt")
    assert trained.validation == min(found.values(), key=lambda v: v.loss)


def test_tensorboard_has_what_the_files_have(validated: tuple[Path, dict[int, Validation]]) -> None:
    out, found = validated
    events = EventAccumulator(str(out))
    events.Reload()
    with (out / "metrics.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    curve = events.Scalars("train/loss_pitch")
    assert [point.step for point in curve] == [int(row["step"]) for row in rows]
    for point, row in zip(curve, rows, strict=True):
        assert point.value == pytest.approx(float(row["loss_pitch"]), rel=1e-4)
    (first, _) = events.Scalars("validation/sensitivity_pitch_to_tempo")
    assert first.value == pytest.approx(found[3].sensitivity["pitch"]["tempo"], rel=1e-4)


def test_the_average_of_the_weights_is_what_is_given_away(
    validated: tuple[Path, dict[int, Validation]],
) -> None:
    file = validated[0] / "checkpoints" / "last.pt"
    state = load_checkpoint(file)
    given = pipeline.read_checkpoint(file).model.state_dict()
    assert_same(dict(given), state["average"])
    key = "encoder.trunk.0.0.weight"
    assert not torch.equal(state["average"][key], state["model"][key])


def test_validation_changes_nothing_of_the_training(
    music: Path, cache: Path, tmp_path: Path
) -> None:
    config = config_of(music, steps=3, val_fraction=0.4)
    train(dataclasses.replace(config, validate_every=1), tmp_path / "often", cache)
    train(dataclasses.replace(config, validate_every=100), tmp_path / "once", cache)
    assert_same(weights(tmp_path / "often"), weights(tmp_path / "once"))


KILLED = """
import os, signal, sys
from loev_cli.cli import _train_display, main

def step(display, progress):
    if progress.step == 3:
        os.kill(os.getpid(), signal.SIGKILL)

_train_display.TrainDisplay.step = step
main(sys.argv[1:])
"""


@pytest.mark.parametrize(
    "views_on", ["features", pytest.param("waveforms", marks=pytest.mark.slow)]
)
def test_killed_interrupted_and_resumed_equals_never_stopped(
    loev: Loev,
    music: Path,
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    views_on: str,
) -> None:
    """kill -9 while it trains, SIGTERM after resuming; the average of the weights and the best
    loss go on too."""
    settings = [
        *("--steps", "12", "--batch-size", "4", "--seed", "7", "--cache", cache),
        *("--set", "checkpoint_every_s=0.0001", "--set", f"views_on={views_on}"),
        *("--set", "ema_decay=0.9", "--set", "val_fraction=0.3", "--set", "validate_every=5"),
        *TINY_OPTIONS,
    ]
    out = tmp_path / "parts"
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, "train", music, *settings, "--out", out],
        stderr=subprocess.DEVNULL,
        env=environment(),
    )
    last = out / "checkpoints" / "last.pt"
    assert killed.returncode == -signal.SIGKILL
    assert n_lines(out / "metrics.csv") == 1 + 3 and load_checkpoint(last)["step"] == 2

    def stop(display: TrainDisplay, progress: Progress) -> None:
        if progress.step == 10:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(TrainDisplay, "step", stop)
    stopped = loev("train", "--resume", "--out", out, "--cache", cache, "--steps", "12")
    assert stopped.code == 143
    assert f"--resume to resume from {out}" in stopped.err and "Traceback" not in stopped.err
    assert load_checkpoint(last)["step"] == 10
    config = from_mapping(TrainConfig, tomllib.loads((out / "config.toml").read_text()))
    train(config, out, cache, resume=True)
    train(config, tmp_path / "whole", cache)
    for name in ("last.pt", "best.pt"):
        assert_same(weights(tmp_path / "whole", name), weights(out, name))
    a, b = load_checkpoint(tmp_path / "whole" / "checkpoints" / "last.pt"), load_checkpoint(last)
    assert_same(a["average"], b["average"])
    assert a["validation"] == b["validation"] and a["best_loss"] == b["best_loss"]
    with (out / "metrics.csv").open() as stream:
        assert [int(row["step"]) for row in csv.DictReader(stream)] == list(range(1, 13))
    assert n_lines(out / "validation.csv") == 4


def test_a_run_does_not_go_on_with_other_tracks(music: Path, cache: Path, tmp_path: Path) -> None:
    (folder := tmp_path / "music").mkdir()
    for file in sorted(music.iterdir()):
        (folder / file.name).symlink_to(file)
    train(config_of(folder, steps=2), tmp_path / "run", cache)
    (folder / "03.wav").unlink()
    config = config_of(folder, steps=4)
    with pytest.raises(UsageError, match="the training tracks differ from those of the run"):
        train(config, tmp_path / "run", cache, resume=True)
    (folder / "03.wav").symlink_to(music / "03.wav")
    assert train(config, tmp_path / "run", cache, resume=True)[-1].step == 4


def test_a_track_that_changes_ends_the_run_with_what_is_done(music: Path, tmp_path: Path) -> None:
    (folder := tmp_path / "music").mkdir()
    for file in sorted(music.iterdir()):
        shutil.copy(file, folder / file.name)
    config = config_of(folder, steps=1000)

    def change(progress: Progress) -> None:
        if progress.step == 2:
            for file in folder.iterdir():
                file.write_bytes(file.read_bytes()[:100000])

    with pytest.raises(InputError, match="changed"):
        train(config, tmp_path / "run", None, events=pipeline.Events(on_step=change))
    assert load_checkpoint(tmp_path / "run" / "checkpoints" / "last.pt")["step"] >= 2


def test_bf16_trains_to_nearly_the_same_loss(music: Path, cache: Path, tmp_path: Path) -> None:
    exact = train(config_of(music, precision="fp32"), tmp_path / "fp32", cache)
    rough = train(config_of(music, precision="bf16"), tmp_path / "bf16", cache)
    assert exact[0].loss != rough[0].loss
    assert rough[0].loss == pytest.approx(exact[0].loss, rel=0.05)


def test_a_plan_says_what_a_run_needs(music: Path, tmp_path: Path) -> None:
    (folder := tmp_path / "music").mkdir()
    for file in sorted(music.iterdir()):
        (folder / file.name).symlink_to(file)
    (folder / "broken.wav").write_text("not audio")
    config = config_of(folder, val_fraction=0.3)
    trainer = Trainer(config, tmp_path / "run")
    plan = make_plan(trainer)
    assert plan.n_files == 11 and len(plan.unreadable) == 1
    assert plan.hours == pytest.approx(10 * 24 / 3600, rel=0.01)
    assert plan.views_on == "features" and plan.n_views == 3
    assert plan.n_parameters == sum(p.numel() for p in trainer.model.parameters())
    assert plan.steps_per_epoch == 1
    # float16 rows, 15.6 a second, of 192 bins and 4 x 28 bands
    assert plan.cache_bytes == pytest.approx(240 * 15.625 * 2 * (192 + 112), rel=0.01)
    assert plan.weight_bytes == 16 * plan.n_parameters
    assert plan.activation_bytes > 4 * 3 * 4 * 168 * 160  # at least the input of every row
    trainer.config = dataclasses.replace(config, micro_batch_size=2)
    assert make_plan(trainer).activation_bytes == plan.activation_bytes // 2
    assert not (tmp_path / "run").exists()
    with pytest.raises(UsageError, match="7 usable tracks are fewer than the batch of 8"):
        make_plan(Trainer(dataclasses.replace(config, batch_size=8), tmp_path / "run"))


def test_a_manifest_of_train_and_test_rows_is_validated_on_as_the_plan_says(
    music: Path, cache: Path, tmp_path: Path
) -> None:
    files = sorted(music.iterdir())
    rows = [f"{file},{'test' if i < 2 else 'train'}" for i, file in enumerate(files)]
    (manifest := tmp_path / "manifest.csv").write_text("\n".join(["path,split", *rows]))
    config = config_of(manifest, val_fraction=0.3)
    told: list[tuple[int, int]] = []
    events = pipeline.Events(on_tracks=lambda n_train, n_val, _: told.append((n_train, n_val)))
    train(config, tmp_path / "run", cache, events=events)
    assert told == [(6, 2)]
    assert make_plan(Trainer(config, tmp_path / "plan")).n_val_wanted == 2


def test_minutes_leave_time_for_what_comes_after(music: Path, cache: Path, tmp_path: Path) -> None:
    config = config_of(music, steps=None, minutes=3 / 60)
    began = time.monotonic()
    steps = train(config, tmp_path / "run", cache, rehearse=lambda model: time.sleep(1.2))
    assert steps[-1].elapsed_s < 1.5 and time.monotonic() - began < 1.2 + 1.5
    assert steps[-1].share_done == 1
    # Where no time is left, one step is taken.
    config = config_of(music, steps=None, minutes=0.001)
    assert (
        len(train(config, tmp_path / "short", cache, rehearse=lambda model: time.sleep(0.1))) == 1
    )


def test_dry_run_writes_nothing_and_shows_the_plan(loev: Loev, music: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = loev("train", music, "--steps", "5", "--batch-size", "4", "--dry-run", "--out", out)
    assert done.code == 0, done.err
    for text in ("10, 0.1 h of audio", "invariant 256, pitch 240, tempo 256", "2.03 million"):
        assert text in done.out
    assert not out.exists()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (PAPERS_ENCODER | {"views_on": "features"}, "cannot be pitch-shifted"),
        ({"augs": ("pitch", "codec")}, "'codec' is not available on features"),
        ({"augs": ("blur",), "views_on": "waveforms"}, "'blur' is not available on waveforms"),
        ({"n_views": 2}, "2 views are too few"),
    ],
)
def test_paths_that_do_not_go_together(
    music: Path, tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(UsageError, match=says):
        Trainer(config_of(music, **changes), tmp_path / "run")


def test_shifts_past_the_features_margin_point_to_waveforms(tmp_path: Path) -> None:
    pitch = Pitch(semitones=(-12, 12))
    config = TrainConfig(steps=1, augmentations=AugmentationsConfig(pitch=pitch))
    says = "exceeds the features' margin of 6 semitones"
    with pytest.raises(UsageError, match=says) as caught:
        Trainer(config, tmp_path)
    assert "waveforms" in str(caught.value)
    Trainer(dataclasses.replace(config, views_on="waveforms"), tmp_path)
