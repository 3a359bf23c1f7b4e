"""The corpus renderer: labels by arithmetic, notes by rule, sound by physics.

Nothing here needs the dataset: songs are written as MIDI and text, and the soundfont is a looped
sine written by `write_sine_soundfont`.
"""

from __future__ import annotations

import csv
import struct
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

mido = pytest.importorskip("mido", reason="needs the corpus extra")

from corpus import debian, examples, instruments, pop909, rendering, tempo_maps  # noqa: E402
from corpus.arrange import (  # noqa: E402
    MELODY_FAMILIES,
    PEAK_DBFS,
    TRANSPOSE_SEMITONES,
    USUAL,
    Variety,
    arrange,
    choose_passage,
    tempo_factor,
)
from corpus.patterns import (  # noqa: E402
    BASS_STYLES,
    DRUM_STYLES,
    KICK,
    SNARE,
    bass_notes,
    drum_notes,
    pad_notes,
)
from corpus.songs import (  # noqa: E402
    Beats,
    ChordSpan,
    KeySpan,
    chord_at,
    key_misfit,
    read_beats,
    read_song,
    read_tracks,
)
from corpus.synth import Note, Part, Player, finish, write_audio  # noqa: E402
from corpus.theory import PITCH_CLASSES, Chord, Key, fold, pitch_class  # noqa: E402
from loev_cli.train.data import listing  # noqa: E402

SONG_BPM = 100.0
SONG_BARS = 60
SYSTEM_SOUNDFONTS = sorted(Path("/usr/share/sounds").rglob("*.sf2"))


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


# --- Fixtures: a song, a soundfont


def write_song(
    folder: Path, *, bpm: float = SONG_BPM, key: str = "C:maj", n_bars: int = SONG_BARS
) -> Path:
    """A song of bars of four under C, A minor, F, G: chords, and their tones as a melody."""
    folder.mkdir(parents=True)
    progression = [
        ("C:maj", (60, 64, 67)),
        ("A:min", (57, 60, 64)),
        ("F:maj", (53, 57, 60)),
        ("G:maj/3", (59, 62, 67)),
    ]
    midi = mido.MidiFile(ticks_per_beat=480)
    header = mido.MidiTrack([mido.MetaMessage("set_tempo", tempo=mido.bpm2tempo(bpm))])
    midi.tracks.append(header)
    for name in ("MELODY", "BRIDGE", "PIANO"):
        track = mido.MidiTrack([mido.MetaMessage("track_name", name=name)])
        for bar in range(n_bars):
            _, pitches = progression[bar % 4]
            if name == "MELODY":
                for beat in range(4):
                    pitch = pitches[beat % 3] + 12
                    track.append(mido.Message("note_on", note=pitch, velocity=90, time=0))
                    track.append(mido.Message("note_off", note=pitch, velocity=0, time=480))
            else:
                for pitch in pitches:
                    track.append(mido.Message("note_on", note=pitch, velocity=70, time=0))
                for i, pitch in enumerate(pitches):
                    time = 4 * 480 if i == 0 else 0
                    track.append(mido.Message("note_on", note=pitch, velocity=0, time=time))
        midi.tracks.append(track)
    midi.save(folder / f"{folder.name}.mid")

    beat_s = 60 / bpm
    lines = [f"{i * beat_s} {float(i % 2 == 0)} {float(i % 4 == 0)}" for i in range(4 * n_bars)]
    (folder / "beat_midi.txt").write_text("\n".join(lines) + "\n")
    bar_s = 4 * beat_s
    lines = [f"{i * bar_s}\t{(i + 1) * bar_s}\t{progression[i % 4][0]}" for i in range(n_bars)]
    (folder / "chord_midi.txt").write_text("\n".join(lines) + "\n")
    (folder / "key_audio.txt").write_text(f"0.0\t{n_bars * bar_s}\t{key}\n")
    return folder


