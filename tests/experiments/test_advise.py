"""The whole command, on music that is made here: asked, refused, answered, asked again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from loev_cli import bundle as bundles
from loev_cli.bundle import DEFAULT_MODEL
from loev_cli.evaluate.manifest import Column, Fold
from loev_cli.experiments.advise import BLIND, name_of_run, plan_runs
from loev_cli.experiments.advise_evidence import compact, destroyed
from loev_cli.experiments.advise_vectors import AugmentedEmbedder, draw_changes
from loev_cli.model import load_model
from loev_cli.train.augment import AugmentationsConfig
from loev_cli.train.config import TrainConfig
from loev_cli.train.data import Cache, Listed, Track, load_tracks
from tests.conftest import Loev
from tests.evaluate.conftest import write_csv
from tests.train.conftest import N_TRACKS, RATE_HZ, TINY_OPTIONS

KEYS = ["C major", "G major", "C major", "G major", "A minor"] * 2
QUICK = ["--steps", "2", "--seeds", "1", "--batch-size", "4", "--folds", "3", "--jobs", "1"]
QUICK += TINY_OPTIONS


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    """Labels beside nothing: their paths are relative to the folder of music."""
    names = [f"{i:02}.wav" for i in range(N_TRACKS)]
    return write_csv(
        tmp_path / "labels.csv",
        {"path": names, "key": KEYS, "genre": ["a", "b"] * 5, "energy": np.arange(N_TRACKS) + 0.5},
    )


@pytest.mark.slow
def test_from_one_label_to_options(
    loev: Loev, music: Path, cache: Path, labels: Path, tmp_path: Path
) -> None:
    out = tmp_path / "advice"
    done = loev(
        *("advise", "--data", music, "--labels", labels, "--out", out, "--cache", cache, *QUICK),
        *("--augs", "pitch", "--label", "key"),
    )
    assert done.code == 0, done.err
    found = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert found["options"] == done.out.splitlines()[-1]
    assert found["runs"] == ["blind-seed0", "pitch-seed0"]
    assert [(v["label"], v["augmentation"]) for v in found["verdicts"]] == [("key", "pitch")]
    assert bundles.load(out / "runs" / "pitch-seed0" / "bundle").config["augs"] == ["pitch"]
    assert (out / "advise.md").read_text(encoding="utf-8").count("| key |") == 1
    assert "<svg" in (out / "advise.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_from_labels_to_options_and_again_for_other_labels(
    loev: Loev, music: Path, cache: Path, labels: Path, tmp_path: Path
) -> None:
    out = tmp_path / "advice"
    asked = ["advise", "--data", music, "--labels", labels, "--out", out, "--cache", cache, *QUICK]
    done = loev(*asked, "--label", "key", "--label", "genre")
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[0].startswith("label") and "lost if invariant" in lines[0]
    assert sum(line.startswith(("key ", "genre ")) for line in lines) == 4
    assert lines[-1].startswith(("--augs ", "--method cl", "undecided: "))

    found = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert found["options"] == lines[-1]
    assert found["runs"] == ["blind-seed0", "pitch-seed0", "tempo-seed0"]
    assert {(v["label"], v["augmentation"]) for v in found["verdicts"]} == {
        (label, aug) for label in ("key", "genre") for aug in ("pitch", "tempo")
    }
    verdict = found["verdicts"][0]
    assert verdict["metric"] == "weighted score" and verdict["gained"]["kept"]["n_tracks"] == 10
    assert len(found["draws"]["pitch"]) == 4
    assert bundles.load(out / "runs" / "pitch-seed0" / "bundle").config["augs"] == ["pitch"]
    html = (out / "advise.html").read_text(encoding="utf-8")
    assert "<svg" in html and "http" not in html.replace("http://www.w3.org", "")
    assert (out / "advise.md").read_text(encoding="utf-8").count("| key |") == 2
    assert {p.name for p in out.glob("*.png")} >= {"lost.png", "models_key.png"}

    weights = [*(out / "runs").glob("*/bundle/model.safetensors"), *(out / "vectors").iterdir()]
    made = {file: file.stat().st_mtime_ns for file in weights}
    assert len(made) == 3 + 4
    done = loev(*asked, "--label", "energy", "--quiet")
    assert done.code == 0 and done.err == ""
    assert "energy" in done.out and "key" not in done.out
    assert {file: file.stat().st_mtime_ns for file in made} == made


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--augs", "pitch,temop"], "no augmentation 'temop' (did you mean 'tempo'?"),
        (["--augs", "pitch,pitch"], "--augs names 'pitch' twice"),
        (["--augs", "codec"], "augmentation 'codec' is not available on features"),
        (["--augs", "eq", "--set", "augmentations.eq.p=0"], "no model would learn to ignore it"),
        (["--tolerance", "1.5"], "--tolerance is 1.5, it must lie between 0 and 1"),
        (["--label", "mood"], "the manifest has no column 'mood'"),
        (["--folds", "11"], "11 folds need 11 tracks, the manifest has 10"),
        (["--batch-size", "64"], "10 tracks to train on are fewer than the batch of 64"),
        (["--model", "none"], "no model 'none'"),
        (["--steps", "5", "--minutes", "5"], "--steps and --minutes exclude each other"),
        (["--set", "augmentations.pitch.semitones=[-7,7]"], "exceeds the features' margin"),
    ],
)
def test_bad_requests_are_one_line_before_anything_is_made(
    loev: Loev, music: Path, labels: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    out = tmp_path / "advice"
    quick = [] if "--steps" in arguments else ["--steps", "2"]
    batch = [] if "--batch-size" in arguments else ["--batch-size", "4"]
    done = loev(
        "advise", "--data", music, "--labels", labels, "--out", out, *quick, *batch, *arguments
    )
    assert done.code == 2
    assert done.lines[-1].startswith("loev: error: ") and message in done.lines[-1]
    assert sum("error" in line for line in done.lines) == 1
    assert not out.exists() and done.out == ""


@pytest.mark.parametrize(
    ("column", "cells", "message"),
    [
        ("key", ["C major"] * 10, "column 'key' has one value only, 'C major'"),
        ("energy", [*(i + 0.5 for i in range(9)), "nan"], "labels.csv line 11: 'energy' is NaN"),
        (
            "key",
            [*KEYS[:9], "H major"],
            "labels.csv line 11: 'H major' in column 'key' is not a valid key",
        ),
        ("path", [*(f"{i:02}.wav" for i in range(9)), "x.wav"], "labels.csv line 11: no file"),
    ],
)
def test_bad_labels_are_one_line(
    loev: Loev, music: Path, tmp_path: Path, column: str, cells: list[object], message: str
) -> None:
    columns = {"path": [f"{i:02}.wav" for i in range(10)], "key": KEYS, column: cells}
    bad = write_csv(tmp_path / "labels.csv", columns)
    out = tmp_path / "advice"
    done = loev("advise", "--data", music, "--labels", bad, "--out", out, "--batch-size", "4")
    assert done.code == 2 and message in done.lines[-1]
    assert not out.exists()


def test_a_folder_needs_labels_and_a_manifest_has_its_own(
    loev: Loev, music: Path, tmp_path: Path
) -> None:
    done = loev("advise", "--data", music, "--out", tmp_path / "advice")
    assert done.code == 2 and "no labels for" in done.lines[-1]
    assert "--labels LABELS.csv" in done.lines[-1]
    manifest = write_csv(tmp_path / "m.csv", {"path": [str(music / "00.wav")], "key": ["C major"]})
    done = loev("advise", "--data", manifest, "--out", tmp_path / "advice")
    assert "column 'key' has one value only" in done.lines[-1]


def test_models_differ_in_what_they_keep_and_in_nothing_else() -> None:
    config = TrainConfig(data="x", steps=7)
    runs = plan_runs(config, ("pitch", "eq"), 2)
    assert [run.name for run in runs][:4] == [
        "blind-seed0",
        "pitch-seed0",
        "eq-seed0",
        "blind-seed1",
    ]
    for run in runs:
        name, _, seed = run.name.partition("-seed")
        assert run.name == name_of_run(name, run.config.seed) and run.config.seed == int(seed)
        assert run.config.method == ("cl" if name == BLIND else "loev++")
        assert run.config.augmentations == config.augmentations and run.config.steps == 7
    # Other candidates ask for the same blind model, so it is taken again.
    assert plan_runs(config, ("tempo",), 1)[0] == runs[0]


def test_draws_are_the_same_for_all_and_differ_from_each_other() -> None:
    config = AugmentationsConfig()
    drawn = draw_changes(config, "pitch", 4)
    assert len({float(draw.params[0]) for draw in drawn}) == 4
    again = draw_changes(config, "pitch", 4)
    assert all(np.array_equal(a.params, b.params) for a, b in zip(drawn, again, strict=True))
    assert len(draw_changes(config, "polarity", 4)) == 4  # has two draws only


N_TONES = 96


def write_tones(folder: Path, n: int) -> None:
    """Chords of two roots a tritone apart, struck at two tempi, and some noise."""
    import soundfile

    rng = np.random.default_rng(0)
    time = np.arange(RATE_HZ) / RATE_HZ
    for i in range(n):
        root_hz, beat_n = 220 * 2 ** (i % 2 / 2), int(RATE_HZ * (0.4, 0.56)[i // 2 % 2])
        waveform = np.zeros(14 * RATE_HZ)
        for start in range(0, 12 * RATE_HZ, beat_n):
            for interval in (0, 4, 7):
                hz = root_hz * 2 ** (interval / 12)
                tone = sum(np.sin(2 * np.pi * hz * k * time) / k for k in (1, 2, 3))
                waveform[start : start + RATE_HZ] += 0.05 * tone * np.exp(-4 * time)
        waveform = waveform[: 12 * RATE_HZ] + 0.003 * rng.standard_normal(12 * RATE_HZ)
        soundfile.write(folder / f"{i:02}.wav", waveform, RATE_HZ)


@pytest.mark.slow
def test_chords_need_pitch_and_beats_need_tempo(tmp_path: Path, cache: Path) -> None:
    """Audio of known truth through the shipped model and training's own augmentations."""
    write_tones(tmp_path, N_TONES)
    config = TrainConfig(data=str(tmp_path))
    embedder = AugmentedEmbedder(
        load_model(bundles.find(DEFAULT_MODEL)),
        config,
        on_features=True,
        device=torch.device("cpu"),
        plain=True,
    )
    tracks = _tracks(tmp_path, embedder, cache)
    draws = {name: draw_changes(config.augmentations, name, 3) for name in ("pitch", "tempo")}
    vectors, places = embedder.embed(tracks, [None, *draws["pitch"], *draws["tempo"]])
    assert len(places) == N_TONES and set(vectors) == {"invariant", "pitch", "tempo", "bands"}

    flat = np.concatenate([vectors[name].reshape(7 * N_TONES, -1) for name in vectors], axis=1)
    x = compact(flat).reshape(7, N_TONES, -1)
    changed = {"pitch": x[1:4], "tempo": x[4:]}
    rows = np.random.default_rng(1).permutation(N_TONES)
    a, b, c, d = np.split(rows, 4)
    folds = [Fold(np.r_[a, b], c, d), Fold(np.r_[c, d], a, b)]
    known, groups = np.ones(N_TONES, np.bool_), np.arange(N_TONES).astype(str)
    index = np.arange(N_TONES)
    for values, needs, other in [(index % 2, "pitch", "tempo"), (index // 2 % 2, "tempo", "pitch")]:
        column = Column("x", "class", values, known, ("a", "b"))
        found = destroyed(x[0], changed, column, folds, groups)
        assert found[needs].known.value > 0.6 and found[other].known.value > 0.6
        assert found[needs].share.low > found[other].share.high


def test_unchanged_tracks_are_embedded_as_the_model_does_it(tmp_path: Path, cache: Path) -> None:
    write_tones(tmp_path, 1)
    model = load_model(bundles.find(DEFAULT_MODEL))
    embedder = AugmentedEmbedder(
        model, TrainConfig(data=str(tmp_path)), on_features=True, device=torch.device("cpu")
    )
    track = _tracks(tmp_path, embedder, cache)[0]
    vectors, _ = embedder.embed([track], [None])
    import soundfile

    waveform = torch.from_numpy(soundfile.read(track.path, dtype="float32")[0])
    n = model.spec.window_n_samples
    with torch.inference_mode():
        ends = [model(waveform[None, start : start + n]) for start in (0, len(waveform) - n)]
    for name, x in vectors.items():
        expected = torch.cat([end[name] for end in ends]).mean(dim=0).numpy()
        off = np.linalg.norm(x[0, 0] - expected) / np.linalg.norm(expected)
        assert off < 0.15, name  # windows lie up to a frame apart, features are float16


def _tracks(folder: Path, embedder: AugmentedEmbedder, cache: Path) -> list[Track]:
    files = sorted(folder.glob("*.wav"))
    tracks, skipped = load_tracks(
        [Listed(file) for file in files],
        embedder.content,
        Cache(cache),
        max_track_s=600.0,
        n_workers=0,
    )
    assert not skipped
    return tracks
