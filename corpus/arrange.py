"""One random arrangement of one song: a pure function of (song, seed, arrangement number).

Every choice is drawn here, and nothing is rendered: the labels of a clip are known before its
sound, and a clip can be repeated without the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from corpus.patterns import BASS_STYLES, DRUM_STYLES, bass_notes, drum_notes, pad_notes
from corpus.songs import Beats, KeySpan, Song, key_misfit
from corpus.synth import Note, Part
from corpus.theory import Key, fold

# General MIDI programs from 0. Left out: sound effects, and those that sound other pitches than
# are written (31 guitar harmonics, 86 lead in fifths, 109 bagpipe, 55 orchestra hit, 47 timpani).
MELODY_FAMILIES: dict[str, tuple[int, ...]] = {
    "piano": (0, 1, 2, 3, 4, 5, 6, 7),
    "chromatic": (8, 9, 10, 11, 12, 13, 14, 15),
    "organ": (16, 17, 18, 19, 20, 21, 22, 23),
    "guitar": (24, 25, 26, 27, 28, 29, 30),
    "strings": (40, 41, 42, 44, 45, 46),
    "ensemble": (48, 49, 50, 51, 52, 53, 54),
    "brass": (56, 57, 58, 59, 60, 61, 62, 63),
    "reed": (64, 65, 66, 67, 68, 69, 70, 71),
    "pipe": (72, 73, 74, 75, 76, 77, 78, 79),
    "lead": (80, 81, 82, 83, 84, 85),
    "pad": (88, 89, 90, 91, 94),
    "plucked": (104, 105, 106, 107, 108),
    "bowed": (110, 111),
}
ACCOMPANIMENT_FAMILIES: dict[str, tuple[int, ...]] = {
    "piano": (0, 1, 2, 3, 4, 5, 6, 7),
    "guitar": (24, 25, 26, 27, 28),
    "organ": (16, 17, 18, 19, 20, 21, 22, 23),
    "chromatic": (8, 11, 12, 15),
    "strings": (45, 46, 48, 49, 50, 51),
    "voices": (52, 53, 54),
    "brass": (61, 62, 63),
    "lead": (80, 81),
    "pad": (88, 89, 90, 91, 94),
}
PAD_PROGRAMS = (48, 49, 50, 51, 52, 53, 54, 88, 89, 90, 91, 94, 16, 19)
BASS_PROGRAMS = (32, 33, 34, 35, 36, 37, 38, 39, 43, 58)

# To be raised when the same arguments no longer give the same clips.
VERSION = 1

TRANSPOSE_SEMITONES = (-6, 5)
PEAK_DBFS = (-12.0, -1.0)
PREROLL_S = 2.0  # notes begun before the clip still sound in it
_LONGEST_REST_S = 2.0
_LARGEST_MISFIT = 0.1


@dataclass(frozen=True)
class Variety:
    """How far arrangements go from the song. The defaults are those of the evaluation sets.

    Attributes:
        tempo_factor: range of the speed, as a factor on the song's.
        tempo_bpm: range of the tempo that comes of it.
        tuning_cents: half of the clips are tuned up to so much away from A = 440 Hz.
    """

    tempo_factor: tuple[float, float] = (0.7, 1.4)
    tempo_bpm: tuple[float, float] = (50.0, 200.0)
    tuning_cents: float = 0.0


USUAL = Variety()


@dataclass(frozen=True)
class Arrangement:
    """What to render (parts, in seconds of output) and what is then true of the sound."""

    song: int
    number: int
    key: Key
    tempo_bpm: float
    duration_s: float
    preroll_s: float  # of the parts' time, to be cut off the start of the rendering
    parts: tuple[Part, ...]
    soundfont: int  # index into the list given
    peak_dbfs: float
    melody_program: int
    melody_family: str
    bass_style: str
    drum_style: str
    transpose_semitones: int
    tempo_factor: float
    tuning_cents: float
    start_s: float  # in the song's own time


@dataclass(frozen=True)
class _Passage:
    start_s: float
    end_s: float
    key: Key


def arrange(
    song: Song,
    number: int,
    *,
    seed: int,
    clip_s: float,
    n_soundfonts: int,
    variety: Variety = USUAL,
) -> Arrangement:
    """The `number`-th arrangement of a song; the same arguments give the same clip anywhere."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, song.number, number]))
    soundfont = int(rng.integers(n_soundfonts))
    peak_dbfs = float(rng.uniform(*PEAK_DBFS))
    transpose = int(rng.integers(TRANSPOSE_SEMITONES[0], TRANSPOSE_SEMITONES[1] + 1))
    factor = tempo_factor(song.beats.bpm, variety, rng)
    drum_style, bass_style = _styles(rng)
    tracks, has_pad = _cast(rng, has_bass=bass_style != "none")
    played = [note for name in tracks for note in song.tracks.get(name, ())]
    passage = choose_passage(song, played, clip_s * factor, rng)

    beats = song.beats.between(passage.start_s - 2 * PREROLL_S, passage.end_s + 2 * PREROLL_S)
    parts, melody_program, family = _melodic_parts(song, tracks, rng)
    if has_pad:
        notes = pad_notes(song.chords, passage.start_s - 2 * PREROLL_S, passage.end_s)
        parts.append(_part("pad", int(rng.choice(PAD_PROGRAMS)), notes, -14, -4, rng))
    if bass_style != "none":
        notes = bass_notes(BASS_STYLES[bass_style], beats, song.chords, rng)
        parts.append(_part("bass", int(rng.choice(BASS_PROGRAMS)), notes, -8, 0, rng))
    parts = [replace(part, notes=_transposed(part.notes, transpose)) for part in parts]
    if drum_style != "none":
        style = DRUM_STYLES[drum_style]
        notes = drum_notes(style, beats, rng, fill_bars=int(rng.choice([4, 8])))
        kit = int(rng.choice(style.kits))
        parts.append(_part("drums", kit, notes, -16, -3, rng, is_drums=True))
    preroll_s = PREROLL_S
    zero_s = passage.start_s - preroll_s * factor
    return Arrangement(
        song=song.number,
        number=number,
        key=passage.key.transposed(transpose),
        tempo_bpm=clip_tempo(song.beats, passage.start_s, passage.end_s, factor),
        duration_s=(passage.end_s - passage.start_s) / factor,
        preroll_s=preroll_s,
        parts=tuple(_performed(part, zero_s, passage.end_s, factor, rng) for part in parts),
        soundfont=soundfont,
        peak_dbfs=peak_dbfs,
        melody_program=melody_program,
        melody_family=family,
        bass_style=bass_style,
        drum_style=drum_style,
        transpose_semitones=transpose,
        tempo_factor=factor,
        tuning_cents=tuning_cents(variety, np.random.SeedSequence([seed, song.number, number, 1])),
        start_s=passage.start_s,
    )


