"""Music composed here, of what songs lack: odd meters, modes, no key, solos, drones, silence.

    number -> kind (KINDS in turn) -> meter, tempo, mode, instruments drawn -> Composition (seconds)

Nothing here is meant to be good music; it is meant to be unlike pop, and each piece unlike the
next. Modes are stacked thirds of their scale, rows are the twelve notes in drawn order, meters are
groups of eighths (7/8 is 2+2+3).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from corpus.arrange import BASS_PROGRAMS, MELODY_FAMILIES, PAD_PROGRAMS, PREROLL_S
from corpus.patterns import (
    BASS_STYLES,
    CLAP,
    CLOSED_HAT,
    CRASH,
    DRUM_STYLES,
    HIGH_CONGA,
    HIGH_TOM,
    KICK,
    LOW_CONGA,
    LOW_TOM,
    MID_TOM,
    OPEN_HAT,
    PEDAL_HAT,
    RIDE,
    RIM,
    SHAKER,
    SNARE,
    TAMBOURINE,
    bass_notes,
    drum_notes,
)
from corpus.perform import Clip, generator, performed
from corpus.songs import Beats, ChordSpan
from corpus.synth import Note, Part
from corpus.theory import Chord, Key, fold

# To be raised when the same arguments no longer give the same clips.
VERSION = 2

TEMPO_BPM = (50.0, 220.0)
PEAK_DBFS = (-14.0, -1.0)

MODES: dict[str, tuple[int, ...]] = {
    "ionian": (0, 2, 4, 5, 7, 9, 11),
    "dorian": (0, 2, 3, 5, 7, 9, 10),
    "phrygian": (0, 1, 3, 5, 7, 8, 10),
    "lydian": (0, 2, 4, 6, 7, 9, 11),
    "mixolydian": (0, 2, 4, 5, 7, 9, 10),
    "aeolian": (0, 2, 3, 5, 7, 8, 10),
    "locrian": (0, 1, 3, 5, 6, 8, 10),
    "harmonic minor": (0, 2, 3, 5, 7, 8, 11),
    "melodic minor": (0, 2, 3, 5, 7, 9, 11),
    "phrygian dominant": (0, 1, 4, 5, 7, 8, 10),
    "double harmonic": (0, 1, 4, 5, 7, 8, 11),
    "hungarian minor": (0, 2, 3, 6, 7, 8, 11),
    "acoustic": (0, 2, 4, 6, 7, 9, 10),
}
SCALES: dict[str, tuple[int, ...]] = MODES | {
    "major pentatonic": (0, 2, 4, 7, 9),
    "minor pentatonic": (0, 3, 5, 7, 10),
    "blues": (0, 3, 5, 6, 7, 10),
    "hirajoshi": (0, 2, 3, 7, 8),
    "in": (0, 1, 5, 7, 8),
    "whole tone": (0, 2, 4, 6, 8, 10),
    "octatonic": (0, 1, 3, 4, 6, 7, 9, 10),
    "chromatic": tuple(range(12)),
}
# Modes that are called a major or a minor key: by their tonic and its third.
_KEY_MODES = {
    "ionian": "major",
    "mixolydian": "major",
    "aeolian": "minor",
    "dorian": "minor",
    "harmonic minor": "minor",
    "melodic minor": "minor",
}

_LEADS = tuple(sorted({p for programs in MELODY_FAMILIES.values() for p in programs}))
_CHORDAL = (0, 1, 2, 4, 5, 6, 7, 11, 12, 16, 17, 18, 19, 21, 24, 25, 26, 27, 45, 46, 48, 50, 61, 88)
_HELD = (16, 18, 19, 20, 21, 22, 40, 42, 44, 48, 49, 50, 52, 54, 68, 71, 73, 75, 88, 89, 91, 94, 95)
_STRUCK = (4, 6, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 45, 46, 104, 106, 107, 108, 114)
_KITS = (0, 0, 8, 16, 24, 25, 32, 40)

# Percussion by what it does: the beat, the answer to it, and the running strokes.
_KIT_VOICES = (
    ((KICK,), (SNARE, RIM, CLAP), (CLOSED_HAT, RIDE, OPEN_HAT, PEDAL_HAT)),
    ((LOW_CONGA, LOW_TOM), (HIGH_CONGA, 60, 61), (SHAKER, TAMBOURINE, 69, 82)),
    ((41, LOW_TOM), (MID_TOM, HIGH_TOM, 48), (RIM, 43, LOW_TOM)),
    ((65, KICK), (66, 76, 75), (56, 67, 68, 80, 81, CLOSED_HAT)),
)


@dataclass(frozen=True)
class Metre:
    """A bar as groups of eighths; `beat_eighths` is 0 where the beats are uneven."""

    name: str
    groups: tuple[int, ...]
    beat_eighths: int

    @property
    def n_eighths(self) -> int:
        return sum(self.groups)

    @property
    def starts(self) -> tuple[int, ...]:
        """The eighth on which each group begins."""
        return tuple(sum(self.groups[:i]) for i in range(len(self.groups)))


METRES = (
    Metre("4/4", (2, 2, 2, 2), 2),
    Metre("3/4", (2, 2, 2), 2),
    Metre("2/4", (2, 2), 2),
    Metre("5/4", (2, 2, 2, 2, 2), 2),
    Metre("7/4", (2, 2, 2, 2, 2, 2, 2), 2),
    Metre("6/8", (3, 3), 3),
    Metre("9/8", (3, 3, 3), 3),
    Metre("12/8", (3, 3, 3, 3), 3),
    Metre("5/8", (3, 2), 0),
    Metre("7/8", (2, 2, 3), 0),
    Metre("7/8", (3, 2, 2), 0),
    Metre("8/8", (3, 3, 2), 0),
    Metre("10/8", (3, 3, 2, 2), 0),
    Metre("11/8", (2, 2, 3, 2, 2), 0),
)


_METRE = {metre.name: metre for metre in METRES if metre.beat_eighths}


@dataclass(frozen=True)
class Pulse:
    """A meter at a speed."""

    metre: Metre
    eighth_s: float

    @property
    def bar_s(self) -> float:
        return self.metre.n_eighths * self.eighth_s

    @property
    def bpm(self) -> float | None:
        """Beats per minute; None where the beats are uneven, so that no number is right."""
        beat_eighths = self.metre.beat_eighths
        return 60 / (beat_eighths * self.eighth_s) if beat_eighths else None

    def n_bars(self, total_s: float) -> int:
        return math.ceil(total_s / self.bar_s)


@dataclass(frozen=True)
class Composition:
    """Parts from 0 to the length asked for; tempo and key where the piece has one."""

    parts: tuple[Part, ...]
    tempo_bpm: float | None = None
    key: str = ""


@dataclass(frozen=True)
class Dance:
    """How a kind of music is played, and at which tempi: beats as most dancers count them.

    Attributes:
        bpm: lowest and highest tempo.
        drums, bass: names of styles of `patterns`; no drums where the name is empty.
        comps: bars of accompaniment, drawn in steps: `x` a chord, `-` held, `.` rest, or a digit
            for one tone of the chord.
        pace: lengths of the melody's notes in eighths.
    """

    metre: Metre
    bpm: tuple[float, float]
    drums: tuple[str, ...]
    bass: tuple[str, ...]
    comps: tuple[str, ...]
    pace: tuple[float, ...]


Rng = np.random.Generator
Kind = Callable[[Rng, float], Composition]


def compose(
    number: int,
    *,
    seed: int,
    clip_s: float,
    n_soundfonts: int,
    order: Sequence[str] | None = None,
) -> tuple[str, Clip]:
    """(kind, clip) of the composition `number`; the same arguments give the same clip anywhere.

    Args:
        order: the kinds that numbers go through in turn; default `ORDER`.
    """
    rng = generator(seed, "composed", number)
    order = order or ORDER
    kind = order[number % len(order)]
    soundfont = int(rng.integers(n_soundfonts))
    peak_dbfs = float(rng.uniform(*PEAK_DBFS))
    start_s = float(rng.choice([0.0, PREROLL_S]))  # from the first note, or from amid the music
    composition = KINDS[kind](rng, clip_s + start_s)
    end_s = clip_s + start_s
    parts = (performed(part, 0.0, end_s, 1.0, rng) for part in composition.parts)
    return kind, Clip(
        parts=tuple(part for part in parts if part.notes),
        duration_s=clip_s,
        preroll_s=start_s,
        soundfont=soundfont,
        peak_dbfs=peak_dbfs,
        tempo_bpm=composition.tempo_bpm,
        key=composition.key,
        transpose_semitones=0,
        speed_factor=1.0,
        start=start_s,
    )


# --- What is drawn


def _pulse(rng: Rng, low: float = TEMPO_BPM[0], high: float = TEMPO_BPM[1]) -> Pulse:
    metre = METRES[int(rng.integers(len(METRES)))]
    bpm = float(np.exp(rng.uniform(math.log(low), math.log(high))))
    return Pulse(metre, 60 / bpm / (metre.beat_eighths or 2))


def _pick(rng: Rng, choices: Sequence[int]) -> int:
    return int(choices[int(rng.integers(len(choices)))])


def _level(rng: Rng, low: float = -8.0, high: float = 0.0) -> float:
    return float(rng.uniform(low, high))


def _name(rng: Rng, scales: dict[str, tuple[int, ...]]) -> str:
    return str(rng.choice(sorted(scales)))


def _key(tonic: int, mode: str) -> str:
    return str(Key(tonic % 12, _KEY_MODES[mode])) if mode in _KEY_MODES else ""


def _degree(tonic: int, scale: Sequence[int], degree: int) -> int:
    """MIDI pitch of a scale degree (0 is the tonic, any integer)."""
    octave, step = divmod(degree, len(scale))
    return tonic + 12 * octave + scale[step]


def _rhythm(
    rng: Rng, metre: Metre, lengths: Sequence[float], rest: float
) -> list[tuple[float, float]]:
    """A bar's (onset, length) in eighths, cut from `lengths`; each a rest with probability `rest`.

    Groups are kept whole half of the time, so that the meter is heard.
    """
    strokes = []
    spans = [(0, metre.n_eighths)]
    if rng.random() < 0.5:
        spans = [(a, a + n) for a, n in zip(metre.starts, metre.groups, strict=True)]
    for begin, end in spans:
        at = float(begin)
        while at < end - 1e-6:
            length = min(float(lengths[int(rng.integers(len(lengths)))]), end - at)
            if rng.random() >= rest or at == 0:
                strokes.append((at, length))
            at += length
    return strokes


_PACES: tuple[tuple[float, ...], ...] = (
    (1, 1, 2),
    (0.5, 1, 1, 2),
    (0.5, 0.5, 1),
    (2, 2, 4, 1),
    (2, 3, 4),
    (1, 1, 1, 3),
    (2 / 3, 2 / 3, 2 / 3, 2),
    (1.5, 0.5, 1, 1),
)


def _line(
    rng: Rng,
    pulse: Pulse,
    total_s: float,
    next_pitch: Callable[[], int],
    *,
    rest: float,
    held: float,
) -> tuple[Note, ...]:
    """A monophonic line on a few bars' rhythms that come back in drawn order."""
    pace = _PACES[int(rng.integers(len(_PACES)))]
    bars = [_rhythm(rng, pulse.metre, pace, rest) for _ in range(int(rng.integers(1, 5)))]
    strong = int(rng.integers(84, 112))
    notes = []
    for bar in range(pulse.n_bars(total_s)):
        for at, length in bars[int(rng.integers(len(bars)))]:
            onset_s = bar * pulse.bar_s + at * pulse.eighth_s
            accent = strong if at in pulse.metre.starts else strong - 16
            length_s = length * pulse.eighth_s * held
            notes.append(Note(onset_s, length_s, next_pitch(), accent))
    return tuple(notes)