def write_sine_soundfont(path: Path) -> Path:
    """A SoundFont 2 of one looped sine of 440 Hz at key 69: all 128 programs, and one drum kit."""
    period = 100
    cycles = np.sin(2 * np.pi * np.arange(10 * period) / period)
    samples = np.concatenate([cycles * 20_000, np.zeros(46)]).astype("<i2")  # 46: the format's rule

    def chunk(name: bytes, body: bytes) -> bytes:
        return name + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)

    def named(name: str, layout: str, *values: int) -> bytes:
        return struct.pack("<20s" + layout, name.encode(), *values)

    presets = [(0, program) for program in range(128)] + [(128, 0)]
    instrument_generator, sample_modes, sample_id = 41, 54, 53
    pdta = {
        b"phdr": b"".join(
            named(f"P{i}", "HHHIII", program, bank, i, 0, 0, 0)
            for i, (bank, program) in enumerate(presets)
        )
        + named("EOP", "HHHIII", 0, 0, len(presets), 0, 0, 0),
        b"pbag": b"".join(struct.pack("<HH", i, 0) for i in range(len(presets) + 1)),
        b"pmod": bytes(10),
        b"pgen": struct.pack("<HH", instrument_generator, 0) * len(presets) + bytes(4),
        b"inst": named("sine", "H", 0) + named("EOI", "H", 1),
        b"ibag": struct.pack("<HHHH", 0, 0, 2, 0),
        b"imod": bytes(10),
        b"igen": struct.pack("<HHHH", sample_modes, 1, sample_id, 0) + bytes(4),
        b"shdr": named("sine", "IIIIIBbHH", 0, 1000, 0, 1000, 440 * period, 69, 0, 0, 1)
        + named("EOS", "IIIIIBbHH", *[0] * 9),
    }
    info = chunk(b"ifil", struct.pack("<HH", 2, 1)) + chunk(b"INAM", b"sine")
    body = (
        b"sfbk"
        + chunk(b"LIST", b"INFO" + info)
        + chunk(b"LIST", b"sdta" + chunk(b"smpl", samples.tobytes()))
        + chunk(b"LIST", b"pdta" + b"".join(chunk(name, data) for name, data in pdta.items()))
    )
    path.write_bytes(chunk(b"RIFF", body))
    return path


@pytest.fixture
def song(tmp_path: Path):
    return read_song(write_song(tmp_path / "dataset" / "001"))


@pytest.fixture
def sine(tmp_path: Path) -> Path:
    pytest.importorskip("tinysoundfont", reason="rendering needs tinysoundfont")
    return write_sine_soundfont(tmp_path / "sine.sf2")


def straight_beats(n: int, per_bar: int = 4, beat_s: float = 0.5) -> Beats:
    counts = np.arange(n, dtype=np.float64)
    return Beats.from_downbeats(counts * beat_s, counts % per_bar == 0, per_bar)


# --- theory


@pytest.mark.parametrize(
    ("label", "semitones", "expected"),
    [
        ("C:maj", 0, "C major"),
        ("Gb:maj", 0, "F# major"),
        ("B:min", 1, "C minor"),
        ("C:maj", -1, "B major"),
        ("F# minor", -6, "C minor"),
        ("Db:min", 2, "Eb minor"),
        ("Cb:maj", 12, "B major"),
    ],
)
def test_key_label_after_transposition(label: str, semitones: int, expected: str) -> None:
    assert str(Key.parse(label).transposed(semitones)) == expected


def test_every_key_label_reads_back() -> None:
    keys = [Key(tonic, mode) for tonic in range(12) for mode in ("major", "minor")]
    assert [Key.parse(str(key)) for key in keys] == keys
    assert [pitch_class(name) for name in PITCH_CLASSES] == list(range(12))


def test_relative_keys_share_their_scale() -> None:
    assert set(Key.parse("Eb:maj").scale) == set(Key.parse("C:min").scale)


@pytest.mark.parametrize("bad", ["", "H:maj", "C", "C:dorian"])
def test_bad_key_is_an_error(bad: str) -> None:
    with pytest.raises(ValueError, match="not a"):
        Key.parse(bad)


@pytest.mark.parametrize(
    ("label", "tones", "bass"),
    [
        ("C:maj", {0, 4, 7}, 0),
        ("B:maj/3", {11, 3, 6}, 3),
        ("A:min/b3", {9, 0, 4}, 0),
        ("F#:min7/b7", {6, 9, 1, 4}, 4),
        ("Ab:sus4(b7)", {8, 1, 3, 6}, 8),
        ("D:maj7/7", {2, 6, 9, 1}, 1),
        ("G:7/5", {7, 11, 2, 5}, 2),
        ("E", {4, 8, 11}, 4),
    ],
)
def test_chord_parsing(label: str, tones: set[int], bass: int) -> None:
    chord = Chord.parse(label)
    assert chord is not None
    assert (set(chord.tones), chord.bass) == (tones, bass)


def test_chord_without_a_chord_and_bad_chord() -> None:
    assert Chord.parse("N") is None
    with pytest.raises(ValueError, match="unknown chord quality"):
        Chord.parse("C:weird")
    with pytest.raises(ValueError, match="not a scale degree"):
        Chord.parse("C:maj/x")


def test_fold_keeps_the_pitch_class_and_the_range() -> None:
    for pitch in range(-24, 150):
        folded = fold(pitch, 28, 39)
        assert 28 <= folded <= 39
        assert (folded - pitch) % 12 == 0


# --- songs


def test_upbeats_lie_before_the_first_bar() -> None:
    flags = np.array([False, True, False, False, False, True, False])
    beats = Beats.from_downbeats(np.arange(7.0), flags, per_bar=4)
    assert beats.places.tolist() == [3, 0, 1, 2, 3, 0, 1]
    assert beats.bars.tolist() == [0, 1, 1, 1, 1, 2, 2]


