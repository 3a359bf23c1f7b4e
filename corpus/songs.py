"""POP909 songs: MIDI tracks with their beats, chords and keys, all in seconds."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import mido
import numpy as np
import numpy.typing as npt

from corpus.synth import Note
from corpus.theory import Chord, Key

SecondsOfTick = Callable[[int], float]

MELODIC_TRACKS = ("MELODY", "BRIDGE", "PIANO")


@dataclass(frozen=True)
class Beats:
    """T beats: their times, their places in the bar (0 is the downbeat), their bars' numbers."""

    times_s: npt.NDArray[np.float64]  # (T,)
    places: npt.NDArray[np.int64]  # (T,)
    bars: npt.NDArray[np.int64]  # (T,)
    per_bar: int

    @classmethod
    def from_downbeats(
        cls, times_s: npt.NDArray[np.float64], is_downbeat: npt.NDArray[np.bool_], per_bar: int
    ) -> Beats:
        """Number the beats from the downbeats; an upbeat gets the last places of bar 0."""
        bars = np.cumsum(is_downbeat, dtype=np.int64)
        places = np.zeros(len(times_s), dtype=np.int64)
        downbeats = np.flatnonzero(is_downbeat)
        first = int(downbeats[0]) if len(downbeats) else 0
        for i in range(len(times_s)):
            if i < first:
                places[i] = (i - first) % per_bar
            elif not is_downbeat[i] and i > 0:
                places[i] = places[i - 1] + 1
        return cls(times_s, places, bars, per_bar)

    def between(self, start_s: float, end_s: float) -> Beats:
        """The beats with start_s <= time < end_s."""
        keep = slice(*np.searchsorted(self.times_s, [start_s, end_s]))
        return Beats(self.times_s[keep], self.places[keep], self.bars[keep], self.per_bar)

    @property
    def is_steady(self) -> bool:
        """Whether nine in ten beat intervals are within 15 % of the median."""
        intervals_s = np.diff(self.times_s)
        off = np.abs(intervals_s / np.median(intervals_s) - 1) > 0.15
        return bool(np.mean(off) <= 0.1)

    @property
    def bpm(self) -> float:
        """60 over the median beat interval."""
        if len(self.times_s) < 2:
            raise ValueError("a tempo needs at least two beats")
        return 60 / float(np.median(np.diff(self.times_s)))


@dataclass(frozen=True, slots=True)
class ChordSpan:
    start_s: float
    end_s: float
    chord: Chord | None


@dataclass(frozen=True, slots=True)
class KeySpan:
    start_s: float
    end_s: float
    key: Key


@dataclass(frozen=True)
class Song:
    number: int
    tracks: dict[str, tuple[Note, ...]]  # by name, each sorted by onset
    beats: Beats
    chords: tuple[ChordSpan, ...]
    keys: tuple[KeySpan, ...]


def chord_at(chords: Sequence[ChordSpan], time_s: float) -> Chord | None:
    """The chord sounding at `time_s`, or None."""
    i = bisect_right(chords, time_s, key=lambda span: span.start_s) - 1
    return chords[i].chord if i >= 0 and time_s < chords[i].end_s else None


def key_misfit(notes: Iterable[Note], span: KeySpan) -> float:
    """How much of the sound lies outside the labeled scale, beyond the best major scale: 0 to 1.

    The relative minor has its major's notes: this tells wrong labels, not major from minor.
    """
    profile = np.zeros(12)
    for note in notes:
        if span.start_s <= note.onset_s < span.end_s:
            profile[note.pitch % 12] += min(note.duration_s, 2.0)
    if not profile.any():
        return 1.0
    inside = [float(profile[list(Key(k, "major").scale)].sum()) for k in range(12)]
    labeled = float(profile[list(span.key.scale)].sum())
    return (max(inside) - labeled) / float(profile.sum())


def read_song(folder: Path) -> Song:
    """Read `NNN/NNN.mid`, `beat_midi.txt`, `chord_midi.txt` and `key_audio.txt`."""
    return Song(
        number=int(folder.name),
        tracks=read_tracks(folder / f"{folder.name}.mid"),
        beats=read_beats(folder / "beat_midi.txt"),
        chords=tuple(
            ChordSpan(float(start), float(end), Chord.parse(label))
            for start, end, label in _rows(folder / "chord_midi.txt")
        ),
        keys=tuple(
            KeySpan(float(start), float(end), Key.parse(label))
            for start, end, label in _rows(folder / "key_audio.txt")
        ),
    )


def read_beats(path: Path) -> Beats:
    """Read `time flag flag` lines.

    The flags mark the downbeats of two guesses at the meter: every 2 beats and every 4, or, in
    songs in three, every 3 and every 6. Bars of 4 and of 3 are the ones musicians count.
    """
    table = np.array([[float(cell) for cell in row] for row in _rows(path)])
    short = table[:, 1] > 0.5
    if _spacing(short) == 3:
        return Beats.from_downbeats(table[:, 0], short, per_bar=3)
    return Beats.from_downbeats(table[:, 0], table[:, 2] > 0.5, per_bar=4)


def read_tracks(path: Path) -> dict[str, tuple[Note, ...]]:
    """The notes of the named tracks of a MIDI file, in seconds, sorted by onset."""
    midi = mido.MidiFile(path)
    tempos = [(0, 500_000)]  # (tick, microseconds per quarter): MIDI's default is 120 BPM
    for track in midi.tracks:
        tick = 0
        for message in track:
            tick += message.time
            if message.type == "set_tempo":
                tempos.append((tick, message.tempo))
    tempos.sort(key=lambda change: change[0])
    ticks = np.array([tick for tick, _ in tempos], dtype=np.float64)
    s_per_tick = np.array([tempo for _, tempo in tempos]) / 1e6 / midi.ticks_per_beat
    starts_s = np.concatenate([[0.0], np.cumsum(np.diff(ticks) * s_per_tick[:-1])])

    def seconds(tick: int) -> float:
        i = int(np.searchsorted(ticks, tick, side="right")) - 1
        return float(starts_s[i] + (tick - ticks[i]) * s_per_tick[i])

    return {
        track.name: _track_notes(track, seconds)
        for track in midi.tracks
        if track.name in MELODIC_TRACKS
    }


def _track_notes(track: mido.MidiTrack, seconds: SecondsOfTick) -> tuple[Note, ...]:
    tick = 0
    sounding: dict[int, list[tuple[int, int]]] = {}  # pitch -> [(tick, velocity)], oldest first
    notes = []
    for message in track:
        tick += message.time
        if message.type == "note_on" and message.velocity > 0:
            sounding.setdefault(message.note, []).append((tick, message.velocity))
        elif message.type in {"note_on", "note_off"} and sounding.get(message.note):
            on, velocity = sounding[message.note].pop(0)
            start_s = seconds(on)
            notes.append(Note(start_s, seconds(tick) - start_s, message.note, velocity))
    return tuple(sorted(notes, key=lambda note: (note.onset_s, note.pitch)))


def _rows(path: Path) -> list[list[str]]:
    return [line.split() for line in path.read_text().splitlines() if line.strip()]


def _spacing(flags: npt.NDArray[np.bool_]) -> int:
    """The most frequent distance between set flags; 0 with fewer than two."""
    gaps = np.diff(np.flatnonzero(flags))
    return int(np.bincount(gaps).argmax()) if len(gaps) else 0