def tempo_factor(bpm: float, variety: Variety, rng: np.random.Generator) -> float:
    """A log-uniform speed factor that brings `bpm` into the range of tempi."""
    slowest, fastest = (limit / bpm for limit in variety.tempo_bpm)
    low = max(variety.tempo_factor[0], slowest)
    high = min(variety.tempo_factor[1], fastest)
    drawn = float(np.exp(rng.uniform(np.log(min(low, high)), np.log(max(low, high)))))
    return float(np.clip(drawn, slowest, fastest))


def tuning_cents(variety: Variety, seed: np.random.SeedSequence) -> float:
    """Uniform, or 0 for half of the clips; from a stream of its own, so that 0 changes no clip."""
    rng = np.random.default_rng(seed)
    drawn = float(rng.uniform(-variety.tuning_cents, variety.tuning_cents))
    return drawn if rng.random() < 0.5 else 0.0


def clip_tempo(beats: Beats, start_s: float, end_s: float, factor: float) -> float:
    """Beats per minute of a passage of the song played `factor` times as fast."""
    return beats.between(start_s, end_s).bpm * factor


def choose_passage(
    song: Song, played: Iterable[Note], length_s: float, rng: np.random.Generator
) -> _Passage:
    """A passage of `length_s` inside one key and, if one is found, of one tempo and no long rests.

    It is shorter where the song is. `played` are the notes whose rests count. The passage begins
    where something sounds.
    """
    ordered = sorted(played, key=lambda note: note.onset_s)
    onsets = np.array([note.onset_s for note in ordered])
    ends = np.maximum.accumulate([note.onset_s + note.duration_s for note in ordered])
    span = _key_span(song, (float(onsets[0]), float(ends[-1])), length_s, rng)
    best: tuple[float, float] | None = None
    for _ in range(12):
        latest = max(span.start_s, span.end_s - length_s)
        start_s = _first_sound(onsets, ends, float(rng.uniform(span.start_s, latest)))
        end_s = min(start_s + length_s, span.end_s)
        rest_s = _longest_rest(onsets, ends, start_s, end_s)
        badness = max(rest_s, _LONGEST_REST_S) + (length_s - (end_s - start_s))
        badness += 0.0 if song.beats.between(start_s, end_s).is_steady else length_s
        if best is None or badness < best[0]:
            best = (badness, start_s)
        if badness <= _LONGEST_REST_S + 0.5:
            break
    assert best is not None
    return _Passage(best[1], min(best[1] + length_s, span.end_s), span.key)


def _key_span(
    song: Song, music: tuple[float, float], length_s: float, rng: np.random.Generator
) -> KeySpan:
    """A key's span cut to where there are notes and beats: one long enough, or the longest."""
    first_s = max(music[0], float(song.beats.times_s[0]))
    last_s = min(music[1], float(song.beats.times_s[-1]))
    margin_s = 1.0  # the keys were timed on the recording, which the MIDI follows closely
    notes = [note for track in song.tracks.values() for note in track]
    spans = []
    for i, span in enumerate(song.keys):
        if key_misfit(notes, span) > _LARGEST_MISFIT:
            continue  # songs 17 and 18 and a part of 435: the label is not of this music
        start_s = span.start_s + margin_s if i > 0 else span.start_s
        end_s = span.end_s - margin_s if i < len(song.keys) - 1 else span.end_s
        spans.append(KeySpan(max(first_s, start_s), min(last_s, end_s), span.key))
    lengths = np.array([max(0.0, span.end_s - span.start_s) for span in spans])
    if lengths.max(initial=0.0) < min(length_s, 10.0):
        raise ValueError("no passage with notes, beats and a key that fits the notes")
    enough = np.where(lengths >= length_s, lengths, 0.0)
    if not enough.any():
        return spans[int(lengths.argmax())]
    return spans[int(rng.choice(len(spans), p=enough / enough.sum()))]


