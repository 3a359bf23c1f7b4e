"""Like this, but faster or higher: a query that is shifted in one attribute.

There are three methods; the best available one is used and reported.

embedding     If the audio is available, it is resampled, which changes tempo and pitch together.
              Only the shifted subspace is taken from it, the others from the original audio:
              `tempo` is invariant to pitch, and `pitch` to tempo.
rotation      `pitch` of the encoder `small` is 12 pitch classes of D / 12 values, which a
              transposition by whole semitones rotates (see loev_cli/model/encoders/small.py).
annotations   If the library has a column `bpm` or `key`: tracks are filtered by the shifted value
              of the query (tempo within 4 %) and ranked by the other subspaces.

docs/search.md has the accuracy of each against transformed audio.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from loev_cli import bundle as bundles
from loev_cli.errors import LoevError, UsageError, did_you_mean
from loev_cli.formats import Meta
from loev_cli.music_keys import KEYS, N_PITCH_CLASSES, parse_key, transposed
from loev_cli.search.library import Vectors

ATTRIBUTES = {"tempo": "bpm", "pitch": "key"}  # and the column with its annotation
_TEMPO_TOLERANCE = 0.04
_MAX_SEMITONES = 12.0
_RATES = (0.5, 2.0)
_HINT = "for example tempo=+10%, pitch=-1, or both: tempo=+5%,pitch=-1"
_CHANGE = re.compile(r"\s*(\w+)\s*=\s*([+-]?\d+(?:\.\d*)?|[+-]?\.\d+)\s*(%?)\s*")


@dataclass(frozen=True)
class Change:
    """The attribute to shift, and by how much.

    Attributes:
        attribute: ``tempo`` or ``pitch``.
        rate: the playback speed with this effect.
        text: as given by the user.
    """

    attribute: str
    rate: float
    text: str

    @property
    def semitones(self) -> float:
        return float(12 * np.log2(self.rate))


@dataclass(frozen=True)
class Moved:
    """A shifted query.

    Attributes:
        vectors: subspace -> (D,), raw model outputs; only the shifted ones.
        where: additional filter on the results; None: no filter.
        how: description of the method used.
    """

    vectors: dict[str, Vectors]
    where: str | None
    how: str


@dataclass(frozen=True)
class Asked:
    """The query to shift.

    Attributes:
        meta: of the library.
        file: its audio, if available.
        raw: for a row of the library: gives subspace -> (D,), raw model outputs.
        value: for a row: column -> the library's value for it; None if missing.
    """

    meta: Meta
    file: Path | None
    raw: Callable[[], Mapping[str, Vectors]] = dict
    value: Callable[[str], Any] = lambda column: None


def parse_changes(text: str) -> list[Change]:
    """``tempo=+5%,pitch=-1``: each attribute once.

    Raises:
        UsageError: invalid syntax, out of range, or an attribute twice.
    """
    changes = [_parse_change(part) for part in text.split(",")]
    if len({change.attribute for change in changes}) < len(changes):
        raise UsageError(f"--like-but '{text}' names an attribute twice", hint=_HINT)
    return changes


def _parse_change(text: str) -> Change:
    found = _CHANGE.fullmatch(text)
    if not found:
        raise UsageError(f"--like-but '{text}' cannot be read", hint=_HINT)
    attribute, number, percent = found[1], float(found[2]), found[3] == "%"
    if attribute not in ATTRIBUTES:
        raise UsageError(
            f"--like-but cannot move '{attribute}'",
            hint=f"{did_you_mean(attribute, ATTRIBUTES)}it moves {' and '.join(ATTRIBUTES)}",
        )
    if percent != (attribute == "tempo"):
        unit = "by a percentage" if attribute == "tempo" else "in semitones"
        raise UsageError(f"--like-but '{text}': {attribute} is moved {unit}", hint=_HINT)
    rate = 1 + number / 100 if percent else 2 ** (number / 12)
    low, high = _RATES if percent else (2**-1, 2.0)
    if not low <= rate <= high:
        bounds = "-50% to +100%" if percent else f"+-{_MAX_SEMITONES:g} semitones"
        raise UsageError(f"--like-but '{text}' is out of range", hint=f"{attribute}: {bounds}")
    return Change(attribute, rate, text.strip())


def move(
    change: Change,
    asked: Asked,
    listen: Callable[[Path, float], Mapping[str, Vectors]],
) -> Moved:
    """Shift a query; see the module docstring.

    Args:
        listen: embeds a file: (file, speed) -> subspace -> (D,).

    Raises:
        UsageError: no method is available.
        InputError: the file is not audio.
    """
    name = change.attribute
    if name in asked.meta["subspaces"]:
        if asked.file is not None:
            moved = listen(asked.file, change.rate)[name]
            how = f"{change.text}: by embedding the audio played {change.rate:.4g} times as fast"
            return Moved({name: moved}, None, how)
        if (turned := _rotated(change, asked)) is not None:
            how = f"{change.text}: by rotating the pitch classes, {change.semitones:+.0f}"
            return Moved({name: turned}, None, how)
    where = _annotated(change, asked)
    if where is not None:
        return Moved({}, where, f"{change.text}: by annotations, {where}")
    column = ATTRIBUTES[name]
    raise UsageError(
        f"--like-but {change.text} needs the query's audio, or a column '{column}'",
        hint="pass the folder of the tracks with --root; 'loev embed --annotate' adds the column",
    )


def _rotated(change: Change, asked: Asked) -> Vectors | None:
    """``pitch`` transposed, if its encoder is known to allow it and the step is whole."""
    steps = round(change.semitones)
    if change.attribute != "pitch" or abs(change.semitones - steps) > 1e-6:
        return None
    return rotated(asked.raw()["pitch"], steps) if rotates(asked.meta) else None


def rotates(meta: Meta) -> bool:
    """Whether ``pitch`` of a library consists of 12 pitch classes, as far as is known."""
    try:
        bundle = bundles.find(str(meta["model"]))
    except LoevError:
        return False
    config = bundle.config
    is_known = bundle.sha256 == meta["model_sha256"] and config["method"] == "loev++"
    return bool(is_known and config["encoder"].get("name") == "small")


def rotated(pitch: Vectors, semitones: int) -> Vectors:
    """``pitch`` (D,) as the model gives it, so many semitones higher; see :func:`rotates`."""
    return np.roll(pitch.reshape(N_PITCH_CLASSES, -1), semitones, axis=0).reshape(-1)


def _annotated(change: Change, asked: Asked) -> str | None:
    """The filter for the shifted annotation; None if there is no annotation."""
    value = asked.value(ATTRIBUTES[change.attribute])
    if change.attribute == "tempo":
        if not isinstance(value, float | int) or not 0 < value < float("inf"):
            return None
        bpm = value * change.rate
        return (
            f"bpm between {bpm / (1 + _TEMPO_TOLERANCE):.2f} and {bpm * (1 + _TEMPO_TOLERANCE):.2f}"
        )
    if not isinstance(value, str) or not value.strip():
        return None
    key, steps = parse_key(value), round(change.semitones)
    if key is None or abs(change.semitones - steps) > 1e-6:
        return None
    moved, mode = KEYS[transposed(key, steps)], asked.value("mode")
    if not mode or parse_key(f"{value.strip()} {mode}") is None:  # the key includes its mode
        return f"key = '{moved}'"
    return f"key = '{moved.split()[0]}' and mode = '{mode}'"