@pytest.mark.parametrize(("short", "long", "per_bar"), [(2, 4, 4), (3, 6, 3)])
def test_metre_is_read_from_the_two_guesses(
    tmp_path: Path, short: int, long: int, per_bar: int
) -> None:
    path = tmp_path / "beat_midi.txt"
    path.write_text("".join(f"{i * 0.5} {i % short == 0:d} {i % long == 0:d}\n" for i in range(48)))
    beats = read_beats(path)
    assert beats.per_bar == per_bar
    assert beats.places.max() == per_bar - 1
    assert beats.bpm == pytest.approx(120)


def test_note_times_follow_tempo_changes(tmp_path: Path) -> None:
    """One second per quarter for two quarters, then half a second."""
    midi = mido.MidiFile(ticks_per_beat=100)
    midi.tracks.append(
        mido.MidiTrack(
            [
                mido.MetaMessage("set_tempo", tempo=1_000_000, time=0),
                mido.MetaMessage("set_tempo", tempo=500_000, time=200),
            ]
        )
    )
    melody = mido.MidiTrack([mido.MetaMessage("track_name", name="MELODY")])
    for _ in range(4):
        melody.append(mido.Message("note_on", note=60, velocity=64, time=0))
        melody.append(mido.Message("note_off", note=60, time=100))
    midi.tracks.append(melody)
    midi.save(tmp_path / "x.mid")
    notes = read_tracks(tmp_path / "x.mid")["MELODY"]
    assert [note.onset_s for note in notes] == pytest.approx([0, 1, 2, 2.5])
    assert [note.duration_s for note in notes] == pytest.approx([1, 1, 0.5, 0.5])


def test_song_reads_whole(song) -> None:
    assert song.number == 1
    assert {name: len(notes) for name, notes in song.tracks.items()} == {
        "MELODY": 4 * SONG_BARS,
        "BRIDGE": 3 * SONG_BARS,
        "PIANO": 3 * SONG_BARS,
    }
    assert song.beats.bpm == pytest.approx(SONG_BPM)
    assert chord_at(song.chords, 2.5) == Chord.parse("A:min")
    assert chord_at(song.chords, 1e6) is None


def test_key_misfit_tells_wrong_labels(song) -> None:
    notes = song.tracks["MELODY"]
    fits = {
        label: key_misfit(notes, KeySpan(0, 90, Key.parse(label))) for label in ("C:maj", "A:min")
    }
    assert fits == {"C:maj": 0.0, "A:min": 0.0}
    assert key_misfit(notes, KeySpan(0, 90, Key.parse("Db:maj"))) > 0.5


def test_steadiness() -> None:
    assert straight_beats(40).is_steady
    two_tempos = np.concatenate([np.arange(20) * 0.5, 10 + np.arange(20) * 0.8])
    assert not replace(straight_beats(40), times_s=two_tempos).is_steady


# --- patterns


@pytest.mark.parametrize("name", sorted(DRUM_STYLES))
def test_drawn_bars_have_the_right_length(name: str) -> None:
    style = DRUM_STYLES[name]
    for per_bar in (3, 4):
        assert {len(row) for row in style.bar(per_bar).values()} == {per_bar * style.steps_per_beat}
        assert any(row[0] != "." for row in style.bar(per_bar).values()), "a downbeat is played"


def test_rock_places_kick_and_snare() -> None:
    notes = drum_notes(DRUM_STYLES["rock"], straight_beats(9), rng(), fill_bars=1000)
    kicks = [note.onset_s for note in notes if note.pitch == KICK]
    snares = [note.onset_s for note in notes if note.pitch == SNARE]
    assert kicks == pytest.approx([0, 1, 1.25, 2, 3, 3.25])
    assert snares == pytest.approx([0.5, 1.5, 2.5, 3.5])


@pytest.mark.parametrize("per_bar", [3, 4])
def test_drums_follow_uneven_beats(per_bar: int) -> None:
    """A beat's strokes lie within that beat, wherever the beats are."""
    times_s = np.cumsum([0.5, 0.4, 0.7, 0.5, 0.6, 0.5, 0.4, 0.8, 0.5])
    beats = replace(straight_beats(9, per_bar), times_s=times_s)
    notes = drum_notes(DRUM_STYLES["sparse_hats"], beats, rng())
    assert sorted({note.onset_s for note in notes}) == pytest.approx(times_s[:-1].tolist())


def test_fill_replaces_the_last_beat() -> None:
    notes = drum_notes(DRUM_STYLES["rock"], straight_beats(17), rng(), fill_bars=4)
    # Bars are numbered from 1: the third of them is the fourth of its group.
    fill = [note.onset_s for note in notes if 5.5 <= note.onset_s < 6.0]
    assert fill == pytest.approx([5.5, 5.625, 5.75, 5.875])


