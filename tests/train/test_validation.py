"""Validation on tones, with a model whose answers are known."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor, nn

from loev_cli.model import ModelSpec
from loev_cli.train.config import TrainConfig
from loev_cli.train.data import Listed, Track, WaveformContent, load_tracks
from loev_cli.train.items import Changes
from loev_cli.train.metrics import model_card
from loev_cli.train.music import Music
from loev_cli.train.validation import Validation, measure

RATE_HZ = 16000
FREQUENCIES_HZ = (220.0, 311.1, 440.0, 622.3)  # half an octave apart
SPEC = ModelSpec(window_n_samples=81920)


@pytest.fixture(scope="module")
def tracks(tmp_path_factory: pytest.TempPathFactory) -> list[Track]:
    folder = tmp_path_factory.mktemp("tones")
    time_s = np.arange(16 * RATE_HZ) / RATE_HZ
    files = []
    for hz in FREQUENCIES_HZ:
        files.append(folder / f"{hz:.0f}.wav")
        soundfile.write(files[-1], 0.3 * np.sin(2 * math.pi * hz * time_s), RATE_HZ)
    found, _ = load_tracks(
        [Listed(file) for file in files],
        WaveformContent(RATE_HZ),
        None,
        max_track_s=60,
        n_workers=0,
    )
    return found


@pytest.fixture(scope="module")
def changes(tracks: list[Track]) -> Changes:
    return changes_of(tracks, augs=("pitch", "tempo", "gain"))


def changes_of(tracks: list[Track], **settings: Any) -> Changes:
    config = TrainConfig(steps=1, **settings)
    return Music(config, SPEC, torch.device("cpu")).changes(tracks, 24)


class PeakModel(nn.Module):
    """`height` is the octave of the loudest frequency, `place` half octaves as points of a circle;
    `blind` is constant."""

    def forward(self, waveform: Tensor) -> dict[str, Tensor]:
        peak = torch.fft.rfft(waveform * torch.hann_window(waveform.shape[1])).abs().argmax(dim=1)
        octave = torch.log2(peak.float())[:, None]
        place = torch.round(2 * (octave - octave.min()))
        angle = place * math.pi / 4
        return {
            "height": octave,
            "place": torch.cat([angle.cos(), angle.sin()], dim=1),
            "blind": torch.ones(len(waveform), 2),
        }


def test_sensitivity_is_the_distance_moved_over_that_between_tracks(
    changes: Changes,
) -> None:
    model = PeakModel().eval()
    measured = measure(changes, model, {"invariant": 1.0}, torch.device("cpu"))  # type: ignore[arg-type]

    plain = model(torch.stack(changes.plain).float())["height"]
    shifted = model(torch.stack(changes.changed["pitch"]).float())["height"]
    semitones = 12 * (shifted - plain)
    assert semitones.abs().min() > 0.9 and semitones.abs().max() < 4.1  # never by nothing
    # Mean distance of 4 points half an octave apart: (3 x 0.5 + 2 x 1 + 1 x 1.5) / 6
    expected = float(semitones.abs().mean()) / 12 / (5 / 6)
    assert measured.sensitivity["height"]["pitch"] == pytest.approx(expected, rel=0.02)
    assert measured.sensitivity["height"]["tempo"] < 0.01
    assert measured.sensitivity["height"]["gain"] == 0
    assert all(value == 0 for value in measured.sensitivity["blind"].values())


def test_alignment_and_uniformity_in_closed_form(changes: Changes) -> None:
    measured = measure(changes, PeakModel().eval(), {}, torch.device("cpu"))  # type: ignore[arg-type]
    assert measured.alignment["place"] == pytest.approx(0, abs=1e-6)
    # Four points on a circle, an eighth apart: squared distances 2 - 2 cos(angle).
    squares = [2 - 2 * math.cos(k * math.pi / 4) for k in (1, 1, 1, 2, 2, 3)]
    expected = math.log(np.mean([math.exp(-2 * s) for s in squares]))
    assert measured.uniformity["place"] == pytest.approx(expected, rel=1e-3)
    assert measured.uniformity["blind"] == pytest.approx(0, abs=1e-6)


def test_one_track_alone_is_only_a_loss(tracks: list[Track]) -> None:
    changes = changes_of(tracks[:1])
    model = PeakModel().eval()
    measured = measure(changes, model, {"invariant": 2.0}, torch.device("cpu"))  # type: ignore[arg-type]
    assert measured == Validation({"invariant": 2.0}) and measured.loss == 2.0


def test_a_track_that_is_gone_is_left_out(tracks: list[Track], tmp_path: Path) -> None:
    gone = dataclasses.replace(tracks[0], path=tmp_path / "gone.wav")
    changes = changes_of([gone, *tracks[1:]])
    assert len(changes.plain) == len(tracks) - 1


def test_the_card_says_what_was_measured_or_that_nothing_was() -> None:
    measured = Validation(
        {"invariant": 1.5},
        alignment={"invariant": 0.25},
        uniformity={"invariant": -2.5},
        sensitivity={"invariant": {"pitch": 0.125, "tempo": 0.5}},
    )
    card = model_card("mine", ModelSpec(), {"steps": 7}, measured)
    assert "| subspace | moved by pitch | moved by tempo | alignment | uniformity |" in card
    assert "| `invariant` | 0.12 | 0.50 | 0.25 | -2.50 |" in card
    assert "`invariant` 1.500" in card and "| steps | 7 |" in card
    assert "Nothing beyond the losses" in model_card("mine", ModelSpec(), {"steps": 7}, None)
