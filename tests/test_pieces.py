"""The corpus beyond POP909: MIDI files read, scores judged and kept, music composed, clips drawn.

Sound is made with the looped sine of `test_corpus`; where it is not the point, only notes are.
"""

from __future__ import annotations

import csv
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile

mido = pytest.importorskip("mido", reason="needs the corpus extra")

from corpus import composed, pieces, scores  # noqa: E402
from corpus.composed import KINDS, METRES, ORDER, SCALES, Metre, Pulse, compose  # noqa: E402
from corpus.midi import read_midi  # noqa: E402
from corpus.perform import (  # noqa: E402
    SCORE_BPM,
    SCORE_NOTE_S,
    SPEED_FACTOR,
    Clip,
    Piece,
    clip_of,
    is_bass,
    longest_rest,
)
from corpus.synth import Note, Part  # noqa: E402
from corpus.theory import Key  # noqa: E402
from tests.test_corpus import write_sine_soundfont  # noqa: E402

BPM = 120.0
CLIP_S = 10.0


def write_midi(path: Path, *, n_quarters: int = 80, second_bpm: float | None = None) -> Path:
    """Quarters of a lead (program 40, then 56 from the middle), a bass (33), and a kick drum."""
    midi = mido.MidiFile(ticks_per_beat=100)
    header = [mido.MetaMessage("set_tempo", tempo=mido.bpm2tempo(BPM))]
    if second_bpm is not None:
        half = n_quarters // 2 * 100
        header.append(mido.MetaMessage("set_tempo", tempo=mido.bpm2tempo(second_bpm), time=half))
    midi.tracks.append(mido.MidiTrack(header))
    for channel, program, pitch in ((0, 40, 72), (1, 33, 36), (9, 0, 36)):
        track = mido.MidiTrack()
        track.append(mido.Message("program_change", channel=channel, program=program))
        track.append(mido.Message("control_change", channel=channel, control=7, value=127))
        for i in range(n_quarters):
            if channel == 0 and i == n_quarters // 2:
                track.append(mido.Message("program_change", channel=0, program=56))
            track.append(mido.Message("note_on", channel=channel, note=pitch, velocity=90))
            track.append(mido.Message("note_off", channel=channel, note=pitch, time=100))
        midi.tracks.append(track)
    midi.save(path)
    return path


@pytest.fixture
def game(tmp_path: Path) -> Piece:
    return read_midi(write_midi(tmp_path / "game.mid"), "game")


def tune(n_quarters: int = 16) -> Piece:
    """A score of one part: quarters up C major, again and again."""
    scale = (60, 62, 64, 65, 67, 69, 71, 72)
    notes = tuple(Note(float(i), 1.0, scale[i % 8], 80) for i in range(n_quarters))
    return Piece("tune", "music21", (Part("part 0", 0, notes),), n_quarters, 60.0, is_score=True)


def clips(piece: Piece, n: int, **changes) -> list[Clip]:
    settings = {"seed": 0, "clip_s": CLIP_S, "n_soundfonts": 3} | changes
    return [clip_of(piece, number, **settings) for number in range(n)]


# --- midi


def test_parts_are_channels_and_programs_in_seconds(game: Piece) -> None:
    assert [(part.program, part.is_drums) for part in game.parts] == [
        (40, False),
        (56, False),
        (33, False),
        (0, True),
    ]
    lead, brass, bass, _ = game.parts
    assert len(lead.notes) == len(brass.notes) == 40
    assert [note.onset_s for note in bass.notes] == pytest.approx(np.arange(80) * 0.5)
    assert {round(note.duration_s, 6) for note in bass.notes} == {0.5}
    assert brass.notes[0].onset_s == pytest.approx(20.0)
    assert game.length == pytest.approx(40.0)
    assert game.bpm == BPM
    assert [part.level_db for part in game.parts] == [0.0] * 4


def test_a_change_of_tempo_is_followed_and_leaves_no_tempo(tmp_path: Path) -> None:
    piece = read_midi(write_midi(tmp_path / "x.mid", second_bpm=60.0), "x")
    assert piece.bpm is None
    assert piece.parts[1].notes[0].onset_s == pytest.approx(20.0)
    assert piece.parts[1].notes[1].onset_s == pytest.approx(21.0)
    assert all(clip.tempo_bpm is None for clip in clips(piece, 3))