CHORDS = [
    ChordSpan(0, 2, Chord.parse("C:maj")),
    ChordSpan(2, 4, Chord.parse("G:maj/3")),
    ChordSpan(4, 6, None),
    ChordSpan(6, 8, Chord.parse("A:min7")),
]


def test_roots_play_the_bass_of_each_beat_and_rest_without_a_chord() -> None:
    notes = bass_notes(BASS_STYLES["roots"], straight_beats(17), CHORDS, rng())
    assert [note.onset_s for note in notes] == pytest.approx(
        [*np.arange(8) / 2, *(6 + np.arange(4) / 2)]
    )
    assert [note.pitch % 12 for note in notes] == [0] * 4 + [11] * 4 + [9] * 4


@pytest.mark.parametrize("name", sorted(BASS_STYLES))
@pytest.mark.parametrize("per_bar", [3, 4])
def test_bass_stays_in_its_octave_and_in_the_chord(name: str, per_bar: int) -> None:
    notes = bass_notes(BASS_STYLES[name], straight_beats(17, per_bar), CHORDS, rng())
    assert notes
    for note in notes:
        chord = chord_at(CHORDS, note.onset_s)
        assert chord is not None
        assert 28 <= note.pitch <= 39
        assert name == "walking" or note.pitch % 12 in chord.tones


def test_pad_holds_each_chord() -> None:
    notes = pad_notes(CHORDS, 0, 8)
    assert sorted({(n.onset_s, n.duration_s) for n in notes}) == [(0, 2), (2, 2), (6, 2)]
    assert {n.pitch % 12 for n in notes if n.onset_s == 2} == {7, 11, 2}


# --- arrange


def plans(song, n: int, **changes):
    settings = {"seed": 0, "clip_s": 20.0, "n_soundfonts": 3} | changes
    return [arrange(song, number, **settings) for number in range(n)]


def test_arrangement_is_a_function_of_its_arguments(song) -> None:
    forward = plans(song, 4)
    assert [arrange(song, i, seed=0, clip_s=20.0, n_soundfonts=3) for i in (3, 2, 1, 0)] == forward[
        ::-1
    ]
    assert len({plan.parts for plan in forward}) == 4
    assert plans(song, 1, seed=1) != forward[:1]


def test_labels_follow_transposition_and_tempo_factor(song) -> None:
    for plan in plans(song, 40):
        low, high = TRANSPOSE_SEMITONES
        assert low <= plan.transpose_semitones <= high
        assert plan.key == Key.parse("C:maj").transposed(plan.transpose_semitones)
        assert plan.tempo_bpm == pytest.approx(SONG_BPM * plan.tempo_factor)
        assert PEAK_DBFS[0] <= plan.peak_dbfs <= PEAK_DBFS[1]


def test_the_notes_are_what_the_labels_say(song) -> None:
    """Melody tones in the labeled scale; onsets on the labeled beat, but for looseness."""
    for plan in plans(song, 40):
        for part in plan.parts:
            if part.name not in {"melody", "piano", "bridge", "pad"}:
                continue
            assert {note.pitch % 12 for note in part.notes} <= set(plan.key.scale)
        for part in plan.parts:
            if part.name == "melody":
                intervals_s = np.diff(sorted(note.onset_s for note in part.notes))
                assert np.median(intervals_s) == pytest.approx(60 / plan.tempo_bpm, rel=0.03)


def test_harmony_is_never_left_out(song) -> None:
    casts = [{part.name for part in plan.parts} for plan in plans(song, 200)]
    assert all(cast & {"melody", "piano"} for cast in casts)
    assert all(cast & {"piano", "bass", "pad"} for cast in casts)
    share = {
        name: np.mean([name in cast for cast in casts]) for name in ("melody", "piano", "drums")
    }
    assert 0.8 < share["melody"] < 0.96
    assert 0.8 < share["piano"] < 0.97
    assert 0.7 < share["drums"] < 0.9


def test_drums_are_not_transposed(song) -> None:
    for plan in plans(song, 20):
        for part in plan.parts:
            assert part.is_drums == (part.name == "drums")
            if part.is_drums:
                keys = {note.pitch for note in part.notes}
                assert keys & set(DRUM_STYLES[plan.drum_style].four)


def test_clips_are_whole_and_music_throughout(song) -> None:
    for plan in plans(song, 30):
        assert plan.duration_s == pytest.approx(20.0)
        assert plan.start_s + 20.0 * plan.tempo_factor <= 144 + 1e-6
        onsets = [note.onset_s for part in plan.parts for note in part.notes]
        assert min(onsets) >= 0
        assert max(onsets) < plan.preroll_s + plan.duration_s + 0.1


def test_short_song_gives_a_shorter_clip(tmp_path: Path) -> None:
    short = read_song(write_song(tmp_path / "002", n_bars=10))  # 24 s
    for plan in plans(short, 5, clip_s=40.0):
        assert 10.0 < plan.duration_s <= 24.0 / plan.tempo_factor


