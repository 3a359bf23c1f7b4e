"""Labeled recordings played faster and slower, as on a turntable.

    python -m corpus.sped MANIFEST --out DIR [--semitones -5,-3,-1,1,3,5] [--split train]

    MANIFEST (path, key, tempo, split, group, ...)
        -> OUT/audio/00000_s+3.flac, OUT/manifest.csv (the same columns, and semitones)

A recording that is resampled to sound n semitones higher is 2^(n/12) times as fast, exactly and
without the artifacts of a stretcher: its key moves by n, its tempo by that factor. Few labeled
recordings thus give many, with all tonics and with tempi between those that artists prefer. The
manifest lists the recordings as they are as well (semitones 0). Other columns are kept, `group`
above all. A row whose recording cannot be read is named on stderr; the exit code is then 3.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile
import soxr

from loev_cli.music_keys import KEYS, parse_key, transposed

DEFAULT_SEMITONES = (-5, -3, -1, 1, 3, 5)


def sped(waveform: np.ndarray, sample_rate_hz: int, semitones: float) -> np.ndarray:
    """A waveform (N,) or (N, channels) -> (N / 2^(semitones / 12), ...), at the same rate."""
    return np.asarray(
        soxr.resample(waveform, sample_rate_hz * 2 ** (semitones / 12), sample_rate_hz)
    )


def moved_labels(row: dict[str, str], semitones: int) -> dict[str, str]:
    """The row with its key and tempo moved; empty labels stay empty.

    Raises:
        ValueError: a key or tempo that cannot be read.
    """
    moved = dict(row)
    if row.get("key"):
        key = parse_key(row["key"])
        if key is None:
            raise ValueError(f"unknown key '{row['key']}'")
        moved["key"] = KEYS[transposed(key, semitones)]
    if row.get("tempo"):
        moved["tempo"] = f"{float(row['tempo']) * 2 ** (semitones / 12):.2f}"
    return moved


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m corpus.sped", description="Recordings played faster and slower."
    )
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="folder for audio/ and manifest")
    parser.add_argument(
        "--semitones",
        default=",".join(map(str, DEFAULT_SEMITONES)),
        help="by how much; write --semitones=-1,1 if the first is negative",
    )
    parser.add_argument("--split", help="only rows of this split")
    args = parser.parse_args(arguments)
    try:
        shifts = [int(text) for text in args.semitones.split(",")]
        with args.manifest.open(newline="", encoding="utf-8") as stream:
            reader = csv.DictReader(stream)
            columns, rows = list(reader.fieldnames or ()), list(reader)
        if "path" not in columns:
            raise ValueError(f"{args.manifest} has no column path")
        if args.split and "split" not in columns:
            raise ValueError(f"{args.manifest} has no column split")
    except (OSError, ValueError) as error:
        parser.error(str(error))
    audio = args.out / "audio"
    audio.mkdir(parents=True, exist_ok=True)
    written: list[dict[str, str]] = []
    n_problems = 0
    for i, row in enumerate(rows):
        if args.split and row["split"] != args.split:
            continue
        source = args.manifest.parent / row["path"]
        row["group"] = row.get("group") or row["path"]
        try:
            labels = {n: moved_labels(row, n) for n in shifts}
            samples, rate_hz = soundfile.read(source, dtype="float32")
            for n in shifts:
                file = audio / f"{i:05d}_s{n:+d}.flac"
                soundfile.write(file, sped(samples, rate_hz, n), rate_hz, subtype="PCM_16")
                labels[n] |= {"path": file.relative_to(args.out).as_posix(), "semitones": str(n)}
        except (OSError, ValueError, soundfile.LibsndfileError) as error:
            n_problems += 1
            print(f"left out: {row['path']}: {error}", file=sys.stderr)
            continue
        as_is = Path(os.path.relpath(source, args.out)).as_posix()
        written += [row | {"path": as_is, "semitones": "0"}, *labels.values()]
    names = ["path", *(c for c in columns if c not in ("path", "group")), "group", "semitones"]
    with (args.out / "manifest.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(written)
    print(f"{len(written)} recordings -> {args.out}", file=sys.stderr)
    return 3 if n_problems else 0


if __name__ == "__main__":
    sys.exit(main())
