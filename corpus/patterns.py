"""Bass lines and drum beats, written bar by bar on a grid of beats.

Drum patterns are drawn, one character per step: `X` accent, `x` stroke, `o` soft, `.` rest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from corpus.songs import Beats, ChordSpan, chord_at
from corpus.synth import Note
from corpus.theory import Chord, fold

# General MIDI percussion keys.
KICK, RIM, SNARE, CLAP, CLOSED_HAT, OPEN_HAT, PEDAL_HAT = 36, 37, 38, 39, 42, 46, 44
LOW_TOM, MID_TOM, HIGH_TOM, CRASH, RIDE, TAMBOURINE = 45, 47, 50, 49, 51, 54
LOW_CONGA, HIGH_CONGA, SHAKER, BRUSH_SWIRL = 64, 63, 70, 40

STANDARD_KITS = (0, 8, 16, 24, 25)  # standard, room, power, electronic, TR-808
JAZZ_KIT, BRUSH_KIT = 32, 40

_STRENGTH = {"X": 112, "x": 92, "o": 58}
_STROKE_S = 0.1


@dataclass(frozen=True)
class DrumStyle:
    """A bar of four and a bar of three beats: percussion key -> drawn steps."""

    steps_per_beat: int
    four: dict[int, str]
    three: dict[int, str]
    kits: tuple[int, ...] = STANDARD_KITS
    has_fills: bool = True

    def bar(self, per_bar: int) -> dict[int, str]:
        return self.three if per_bar == 3 else self.four


DRUM_STYLES: dict[str, DrumStyle] = {
    "rock": DrumStyle(
        2,
        four={CLOSED_HAT: "XxXxXxXx", KICK: "X...Xx..", SNARE: "..X...X."},
        three={CLOSED_HAT: "XxXxXx", KICK: "X.....", SNARE: "..x.x."},
    ),
    "four_on_floor": DrumStyle(
        4,
        four={
            KICK: "X...X...X...X...",
            OPEN_HAT: "..x...x...x...x.",
            CLAP: "....X.......X...",
            CLOSED_HAT: "o.o.o.o.o.o.o.o.",
        },
        three={KICK: "X...X...X...", OPEN_HAT: "..x...x...x.", CLAP: "....x...x..."},
        kits=(24, 25, 16),
    ),
    "half_time": DrumStyle(
        2,
        four={CLOSED_HAT: "XxxxXxxx", KICK: "X..x....", SNARE: "....X..."},
        three={CLOSED_HAT: "XxXxXx", KICK: "X.....", SNARE: "...x.."},
    ),
    "shuffle": DrumStyle(
        3,
        four={RIDE: "X.xX.xX.xX.x", KICK: "X.....X.x...", SNARE: "...X.....X.."},
        three={RIDE: "X.xX.xX.x", KICK: "X........", SNARE: "...x..x.."},
        kits=(0, 8, JAZZ_KIT),
    ),
    "bossa": DrumStyle(
        4,
        four={
            KICK: "X.....xxX.....xx",
            RIM: "X..x..x...x..x..",
            CLOSED_HAT: "x.o.x.o.x.o.x.o.",
        },
        three={KICK: "X.....x.....", RIM: "X..x..x..x..", CLOSED_HAT: "x.o.x.o.x.o."},
        kits=(0, 8, JAZZ_KIT),
        has_fills=False,
    ),
    "sparse_hats": DrumStyle(
        1,
        four={CLOSED_HAT: "xoxo", KICK: "o..."},
        three={CLOSED_HAT: "xoo", KICK: "o.."},
        has_fills=False,
    ),
    "brushes": DrumStyle(
        3,
        four={BRUSH_SWIRL: "x..o..x..o..", RIDE: "X..x.oX..x.o", PEDAL_HAT: "...x.....x.."},
        three={BRUSH_SWIRL: "x..o..o..", RIDE: "X..x.ox.o", PEDAL_HAT: "...x..x.."},
        kits=(BRUSH_KIT, JAZZ_KIT),
        has_fills=False,
    ),
    "sixteenths": DrumStyle(
        4,
        four={
            CLOSED_HAT: "XoxoXoxoXoxoXoxo",
            KICK: "X..x..x..xx.....",
            SNARE: "....X..o.o..X..o",
        },
        three={CLOSED_HAT: "XoxoXoxoXoxo", KICK: "X.....x.....", SNARE: "....x..ox..o"},
    ),
    "one_drop": DrumStyle(
        2,
        four={CLOSED_HAT: "xXxXxXxX", KICK: "....X...", RIM: "....X..."},
        three={CLOSED_HAT: "xXxXxX", KICK: "..X...", RIM: "..X..."},
    ),
    "percussion": DrumStyle(
        4,
        four={
            SHAKER: "XoxoXoxoXoxoXoxo",
            LOW_CONGA: "x.....x.........",
            HIGH_CONGA: "..o.X.....xxX...",
            TAMBOURINE: "....x.......x...",
        },
        three={SHAKER: "XoxoXoxoXoxo", LOW_CONGA: "x.....x.....", HIGH_CONGA: "....X...x.x."},
        has_fills=False,
    ),
}


def drum_notes(
    style: DrumStyle, beats: Beats, rng: np.random.Generator, fill_bars: int = 8
) -> list[Note]:
    """Play a style on every beat but the last, with a fill at the end of each `fill_bars` bars."""
    pattern = style.bar(beats.per_bar)
    notes = []
    for i in range(len(beats.times_s) - 1):
        start_s = float(beats.times_s[i])
        beat_s = float(beats.times_s[i + 1]) - start_s
        place, bar = int(beats.places[i]) % beats.per_bar, int(beats.bars[i])
        is_fill = style.has_fills and bar % fill_bars == fill_bars - 1
        if is_fill and place == beats.per_bar - 1:
            notes += _fill(start_s, beat_s, rng)
            continue
        if style.has_fills and place == 0 and bar % fill_bars == 0:
            notes.append(Note(start_s, 4 * _STROKE_S, CRASH, 96))
        for key, drawn in pattern.items():
            first = place * style.steps_per_beat
            for step, mark in enumerate(drawn[first : first + style.steps_per_beat]):
                if mark != ".":
                    onset_s = start_s + beat_s * step / style.steps_per_beat
                    notes.append(Note(onset_s, _STROKE_S, key, _STRENGTH[mark]))
    return notes


def _fill(start_s: float, beat_s: float, rng: np.random.Generator) -> list[Note]:
    """One beat of sixteenths down the toms."""
    order = ((SNARE,) * 4, (SNARE, SNARE, HIGH_TOM, LOW_TOM), (HIGH_TOM, MID_TOM, MID_TOM, LOW_TOM))
    keys = order[int(rng.integers(len(order)))]
    return [
        Note(start_s + beat_s * i / 4, _STROKE_S, key, 84 + 8 * i) for i, key in enumerate(keys)
    ]


# A bass style maps (chord, next chord, place in the bar, rng) to the strokes of one beat, each
# (offset in beats, length in beats, pitch class, strength).
Stroke = tuple[float, float, int, int]
BassStyle = Callable[[Chord, Chord, int, np.random.Generator], list[Stroke]]


def _roots(chord: Chord, _next: Chord, place: int, _rng: np.random.Generator) -> list[Stroke]:
    return [(0, 0.9, chord.bass, 100 if place == 0 else 84)]


def _halves(chord: Chord, _next: Chord, place: int, _rng: np.random.Generator) -> list[Stroke]:
    return [(0, 1.9, chord.bass, 96)] if place in {0, 2} else []


def _root_fifth(chord: Chord, _next: Chord, place: int, _rng: np.random.Generator) -> list[Stroke]:
    if place % 2 == 0:
        return [(0, 0.9, chord.bass if place == 0 else chord.fifth, 96)]
    return []


def _eighths(chord: Chord, _next: Chord, _place: int, _rng: np.random.Generator) -> list[Stroke]:
    return [(0, 0.45, chord.bass, 98), (0.5, 0.45, chord.bass, 82)]


def _offbeats(chord: Chord, _next: Chord, _place: int, _rng: np.random.Generator) -> list[Stroke]:
    return [(0.5, 0.4, chord.bass, 96)]


def _syncopated(chord: Chord, _next: Chord, place: int, _rng: np.random.Generator) -> list[Stroke]:
    if place % 2 == 0:
        return [(0, 0.7, chord.bass, 98)]
    return [(0.5, 0.45, chord.fifth if place == 3 else chord.bass, 86)]


def _walking(chord: Chord, following: Chord, place: int, rng: np.random.Generator) -> list[Stroke]:
    if place == 0:
        tone = chord.bass
    elif following.bass != chord.bass and rng.random() < 0.4:
        tone = (following.bass + int(rng.choice([-2, -1, 1, 2]))) % 12
    else:
        tone = chord.tones[place % len(chord.tones)]
    return [(0, 0.92, tone, 92)]


BASS_STYLES: dict[str, BassStyle] = {
    "roots": _roots,
    "halves": _halves,
    "root_fifth": _root_fifth,
    "eighths": _eighths,
    "offbeats": _offbeats,
    "syncopated": _syncopated,
    "walking": _walking,
}


def bass_notes(
    style: BassStyle,
    beats: Beats,
    chords: Sequence[ChordSpan],
    rng: np.random.Generator,
    low: int = 28,
) -> list[Note]:
    """Play a style under the chords, within the octave above `low` (MIDI pitch; 28 is E1)."""
    notes = []
    for i in range(len(beats.times_s) - 1):
        start_s, end_s = (float(t) for t in beats.times_s[i : i + 2])
        beat_s = end_s - start_s
        chord = chord_at(chords, start_s + 0.05 * beat_s)
        if chord is None:
            continue
        following = chord_at(chords, end_s + 0.05 * beat_s) or chord
        for offset, length, tone, strength in style(chord, following, int(beats.places[i]), rng):
            pitch = fold(tone, low, low + 11)
            notes.append(Note(start_s + offset * beat_s, length * beat_s, pitch, strength))
    return notes


def pad_notes(
    chords: Sequence[ChordSpan], start_s: float, end_s: float, low: int = 55
) -> list[Note]:
    """Held chords between `start_s` and `end_s`, closed position within an octave above `low`."""
    return [
        Note(span.start_s, span.end_s - span.start_s, fold(tone, low, low + 11), 72)
        for span in chords
        if span.chord is not None and span.end_s > start_s and span.start_s < end_s
        for tone in span.chord.tones
    ]