def test_song_whose_key_is_wrong_is_refused(tmp_path: Path) -> None:
    wrong = read_song(write_song(tmp_path / "003", key="Db:maj"))
    with pytest.raises(ValueError, match="key that fits"):
        arrange(wrong, 0, seed=0, clip_s=20.0, n_soundfonts=1)


def test_passage_lies_in_one_key_and_one_tempo(song) -> None:
    spans = (KeySpan(0, 70, Key.parse("C:maj")), KeySpan(70, 144, Key.parse("A:min")))
    two_keys = replace(song, keys=spans)
    times_s = song.beats.times_s.copy()
    times_s[times_s > 40] += np.arange((times_s > 40).sum()) * 0.3  # slower from 40 s on
    two_tempos = replace(song, beats=replace(song.beats, times_s=times_s))
    for seed in range(20):
        generator = np.random.default_rng(seed)
        passage = choose_passage(two_keys, song.tracks["PIANO"], 20.0, generator)
        inside = [s for s in spans if s.start_s <= passage.start_s and passage.end_s <= s.end_s]
        assert [s.key for s in inside] == [passage.key]
        passage = choose_passage(two_tempos, song.tracks["PIANO"], 20.0, generator)
        assert two_tempos.beats.between(passage.start_s, passage.end_s).is_steady


@pytest.mark.parametrize("bpm", [30.0, 36.6, 60.0, 90.0, 150.0, 197.0, 300.0])
def test_tempo_factor_lands_in_range(bpm: float) -> None:
    generator = rng()
    factors = np.array([tempo_factor(bpm, USUAL, generator) for _ in range(200)])
    assert np.all(factors * bpm >= USUAL.tempo_bpm[0] - 1e-9)
    assert np.all(factors * bpm <= USUAL.tempo_bpm[1] + 1e-9)
    if 72 <= bpm <= 142:
        assert factors.min() < 0.75 and factors.max() > 1.3


def test_variety_widens_the_tempi_and_mistunes_half(song) -> None:
    wide = Variety(tempo_factor=(0.5, 2.0), tempo_bpm=(50.0, 220.0), tuning_cents=50.0)
    varied = plans(song, 200, variety=wide)
    tempi = np.array([plan.tempo_bpm for plan in varied])
    assert tempi.min() < 0.55 * SONG_BPM and tempi.max() > 1.7 * SONG_BPM
    cents = np.array([plan.tuning_cents for plan in varied])
    assert 80 < np.count_nonzero(cents == 0) < 120
    assert -50 <= cents.min() < -30 and 30 < cents.max() <= 50


def test_a_tuning_changes_nothing_else(song) -> None:
    usual, tuned = (plans(song, 20, variety=Variety(tuning_cents=c)) for c in (0.0, 50.0))
    assert usual == plans(song, 20)
    assert [replace(plan, tuning_cents=0.0) for plan in tuned] == usual


# --- instruments


def test_variants_are_the_same_notes_with_other_instruments(song) -> None:
    for plan in plans(song, 40):
        numbers = instruments.variant_numbers(plan.song, plan.number, seed=0, n=4)
        assert instruments.variant_numbers(plan.song, plan.number, seed=0, n=3) == numbers[:3]
        played = [instruments.instrumented(plan, number, 3) for number in numbers]
        for variant in played:
            silent = [replace(part, program=0) for part in variant.parts]
            assert silent == [replace(part, program=0) for part in plan.parts]
            assert variant.melody_program in MELODY_FAMILIES[variant.melody_family]
        assert len({variant.melody_family for variant in played}) == 2
        leads, bands = ({divmod(n, len(instruments.LEADS))[i] for n in numbers} for i in (1, 0))
        assert len(leads) == len(bands) == 2, "every lead with either band"
        assert len(set(numbers)) == 4


def test_a_number_means_the_same_instruments_in_every_song(song) -> None:
    programs: dict[tuple[int, str], set[int]] = {}
    for plan in plans(song, 60):
        for number in (3, 500):
            for part in instruments.instrumented(plan, number, 3).parts:
                is_lead = part.name == "melody" or (
                    part.name == "piano" and "melody" not in [p.name for p in plan.parts]
                )
                role = "lead" if is_lead else part.name
                programs.setdefault((number, role), set()).add(part.program)
    assert len(programs) == 2 * 6, "lead, bridge, pad, bass, drums, accompaniment"
    assert all(len(found) == 1 for found in programs.values())


# --- synth


def strongest_hz(wave: np.ndarray, rate: int) -> float:
    return float(np.argmax(np.abs(np.fft.rfft(wave * np.hanning(len(wave))))) * rate / len(wave))


