"""Keys and chords as pitch classes (0 is C, 11 is B), and their names."""

from __future__ import annotations

import re
from dataclasses import dataclass

PITCH_CLASSES = ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")
MAJOR_SCALE = (0, 2, 4, 5, 7, 9, 11)
MINOR_SCALE = (0, 2, 3, 5, 7, 8, 10)

_LETTERS = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
_MODES = {"maj": "major", "min": "minor", "major": "major", "minor": "minor"}

# Semitones above the root, by the quality names of the chord notation of Harte et al. (ISMIR 2005).
_QUALITIES: dict[str, tuple[int, ...]] = {
    "maj": (0, 4, 7),
    "min": (0, 3, 7),
    "dim": (0, 3, 6),
    "aug": (0, 4, 8),
    "sus2": (0, 2, 7),
    "sus4": (0, 5, 7),
    "sus4(b7)": (0, 5, 7, 10),
    "7": (0, 4, 7, 10),
    "maj7": (0, 4, 7, 11),
    "min7": (0, 3, 7, 10),
    "minmaj7": (0, 3, 7, 11),
    "dim7": (0, 3, 6, 9),
    "hdim7": (0, 3, 6, 10),
    "maj6": (0, 4, 7, 9),
    "min6": (0, 3, 7, 9),
}


def pitch_class(name: str) -> int:
    """The pitch class of a note name: `pitch_class("Gb") == 6`."""
    match = re.fullmatch(r"([A-G])([#b]*)", name)
    if match is None:
        raise ValueError(f"not a note name: {name!r} (expected A to G with # or b)")
    letter, accidentals = match.groups()
    return (_LETTERS[letter] + accidentals.count("#") - accidentals.count("b")) % 12


@dataclass(frozen=True, slots=True)
class Key:
    """A tonic (pitch class) and a mode (`major` or `minor`)."""

    tonic: int
    mode: str

    @classmethod
    def parse(cls, text: str) -> Key:
        """Read `Gb:maj`, `F#:min` or our own `F# minor`."""
        tonic, _, mode = text.replace(" ", ":").partition(":")
        if mode not in _MODES:
            raise ValueError(f"not a key: {text!r} (expected for example 'Gb:maj' or 'F# minor')")
        return cls(pitch_class(tonic), _MODES[mode])

    def transposed(self, semitones: int) -> Key:
        return Key((self.tonic + semitones) % 12, self.mode)

    @property
    def scale(self) -> tuple[int, ...]:
        """Seven pitch classes from the tonic up; natural minor."""
        steps = MAJOR_SCALE if self.mode == "major" else MINOR_SCALE
        return tuple((self.tonic + step) % 12 for step in steps)

    def __str__(self) -> str:
        return f"{PITCH_CLASSES[self.tonic]} {self.mode}"


@dataclass(frozen=True, slots=True)
class Chord:
    """Root and bass (pitch classes), and the chord's tones as semitones above the root."""

    root: int
    intervals: tuple[int, ...]
    bass: int

    @classmethod
    def parse(cls, text: str) -> Chord | None:
        """Read `B:maj/3`, `F#:min7`, `Ab:sus4(b7)`; `N` (no chord) gives None."""
        if text in {"N", "X"}:
            return None
        head, _, degree = text.partition("/")
        name, _, quality = head.partition(":")
        root = pitch_class(name)
        if (quality or "maj") not in _QUALITIES:
            raise ValueError(f"unknown chord quality in {text!r} (known: {', '.join(_QUALITIES)})")
        bass = (root + _degree_semitones(degree)) % 12 if degree else root
        return cls(root, _QUALITIES[quality or "maj"], bass)

    @property
    def fifth(self) -> int:
        """Pitch class of the fifth (diminished or augmented where the chord's is)."""
        return (self.root + next(i for i in self.intervals if i in {6, 7, 8})) % 12

    @property
    def tones(self) -> tuple[int, ...]:
        """Pitch classes from the root up."""
        return tuple((self.root + interval) % 12 for interval in self.intervals)


def _degree_semitones(degree: str) -> int:
    """Semitones of a scale degree above the root: `b3` is 3, `7` is 11."""
    number = degree.lstrip("#b")
    if not number.isdigit() or number == "0":
        raise ValueError(f"not a scale degree: {degree!r} (expected for example 'b3' or '5')")
    accidentals = degree.count("#") - degree.count("b")
    return MAJOR_SCALE[(int(number) - 1) % 7] + accidentals


def fold(pitch: int, low: int, high: int) -> int:
    """Move a MIDI pitch by octaves into [low, high]; the range must span an octave."""
    if high - low < 11:
        raise ValueError(f"range {low}..{high} is smaller than an octave")
    if pitch < low:
        pitch += 12 * -(-(low - pitch) // 12)
    if pitch > high:
        pitch -= 12 * -(-(pitch - high) // 12)
    return pitch
