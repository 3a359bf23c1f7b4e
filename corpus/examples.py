"""Compose and render the clips of `examples/music`: `python -m corpus.examples --help`.

The tunes are ours and are written here, in scale degrees, so that one tune can be played in any
key at any tempo. Clips share keys, tempos and tunes on purpose: there is something to find when
searching by one subspace and not another.

    melody   `5:2 #6 | 1':1/2 -:1/2` degrees (`'` an octave up, `,` an octave down) and rests, each
             with its beats after `:`, 1 if left out; `|` is for the eye
    chords   Roman numerals, `|` between bars; several in a bar share it evenly
    comp     a bar drawn in steps: `A` the chord, `0` to `3` one tone of it, `-` held, `.` rest
"""

from __future__ import annotations

import argparse
import csv
import re
import sys
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import numpy as np

from corpus.patterns import BASS_STYLES, DRUM_STYLES, bass_notes, drum_notes
from corpus.songs import Beats, ChordSpan, chord_at
from corpus.synth import Note, Part, Player, finish, write_audio
from corpus.theory import PITCH_CLASSES, Chord, Key, fold

MELODY_RANGE_LOW = 60  # the tonic of a tune lies in the octave above this MIDI pitch
COMP_RANGE_LOW = 52
CLIP_S = 24.0
TAIL_S = 0.6
PEAK_DBFS = -3.0


@dataclass(frozen=True)
class Tune:
    """A melody and its harmony, in no particular key, and who plays them.

    Programs are General MIDI from 0; `comp` is drawn for one bar.
    """

    melody: str
    chords: str
    comp: str
    per_bar: int = 4
    lead: int = 0
    comp_program: int = 0
    bass: str = "roots"
    bass_program: int = 33
    drums: str = ""


@dataclass(frozen=True)
class Clip:
    tune: str
    key: str
    bpm: float
    suffix: str
    sample_rate_hz: int = 44_100

    @property
    def file_name(self) -> str:
        tonic, mode = self.key.split()
        spelled = tonic[0].lower() + {"": "", "#": "-sharp", "b": "-flat"}[tonic[1:]]
        return f"{self.tune}-in-{spelled}-{mode}-{self.bpm:g}bpm{self.suffix}"