@pytest.mark.parametrize("rate", [16_000, 44_100])
@pytest.mark.parametrize("pitch", [57, 69, 76])
def test_a_note_sounds_at_its_pitch_and_time(sine: Path, rate: int, pitch: int) -> None:
    part = Part("melody", 40, (Note(0.5, 1.0, pitch, 100),))
    wave = Player(rate).render([part], sine, 2.0)
    assert wave.shape == (2 * rate,)
    assert wave.dtype == np.float32
    sounding = np.flatnonzero(np.abs(wave) > 0.05 * np.abs(wave).max())
    assert sounding[0] / rate == pytest.approx(0.5, abs=0.006)
    assert sounding[-1] / rate == pytest.approx(1.5, abs=0.05)
    middle = wave[int(0.6 * rate) : int(1.4 * rate)]
    assert strongest_hz(middle, rate) == pytest.approx(440 * 2 ** ((pitch - 69) / 12), abs=2)


@pytest.mark.parametrize("cents", [-50.0, 25.0])
def test_all_but_the_drums_are_tuned(sine: Path, cents: float) -> None:
    note = (Note(0, 1.0, 69, 100),)
    player = Player(16_000)
    tuned, drums, after = (
        player.render([Part("x", 0, note, is_drums=is_drums)], sine, 1.0, tuning)
        for is_drums, tuning in ((False, cents), (True, cents), (False, 0.0))
    )
    assert strongest_hz(tuned, 16_000) == pytest.approx(440 * 2 ** (cents / 1200), abs=1)
    assert strongest_hz(drums, 16_000) == pytest.approx(440, abs=1)
    assert strongest_hz(after, 16_000) == pytest.approx(440, abs=1)


def test_rendering_does_not_depend_on_what_was_played_before(sine: Path) -> None:
    parts = [
        Part("melody", 0, (Note(0, 0.5, 69, 100), Note(0.5, 5.0, 76, 80)), level_db=-3),
        Part("drums", 0, (Note(0.25, 0.1, KICK, 100),), is_drums=True),
    ]
    player = Player(16_000)
    first = player.render(parts, sine, 1.0)
    player.render([Part("other", 7, (Note(0, 9.0, 50, 127),), level_db=-20)], sine, 0.5)
    again = player.render(parts, sine, 1.0)
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first, Player(16_000).render(parts, sine, 1.0))


def test_levels_are_in_decibels(sine: Path) -> None:
    player = Player(16_000)
    note = (Note(0, 1, 69, 100),)
    loud, soft = (player.render([Part("x", 0, note, db)], sine, 1.0) for db in (0.0, -12.0))
    ratio_db = 20 * np.log10(np.abs(loud).max() / np.abs(soft).max())
    assert ratio_db == pytest.approx(12, abs=0.5)


def test_too_many_parts_and_missing_soundfont(sine: Path, tmp_path: Path) -> None:
    parts = [Part(str(i), 0, ()) for i in range(16)]
    with pytest.raises(ValueError, match="do not fit"):
        Player(16_000).render(parts, sine, 0.1)
    with pytest.raises(RuntimeError):
        Player(16_000).render([], tmp_path / "none.sf2", 0.1)