def _first_sound(
    onsets: npt.NDArray[np.float64],
    ends: npt.NDArray[np.float64],
    time_s: float,
) -> float:
    """`time_s` where a note is sounding then, else the next onset."""
    begun = int(np.searchsorted(onsets, time_s, side="right"))
    if begun > 0 and ends[begun - 1] > time_s + 0.1:
        return time_s
    return float(onsets[begun]) if begun < len(onsets) else time_s


def _longest_rest(
    onsets: npt.NDArray[np.float64],
    ends: npt.NDArray[np.float64],
    start_s: float,
    end_s: float,
) -> float:
    """The longest time between start and end in which no note sounds; `ends` is cumulative."""
    first, last = np.searchsorted(onsets, [start_s, end_s])
    before = ends[first - 1] if first > 0 else start_s
    silent_from = np.concatenate([[max(before, start_s)], ends[first:last]])
    sound_from = np.concatenate([onsets[first:last], [end_s]])
    return float(np.max(sound_from - silent_from))


def _styles(rng: np.random.Generator) -> tuple[str, str]:
    """(drum style, bass style), each possibly `none`."""
    drums = "none" if rng.random() < 0.2 else str(rng.choice(sorted(DRUM_STYLES)))
    bass = "none" if rng.random() < 0.15 else str(rng.choice(sorted(BASS_STYLES)))
    return drums, bass


def _cast(rng: np.random.Generator, *, has_bass: bool) -> tuple[list[str], bool]:
    """The song's tracks that play, and whether a pad is added; harmony is never left out."""
    drawn = rng.random()
    tracks = ["MELODY", "PIANO"]
    if drawn < 0.12:
        tracks = ["PIANO"]
    elif drawn < 0.22:
        tracks = ["MELODY"]
    if rng.random() < 0.65:
        tracks.append("BRIDGE")
    has_pad = bool(rng.random() < 0.25) or ("PIANO" not in tracks and not has_bass)
    return tracks, has_pad


def _melodic_parts(
    song: Song, tracks: Sequence[str], rng: np.random.Generator
) -> tuple[list[Part], int, str]:
    """The song's own parts with drawn instruments; the lead's program and family.

    The lead is the melody or, in an arrangement without it, the accompaniment.
    """
    parts = []
    melody_program, family = -1, ""
    for name in tracks:
        families = ACCOMPANIMENT_FAMILIES if name == "PIANO" else MELODY_FAMILIES
        drawn_family = str(rng.choice(sorted(families)))
        program = int(rng.choice(families[drawn_family]))
        if name == "MELODY" or not family:
            melody_program, family = program, drawn_family
        notes = song.tracks.get(name, ())
        octave = 0
        if name == "MELODY":
            octave = int(rng.choice([-12, 0, 12], p=[0.12, 0.76, 0.12]))
        quietest_db = {"MELODY": -6.0, "PIANO": -10.0, "BRIDGE": -12.0}[name]
        parts.append(
            _part(name.lower(), program, _transposed(notes, octave), quietest_db, 0.0, rng)
        )
    return parts, melody_program, family


def _part(
    name: str,
    program: int,
    notes: Iterable[Note],
    quietest_db: float,
    loudest_db: float,
    rng: np.random.Generator,
    *,
    is_drums: bool = False,
) -> Part:
    level_db = float(rng.uniform(quietest_db, loudest_db))
    return Part(name, program, tuple(notes), level_db, is_drums)


def _transposed(notes: Iterable[Note], semitones: int) -> tuple[Note, ...]:
    return tuple(replace(note, pitch=fold(note.pitch + semitones, 21, 108)) for note in notes)


def _performed(
    part: Part, zero_s: float, end_s: float, factor: float, rng: np.random.Generator
) -> Part:
    """Cut a part to [zero_s, end_s), bring it to the clip's time, loosen onsets and velocities."""
    loose_s = rng.uniform(0, 0.004 if part.is_drums else 0.008)
    kept = [note for note in part.notes if zero_s <= note.onset_s < end_s]
    shifts_s = rng.normal(0, loose_s, len(kept))
    accents = rng.normal(0, 6, len(kept))
    notes = tuple(
        Note(
            onset_s=max(0.0, (note.onset_s - zero_s) / factor + float(shift_s)),
            duration_s=max(0.02, note.duration_s / factor),
            pitch=note.pitch,
            velocity=int(np.clip(round(note.velocity + accent), 1, 127)),
        )
        for note, shift_s, accent in zip(kept, shifts_s, accents, strict=True)
    )
    return replace(part, notes=notes)
