"""How well can POP909's key labels be told from the notes themselves?

    python benchmarks/key_ceiling.py --songs pop909-001-849.tar.xz

The labels were made by an algorithm listening to the recordings, and in this music a key and its
relative share their notes. So a limit to hold an audio model's weighted key score against: a
logistic regression that is *given* the written notes of every track, the bass, and the annotated
chords of a passage, in all twelve transpositions (which spares it what audio has to learn). Fitted
on songs 1-749, its regularization chosen on 750-799, judged on 800-849.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression

from corpus.pop909 import LAST_TRAIN, LAST_VAL, song_folders
from corpus.songs import MELODIC_TRACKS, KeySpan, Song, key_misfit, read_song
from loev_cli.evaluate.probes import key_weights
from loev_cli.evaluate.statistics import Bootstrap

BASS_BELOW = 52  # MIDI pitch
LONGEST_NOTE_S = 2.0
LARGEST_MISFIT = 0.05
REGULARISATIONS = (1.0, 10.0, 100.0)
RELATIVE = 0.3  # mir_eval's score of the relative key


@dataclass(frozen=True)
class Passage:
    """Features (C, 12), counted from C, and the key as an index: tonic, plus 12 if minor."""

    song: int
    features: np.ndarray
    key: int


def features_of(song: Song, start_s: float, end_s: float) -> np.ndarray:
    """How long each pitch class sounds, per track, bass and chord: (C, 12), rows sum to 1 or 0."""
    notes = {name: song.tracks.get(name, ()) for name in MELODIC_TRACKS}
    notes["bass"] = tuple(n for n in notes["PIANO"] if n.pitch < BASS_BELOW)
    rows = []
    for played in notes.values():
        row = np.zeros(12)
        for note in played:
            if start_s <= note.onset_s < end_s:
                row[note.pitch % 12] += min(note.duration_s, LONGEST_NOTE_S)
        rows.append(row / max(row.sum(), 1e-9))
    spans = [s for s in song.chords if s.chord and s.end_s > start_s and s.start_s < end_s]
    major_minor = np.zeros((2, 12))
    edges = np.zeros((4, 12))
    for i, span in enumerate(spans):
        assert span.chord is not None
        root = span.chord.root
        is_minor = int((root + 4) % 12 not in span.chord.tones)
        major_minor[is_minor, root] += min(span.end_s, end_s) - max(span.start_s, start_s)
        if i == 0:
            edges[is_minor, root] = 1
        if i == len(spans) - 1:
            edges[2 + is_minor, root] = 1
    return np.concatenate([rows, major_minor / max(major_minor.sum(), 1e-9), edges])


def passages(song: Song, length_s: float | None, per_key: int) -> Iterator[Passage]:
    """Passages inside each of a song's keys, evenly spread; the whole key without a length."""
    notes = [note for track in song.tracks.values() for note in track]
    for span in song.keys:
        if span.end_s - span.start_s < 20 or key_misfit(notes, span) > LARGEST_MISFIT:
            continue
        for start_s, end_s in _cuts(span, length_s, per_key):
            key = span.key.tonic + 12 * (span.key.mode == "minor")
            yield Passage(song.number, features_of(song, start_s, end_s), key)


def _cuts(span: KeySpan, length_s: float | None, n: int) -> list[tuple[float, float]]:
    if length_s is None or length_s >= span.end_s - span.start_s:
        return [(span.start_s, span.end_s)]
    starts = np.linspace(span.start_s, span.end_s - length_s, n)
    return [(start, start + length_s) for start in starts.tolist()]


def transposed(x: np.ndarray, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All twelve transpositions of features (n, C, 12) and keys (n,)."""
    steps = range(12)
    x = np.concatenate([np.roll(x, step, axis=2) for step in steps])
    return x.reshape(len(x), -1), np.concatenate(
        [(keys % 12 + step) % 12 + 12 * (keys // 12) for step in steps]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--songs", type=Path, required=True, help="the dataset, a folder or a tar")
    parser.add_argument("--per-key", type=int, default=2, help="passages per key of a song")
    args = parser.parse_args()
    with song_folders(args.songs) as folders:
        songs = [read_song(folders[number]) for number in sorted(folders)]
    weights = key_weights()  # rows and columns: 12 major keys, then 12 minor, from C
    for length_s in (30.0, None):
        found = [p for song in songs for p in passages(song, length_s, args.per_key)]
        x = np.stack([p.features for p in found])
        keys = np.array([p.key for p in found])
        numbers = np.array([p.song for p in found])
        train, test = numbers <= LAST_TRAIN, numbers > LAST_VAL
        val = ~train & ~test
        best, scores = -1.0, np.zeros(0)
        for c in REGULARISATIONS:
            model = LogisticRegression(C=c, max_iter=150).fit(*transposed(x[train], keys[train]))
            guessed = model.predict(x.reshape(len(x), -1))
            judged = weights[keys, guessed]
            if judged[val].mean() > best:
                best, scores = float(judged[val].mean()), judged
        estimate = Bootstrap(numbers[test]).mean(scores[test])
        print(
            f"{'whole keys' if length_s is None else f'{length_s:.0f} s'}: weighted key score "
            f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}] on "
            f"{estimate.n_tracks} passages of {estimate.n_groups} songs 800-849; "
            f"{best:.3f} on 750-799; the relative key in {np.mean(scores[test] == RELATIVE):.3f}"
        )


if __name__ == "__main__":
    main()