def test_finish_sets_the_peak_and_fades() -> None:
    wave = 0.1 * np.ones(16_000, dtype=np.float32)
    done = finish(wave, 16_000, peak_dbfs=-6.0)
    assert np.abs(done).max() == pytest.approx(10 ** (-6 / 20))
    assert done[0] == done[-1] == 0
    assert np.all(np.diff(done[:480]) > 0)
    with pytest.raises(ValueError, match="silent"):
        finish(0 * wave, 16_000, peak_dbfs=-6.0)


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".opus", ".mp3"])
def test_every_format_is_written_whole(tmp_path: Path, suffix: str) -> None:
    rate = 48_000
    wave = (0.5 * np.sin(2 * np.pi * 440 * np.arange(40 * rate) / rate)).astype(np.float32)
    write_audio(tmp_path / f"tone{suffix}", wave, rate)
    assert [path.name for path in tmp_path.iterdir()] == [f"tone{suffix}"]
    back, back_rate = soundfile.read(tmp_path / f"tone{suffix}", dtype="float32")
    assert back_rate == rate
    assert len(back) == pytest.approx(len(wave), abs=rate // 10)
    assert strongest_hz(back[rate : 2 * rate], rate) == pytest.approx(440, abs=2)


@pytest.mark.skipif(not SYSTEM_SOUNDFONTS, reason="no .sf2 in /usr/share/sounds")
def test_a_real_soundfont_plays_a_chord() -> None:
    pytest.importorskip("tinysoundfont", reason="rendering needs tinysoundfont")
    smallest = min(SYSTEM_SOUNDFONTS, key=lambda path: path.stat().st_size)
    rate = 22_050
    part = Part("chord", 19, tuple(Note(0, 2, pitch, 100) for pitch in (60, 64, 67)))
    spectrum = np.abs(np.fft.rfft(Player(rate).render([part], smallest, 2.0)))
    hz = np.fft.rfftfreq(2 * rate, 1 / rate)
    band = (hz > 250) & (hz < 500)
    classes = np.round(12 * np.log2(hz[band] / 440)).astype(int) % 12
    energy = np.bincount((classes + 9) % 12, weights=spectrum[band] ** 2, minlength=12)
    assert set(np.argsort(energy)[-3:]) == {0, 4, 7}


# --- python -m corpus.pop909


@pytest.mark.parametrize(
    ("song_number", "split"),
    [(1, "train"), (749, "train"), (750, "val"), (799, "val"), (800, "test")],
)
def test_splits(song_number: int, split: str) -> None:
    assert pop909.split_of(song_number) == split


def test_render_resume_and_failure(
    tmp_path: Path, sine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = tmp_path / "dataset"
    for name in ("001", "800"):
        write_song(dataset / name)
    (write_song(dataset / "750") / "750.mid").write_bytes(b"not a MIDI file")
    out = tmp_path / "out"
    arguments = ["--songs", str(dataset), "--soundfont", str(sine), "--out", str(out)]
    arguments += ["--arrangements", "2", "--clip-s", "5", "--sample-rate-hz", "16000"]

    assert pop909.main([*arguments, "--range", "1-900"]) == 3, "one song is bad, the others done"
    assert "error: 750" in capsys.readouterr().err
    with (out / "manifest.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == [
        f"audio/{s}_a{a}.flac" for s in ("001", "800") for a in (0, 1)
    ]
    assert [row["split"] for row in rows] == ["train", "train", "test", "test"]
    for row in rows:
        wave, rate = soundfile.read(out / row["path"])
        assert rate == 16_000
        assert len(wave) / rate == pytest.approx(float(row["duration_s"]), abs=1e-3)
        assert np.sqrt(np.mean(wave**2)) > 1e-3
        assert row["key"] == str(Key(0, "major").transposed(int(row["transpose_semitones"])))
        assert float(row["tempo"]) == pytest.approx(SONG_BPM * float(row["tempo_factor"]), rel=1e-3)

    # A second run renders the one missing file, to the same bytes, and touches no other.
    first, *others = (out / row["path"] for row in rows)
    content, stamps = first.read_bytes(), [path.stat().st_mtime_ns for path in others]
    first.unlink()
    assert pop909.main([*arguments, "--range", "1"]) == 0
    assert first.read_bytes() == content
    assert [path.stat().st_mtime_ns for path in others] == stamps
    assert len(rendering.read_manifest(out / "manifest.csv")) == 4, "other songs stay listed"

    with pytest.raises(SystemExit) as stopped:
        pop909.main([*arguments, "--range", "1", "--seed", "1"])
    assert stopped.value.code == 2
    assert "other settings" in capsys.readouterr().err


def test_variants_are_rows_of_one_track(tmp_path: Path, sine: Path) -> None:
    write_song(tmp_path / "songs" / "001")
    out = tmp_path / "out"
    arguments = ["--songs", str(tmp_path / "songs"), "--soundfont", str(sine), "--out", str(out)]
    arguments += ["--arrangements", "2", "--clip-s", "2", "--sample-rate-hz", "16000"]
    assert pop909.main([*arguments, "--variants", "2"]) == 0
    with (out / "manifest.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["track"] for row in rows] == ["001_a0", "001_a0", "001_a1", "001_a1"]
    for row in rows:
        assert row["path"] == f"audio/{row['track']}_t{int(row['timbre']):04d}.flac"
        assert (out / row["path"]).is_file()
    assert {row["key"] for row in rows[:2]} == {rows[0]["key"]}
    listed = listing(str(out / "manifest.csv"), ("timbre",))
    assert len(listed) == 4, "loev train takes it"


def test_songs_from_a_tar(tmp_path: Path) -> None:
    import tarfile

    write_song(tmp_path / "POP909" / "007", n_bars=1)
    with tarfile.open(tmp_path / "songs.tar.xz", "w:xz") as tar:
        tar.add(tmp_path / "POP909", arcname="POP909")
    with pop909.song_folders(tmp_path / "songs.tar.xz") as folders:
        assert {number: path.name for number, path in folders.items()} == {7: "007"}
        assert read_song(folders[7]).number == 7
    with (
        pytest.raises(ValueError, match="no songs"),
        pop909.song_folders(tmp_path / "POP909" / "007" / "x"),
    ):
        pass


# --- python -m corpus.examples


@pytest.mark.parametrize("clip", examples.CLIPS, ids=lambda clip: clip.file_name)
def test_example_is_in_its_key_at_its_tempo(clip: examples.Clip) -> None:
    parts, end_s = examples.compose(clip)
    assert 20 <= end_s + examples.TAIL_S <= 30
    melody = next(part for part in parts if part.name == "melody")
    in_scale = [note.pitch % 12 in Key.parse(clip.key).scale for note in melody.notes]
    assert np.mean(in_scale) > 0.85
    beats = [note.onset_s * clip.bpm / 60 for note in melody.notes]
    assert np.allclose([beat * 12 for beat in beats], np.round([beat * 12 for beat in beats]))


def test_the_same_tune_in_another_key_is_its_transposition() -> None:
    clips = [clip for clip in examples.CLIPS if clip.file_name.startswith("ballad")]
    in_c, in_e_flat, faster = (examples.compose(clip)[0] for clip in clips)
    for one, other in zip(in_c, in_e_flat, strict=True):
        shift = 0 if one.is_drums else 3
        assert [(n.pitch + shift) % 12 for n in one.notes] == [n.pitch % 12 for n in other.notes]
        assert [n.onset_s for n in one.notes] == [n.onset_s for n in other.notes]
    assert faster[0].notes[5].onset_s == pytest.approx(in_c[0].notes[5].onset_s * 72 / 108)


def test_example_names_and_notation() -> None:
    assert examples.Clip("waltz", "D major", 150, ".mp3").file_name == "waltz-in-d-major-150bpm.mp3"
    assert len({clip.file_name for clip in examples.CLIPS}) == len(examples.CLIPS) >= 8
    assert examples.chord_of("V7", Key.parse("C:maj")) == Chord.parse("G:7")
    assert examples.chord_of("ii", Key.parse("A:min")) == Chord.parse("B:min")
    notes, beats = examples.melody_notes("1 -:1/2 5,:3/2 | #4'", Key.parse("A:min"), beat_s=1.0)
    assert [note.pitch for note in notes] == [69, 64, 87]
    assert [note.onset_s for note in notes] == [0, 1.5, 3]
    assert beats == 4
    for bad in ("9", "1:", "x"):
        with pytest.raises(ValueError, match="not a note"):
            examples.melody_notes(bad, Key.parse("C:maj"), beat_s=1.0)
    with pytest.raises(ValueError, match="not a chord numeral"):
        examples.chord_of("H", Key.parse("C:maj"))


# ---------------------------------------------------------------- tempo maps


def write_mapped_song(folder: Path, *, rates_hz: tuple[int, int] = (8000, 8000)) -> None:
    """30 s: 20 s at 150 BPM, 10 s at 90; the guitar is twice as long and silent."""
    folder.mkdir(parents=True)
    midi = mido.MidiFile(ticks_per_beat=480)
    track = mido.MidiTrack()
    midi.tracks.append(track)
    track.append(mido.MetaMessage("set_tempo", tempo=mido.bpm2tempo(60), time=0))
    track.append(mido.MetaMessage("set_tempo", tempo=mido.bpm2tempo(150), time=0))
    track.append(mido.MetaMessage("set_tempo", tempo=mido.bpm2tempo(90), time=50 * 480))
    track.append(mido.MetaMessage("end_of_track", time=15 * 480))
    midi.save(folder / "notes.mid")
    for name, rate_hz, level, length_s in (
        ("song.ogg", rates_hz[0], 0.5, 30),
        ("guitar.ogg", rates_hz[1], 0.0, 60),
    ):
        wave = level * np.sin(2 * np.pi * 440 * np.arange(length_s * rate_hz) / rate_hz)
        soundfile.write(folder / name, wave.astype(np.float32), rate_hz)


def test_excerpts_lie_where_the_map_has_one_tempo(tmp_path: Path) -> None:
    write_mapped_song(tmp_path / "A Song")
    spans = tempo_maps.tempo_spans(mido.MidiFile(tmp_path / "A Song" / "notes.mid"))
    np.testing.assert_allclose(spans, [(0, 20, 150), (20, 30, 90)], atol=1e-3)
    cut = tempo_maps.cut_song(tmp_path / "A Song", 9.0, 2, tmp_path)
    assert [(file.name, round(bpm)) for file, bpm in cut] == [
        ("a_song_e0.flac", 150),
        ("a_song_e1.flac", 150),
        ("a_song_e2.flac", 90),
    ]
    for file, _ in cut:
        samples, rate_hz = soundfile.read(file)
        assert len(samples) == 9 * rate_hz
        assert np.abs(samples).max() == pytest.approx(0.5, abs=0.05)  # the song, not silence


def test_tracks_of_two_rates_are_not_mixed(tmp_path: Path) -> None:
    write_mapped_song(tmp_path / "song", rates_hz=(8000, 16000))
    with pytest.raises(ValueError, match=r"8000, 16000"):
        tempo_maps.mixed(tmp_path / "song")


def test_music_in_archives_of_a_package_is_taken(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(debian, "LEAST_N_BYTES", 4)
    tree = tmp_path / "tree"
    tree.mkdir()
    with zipfile.ZipFile(tree / "data.pk3", "w") as archive:
        archive.writestr("music/a.ogg", b"OggS")
        archive.writestr("music/b.txt", b"text")
    assert debian.take_music(tree, "p", tmp_path) == 1
    assert (tmp_path / "audio" / "p" / "music-a.ogg").read_bytes() == b"OggS"
