"""Musical keys: every spelling in, one spelling out.

A key is an index into ``KEYS``: the 12 major keys from C up in semitones, then the 12 minor ones.
"""

from __future__ import annotations

import re

N_PITCH_CLASSES = 12
TONICS = ("C", "Db", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")
KEYS = tuple(f"{tonic} {mode}" for mode in ("major", "minor") for tonic in TONICS)  # as mir_eval

_LETTERS = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
_ACCIDENTALS = {"": 0, "#": 1, "♯": 1, "b": -1, "♭": -1}
_KEY = re.compile(r"([A-Ga-g])([#b♯♭]?)[\s:_-]*((?i:major|maj|minor|min)|M|m|)")


def parse_key(text: str) -> int | None:
    """Index into ``KEYS``, or None if the text is not a key. Without a mode the key is major.

    >>> KEYS[parse_key("C#:min")], KEYS[parse_key("D♭m")], KEYS[parse_key("12A")], parse_key("H")
    ('Db minor', 'Db minor', 'Db minor', None)
    """
    text = text.strip()
    if text[:1].isdigit():
        code = text.upper().lstrip("0")
        return next((key for key in range(len(KEYS)) if camelot(key) == code), None)
    found = _KEY.fullmatch(text)
    if found is None:
        return None
    letter, accidental, mode = found.groups()
    is_minor = mode == "m" or mode.lower() in ("minor", "min")
    tonic = _LETTERS[letter.upper()] + _ACCIDENTALS[accidental]
    return tonic % N_PITCH_CLASSES + N_PITCH_CLASSES * is_minor


def spellings(key: int) -> list[str]:
    """The common ways to write a key, as "C# minor", "Dbm", "D♭:min" and "12A", for exact
    comparison."""
    tonics = [
        letter + accidental
        for letter, pitch in _LETTERS.items()
        for accidental, shift in _ACCIDENTALS.items()
        if (pitch + shift - key) % N_PITCH_CLASSES == 0
    ]
    short, *modes = ("m", "min", "minor") if is_minor(key) else ("", "M", "maj", "major")
    return [
        camelot(key),
        *(
            tonic + ending
            for tonic in tonics
            for ending in (short, *(gap + mode for mode in modes for gap in ("", " ", ":")))
        ),
    ]


def short(key: int) -> str:
    """As tags have it: the tonic, and m for minor.

    >>> short(parse_key("C# minor")), short(parse_key("G"))
    ('Dbm', 'G')
    """
    return TONICS[key % N_PITCH_CLASSES] + "m" * is_minor(key)


def is_minor(key: int) -> bool:
    return key >= N_PITCH_CLASSES


def transposed(key: int, semitones: int) -> int:
    """The key of the same mode so many semitones higher."""
    return (key + semitones) % N_PITCH_CLASSES + N_PITCH_CLASSES * is_minor(key)


def fifths(key: int) -> int:
    """Steps on the circle of fifths from C, 0 to 11; a minor key has those of its relative major.

    >>> fifths(parse_key("G")), fifths(parse_key("E minor"))
    (1, 1)
    """
    return 7 * (key + 3 * is_minor(key)) % N_PITCH_CLASSES


def camelot_steps(first: int, second: int) -> int:
    """Steps on the Camelot wheel: to a neighboring number, or from A to B.

    >>> [camelot_steps(parse_key("12A"), parse_key(code)) for code in ("11A", "12B", "1B", "6A")]
    [1, 1, 2, 6]
    """
    around = (fifths(first) - fifths(second)) % N_PITCH_CLASSES
    return min(around, N_PITCH_CLASSES - around) + (is_minor(first) != is_minor(second))


def camelot(key: int) -> str:
    """Place on the Camelot wheel: neighboring numbers are a fifth apart, A is minor, B major.

    >>> camelot(parse_key("A minor")), camelot(parse_key("C major"))
    ('8A', '8B')
    """
    return f"{(fifths(key) + 7) % N_PITCH_CLASSES + 1}{'A' if is_minor(key) else 'B'}"
