"""One random clip of a piece of any music: a pure function of (piece, seed, clip number).

    Piece (parts in their own time) -> parts left out, instruments, passage, speed -> Clip (seconds)

`corpus.arrange` does the same for POP909, whose songs come with beats, chords and keys. A `Piece`
need not have any of these: game music, scores, and music composed here (`corpus.composed`).
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from corpus.arrange import (
    BASS_PROGRAMS,
    MELODY_FAMILIES,
    PEAK_DBFS,
    PREROLL_S,
    TRANSPOSE_SEMITONES,
)
from corpus.synth import Note, Part
from corpus.theory import fold

# To be raised when the same arguments no longer give the same clips.
VERSION = 1

SPEED_FACTOR = (0.6, 1.7)
SCORE_BPM = (50.0, 220.0)  # of the quarter note
SCORE_NOTE_S = (0.12, 1.2)  # the median note of a score lasts so long, where SCORE_BPM allows it

# What may play a part of a score. The families of `arrange` but for pads and plucked exotica,
# with the instruments of a family that carry a line.
SCORE_FAMILIES: dict[str, tuple[int, ...]] = {
    "strings": (40, 41, 42, 44, 45, 48, 49),
    "voices": (52, 53, 54),
    "winds": (68, 69, 70, 71, 72, 73, 74, 75, 79),
    "saxophones": (64, 65, 66, 67),
    "brass": (56, 57, 58, 59, 60, 61),
    "keyboards": (0, 1, 2, 3, 4, 5, 6, 7),
    "organs": (16, 17, 18, 19, 20, 21, 22, 23),
    "guitars": (24, 25, 26, 27, 28, 46),
    "mallets": (8, 9, 10, 11, 12, 13, 14, 15),
    "plucked": (104, 105, 106, 107, 108),
    "synths": (50, 51, 80, 81, 82, 88, 89, 90, 91),
}

_MOST_MELODIC_PARTS = 15  # MIDI channels but for the drums'
_LONGEST_REST_S = 2.0
_DRAWS = 12


@dataclass(frozen=True)
class Piece:
    """Music to make clips of.

    Attributes:
        name: unique within the source, safe in a file name.
        source: `midi`, `music21` or `composed`.
        parts: notes in the piece's time, which is seconds or, for a score, quarter notes.
        length: end of the piece in the same time; a piece shorter than a clip is repeated.
        bpm: tempo, where there is one, if a unit of the piece's time lasts a second.
        is_score: a score names no instruments, loudness or speed: they are drawn.
    """

    name: str
    source: str
    parts: tuple[Part, ...]
    length: float
    bpm: float | None
    is_score: bool = False


@dataclass(frozen=True)
class Clip:
    """What to render (parts, in seconds of output) and what is then true of the sound."""

    parts: tuple[Part, ...]
    duration_s: float
    preroll_s: float  # of the parts' time, to be cut off the start of the rendering
    soundfont: int  # index into the list given
    peak_dbfs: float
    tempo_bpm: float | None
    key: str
    transpose_semitones: int
    speed_factor: float
    start: float  # in the piece's own time
    tuning_cents: float = 0.0  # above A = 440 Hz


def seed_of(seed: int, name: str, number: int) -> np.random.SeedSequence:
    """Of the random numbers of the clip `number` of a piece."""
    return np.random.SeedSequence([seed, zlib.crc32(name.encode()), len(name), number])


def generator(seed: int, name: str, number: int) -> np.random.Generator:
    """The random numbers of the clip `number` of a piece."""
    return np.random.default_rng(seed_of(seed, name, number))


def clip_of(piece: Piece, number: int, *, seed: int, clip_s: float, n_soundfonts: int) -> Clip:
    """The `number`-th clip of a piece; the same arguments give the same clip anywhere.

    Raises:
        ValueError: the piece has no notes.
    """
    rng = generator(seed, f"{piece.source}/{piece.name}", number)
    soundfont = int(rng.integers(n_soundfonts))
    peak_dbfs = float(rng.uniform(*PEAK_DBFS))
    transpose = int(rng.integers(TRANSPOSE_SEMITONES[0], TRANSPOSE_SEMITONES[1] + 1))
    parts = [part for part in piece.parts if part.notes]
    if not parts:
        raise ValueError("no notes")
    factor = _score_speed(parts, rng) if piece.is_score else _log_uniform(*SPEED_FACTOR, rng)
    parts = _with_parts_left_out(parts, rng)
    parts = _scored(parts, rng) if piece.is_score else _recast(parts, rng)

    needed = (clip_s + PREROLL_S) * factor
    parts = [repeated(part, piece.length, needed) for part in parts]
    length = max(piece.length, needed)
    start = _passage_start(parts, length, clip_s * factor, factor, rng)
    zero, end = start - PREROLL_S * factor, start + clip_s * factor
    parts = [performed(part, zero, end, factor, rng) for part in parts]
    parts = [transposed(part, transpose) for part in parts]
    return Clip(
        parts=_fitting(parts),
        duration_s=clip_s,
        preroll_s=PREROLL_S,
        soundfont=soundfont,
        peak_dbfs=peak_dbfs,
        tempo_bpm=None if piece.bpm is None else piece.bpm * factor,
        key="",
        transpose_semitones=transpose,
        speed_factor=factor,
        start=start,
    )


def _log_uniform(low: float, high: float, rng: np.random.Generator) -> float:
    return float(np.exp(rng.uniform(math.log(low), math.log(high))))


def _score_speed(parts: Sequence[Part], rng: np.random.Generator) -> float:
    """Quarter notes per second: a tempo of SCORE_BPM at which the notes are of a sane length.

    Old notation counts in breves and a fiddle tune in sixteenths: one range of tempi for the
    quarter note would make the one crawl and the other a blur.
    """
    median = float(np.median([note.duration_s for part in parts for note in part.notes]))
    low = float(np.clip(60 * median / SCORE_NOTE_S[1], *SCORE_BPM))
    high = float(np.clip(60 * median / SCORE_NOTE_S[0], *SCORE_BPM))
    return _log_uniform(low, max(high, low * 1.01), rng) / 60


def _with_parts_left_out(parts: list[Part], rng: np.random.Generator) -> list[Part]:
    """Now and then a solo or a smaller band; at least one part stays."""
    drawn = float(rng.random())
    if drawn > 0.35 or len(parts) == 1:
        return parts
    weights = np.array([len(part.notes) for part in parts], dtype=np.float64)
    n_kept = 1 if drawn < 0.08 else int(rng.integers(1, len(parts)))
    kept = rng.choice(len(parts), n_kept, replace=False, p=weights / weights.sum())
    return [parts[i] for i in sorted(int(k) for k in kept)]


def _recast(parts: list[Part], rng: np.random.Generator) -> list[Part]:
    """Other levels; in half of the clips other instruments, bass for bass and drums for drums."""
    recast = bool(rng.random() < 0.5)
    result = []
    for part in parts:
        level_db = part.level_db + float(rng.uniform(-10, 0))
        program = part.program
        if recast and part.is_drums:
            program = int(rng.choice([0, 0, 8, 16, 24, 25, 32, 40]))
        elif recast and is_bass(program):
            program = int(rng.choice(BASS_PROGRAMS))
        elif recast:
            program = int(rng.choice(_family(program, rng)))
        result.append(replace(part, program=program, level_db=level_db))
    return result


def is_bass(program: int) -> bool:
    """Whether a General MIDI program (from 0) is one of the basses, or the double bass."""
    return 32 <= program <= 39 or program == 43


def _family(program: int, rng: np.random.Generator) -> tuple[int, ...]:
    """The program's own family in half of the cases, else any."""
    own = [programs for programs in MELODY_FAMILIES.values() if program in programs]
    if own and rng.random() < 0.5:
        return own[0]
    return MELODY_FAMILIES[str(rng.choice(sorted(MELODY_FAMILIES)))]