def test_every_cut_of_a_file_is_read_or_an_error(tmp_path: Path) -> None:
    whole = write_midi(tmp_path / "whole.mid", n_quarters=3).read_bytes()
    path = tmp_path / "cut.mid"
    n_bad = 0
    for n_bytes in range(len(whole)):
        path.write_bytes(whole[:n_bytes])
        try:
            assert read_midi(path, "cut").parts
        except ValueError:
            n_bad += 1
    assert n_bad > len(whole) / 2


def test_a_file_without_notes_is_an_error(tmp_path: Path) -> None:
    midi = mido.MidiFile()
    midi.tracks.append(mido.MidiTrack())
    midi.save(tmp_path / "empty.mid")
    with pytest.raises(ValueError, match="no notes"):
        read_midi(tmp_path / "empty.mid", "empty")


# --- perform


def test_a_clip_is_a_function_of_its_arguments(game: Piece) -> None:
    forward = clips(game, 4)
    backward = [clip_of(game, i, seed=0, clip_s=CLIP_S, n_soundfonts=3) for i in (3, 2, 1, 0)]
    assert backward == forward[::-1]
    assert len({clip.parts for clip in forward}) == 4
    assert clips(game, 1, seed=1) != forward[:1]
    assert clips(replace(game, name="other"), 1) != forward[:1]


def test_speed_pitch_and_instruments_of_midi_clips(game: Piece) -> None:
    recast = 0
    for clip in clips(game, 60):
        assert SPEED_FACTOR[0] <= clip.speed_factor <= SPEED_FACTOR[1]
        assert clip.tempo_bpm == pytest.approx(BPM * clip.speed_factor)
        for part in clip.parts:
            pitches = {note.pitch for note in part.notes}
            if part.is_drums:
                assert pitches == {36}
            elif part.name == "channel 2":
                assert pitches == {36 + clip.transpose_semitones}
                assert is_bass(part.program) or part.program == 58
            else:
                assert pitches == {72 + clip.transpose_semitones}
                recast += part.program not in {40, 56}
    assert recast > 10


def test_the_notes_keep_the_labeled_tempo(game: Piece) -> None:
    for clip in clips(game, 30):
        bass = [part for part in clip.parts if part.name == "channel 2"]
        for part in bass:
            intervals_s = np.diff(sorted(note.onset_s for note in part.notes))
            assert np.median(intervals_s) == pytest.approx(60 / clip.tempo_bpm, rel=0.03)


def test_a_clip_is_full_of_sound_from_its_start(game: Piece) -> None:
    """Also of a tune far shorter than the clip: it is repeated."""
    for piece in (game, tune()):
        for clip in clips(piece, 30):
            ordered = sorted(
                (n for part in clip.parts for n in part.notes), key=lambda n: n.onset_s
            )
            onsets = np.array([note.onset_s for note in ordered])
            ends = np.maximum.accumulate([note.onset_s + note.duration_s for note in ordered])
            end_s = clip.preroll_s + clip.duration_s
            assert clip.duration_s == CLIP_S
            assert longest_rest(onsets, ends, clip.preroll_s, end_s) < 2.0
            assert onsets[-1] < end_s + 0.1


def test_scores_are_played_at_a_sane_speed() -> None:
    for unit in (0.125, 1.0, 8.0):
        notes = tuple(Note(i * unit, unit, 60 + i % 5, 80) for i in range(64))
        piece = replace(tune(), parts=(Part("part 0", 0, notes),), length=64 * unit)
        for clip in clips(piece, 20):
            quarter_bpm = 60 * clip.speed_factor
            assert SCORE_BPM[0] * 0.99 <= quarter_bpm <= SCORE_BPM[1] * 1.02
            note_s = unit / clip.speed_factor
            at_bound = min(abs(quarter_bpm - bound) / bound for bound in SCORE_BPM) < 0.02
            assert at_bound or SCORE_NOTE_S[0] * 0.98 <= note_s <= SCORE_NOTE_S[1] * 1.02


def test_a_score_of_many_parts_fits_the_channels() -> None:
    part = tune().parts[0]
    piece = replace(tune(), parts=tuple(replace(part, name=str(i)) for i in range(20)))
    sizes = {len(clip.parts) for clip in clips(piece, 40)}
    assert max(sizes) == 15
    assert min(sizes) < 15, "parts are left out at times"
    with pytest.raises(ValueError, match="no notes"):
        clips(replace(piece, parts=()), 1)


