"""The same, but faster or higher."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from loev_cli import audio
from loev_cli.backends import open_encoder
from loev_cli.bundle import find
from loev_cli.embed import Request, embed
from loev_cli.errors import UsageError
from loev_cli.formats import Meta, read
from loev_cli.search.library import open_library
from loev_cli.search.session import model_of
from loev_cli.search.shifted_query import Asked, Change, move, parse_changes
from tests.conftest import ROOT, Loev

MUSIC = ROOT / "examples" / "music"
SLOW, FAST = "ballad-in-c-major-72bpm.mp3", "ballad-in-c-major-108bpm.mp3"
HIGH = "ballad-in-e-flat-major-72bpm.mp3"


@pytest.fixture(scope="module")
def emb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The examples, embedded by the shipped model."""
    out = tmp_path_factory.mktemp("emb") / "emb.npz"
    embed(Request([str(MUSIC)], str(out)))
    return out


@pytest.mark.parametrize(
    ("text", "attribute", "rate"),
    [
        ("tempo=+10%", "tempo", 1.1),
        (" tempo = -5% ", "tempo", 0.95),
        ("tempo=50%", "tempo", 1.5),
        ("pitch=+2", "pitch", 2 ** (2 / 12)),
        ("pitch=-.5", "pitch", 2 ** (-0.5 / 12)),
    ],
)
def test_changes_are_read(text: str, attribute: str, rate: float) -> None:
    (change,) = parse_changes(text)
    assert (change.attribute, change.rate) == (attribute, pytest.approx(rate))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tempo", "cannot be read"),
        ("tempo=fast", "cannot be read"),
        ("tempo=+10%;pitch=2", "cannot be read"),
        ("tempi=+10%", "cannot move 'tempi' .did you mean 'tempo'"),
        ("tempo=+10", "is moved by a percentage"),
        ("pitch=+10%", "is moved in semitones"),
        ("tempo=-100%", "out of range"),
        ("tempo=+101%", "out of range"),
        ("pitch=13", "out of range"),
        ("tempo=+5%,", "'' cannot be read"),
        ("pitch=1,tempo=+5%,pitch=2", "names an attribute twice"),
    ],
)
def test_changes_that_make_no_sense(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_changes(text)


def test_listening_makes_what_embedding_made(emb: Path) -> None:
    library = open_library(emb)
    vectors = model_of(library.meta).embed_file(MUSIC / SLOW, hop_s=library.meta["hop_s"])
    there = read(emb)
    for name, x in there.vectors.items():
        np.testing.assert_allclose(vectors[name], x[there.paths.index(SLOW)], atol=1e-5)


def test_listening_faster_is_a_tape_played_faster(tmp_path: Path, emb: Path) -> None:
    import soundfile

    waveform, rate_hz = soundfile.read(MUSIC / SLOW, dtype="float32")
    soundfile.write(tmp_path / "faster.wav", waveform, round(rate_hz * 1.25))
    meta = open_library(emb).meta
    ours, theirs = (
        model_of(meta).embed_file(file, hop_s=meta["hop_s"], speed=speed)
        for file, speed in ((MUSIC / SLOW, 1.25), (tmp_path / "faster.wav", 1.0))
    )
    for name in ours:
        distance = np.linalg.norm(ours[name] - theirs[name]) / np.linalg.norm(theirs[name])
        assert distance < 0.02


def test_turning_is_transposing(emb: Path) -> None:
    """A transposition by an outside stretcher is what turning the pitch classes makes of it."""
    import soxr

    from loev_cli.evaluate.equivariance import STRETCH_RATE_HZ, open_stretcher

    library = open_library(emb)
    encoder = open_encoder(find("loevpp-small"), subspaces=["pitch"])
    n, rate_hz = encoder.bundle.window_n_samples, encoder.bundle.sample_rate_hz
    stretch = open_stretcher("auto")
    space = library.subspaces["pitch"]
    for path, semitones in ((SLOW, 2), ("rock-in-e-minor-138bpm.mp3", -3)):
        plain = audio.load(MUSIC / path, STRETCH_RATE_HZ)
        higher = stretch(plain, rate=1.0, semitones=semitones)
        vectors = [
            encoder.encode(soxr.resample(w, STRETCH_RATE_HZ, rate_hz)[None, :n])["pitch"][0]
            for w in (plain, higher)
        ]

        (change,) = parse_changes(f"pitch={semitones}")
        asked = Asked(library.meta, None, {"pitch": vectors[0]}.copy)
        moved = move(change, asked, lambda file, speed: {})
        assert "rotating the pitch classes" in moved.how
        wanted = space.ready(vectors[1])
        assert space.ready(moved.vectors["pitch"]) @ wanted > 0.85
        assert space.ready(moved.vectors["pitch"]) @ wanted > space.ready(vectors[0]) @ wanted + 0.1


def answers(loev: Loev, *arguments: str | Path) -> tuple[list[str], str]:
    done = loev("search", *arguments, "-k", "3", "--format", "jsonl")
    assert done.code == 0, done.err
    return [json.loads(line)["path"] for line in done.out.splitlines()], done.err


def test_the_same_ballad_faster_and_higher(emb: Path, loev: Loev, tmp_path: Path) -> None:
    found, told = answers(loev, emb, SLOW, "--like-but", "tempo=+50%")
    assert found[0] == FAST
    assert SLOW not in found
    assert "by embedding the audio played 1.5 times as fast" in told
    found, told = answers(loev, emb, SLOW, "--like-but", "pitch=+3", "--root", tmp_path)
    assert found[0] == HIGH
    assert SLOW not in found
    assert "by rotating the pitch classes, +3" in told
    found, told = answers(loev, emb, MUSIC / HIGH, "--like-but", "pitch=-3")
    assert found[0] == SLOW
    assert HIGH not in found
    assert "by embedding the audio" in told
    found, told = answers(loev, emb, HIGH, "--like-but", "pitch=-3,tempo=+50%")
    assert found[0] == FAST
    assert "pitch=-3: by embedding" in told
    assert "tempo=+50%: by embedding" in told


def test_what_cannot_be_moved_is_one_line(emb: Path, loev: Loev, tmp_path: Path) -> None:
    done = loev("search", emb, SLOW, "--like-but", "tempo=+50%", "--root", tmp_path)
    assert (done.code, len(done.lines)) == (2, 1)
    assert "needs the query's audio, or a column 'bpm'" in done.err
    done = loev("search", emb, SLOW, "--like-but", "pitch=+0.5", "--root", tmp_path)
    assert (done.code, len(done.lines)) == (2, 1)  # half a step cannot be turned


def annotated(values: dict[str, object]) -> Asked:
    """A query that only annotations are known of."""
    meta: Meta = {"subspaces": {"invariant": 4}, "model": "none", "model_sha256": ""}
    return Asked(meta, None, value=values.get)


@pytest.mark.parametrize(
    ("values", "text", "where"),
    [
        ({"bpm": 100.0}, "tempo=+20%", "bpm between 115.38 and 124.80"),
        ({"key": "C major"}, "pitch=+1", "key = 'Db major'"),
        ({"key": "A minor"}, "pitch=-2", "key = 'G minor'"),
        ({"key": "A minor", "mode": ""}, "pitch=+3", "key = 'C minor'"),
        ({"key": "A minor", "mode": "minor"}, "pitch=+3", "key = 'C minor'"),
        ({"key": "A", "mode": "minor"}, "pitch=3", "key = 'C' and mode = 'minor'"),
    ],
)
def test_annotations_are_moved(values: dict[str, object], text: str, where: str) -> None:
    (change,) = parse_changes(text)
    moved = move(change, annotated(values), lambda file, speed: {})
    assert moved.where == where
    assert moved.vectors == {}
    assert "by annotations" in moved.how


@pytest.mark.parametrize("values", [{}, {"bpm": float("nan")}, {"bpm": 0.0}])
def test_unknown_annotations_are_none(values: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="or a column 'bpm'"):
        move(Change("tempo", 1.1, "tempo=+10%"), annotated(values), lambda file, speed: {})