def _scored(parts: list[Part], rng: np.random.Generator) -> list[Part]:
    """Instruments, loudness, articulation and octave for the parts of a score."""
    families = sorted(SCORE_FAMILIES)
    family = str(rng.choice(families))
    program = int(rng.choice(SCORE_FAMILIES[family]))
    casting = str(rng.choice(["one program", "one family", "mixed"], p=[0.35, 0.3, 0.35]))
    octave = int(rng.choice([-12, 0, 12], p=[0.1, 0.8, 0.1]))
    held = float(rng.choice([0.35, 0.6, 0.85, 1.0], p=[0.1, 0.15, 0.35, 0.4]))
    result = []
    for part in parts:
        if casting == "mixed":
            family = str(rng.choice(families))
        if casting != "one program":
            program = int(rng.choice(SCORE_FAMILIES[family]))
        notes = _shaded(part.notes, held, rng)
        part = replace(part, program=program, level_db=float(rng.uniform(-9, 0)), notes=notes)
        result.append(transposed(part, octave))
    return result


def _shaded(notes: Sequence[Note], held: float, rng: np.random.Generator) -> tuple[Note, ...]:
    """Loudness that swells and fades over some quarter notes; `held` is the sounding share."""
    middle, depth = rng.uniform(60, 100), rng.uniform(0, 22)
    period, phase = rng.uniform(6, 40), rng.uniform(0, 2 * math.pi)
    return tuple(
        replace(
            note,
            duration_s=note.duration_s * held,
            velocity=int(
                np.clip(
                    middle + depth * math.sin(2 * math.pi * note.onset_s / period + phase), 20, 120
                )
            ),
        )
        for note in notes
    )


