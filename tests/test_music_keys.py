"""Every spelling of a key in, one out."""

from __future__ import annotations

import doctest

import mir_eval
import pytest

from loev_cli import music_keys
from loev_cli.music_keys import (
    KEYS,
    camelot,
    fifths,
    is_minor,
    parse_key,
    spellings,
    transposed,
)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("C major", "C major"),
        ("F# minor", "F# minor"),
        ("gb minor", "F# minor"),
        ("Bb:min", "Bb minor"),
        ("A♭ maj", "Ab major"),
        ("Am", "A minor"),
        ("AM", "A major"),
        ("D", "D major"),
        (" e Minor ", "E minor"),
        ("C# MAJOR", "Db major"),
        ("Cb major", "B major"),
        ("B# minor", "C minor"),
        ("D♭-minor", "Db minor"),
        ("8A", "A minor"),
        ("08b", "C major"),
    ],
)
def test_keys_in_many_spellings(text: str, key: str) -> None:
    assert parse_key(text) == KEYS.index(key)


@pytest.mark.parametrize(
    "text", ["H major", "C mixolydian", "major", "5", "C##", "", "Cm7", "anything", "A minor minor"]
)
def test_what_is_no_key(text: str) -> None:
    assert parse_key(text) is None


@pytest.mark.parametrize("text", ["0A", "13A", "8C", "80A", "8 A"])
def test_what_is_no_camelot_code(text: str) -> None:
    assert parse_key(text) is None


def test_spellings_are_those_of_one_key() -> None:
    for key, name in enumerate(KEYS):
        written = spellings(key)
        assert name in written
        assert {parse_key(text) for text in written} == {key}
    assert {"C#m", "Dbm", "D♭:min", "C# minor"} <= set(spellings(parse_key("C#m") or 0))


def test_keys_are_those_of_mir_eval() -> None:
    for name in KEYS:
        mir_eval.key.validate_key(name)
        assert mir_eval.key.weighted_score(name, KEYS[transposed(KEYS.index(name), 12)]) == 1


@pytest.mark.parametrize(
    ("key", "steps", "place"),
    [
        ("C major", 0, "8B"),
        ("A minor", 0, "8A"),
        ("G major", 1, "9B"),
        ("E minor", 1, "9A"),
        ("F major", 11, "7B"),
        ("B major", 5, "1B"),
        ("Ab minor", 5, "1A"),
        ("E major", 4, "12B"),
        ("Db minor", 4, "12A"),
        ("F# minor", 3, "11A"),
    ],
)
def test_circle_of_fifths_and_camelot_wheel(key: str, steps: int, place: str) -> None:
    assert fifths(KEYS.index(key)) == steps
    assert camelot(KEYS.index(key)) == place


def test_every_key_has_a_place_of_its_own() -> None:
    assert len({camelot(key) for key in range(24)}) == 24


@pytest.mark.parametrize(
    ("key", "semitones", "moved"),
    [("B major", 1, "C major"), ("C minor", -1, "B minor"), ("A minor", 14, "B minor")],
)
def test_transposed(key: str, semitones: int, moved: str) -> None:
    there = transposed(KEYS.index(key), semitones)
    assert KEYS[there] == moved
    assert is_minor(there) == moved.endswith("minor")


def test_examples_in_docstrings() -> None:
    results = doctest.testmod(music_keys)
    assert results.attempted >= 3
    assert not results.failed
