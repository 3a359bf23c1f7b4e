"""Excerpts of recordings with the tempo of a tempo map: songs of Frets on Fire, a rhythm game.

    python -m corpus.tempo_maps --out DIR [--packages FOLDER] [--clip-s 60] [--per-track 2]

    apt-get download PACKAGE -> song.ogg + guitar.ogg, notes.mid (tempo map)
        -> OUT/audio/PACKAGE/SONG_e0.flac ..., OUT/copyright/PACKAGE,
           OUT/manifest.csv (path, tempo, split, group, package)

An excerpt lies where the map has one tempo throughout. Song and guitar are mixed as the game plays
them, and written as mono FLAC. All rows are `split=test`; the group is the song. The recordings of
these two packages were in the unlabeled training data of loevpp-small, their tempi were not.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Sequence
from pathlib import Path

import mido
import numpy as np
import soundfile

from corpus.debian import keep_copyright, unpacked
from corpus.excerpts import starts_s

PACKAGES = ("fretsonfire-songs-muldjord", "fretsonfire-songs-sectoid")


def tempo_spans(midi: mido.MidiFile) -> list[tuple[float, float, float]]:
    """Spans of one tempo, as (start in s, end in s, BPM), in order; the last ends with the map."""
    changes: list[tuple[float, float]] = []
    now_s = 0.0
    for message in midi:
        now_s += message.time
        if message.type == "set_tempo":
            bpm = mido.tempo2bpm(message.tempo)
            if changes and changes[-1][0] == now_s:
                changes.pop()
            if not changes or changes[-1][1] != bpm:
                changes.append((now_s, bpm))
    ends = [start for start, _ in changes[1:]] + [now_s]
    return [(start, end, bpm) for (start, bpm), end in zip(changes, ends, strict=True)]


def mixed(folder: Path) -> tuple[np.ndarray, int]:
    """The mono mix (n_samples,) of a song's tracks, and its rate.

    Raises:
        soundfile.LibsndfileError: a track cannot be read.
        ValueError: the tracks differ in rate.
    """
    tracks = []
    rates_hz = set()
    for name in ("song.ogg", "guitar.ogg"):
        if (folder / name).exists():
            samples, rate_hz = soundfile.read(folder / name, dtype="float32", always_2d=True)
            tracks.append(samples.mean(axis=1))
            rates_hz.add(rate_hz)
    if len(rates_hz) != 1:
        raise ValueError(f"tracks at {sorted(rates_hz)} Hz")
    mix = np.zeros(max(map(len, tracks)), np.float32)
    for track in tracks:
        mix[: len(track)] += track
    return mix / max(1.0, float(np.abs(mix).max())), rates_hz.pop()


def cut_song(folder: Path, clip_s: float, per_track: int, out: Path) -> list[tuple[Path, float]]:
    """Write excerpts of a song below ``out``, at most ``per_track`` from each tempo; with BPM.

    Raises:
        OSError, ValueError, EOFError: the song or its map cannot be read.
    """
    spans = tempo_spans(mido.MidiFile(folder / "notes.mid"))
    mix, rate_hz = mixed(folder)
    stem = "_".join(folder.name.lower().split())
    written: list[tuple[Path, float]] = []
    for start_s, end_s, bpm in spans:
        for offset_s in starts_s(min(end_s, len(mix) / rate_hz) - start_s, clip_s, per_track):
            first = round((start_s + offset_s) * rate_hz)
            file = out / f"{stem}_e{len(written)}.flac"
            soundfile.write(file, mix[first : first + round(clip_s * rate_hz)], rate_hz)
            written.append((file, bpm))
    return written


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m corpus.tempo_maps", description="Excerpts of songs with a tempo map."
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for audio/ and manifest")
    parser.add_argument("--packages", type=Path, help="folder of .deb files to use and to keep")
    parser.add_argument("--clip-s", type=float, default=60.0, help="seconds per excerpt")
    parser.add_argument("--per-track", type=int, default=2, help="excerpts of one tempo at most")
    args = parser.parse_args(arguments)
    if not args.clip_s > 0 or args.per_track < 1:
        parser.error("--clip-s must be above 0, --per-track at least 1")
    rows: list[tuple[str, float, str, str, str]] = []
    n_failed = 0
    for package in PACKAGES:
        folder = args.out / "audio" / package
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with unpacked(package, args.out, args.packages) as tree:
                keep_copyright(tree, package, args.out)
                for midi in sorted(tree.rglob("notes.mid")):
                    for file, bpm in cut_song(midi.parent, args.clip_s, args.per_track, folder):
                        path = file.relative_to(args.out).as_posix()
                        rows.append((path, round(bpm, 2), "test", midi.parent.name, package))
        except (OSError, ValueError, EOFError, RuntimeError) as error:
            n_failed += 1
            print(f"left out: {package}: {error}", file=sys.stderr)
    with (args.out / "manifest.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(("path", "tempo", "split", "group", "package"))
        writer.writerows(rows)
    print(f"{len(rows)} excerpts -> {args.out}", file=sys.stderr)
    return 3 if n_failed else 0


if __name__ == "__main__":
    sys.exit(main())