def _walk(rng: Rng, tonic: int, scale: Sequence[int]) -> Callable[[], int]:
    """Pitches of a scale: steps mostly, leaps at times, turning back at two octaves' ends."""
    leap = float(rng.uniform(0.05, 0.4))
    reach = len(scale)
    degree = 0

    def following() -> int:
        nonlocal degree
        step = int(rng.choice([-2, -1, -1, 0, 1, 1, 2]))
        if rng.random() < leap:
            step = int(rng.integers(-5, 6))
        if abs(degree + step) > reach:
            step = -step
        degree += step
        return fold(_degree(tonic, scale, degree), 24, 100)

    return following


def _row(rng: Rng, low: int, high: int) -> Callable[[], int]:
    """A row of the twelve pitch classes over and over, each note in a drawn octave: no key."""
    row = [int(tone) for tone in rng.permutation(12)]
    at = 0

    def following() -> int:
        nonlocal at
        tone = row[at % 12]
        at += 1
        octaves = range(math.ceil((low - tone) / 12), (high - tone) // 12 + 1)
        return tone + 12 * _pick(rng, octaves)

    return following


def _chord(tonic: int, scale: Sequence[int], degree: int, stack: Sequence[int]) -> list[int]:
    return [fold(_degree(tonic, scale, degree + above), 43, 84) for above in stack]


def _triad(tonic: int, scale: Sequence[int], degree: int) -> Chord:
    """The thirds of a scale stacked on a degree."""
    root = _degree(0, scale, degree)
    third, fifth = (_degree(0, scale, degree + above) - root for above in (2, 4))
    root_class = (tonic + root) % 12
    return Chord(root_class, (0, third, fifth), root_class)


_STACKS = ((0, 2, 4), (0, 2, 4), (0, 2, 4, 6), (0, 4), (0, 3, 6), (0, 1, 4), (0, 2, 4, 8))


def _progression(rng: Rng, n: int, scale: Sequence[int]) -> list[int]:
    """Degrees of a loop that begins on the tonic."""
    return [0, *(int(rng.integers(len(scale))) for _ in range(n - 1))]


def _beat(rng: Rng, pulse: Pulse, total_s: float) -> Part:
    """A drum part in any meter: a bar or two of drawn strokes, again and again, varied a little."""
    low, answers, running = _KIT_VOICES[int(rng.integers(len(_KIT_VOICES)))]
    metre = pulse.metre
    first, answer, run = _pick(rng, low), _pick(rng, answers), _pick(rng, running)
    every = float(rng.choice([0.5, 1, 1, 2]))  # eighths between running strokes
    every = max(every, math.ceil(0.07 / pulse.eighth_s * 2) / 2)
    has_run, has_answer = rng.random() < 0.85, rng.random() < 0.85
    patterns = []
    for _ in range(int(rng.integers(1, 3))):
        strokes = [(0.0, first, 112)]
        for i, start in enumerate(metre.starts[1:], start=1):
            if i % 2 == 1 and has_answer:
                strokes.append((float(start), answer, 104))
            elif rng.random() < 0.6:
                strokes.append((float(start), first, 96))
        for eighth in range(metre.n_eighths):
            drawn = rng.random()
            if drawn < 0.12:
                strokes.append((float(eighth), first, 88))
            elif drawn < 0.2 and has_answer:
                strokes.append((eighth + 0.5, answer, 58))
        if has_run:
            for i in range(int(metre.n_eighths / every)):
                at = i * every
                strokes.append((at, run, 92 if at in metre.starts else 66))
        patterns.append(strokes)
    notes = []
    for bar in range(pulse.n_bars(total_s)):
        if bar % 8 == 0 and rng.random() < 0.5:
            notes.append(Note(bar * pulse.bar_s, 0.4, CRASH, 92))
        for at, pitch, velocity in patterns[bar % len(patterns)]:
            if rng.random() < 0.95:
                onset_s = bar * pulse.bar_s + at * pulse.eighth_s
                notes.append(Note(onset_s, 0.1, pitch, velocity))
    return Part("drums", _pick(rng, _KITS), tuple(notes), _level(rng, -14, -3), is_drums=True)


def _regular_beats(pulse: Pulse, total_s: float) -> Beats:
    beat_s = pulse.metre.beat_eighths * pulse.eighth_s
    n = math.ceil(total_s / beat_s) + 1
    per_bar = len(pulse.metre.groups)
    counts = np.arange(n, dtype=np.float64)
    return Beats.from_downbeats(counts * beat_s, counts % per_bar == 0, per_bar)


# --- Kinds


def _drums(rng: Rng, total_s: float) -> Composition:
    """Drums alone: drawn strokes in any meter or, in bars of three or four, a known style."""
    pulse = _pulse(rng)
    part = _beat(rng, pulse, total_s)
    if pulse.metre.name in {"4/4", "3/4"} and rng.random() < 0.6:
        style = DRUM_STYLES[str(rng.choice(sorted(DRUM_STYLES)))]
        notes = drum_notes(style, _regular_beats(pulse, total_s), rng, fill_bars=4)
        part = Part("drums", _pick(rng, style.kits), tuple(notes), 0.0, is_drums=True)
    return Composition((part,), pulse.bpm)


def _drone(rng: Rng, total_s: float) -> Composition:
    """One to four held pitches, struck anew at times; in half of the pieces a slow line above."""
    tonic = int(rng.integers(31, 55))
    stack = [0, *rng.choice([7, 12, 19, 5, 10, 2, 1, 24], int(rng.integers(0, 4)), replace=False)]
    program = _pick(rng, _HELD)
    notes = []
    for above in stack:
        at = 0.0
        while at < total_s:
            length_s = float(rng.uniform(4, 16))
            notes.append(Note(at, length_s + 0.2, tonic + int(above), int(rng.integers(60, 100))))
            at += length_s
    parts = [Part("drone", program, tuple(notes), _level(rng))]
    if rng.random() < 0.5:
        scale = SCALES[_name(rng, SCALES)]
        pulse = _pulse(rng, 50, 80)
        line = _line(rng, pulse, total_s, _walk(rng, tonic + 24, scale), rest=0.3, held=1.0)
        parts.append(Part("line", _pick(rng, _LEADS), line, _level(rng)))
    return Composition(tuple(parts))


def _solo(rng: Rng, total_s: float) -> Composition:
    """One instrument, one note at a time, in any scale or in none."""
    pulse = _pulse(rng)
    low = int(rng.integers(36, 66))
    if rng.random() < 0.25:
        pitches = _row(rng, low, low + 30)
    else:
        pitches = _walk(rng, low + 8, SCALES[_name(rng, SCALES)])
    rest, held = float(rng.uniform(0, 0.35)), float(rng.choice([0.4, 0.8, 1.0]))
    notes = _line(rng, pulse, total_s, pitches, rest=rest, held=held)
    return Composition((Part("solo", _pick(rng, _LEADS), notes),), pulse.bpm)


def _loop(rng: Rng, total_s: float) -> Composition:
    """A loop of chords of a mode; bass, beat and melody may join."""
    pulse = _pulse(rng)
    tonic = int(rng.integers(48, 60))
    mode = _name(rng, MODES)
    scale = MODES[mode]
    stack = _STACKS[int(rng.integers(len(_STACKS)))]
    degrees = _progression(rng, int(rng.choice([1, 2, 3, 4, 4, 6, 8])), scale)
    strum = _rhythm(rng, pulse.metre, _PACES[int(rng.integers(len(_PACES)))], 0.2)
    if rng.random() < 0.35:
        strum = [(0.0, float(pulse.metre.n_eighths))]
    chords, bass = [], []
    for bar in range(pulse.n_bars(total_s)):
        degree = degrees[bar % len(degrees)]
        start_s = bar * pulse.bar_s
        for at, length in strum:
            onset_s, length_s = start_s + at * pulse.eighth_s, 0.95 * length * pulse.eighth_s
            for i, pitch in enumerate(_chord(tonic, scale, degree, stack)):
                chords.append(Note(onset_s + 0.008 * i, length_s, pitch, 78 + 10 * (at == 0)))
        root = fold(_degree(tonic, scale, degree), 28, 40)
        for start, n in zip(pulse.metre.starts, pulse.metre.groups, strict=True):
            length_s = 0.9 * n * pulse.eighth_s
            bass.append(Note(start_s + start * pulse.eighth_s, length_s, root, 92))
    program = _pick(rng, PAD_PROGRAMS if len(strum) == 1 else _CHORDAL)
    parts = [Part("chords", program, tuple(chords), _level(rng))]
    if rng.random() < 0.5:
        parts.append(Part("bass", _pick(rng, BASS_PROGRAMS), tuple(bass), _level(rng)))
    if rng.random() < 0.5:
        parts.append(_beat(rng, pulse, total_s))
    if rng.random() < 0.4:
        line = _line(rng, pulse, total_s, _walk(rng, tonic + 24, scale), rest=0.25, held=0.9)
        parts.append(Part("line", _pick(rng, _LEADS), line, _level(rng)))
    return Composition(tuple(parts), pulse.bpm, _key(tonic, mode))


def _arpeggio(rng: Rng, total_s: float) -> Composition:
    """Broken chords, up, down, both ways or in drawn order."""
    pulse = _pulse(rng)
    tonic = int(rng.integers(45, 60))
    mode = _name(rng, MODES)
    degrees = _progression(rng, int(rng.integers(1, 9)), MODES[mode])
    step = float(rng.choice([0.5, 1, 1, 2 / 3]))
    while step * pulse.eighth_s < 0.08:
        step *= 2
    shape = [0, 2, 4, 7, 9, 11][: int(rng.integers(3, 7))]
    order = str(rng.choice(["up", "down", "both", "drawn"]))
    shape = {"up": shape, "down": shape[::-1], "both": shape + shape[-2:0:-1], "drawn": shape}[
        order
    ]
    if order == "drawn":
        shape = [int(above) for above in rng.permutation(shape)]
    held = float(rng.choice([0.5, 1.0, 3.0]))
    notes = []
    for bar in range(pulse.n_bars(total_s)):
        degree = degrees[bar % len(degrees)]
        for i in range(round(pulse.metre.n_eighths / step)):
            pitch = fold(_degree(tonic, MODES[mode], degree + shape[i % len(shape)]), 36, 96)
            onset_s = bar * pulse.bar_s + i * step * pulse.eighth_s
            length_s = held * step * pulse.eighth_s
            notes.append(Note(onset_s, length_s, pitch, 98 if i == 0 else 78))
    parts = [Part("arpeggio", _pick(rng, _CHORDAL + _STRUCK + (80, 81)), tuple(notes))]
    if rng.random() < 0.3:
        parts.append(_beat(rng, pulse, total_s))
    return Composition(tuple(parts), pulse.bpm, _key(tonic, mode))


def _bass_and_drums(rng: Rng, total_s: float) -> Composition:
    """A bass alone with drums: a riff of a bar in odd meters, a style of `patterns` in others."""
    pulse = _pulse(rng)
    tonic = int(rng.integers(28, 40))
    mode = _name(rng, MODES)
    if pulse.metre.beat_eighths == 2 and rng.random() < 0.5:
        beats = _regular_beats(pulse, total_s)
        chords = []
        for bar in range(pulse.n_bars(total_s) + 1):
            degree = int(rng.integers(len(MODES[mode]))) if bar % 2 else 0
            chord = _triad(tonic, MODES[mode], degree)
            chords.append(ChordSpan(bar * pulse.bar_s, (bar + 1) * pulse.bar_s, chord))
        style = BASS_STYLES[str(rng.choice(sorted(BASS_STYLES)))]
        notes = bass_notes(style, beats, chords, rng)
    else:
        riff = [
            (at, length, _pick(rng, (0, 0, 2, 3, 4, 7, -1)))
            for at, length in _rhythm(rng, pulse.metre, (0.5, 1, 1, 2), 0.25)
        ]
        notes = [
            Note(
                bar * pulse.bar_s + at * pulse.eighth_s,
                0.9 * length * pulse.eighth_s,
                fold(_degree(tonic, MODES[mode], degree), 26, 52),
                100,
            )
            for bar in range(pulse.n_bars(total_s))
            for at, length, degree in riff
        ]
    bass = Part("bass", _pick(rng, BASS_PROGRAMS), tuple(notes), _level(rng))
    return Composition((bass, _beat(rng, pulse, total_s)), pulse.bpm)


def _sparse(rng: Rng, total_s: float) -> Composition:
    """Notes, chords and gestures with up to six seconds of silence between them."""
    scale = SCALES[_name(rng, SCALES)]
    tonic = int(rng.integers(40, 64))
    programs = [_pick(rng, _STRUCK + _LEADS) for _ in range(int(rng.integers(1, 4)))]
    notes: list[list[Note]] = [[] for _ in programs]
    at = float(rng.uniform(0, 1))
    while at < total_s:
        voice = int(rng.integers(len(programs)))
        n, spread_s = int(rng.choice([1, 1, 2, 3, 5])), float(rng.choice([0.0, 0.12, 0.4]))
        length_s = float(rng.uniform(0.2, 3))
        for i in range(n):
            pitch = fold(_degree(tonic, scale, int(rng.integers(-7, 15))), 30, 96)
            onset_s = at + i * spread_s
            notes[voice].append(Note(onset_s, length_s, pitch, int(rng.integers(30, 115))))
        at += length_s + (n - 1) * spread_s + float(rng.uniform(1, 6))
    return Composition(
        tuple(
            Part(f"voice {i}", program, tuple(played), _level(rng))
            for i, (program, played) in enumerate(zip(programs, notes, strict=True))
        )
    )


def _slow(rng: Rng, total_s: float) -> Composition:
    """Chords of three to nine seconds, each leaning into the next."""
    tonic, mode = int(rng.integers(44, 58)), _name(rng, SCALES)
    scale = SCALES[mode]
    stack = _STACKS[int(rng.integers(len(_STACKS)))]
    notes, at, degree = [], 0.0, 0
    while at < total_s:
        length_s = float(rng.uniform(3, 9))
        for pitch in _chord(tonic, scale, degree, stack):
            notes.append(Note(at, length_s + 0.3, pitch, int(rng.integers(55, 95))))
        at += length_s
        degree = int(rng.integers(len(scale)))
    return Composition((Part("chords", _pick(rng, _HELD + PAD_PROGRAMS), tuple(notes)),))


def _fast(rng: Rng, total_s: float) -> Composition:
    """Runs and repeated notes, eight to sixteen a second."""
    pulse = Pulse(METRES[int(rng.integers(len(METRES)))], 60 / float(rng.uniform(160, 230)) / 2)
    scale = SCALES[_name(rng, SCALES)]
    tonic = int(rng.integers(50, 66))
    degree, direction, repeats = 0, 1, int(rng.choice([1, 1, 1, 2, 4]))
    notes = []
    for i in range(math.ceil(total_s / (pulse.eighth_s / 2))):
        if i % repeats == 0:
            degree += direction
        if abs(degree) > 10 or rng.random() < 0.08:
            direction = -1 if degree > 0 else 1
        if rng.random() < 0.03:
            degree = int(rng.integers(-8, 9))
        pitch = fold(_degree(tonic, scale, degree), 36, 100)
        velocity = 102 if i % 4 == 0 else 80
        notes.append(Note(i * pulse.eighth_s / 2, 0.9 * pulse.eighth_s / 2, pitch, velocity))
    parts = [Part("runs", _pick(rng, _LEADS), tuple(notes), _level(rng, -4))]
    if rng.random() < 0.5:
        parts.append(_beat(rng, pulse, total_s))
    return Composition(tuple(parts), pulse.bpm)


def _atonal(rng: Rng, total_s: float) -> Composition:
    """Two to four lines on rows of twelve notes, each in its own meter or all in one."""
    pulse = _pulse(rng, 50, 140)
    together = rng.random() < 0.5
    parts = []
    for i in range(int(rng.integers(2, 5))):
        own = pulse if together else _pulse(rng, 50, 140)
        low = int(rng.integers(32, 66))
        rest = float(rng.uniform(0.1, 0.5))
        notes = _line(rng, own, total_s, _row(rng, low, low + 26), rest=rest, held=0.8)
        parts.append(Part(f"voice {i}", _pick(rng, _LEADS), notes, _level(rng)))
    return Composition(tuple(parts), pulse.bpm if together else None)


def _ostinato(rng: Rng, total_s: float) -> Composition:
    """Short figures of unequal length against each other on struck instruments."""
    pulse = _pulse(rng, 80, 200)
    scale = SCALES[_name(rng, SCALES)]
    tonic = int(rng.integers(45, 60))
    step_s = max(0.09, pulse.eighth_s)
    parts = []
    for i, n in enumerate(rng.choice([3, 4, 5, 7, 8, 12], int(rng.integers(2, 5)), replace=False)):
        figure = [int(rng.integers(-3, 8)) for _ in range(int(n))]
        sounds = [True, *(bool(rng.random() < 0.7) for _ in range(int(n) - 1))]
        octave = 12 * int(rng.integers(-1, 3))
        notes = tuple(
            Note(k * step_s, 0.9 * step_s, fold(pitch, 30, 100), 96 if k % n == 0 else 76)
            for k in range(math.ceil(total_s / step_s))
            if sounds[k % n]
            for pitch in (_degree(tonic, scale, figure[k % n]) + octave,)
        )
        parts.append(Part(f"figure {i}", _pick(rng, _STRUCK), notes, _level(rng)))
    return Composition(tuple(parts))


_FREE = (1, 1, 2)
_DANCES = {
    "swing": Dance(
        _METRE["4/4"],
        (90, 240),
        ("shuffle", "brushes", "shuffle", ""),
        ("walking", "walking", "halves"),
        ("......x-....", "x--..x......", ".....x.....x", "...x.....x.."),
        (4 / 3, 2 / 3, 2, 4 / 3, 2 / 3, 4),
    ),
    "waltz": Dance(
        _METRE["3/4"],
        (84, 200),
        ("", "", "brushes", "rock", "sparse_hats"),
        ("root_fifth", "roots"),
        (".xx", ".x.x.x", ".x-", "x12"),
        (2, 2, 4, 6, 1),
    ),
    "ballad": Dance(
        _METRE["4/4"],
        (54, 116),
        ("half_time", "sparse_hats", "", "one_drop", "rock"),
        ("halves", "roots"),
        ("0-1-2-1-", "x---x---", "0121", "x-------"),
        (3, 1, 2, 4),
    ),
    "hymn": Dance(
        _METRE["4/4"], (50, 100), ("",), ("roots", "halves"), ("x-x-", "x---", "xxxx"), (2, 2, 4)
    ),
    "reel": Dance(
        _METRE["4/4"],
        (88, 132),
        ("percussion", "", "four_on_floor"),
        ("root_fifth", "roots"),
        (".x.x.x.x", "x.x.x.xx", "x..xx..x"),
        (1, 1, 1, 1, 2),
    ),
    "jig": Dance(
        _METRE["6/8"], (88, 136), ("",), ("roots",), ("x..x..", "x.xx.x", "..x..x"), (1, 1, 1, 2)
    ),
    "march": Dance(
        _METRE["2/4"], (96, 132), ("rock", "percussion"), ("root_fifth",), (".x.x", "x..x"), _FREE
    ),
    "bossa": Dance(
        _METRE["4/4"],
        (100, 168),
        ("bossa", "brushes"),
        ("syncopated", "root_fifth"),
        ("x..x..x.", "..x.x..x"),
        (3, 1, 2, 4),
    ),
    "club": Dance(
        _METRE["4/4"],
        (110, 150),
        ("four_on_floor",),
        ("offbeats", "eighths", "roots"),
        ("..x-..x-..x-..x-", "x..x..x.", "0120120120120121"),
        (1.5, 1, 0.5, 2),
    ),
    "drum and bass": Dance(
        _METRE["4/4"], (160, 182), ("rock", "sixteenths"), ("halves", "roots"), ("x-------",), _FREE
    ),
    "metal": Dance(
        _METRE["4/4"],
        (100, 200),
        ("rock", "sixteenths", "half_time"),
        ("eighths",),
        ("x.xxx.xx", "xxxxxxxx", "x---x---"),
        (2, 4, 1, 1),
    ),
}


def _dance(rng: Rng, total_s: float) -> Composition:
    """A melody over chords, bass and beat of a known dance or genre, in a key or a mode."""
    dance = _DANCES[str(rng.choice(sorted(_DANCES)))]
    metre = dance.metre
    bpm = float(np.exp(rng.uniform(*np.log(dance.bpm))))
    pulse = Pulse(metre, 60 / bpm / metre.beat_eighths)
    beats = _regular_beats(pulse, total_s + pulse.bar_s)
    mode = _name(rng, {name: MODES[name] for name in _KEY_MODES} if rng.random() < 0.7 else MODES)
    scale, tonic = MODES[mode], int(rng.integers(12))
    n_bars = pulse.n_bars(total_s) + 2
    loop = _progression(rng, int(rng.choice([4, 4, 8])), scale)
    chords = [_triad(tonic, scale, loop[bar % len(loop)]) for bar in range(n_bars)]
    spans = [
        ChordSpan(bar * pulse.bar_s, (bar + 1) * pulse.bar_s, chord)
        for bar, chord in enumerate(chords)
    ]
    comp = str(rng.choice(dance.comps))
    step_s = pulse.bar_s / len(comp)
    strums = []
    for i in range(round(n_bars * len(comp))):
        mark, rest = comp[i % len(comp)], comp[i % len(comp) + 1 :]
        if mark in "-.":
            continue
        tones = chords[i // len(comp)].tones
        length_s = 0.9 * step_s * (1 + len(rest) - len(rest.lstrip("-")))
        for tone in tones if mark == "x" else [tones[int(mark)]]:
            strums.append(Note(i * step_s, length_s, fold(tone, 50, 62), 78))
    lead = [
        Note(bar * pulse.bar_s + at * pulse.eighth_s, 0.9 * length * pulse.eighth_s, 0, 100)
        for bar in range(n_bars)
        for at, length in _rhythm(rng, metre, dance.pace, 0.1)
    ]
    pitches = _walk(rng, 60 + tonic, scale)
    melody = tuple(replace(note, pitch=pitches()) for note in lead)
    bass = bass_notes(BASS_STYLES[str(rng.choice(dance.bass))], beats, spans, rng)
    parts = [
        Part("melody", _pick(rng, _LEADS), melody, _level(rng)),
        Part("comp", _pick(rng, _CHORDAL), tuple(strums), _level(rng)),
        Part("bass", _pick(rng, BASS_PROGRAMS), tuple(bass), _level(rng)),
    ]
    drums = str(rng.choice(dance.drums))
    if drums:
        style = DRUM_STYLES[drums]
        strokes = tuple(drum_notes(style, beats, rng))
        parts.append(Part("drums", _pick(rng, style.kits), strokes, _level(rng), is_drums=True))
    return Composition(tuple(parts), pulse.bpm, _key(tonic, mode))


KINDS: dict[str, Kind] = {
    "drums": _drums,
    "drone": _drone,
    "solo": _solo,
    "loop": _loop,
    "arpeggio": _arpeggio,
    "bass-and-drums": _bass_and_drums,
    "sparse": _sparse,
    "slow": _slow,
    "fast": _fast,
    "atonal": _atonal,
    "ostinato": _ostinato,
    "dance": _dance,
}
# The kinds in turn, some of them more often.
ORDER = (*KINDS, "drums", "solo", "loop")