TUNES: dict[str, Tune] = {
    "waltz": Tune(
        melody="""5:2 3 | 1':2 7 | 6:2 5 | 4:3 | 4:2 2 | 7:2 6 | 5:2 4 | 3:3
                  1':2 6 | 3:2 6 | 4:2 6 | 2':3 | 2' 1' 7 | 6 5 4 | 3:2 2 | 1:3""",
        chords="""I | I | V7 | V7 | ii | V7 | I | I
                  vi | vi | ii | ii | V7 | V7 | I | I""",
        comp=".AA",
        per_bar=3,
        lead=21,
        comp_program=24,
        bass="root_fifth",
        bass_program=32,
    ),
    "ballad": Tune(
        melody="""3:3/2 2:1/2 1 5, | 2:3/2 3:1/2 2:2 | 3 5 6:3/2 5:1/2 | 4:3 -
                  3 4 5 1' | 7:3/2 6:1/2 5:2 | 6 5 4 2 | 1:3 -""",
        chords="I | V | vi | IV | I | V | IV V | I",
        comp="0-1-2-1-",
        lead=73,
        comp_program=0,
        bass="halves",
        bass_program=35,
        drums="half_time",
    ),
    "house": Tune(
        melody="""5:3/4 5:3/4 4:1/2 3 1 | 6:3/4 6:3/4 5:1/2 3 1
                  4:3/4 4:3/4 3:1/2 1 6, | 5:3/4 5:3/4 4:1/2 2 #7,""",
        chords="i | VI | iv | V",
        comp="..A-..A-..A-..A-",
        lead=81,
        comp_program=4,
        bass="offbeats",
        bass_program=38,
        drums="four_on_floor",
    ),
    "reel": Tune(
        melody="""1:1/2 3:1/2 5:1/2 3:1/2 6:1/2 5:1/2 3:1/2 1:1/2 | 2:1/2 3:1/2 1:1/2 6,:1/2 5, 1
                  4:1/2 6:1/2 1':1/2 6:1/2 4:1/2 6:1/2 5:1/2 4:1/2 | 5:1/2 4:1/2 2:1/2 7,:1/2 2 5,
                  1:1/2 3:1/2 5:1/2 3:1/2 6:1/2 5:1/2 3:1/2 1:1/2 | 3:1/2 5:1/2 1':1/2 5:1/2 3 1
                  4:1/2 3:1/2 2:1/2 4:1/2 5:1/2 4:1/2 2:1/2 7,:1/2 | 1 3 1:2""",
        chords="I | I | IV | V | I | I | IV V | I",
        comp="A.A.A.AA",
        lead=40,
        comp_program=25,
        bass="root_fifth",
        bass_program=32,
        drums="percussion",
    ),
    "bossa": Tune(
        melody="""7:3/2 5:3/2 3 | 6:3/2 5:1/2 3:2 | 4:3/2 6:3/2 1' | 7:3/2 6:1/2 4:2
                  5:3/2 7:3/2 2' | 1':3/2 7:1/2 5:2 | 6:3/2 4:3/2 2 | 5:3 -""",
        chords="Imaj7 | vi7 | ii7 | V7 | iii7 | vi7 | ii7 | V7",
        comp="A..A..A.",
        lead=71,
        comp_program=24,
        bass="syncopated",
        bass_program=32,
        drums="bossa",
    ),
    "swing": Tune(
        melody="""5:2/3 6:1/3 1' b3':2/3 3':1/3 1' | 6 1':2/3 6:1/3 5:2
                  5:2/3 6:1/3 1' 3':2/3 2':1/3 1' | 6:2/3 5:1/3 3 1:2
                  4:2/3 6:1/3 1' b3':2/3 2':1/3 1' | 6:2/3 1':1/3 6 4:2
                  5:2/3 6:1/3 1' 5:2/3 3:1/3 1 | 3 #1:2/3 3:1/3 6:2
                  4:2/3 6:1/3 1' 2':2/3 1':1/3 6 | 7:2/3 6:1/3 5 4:2
                  3:2/3 5:1/3 1' 6:2/3 5:1/3 3 | 2 4:2/3 2:1/3 7,:2""",
        chords="""I7 | IV7 | I7 | I7 | IV7 | IV7 | I7 | VI7
                  ii7 | V7 | I7 VI7 | ii7 V7""",
        comp="......A-....",
        lead=65,
        comp_program=1,
        bass="walking",
        bass_program=32,
        drums="shuffle",
    ),
    "chorale": Tune(
        melody="5:2 6:2 | 4:2 1':2 | 7:2 #7:2 | 1':4 | 3':2 1':2 | 7:2 5:2 | 6 4 #7, 2 | 1:4",
        chords="i | iv | V | i | VI | III | iv V | i",
        comp="A---",
        lead=52,
        comp_program=49,
        bass="halves",
        bass_program=43,
    ),
    "rock": Tune(
        melody="""1:1/2 1:1/2 3 4:1/2 3:1/2 1 | 7,:1/2 7,:1/2 2 4:1/2 2:1/2 7,
                  1:1/2 3:1/2 6 5:1/2 3:1/2 1 | 2:1/2 4:1/2 5 4:1/2 2:1/2 #7,""",
        chords="i | VII | VI | V",
        comp="0202020202020202",
        lead=29,
        comp_program=30,
        bass="eighths",
        bass_program=34,
        drums="rock",
    ),
    "arcade": Tune(
        melody="""1':1/2 5:1/2 3:1/2 5:1/2 1':1/2 2':1/2 3' | 2':1/2 7:1/2 5:1/2 7:1/2 2':2
                  1':1/2 6:1/2 4:1/2 6:1/2 1':1/2 3':1/2 1' | 7:1/2 #7:1/2 2':1/2 #7:1/2 5:2""",
        chords="i | VII | iv | V",
        comp="0120120120120121",
        lead=80,
        comp_program=80,
        bass="eighths",
        bass_program=38,
        drums="sixteenths",
    ),
    "lullaby": Tune(
        melody="""5:2 3 | 5:2 3 | 4 3 2 | 3:3 | 6:2 4 | 5:2 3 | 2 3 7, | 1:3""",
        chords="I | I | V | I | IV | I | V7 | I",
        comp="0-1-2-",
        per_bar=3,
        lead=10,
        comp_program=46,
        bass="halves",
        bass_program=32,
    ),
}

