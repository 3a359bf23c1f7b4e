"""Any Standard MIDI File as a piece: its notes in seconds, by channel and program."""

from __future__ import annotations

import math
from pathlib import Path

import mido
import numpy as np

from corpus.perform import Piece
from corpus.synth import DRUM_CHANNEL, Note, Part

_VOLUME = 7  # controller
_QUIETEST_DB = -18.0
_LONGEST_NOTE_S = 30.0  # a longer one was never let go


def read_midi(path: Path, name: str) -> Piece:
    """Read a MIDI file of type 0 or 1: one part for each program of each channel.

    Tempo changes are followed; channel volumes become levels; bends, pedals and banks are dropped.

    Raises:
        ValueError: it is no such file, or has no notes.
    """
    try:
        midi = mido.MidiFile(path)
        parts, length_s, bpms = _parts(midi)
    except Exception as error:
        # mido raises OSError, EOFError, KeyError, IndexError, its own errors, on a broken file.
        raise ValueError(f"not a MIDI file that mido reads ({str(error) or 'cut off'})") from error
    if not parts:
        raise ValueError("no notes")
    return Piece(
        name=name,
        source="midi",
        parts=parts,
        length=length_s,
        bpm=bpms.pop() if len(bpms) == 1 else None,
    )


def _parts(midi: mido.MidiFile) -> tuple[tuple[Part, ...], float, set[float]]:
    """The parts, the length in seconds, and all tempi."""
    if midi.type == 2 or midi.ticks_per_beat <= 0:
        raise ValueError("of type 2, or timed in film frames")
    programs, volumes = [0] * 16, [100] * 16
    sounding: dict[tuple[int, int], list[tuple[float, int, int]]] = {}  # channel, pitch -> onsets
    notes: dict[tuple[int, int], list[Note]] = {}  # channel, program
    levels: dict[tuple[int, int], int] = {}
    tempo, time_s = 500_000, 0.0  # microseconds per quarter: MIDI's default is 120 BPM
    bpms: set[float] = set()
    for message in mido.merge_tracks(midi.tracks):
        time_s += message.time * tempo / 1e6 / midi.ticks_per_beat
        if message.type == "set_tempo":
            tempo = message.tempo
            bpms.add(round(6e7 / tempo, 3))
        elif message.type == "program_change":
            programs[message.channel] = message.program
        elif message.type == "control_change" and message.control == _VOLUME:
            volumes[message.channel] = message.value
        elif message.type == "note_on" and message.velocity > 0:
            channel = message.channel
            levels.setdefault((channel, programs[channel]), volumes[channel])
            begun = (time_s, message.velocity, programs[channel])
            sounding.setdefault((channel, message.note), []).append(begun)
        elif message.type in {"note_on", "note_off"}:
            waiting = sounding.get((message.channel, message.note))
            if waiting:
                start_s, velocity, program = waiting.pop(0)
                note = Note(start_s, time_s - start_s, message.note, velocity)
                notes.setdefault((message.channel, program), []).append(note)
    bpms = bpms or {120.0}
    parts = tuple(
        Part(
            name=f"channel {channel + 1}",
            program=program,
            notes=tuple(sorted(_held(played), key=lambda note: (note.onset_s, note.pitch))),
            level_db=_level_db(levels[channel, program]),
            is_drums=channel == DRUM_CHANNEL,
        )
        for (channel, program), played in sorted(notes.items())
    )
    return parts, _length_s(parts, bpms), bpms


def _held(notes: list[Note]) -> list[Note]:
    return [
        note
        if note.duration_s <= _LONGEST_NOTE_S
        else Note(note.onset_s, _LONGEST_NOTE_S, note.pitch, note.velocity)
        for note in notes
    ]


def _level_db(volume: int) -> float:
    """General MIDI's curve for the channel volume, relative to 127, but never out of hearing."""
    return max(_QUIETEST_DB, 40 * math.log10(max(volume, 1) / 127))


def _length_s(parts: tuple[Part, ...], bpms: set[float]) -> float:
    """The end of the last note, on a beat where there is one tempo: a repeat keeps the beat."""
    end_s = max((n.onset_s + n.duration_s for part in parts for n in part.notes), default=0.0)
    if len(bpms) != 1:
        return end_s
    beat_s = 60 / next(iter(bpms))
    return float(max(1, np.ceil(end_s / beat_s - 0.1))) * beat_s