def repeated(part: Part, length: float, needed: float) -> Part:
    """The part played from the start again until `needed` is full; as it is where it is enough."""
    n = math.ceil(needed / length)
    if n <= 1:
        return part
    return replace(
        part,
        notes=tuple(
            replace(note, onset_s=note.onset_s + i * length)
            for i in range(n)
            for note in part.notes
        ),
    )


def _passage_start(
    parts: Sequence[Part], length: float, passage: float, factor: float, rng: np.random.Generator
) -> float:
    """Where a passage begins: where something sounds and, if one is found, with no long rest."""
    notes = sorted((n for part in parts for n in part.notes), key=lambda n: n.onset_s)
    onsets = np.array([note.onset_s for note in notes])
    ends = np.maximum.accumulate([note.onset_s + note.duration_s for note in notes])
    best: tuple[float, float] | None = None
    for _ in range(_DRAWS):
        start = _first_sound(onsets, ends, float(rng.uniform(0, max(0.0, length - passage))))
        rest_s = longest_rest(onsets, ends, start, start + passage) / factor
        if best is None or rest_s < best[0]:
            best = (rest_s, start)
        if rest_s <= _LONGEST_REST_S:
            break
    assert best is not None
    return best[1]


def _first_sound(
    onsets: npt.NDArray[np.float64], ends: npt.NDArray[np.float64], time: float
) -> float:
    """`time` where a note is sounding then, else the next onset, else the first."""
    begun = int(np.searchsorted(onsets, time, side="right"))
    if begun > 0 and ends[begun - 1] > time:
        return time
    return float(onsets[begun]) if begun < len(onsets) else float(onsets[0])


def longest_rest(
    onsets: npt.NDArray[np.float64], ends: npt.NDArray[np.float64], start: float, end: float
) -> float:
    """The longest time in [start, end) in which no note sounds; `ends` (sorted) is cumulative."""
    first, last = (int(i) for i in np.searchsorted(onsets, [start, end]))
    before = ends[first - 1] if first > 0 else start
    silent_from = np.concatenate([[max(before, start)], ends[first:last]])
    sound_from = np.concatenate([onsets[first:last], [end]])
    return float(max(0.0, np.max(sound_from - silent_from)))


def transposed(part: Part, semitones: int) -> Part:
    """The part so many semitones higher, within a piano's range; drums stay."""
    if part.is_drums or semitones == 0:
        return part
    notes = (replace(n, pitch=fold(n.pitch + semitones, 21, 108)) for n in part.notes)
    return replace(part, notes=tuple(notes))


def performed(part: Part, zero: float, end: float, factor: float, rng: np.random.Generator) -> Part:
    """Cut a part to [zero, end), bring it to the clip's time, loosen onsets and velocities."""
    loose_s = rng.uniform(0, 0.004 if part.is_drums else 0.008)
    kept = [note for note in part.notes if zero <= note.onset_s < end]
    shifts_s = rng.normal(0, loose_s, len(kept))
    accents = rng.normal(0, 6, len(kept))
    notes = tuple(
        Note(
            onset_s=max(0.0, (note.onset_s - zero) / factor + float(shift_s)),
            duration_s=max(0.02, note.duration_s / factor),
            pitch=note.pitch,
            velocity=int(np.clip(round(note.velocity + accent), 1, 127)),
        )
        for note, shift_s, accent in zip(kept, shifts_s, accents, strict=True)
    )
    return replace(part, notes=notes)


def _fitting(parts: Sequence[Part]) -> tuple[Part, ...]:
    """The parts that play: at most one of drums and as many others as MIDI has channels."""
    playing = sorted((part for part in parts if part.notes), key=lambda part: -len(part.notes))
    drums = [part for part in playing if part.is_drums][:1]
    others = [part for part in playing if not part.is_drums][:_MOST_MELODIC_PARTS]
    return (*others, *drums)