CLIPS = (
    Clip("ballad", "C major", 72, ".mp3"),
    Clip("ballad", "Eb major", 72, ".mp3"),
    Clip("ballad", "C major", 108, ".mp3"),
    Clip("waltz", "D major", 150, ".mp3"),
    Clip("waltz", "Ab major", 150, ".ogg"),
    Clip("reel", "D major", 108, ".mp3"),
    Clip("house", "A minor", 124, ".mp3"),
    Clip("bossa", "F major", 124, ".flac", 22_050),
    Clip("swing", "Bb major", 150, ".mp3"),
    Clip("chorale", "E minor", 60, ".opus", 48_000),
    Clip("rock", "E minor", 138, ".mp3"),
    Clip("arcade", "A minor", 150, ".wav", 16_000),
    Clip("lullaby", "Ab major", 72, ".mp3"),
)

_NUMERALS = {"i": 0, "ii": 1, "iii": 2, "iv": 3, "v": 4, "vi": 5, "vii": 6}


def melody_notes(melody: str, key: Key, beat_s: float) -> tuple[list[Note], Fraction]:
    """The notes of a written melody from 0 s, and its length in beats."""
    tonic = fold(key.tonic, MELODY_RANGE_LOW, MELODY_RANGE_LOW + 11)
    notes, beat = [], Fraction(0)
    for token in melody.replace("|", " ").split():
        match = re.fullmatch(r"(?:([#b]?)([1-7])([',]*)|-)(?::([\d/]+))?", token)
        if match is None:
            raise ValueError(f'not a note of a melody: {token!r} (expected for example "#4\':3/2")')
        accidental, degree, octaves, length = match.groups()
        beats = Fraction(length or 1)
        if degree:
            pitch = tonic + (key.scale[int(degree) - 1] - key.tonic) % 12
            pitch += {"#": 1, "b": -1, "": 0}[accidental]
            pitch += 12 * (octaves.count("'") - octaves.count(","))
            velocity = 100 if beat.denominator == 1 else 90
            notes.append(Note(float(beat) * beat_s, 0.92 * float(beats) * beat_s, pitch, velocity))
        beat += beats
    return notes, beat


def chord_of(numeral: str, key: Key) -> Chord:
    """`V7` in C major is G7: upper case is major, lower case minor; `7` and `maj7` may follow."""
    match = re.fullmatch(r"([iv]+|[IV]+)(maj7|7|)", numeral)
    if match is None or match[1].lower() not in _NUMERALS:
        raise ValueError(f"not a chord numeral: {numeral!r} (expected for example 'V7')")
    root = PITCH_CLASSES[key.scale[_NUMERALS[match[1].lower()]]]
    quality = match[2] or "maj" if match[1].isupper() else f"min{match[2]}"
    chord = Chord.parse(f"{root}:{quality}")
    assert chord is not None
    return chord


def chord_spans(chords: str, key: Key, per_bar: int, beat_s: float) -> list[ChordSpan]:
    """The chords of written bars, in seconds from 0."""
    bars = [bar.split() for line in chords.splitlines() for bar in line.split("|") if bar.strip()]
    spans = []
    for i, bar in enumerate(bars):
        length_s = per_bar * beat_s / len(bar)
        for j, numeral in enumerate(bar):
            start_s = i * per_bar * beat_s + j * length_s
            spans.append(ChordSpan(start_s, start_s + length_s, chord_of(numeral, key)))
    return spans


def comp_notes(
    comp: str, chords: Sequence[ChordSpan], per_bar: int, beat_s: float, end_s: float
) -> list[Note]:
    """Play a drawn bar of accompaniment under the chords until `end_s`."""
    step_s = per_bar * beat_s / len(comp)
    notes = []
    for step in range(round(end_s / step_s)):
        mark = comp[step % len(comp)]
        chord = chord_at(chords, (step + 0.01) * step_s)
        if mark in ".-" or chord is None:
            continue
        rest = comp[step % len(comp) + 1 :]
        held = 1 + len(rest) - len(rest.lstrip("-"))
        tones = chord.tones if mark == "A" else [chord.tones[int(mark) % len(chord.tones)]]
        notes += [
            Note(
                step * step_s,
                0.9 * held * step_s,
                fold(tone, COMP_RANGE_LOW, COMP_RANGE_LOW + 11),
                84 if step % len(comp) == 0 else 74,
            )
            for tone in tones
        ]
    return notes