def test_longest_rest_counts_edges_and_overlaps() -> None:
    onsets = np.array([1.0, 1.5, 5.0])
    ends = np.maximum.accumulate(np.array([4.0, 2.0, 6.0]))
    assert longest_rest(onsets, ends, 0.0, 8.0) == 2.0
    assert longest_rest(onsets, ends, 2.0, 6.0) == 1.0
    assert longest_rest(onsets, ends, 7.0, 9.0) == 2.0


# --- scores


@pytest.mark.parametrize(
    ("text", "free"),
    [
        ("<score><rights>Public Domain</rights></score>", True),
        ("<score><work-title>Copyright, an opera</work-title></score>", True),
        ("<rights>Copyright ©</rights>", False),
        ("<rights>PDF © 2004 Someone</rights>", False),
        ("<rights>© 2014, Creative Commons License (CC-BY)</rights>", True),
        ('<credit-words font-size="8">All Rights Reserved</credit-words>', False),
        ("% Copyright (C) 1999 Someone\n% GNU General Public License\nX:1\nK:C\nCDE", True),
        ("X:1\nT:Tune\nZ:copyright Someone 1999\nK:C\nCDE", False),
        ("X:1\nT:Tune\nZ:Someone 1999\nK:C\nCDE", True),
    ],
)
def test_what_may_be_used(text: str, free: bool) -> None:
    assert scores.is_free(text) is free


def test_tunes_of_a_book() -> None:
    assert scores.tunes_of("% a book\nX:1\nK:C\nCDE\n\nX:2\nK:G\nGAB\n") == [
        "X:1\nK:C\nCDE\n\n",
        "X:2\nK:G\nGAB\n",
    ]


