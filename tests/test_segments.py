"""Key and tempo along a track."""

from __future__ import annotations

import csv
import io
import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile

from loev_cli import audio
from loev_cli import bundle as bundles
from loev_cli.annotations import Annotator, open_annotator
from loev_cli.segments import find_segments
from tests.conftest import ROOT, Loev

RATE_HZ = 44100
WINDOW_S = 10.24
PARTS = ["house-in-a-minor-124bpm", "rock-in-e-minor-138bpm", "lullaby-in-a-flat-major-72bpm"]
TRUE = [("A minor", 124), ("E minor", 138), ("Ab major", 72)]


def write_medley(file: Path, *names: str) -> list[float]:
    """Examples in a row, by default ``PARTS``; when each ends, in seconds."""
    music = ROOT / "examples" / "music"
    parts = [audio.load(music / f"{name}.mp3", RATE_HZ) for name in names or PARTS]
    soundfile.write(file, np.concatenate(parts), RATE_HZ)
    return [float(end) for end in np.cumsum([len(part) / RATE_HZ for part in parts])]


@pytest.fixture(scope="module")
def annotator() -> Annotator:
    return open_annotator(bundles.find(bundles.DEFAULT_MODEL))


def test_a_medley_is_told_apart(tmp_path: Path, loev: Loev) -> None:
    ends_s = write_medley(tmp_path / "medley.flac")
    asked = ["annotate", "--segments", tmp_path / "medley.flac"]
    done = loev(*asked, "--format", "jsonl")
    assert done.code == 0, done.err
    found = [json.loads(line) for line in done.out.splitlines()]
    assert [(s["key"], s["camelot"]) for s in found] == [
        *(("A minor", "8A"), ("E minor", "9A"), ("Ab major", "4B"))
    ]
    for segment, (_, bpm), end_s in zip(found, TRUE, ends_s, strict=True):
        assert segment["bpm"] == pytest.approx(bpm, rel=0.04)
        assert abs(segment["end_s"] - end_s) <= WINDOW_S / 2  # one hop
        assert 0.5 < segment["key_confidence"] <= 1
        assert 0.5 < segment["bpm_confidence"] <= 1
    assert found[0]["start_s"] == 0
    assert all(a["end_s"] == b["start_s"] for a, b in pairwise(found))
    rows = list(csv.DictReader(io.StringIO(loev(*asked, "--format", "csv").out)))
    assert [list(row)[:4] for row in rows] == [["path", "start_s", "end_s", "bpm"]] * 3
    assert loev(*asked).out.splitlines()[0].split()[:4] == ["path", "start", "end", "bpm"]


def test_an_embedding_file_with_windows_is_read_too(tmp_path: Path, loev: Loev) -> None:
    write_medley(tmp_path / "medley.flac", *PARTS[:2])
    emb = tmp_path / "x.npz"
    options = ["--per-window", "--hop-s", "5.12"]
    assert loev("embed", tmp_path / "medley.flac", "--out", emb, *options).code == 0
    ours = loev("annotate", "--segments", emb, "--format", "jsonl")
    theirs = loev("annotate", "--segments", tmp_path / "medley.flac", "--format", "jsonl")
    assert len(ours.out.splitlines()) == 2
    for a, b in zip(ours.out.splitlines(), theirs.out.splitlines(), strict=True):
        a, b = json.loads(a), json.loads(b)
        assert a == {**b, "path": a["path"]}
    assert loev("embed", tmp_path, "--out", tmp_path / "y.npz").code == 0
    listed = loev("annotate", tmp_path / "y.npz", "--format", "m3u").out.splitlines()
    assert listed[2] == str(tmp_path / "medley.flac")
    for arguments, message in (
        ([tmp_path / "y.npz"], "has no windows (give the audio, or embed it with --per-window)"),
        ([emb, "--format", "m3u"], "segments are not a playlist"),
        ([tmp_path / "medley.flac", "--write-tags"], "--segments is not for tags"),
    ):
        done = loev("annotate", "--segments", *arguments)
        assert (done.code, done.out, len(done.lines)) == (2, "", 1), done.err
        assert message in done.err


def vectors_of(annotator: Annotator, keys: list[int], bpms: list[float]) -> dict[str, np.ndarray]:
    """Windows whose logits are 12 for one key and one tempo, and 0 for all others."""
    wanted = {"key": np.zeros((len(keys), 24)), "tempo": np.zeros((len(keys), 125))}
    for i, (key, bpm) in enumerate(zip(keys, bpms, strict=True)):
        wanted["key"][i, key] = 12
        wanted["tempo"][i, round(48 * np.log2(bpm / 40))] = 12
    return {
        readout.subspace: (
            (wanted[name] - annotator.weights[name][1])
            @ np.linalg.pinv(annotator.weights[name][0]).T
        ).astype(np.float32)
        for name, readout in annotator.readouts.items()
    }


def segments_of(
    annotator: Annotator, keys: list[int], bpms: list[float], **more: object
) -> list[tuple[float, float, object]]:
    starts = np.arange(len(keys), dtype=np.float32) * 5.12
    found = find_segments(
        annotator,
        vectors_of(annotator, keys, bpms),
        starts,
        window_s=WINDOW_S,
        duration_s=float(starts[-1] + WINDOW_S),
        **more,
    )
    return [(segment.start_s, segment.end_s, segment.answer["key"]) for segment in found]


def test_a_change_has_to_persist(annotator: Annotator) -> None:
    end_s = 11 * 5.12 + WINDOW_S
    same = [120.0] * 12
    whole = [(0.0, pytest.approx(end_s), "C major")]
    assert segments_of(annotator, [0] * 12, same) == whole
    for n in (1, 2):  # windows in another key
        assert segments_of(annotator, [0] * 5 + [7] * n + [0] * (7 - n), same) == whole
    assert [key for *_, key in segments_of(annotator, [0] * 5 + [7] * 4 + [0] * 3, same)] == [
        *("C major", "G major", "C major")
    ]
    # Another octave of the tempo is no change, another tempo is.
    assert segments_of(annotator, [0] * 12, [80.0] * 6 + [160.0] * 6) == whole
    assert len(segments_of(annotator, [0] * 12, [80.0] * 6 + [110.0] * 6)) == 2


def test_changes_of_key_and_tempo_near_each_other_are_one(annotator: Annotator) -> None:
    keys, bpms = [0] * 6 + [9] * 6, [100.0] * 5 + [130.0] * 7
    first, second = segments_of(annotator, keys, bpms)
    assert first[1] == second[0]
    assert 4 * 5.12 <= first[1] <= 6 * 5.12 + WINDOW_S


def test_silence_and_a_single_window_are_one_segment(annotator: Annotator) -> None:
    keys, bpms = [0] * 6 + [9] * 6, [100.0] * 12
    ((_, _, key),) = segments_of(annotator, keys, bpms, silent=True)
    assert key == ""
    assert segments_of(annotator, [9], [100.0]) == [(0.0, pytest.approx(WINDOW_S), "A major")]