def compose(clip: Clip) -> tuple[list[Part], float]:
    """The parts of a clip and its length in seconds: whole bars, the tune repeated as needed."""
    tune, key = TUNES[clip.tune], Key.parse(clip.key)
    rng = np.random.default_rng(zlib.crc32(clip.tune.encode()))
    beat_s = 60 / clip.bpm
    n_bars = round(CLIP_S / (tune.per_bar * beat_s))
    n_beats = n_bars * tune.per_bar
    end_s = n_beats * beat_s
    counts = np.arange(n_beats + 1, dtype=np.float64)
    beats = Beats.from_downbeats(counts * beat_s, counts % tune.per_bar == 0, tune.per_bar)

    once, length = melody_notes(tune.melody, key, beat_s)
    period_s = float(length) * beat_s
    spans_once = chord_spans(tune.chords, key, tune.per_bar, beat_s)
    if abs(spans_once[-1].end_s - period_s) > 1e-6:
        raise ValueError(f"melody and chords of {clip.tune!r} differ in length")
    turns = range(int(end_s / period_s) + 1)
    melody = [replace(n, onset_s=n.onset_s + i * period_s) for i in turns for n in once]
    chords = [
        replace(s, start_s=s.start_s + i * period_s, end_s=s.end_s + i * period_s)
        for i in turns
        for s in spans_once
    ]
    comp = comp_notes(tune.comp, chords, tune.per_bar, beat_s, end_s)
    bass = bass_notes(BASS_STYLES[tune.bass], beats, chords, rng)
    parts = [
        Part("melody", tune.lead, tuple(n for n in melody if n.onset_s < end_s - 1e-6), -1.0),
        Part("comp", tune.comp_program, tuple(comp), -6.0),
        Part("bass", tune.bass_program, tuple(bass), -4.0),
    ]
    if tune.drums:
        style = DRUM_STYLES[tune.drums]
        drums = drum_notes(style, beats, rng)
        parts.append(Part("drums", style.kits[0], tuple(drums), -8.0, is_drums=True))
    return parts, end_s


def encoder_options(suffix: str) -> dict[str, str | float]:
    """soundfile's options that keep the folder small."""
    if suffix in {".wav", ".flac"}:
        return {"subtype": "PCM_16"}
    if suffix == ".mp3":
        return {"bitrate_mode": "VARIABLE", "compression_level": 0.5}
    return {}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m corpus.examples", description="Compose and render the example clips."
    )
    parser.add_argument("--soundfont", type=Path, required=True, help="FluidR3_GM.sf2 (MIT)")
    parser.add_argument("--out", type=Path, required=True, help="folder for clips and manifest.csv")
    args = parser.parse_args(arguments)
    if not args.soundfont.is_file():
        parser.error(f"no such soundfont: {args.soundfont}")
    args.out.mkdir(parents=True, exist_ok=True)

    players: dict[int, Player] = {}
    for clip in CLIPS:
        rate = clip.sample_rate_hz
        player = players.setdefault(rate, Player(rate))
        parts, end_s = compose(clip)
        wave = player.render(parts, args.soundfont, end_s + TAIL_S)
        path = args.out / clip.file_name
        write_audio(path, finish(wave, rate, PEAK_DBFS), rate, **encoder_options(clip.suffix))
        print(
            f"{path}: {end_s + TAIL_S:.1f} s, {path.stat().st_size / 1e3:.0f} kB", file=sys.stderr
        )
    with (args.out / "manifest.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["path", "key", "tempo", "group"])
        writer.writerows([c.file_name, c.key, f"{c.bpm:g}", c.tune] for c in sorted_clips())
    return 0


def sorted_clips() -> list[Clip]:
    return sorted(CLIPS, key=lambda clip: clip.file_name)


if __name__ == "__main__":
    sys.exit(main())