def test_scores_are_kept_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "scores.json.gz"
    scores.write_scores(path, [tune(), replace(tune(5), name="other", bpm=None)])
    first = path.read_bytes()
    assert scores.read_scores(path) == [tune(), replace(tune(5), name="other", bpm=None)]
    scores.write_scores(path, scores.read_scores(path))
    assert path.read_bytes() == first
    for bad in (b"not gzip", first[: len(first) // 2]):
        path.write_bytes(bad)
        with pytest.raises(ValueError, match="no file of parsed scores"):
            scores.read_scores(path)


def test_music21_scores_become_sounding_notes() -> None:
    """Ties joined, a piece of 1913 with two staves; a fiddle tune in eighths with a Q-less beat."""
    pytest.importorskip("music21", reason="its corpus is parsed")
    wanted = (
        scores.Collection("schoenberg/**/*.mxl", 1),
        scores.Collection("airdsAirs/book1.abc", 1, "tunes"),
        scores.Collection("leadSheet/*.mxl", 2),
    )
    said: list[str] = []
    parsed = scores.parse_corpus(said.append, wanted)
    assert [piece.name.split("-")[0] for piece in parsed] == [
        "schoenberg",
        "airdsAirs",
        "leadSheet",
    ]
    assert said == [
        "leadSheet/berlinAlexandersRagtime: left out, claims a copyright and grants no use"
    ]
    klavier, air, _ = parsed
    assert len(klavier.parts) == 2
    assert klavier.bpm == 60
    assert len({note.pitch % 12 for part in klavier.parts for note in part.notes}) == 12
    # "The White Cockade": K:G, M:C|, L:1/8, begins A G | B2 B2
    assert [note.pitch for note in air.parts[0].notes[:4]] == [69, 67, 71, 71]
    assert [note.duration_s for note in air.parts[0].notes[:4]] == [0.5, 0.5, 1.0, 1.0]


# --- composed


def composition(number: int, **changes) -> tuple[str, Clip]:
    return compose(number, **({"seed": 0, "clip_s": CLIP_S, "n_soundfonts": 3} | changes))


def test_every_kind_comes_in_turn_and_sounds() -> None:
    for number in range(6 * len(ORDER)):
        kind, clip = composition(number)
        assert kind == ORDER[number % len(ORDER)]
        end_s = clip.preroll_s + clip.duration_s
        notes = [note for part in clip.parts for note in part.notes]
        assert any(n.onset_s < end_s and n.onset_s + n.duration_s > clip.preroll_s for n in notes)
        assert all(0 <= n.onset_s < end_s + 0.1 and 0 < n.pitch < 128 for n in notes)
        assert sum(part.is_drums for part in clip.parts) <= 1
    assert composition(5) == composition(5) != composition(5, seed=1)
    assert set(ORDER) == set(KINDS)


def test_drums_alone_are_drums_in_many_metres_and_tempi() -> None:
    drawn = [composition(number)[1] for number in range(0, 40 * len(ORDER), len(ORDER))]
    assert all([part.is_drums for part in clip.parts] == [True] for clip in drawn)
    tempi = [clip.tempo_bpm for clip in drawn if clip.tempo_bpm is not None]
    assert 50 <= min(tempi) < 90 < 150 < max(tempi) <= 220
    assert len(tempi) < len(drawn), "metres with uneven beats have no tempo"


def test_a_solo_is_one_note_at_a_time() -> None:
    at = ORDER.index("solo")
    for number in range(at, at + 10 * len(ORDER), len(ORDER)):
        (part,) = composition(number)[1].parts
        ordered = sorted(part.notes, key=lambda note: note.onset_s)
        for one, following in pairwise(ordered):
            assert one.onset_s + one.duration_s < following.onset_s + 0.06  # but for looseness


def test_the_key_of_a_loop_is_its_scale() -> None:
    n_keys = 0
    for number in range(40 * len(ORDER)):
        kind, clip = composition(number)
        if not clip.key:
            continue
        n_keys += 1
        assert kind in {"loop", "arpeggio", "dance"}
        key = Key.parse(clip.key)
        # Of mixolydian; of dorian, harmonic and melodic minor.
        others = {"major": {10}, "minor": {9, 11}}[key.mode]
        allowed = {*key.scale, *((key.tonic + step) % 12 for step in others)}
        for part in clip.parts:
            if not part.is_drums and part.name != "bass":  # a bass may walk by semitones
                assert {note.pitch % 12 for note in part.notes} <= allowed
    assert n_keys > 5


def test_a_dance_has_its_tempo_and_its_beat() -> None:
    drawn = [composition(number, order=("dance",)) for number in range(60)]
    assert {kind for kind, _ in drawn} == {"dance"}
    tempi = [clip.tempo_bpm for _, clip in drawn]
    assert min(tempi) < 90 < 160 < max(tempi)
    for _, clip in drawn:
        beat_s = 60 / clip.tempo_bpm
        (bass,) = [part for part in clip.parts if part.name == "bass"]
        off = [note.onset_s / beat_s % 1 for note in bass.notes]
        near = [min(place % 0.5, 0.5 - place % 0.5) * beat_s for place in off]
        assert np.median(near) < 0.03, "a bass plays on the beats or between them"


def test_metres() -> None:
    assert Metre("7/8", (2, 2, 3), 0).starts == (0, 2, 4)
    assert Pulse(Metre("6/8", (3, 3), 3), 0.2).bpm == pytest.approx(100)
    assert Pulse(Metre("7/8", (2, 2, 3), 0), 0.2).bpm is None
    for metre in METRES:
        count, unit = (int(cell) for cell in metre.name.split("/"))
        assert metre.n_eighths == count * 8 // unit
        assert (metre.beat_eighths == 0) == (len(set(metre.groups)) > 1)
    for scale in SCALES.values():
        assert scale[0] == 0
        assert list(scale) == sorted(set(scale))
        assert scale[-1] < 12


def test_a_beat_in_seven_comes_round_every_bar() -> None:
    pulse = Pulse(Metre("7/8", (2, 2, 3), 0), 0.25)
    rng = np.random.default_rng(3)
    part = composed._beat(rng, pulse, 70 * pulse.bar_s)
    bars = [round((note.onset_s % pulse.bar_s) / 0.125) % 14 for note in part.notes]
    counts = np.bincount(bars, minlength=14)
    assert counts[0] > 60, "the downbeat is struck"
    assert set(np.unique(counts)) != {counts[0]}, "and not every place alike"


# --- python -m corpus.pieces


def read_rows(out: Path) -> list[dict[str, str]]:
    with (out / "manifest.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_render_resume_and_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tinysoundfont", reason="rendering needs tinysoundfont")
    sine = write_sine_soundfont(tmp_path / "sine.sf2")
    folder, out = tmp_path / "game", tmp_path / "out"
    folder.mkdir()
    write_midi(folder / "good one.mid")
    (folder / "bad.mid").write_bytes(b"MThd, but no more")
    cache = tmp_path / "scores.json.gz"
    scores.write_scores(cache, [tune()])
    shared = ["--soundfont", str(sine), "--out", str(out)]
    shared += ["--clip-s", "4", "--sample-rate-hz", "16000"]
    arguments = [*shared, "--midi", str(folder), "--clips-per-piece", "2", "--composed", "2"]
    arguments += ["--music21", "--score-cache", str(cache)]

    assert pieces.main(arguments) == 3, "one file is bad, the others done"
    said = capsys.readouterr().err
    assert "error: midi bad: not a MIDI file" in said
    assert "Traceback" not in said
    rows = read_rows(out)
    assert [row["path"] for row in rows] == [
        "audio/composed_0000_c0.flac",
        "audio/composed_0001_c0.flac",
        "audio/midi_good-one_c0.flac",
        "audio/midi_good-one_c1.flac",
        "audio/music21_tune_c0.flac",
        "audio/music21_tune_c1.flac",
    ]
    assert {row["split"] for row in rows} == {"train"}
    assert [row["group"] for row in rows[2:4]] == ["midi/good-one"] * 2
    for row in rows:
        wave, rate = soundfile.read(out / row["path"])
        assert (rate, len(wave)) == (16_000, 64_000)
        assert np.abs(wave).max() > 0.1
        if row["source"] == "midi":
            assert float(row["tempo"]) == pytest.approx(BPM * float(row["speed_factor"]), rel=1e-3)

    # A second run renders the one missing file, to the same bytes, and touches no other.
    first, *others = (out / row["path"] for row in rows)
    content, stamps = first.read_bytes(), [path.stat().st_mtime_ns for path in others]
    first.unlink()
    assert pieces.main([*shared, "--composed", "1"]) == 0
    assert first.read_bytes() == content
    assert [path.stat().st_mtime_ns for path in others] == stamps
    assert len(read_rows(out)) == 6, "other pieces stay listed"

    for option, value in (("--seed", "1"), ("--tuning-cents", "50")):
        with pytest.raises(SystemExit) as stopped:
            pieces.main([*shared, "--composed", "1", option, value])
        assert stopped.value.code == 2
        assert "other settings" in capsys.readouterr().err


def test_tuning_is_all_that_a_tuning_changes(tmp_path: Path) -> None:
    pytest.importorskip("tinysoundfont", reason="rendering needs tinysoundfont")
    arguments = ["--soundfont", str(write_sine_soundfont(tmp_path / "sine.sf2"))]
    arguments += ["--composed", "14", "--clip-s", "0.5", "--sample-rate-hz", "16000"]
    for out, cents in (("usual", "0"), ("tuned", "50")):
        assert pieces.main([*arguments, "--out", str(tmp_path / out), "--tuning-cents", cents]) == 0
    usual, tuned = read_rows(tmp_path / "usual"), read_rows(tmp_path / "tuned")
    cents = [float(row["tuning_cents"]) for row in tuned]
    assert 3 < sum(value != 0 for value in cents) < 11
    for one, other in zip(usual, tuned, strict=True):
        differs = one["tuning_cents"] != other["tuning_cents"] and one["programs"]
        audio = [(tmp_path / out / one["path"]).read_bytes() for out in ("usual", "tuned")]
        assert (audio[0] != audio[1]) == bool(differs)
        assert one | {"tuning_cents": ""} == other | {"tuning_cents": ""}


def test_midi_files_of_a_tar_and_of_nothing(tmp_path: Path) -> None:
    import tarfile

    write_midi(tmp_path / "a b.MID", n_quarters=2)
    with tarfile.open(tmp_path / "game.tar.xz", "w:xz") as tar:
        tar.add(tmp_path / "a b.MID", arcname="musics/a b.MID")
    with pieces.midi_files([tmp_path / "game.tar.xz"]) as files:
        assert list(files) == ["musics-a-b"]
        assert read_midi(files["musics-a-b"], "x").parts
    with pieces.midi_files([tmp_path / "a b.MID"]) as files:
        assert list(files) == ["a-b"]
    (tmp_path / "empty").mkdir()
    (tmp_path / "no.tar").write_bytes(b"no tar")
    for bad, message in (
        ([tmp_path / "empty"], "no MIDI files"),
        ([tmp_path / "no.tar"], "no MIDI file, folder or tar"),
        ([tmp_path / "a b.MID"] * 2, "one name"),
    ):
        with pytest.raises(ValueError, match=message), pieces.midi_files(bad):
            pass


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to render"),
        (["--composed", "1", "--clip-s", "0"], "--clip-s must be above 0"),
        (["--midi", "none.mid"], "no such file"),
    ],
)
def test_usage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    (tmp_path / "x.sf2").write_bytes(b"")
    with pytest.raises(SystemExit) as stopped:
        pieces.main(
            ["--soundfont", str(tmp_path / "x.sf2"), "--out", str(tmp_path / "o"), *arguments]
        )
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
