"""Excerpts of long recordings: `python -m corpus.excerpts MANIFEST --out DIR --clip-s 30`.

    MANIFEST (path, split, group, ...) -> OUT/audio/00000_e0.flac ..., OUT/manifest.csv

A training draws files, not minutes: an hour-long mix weighs as little in it as a jingle, until it
is cut. Excerpts lie evenly over a recording (one: in its middle), never overlap, and keep its row's
other columns, `group` above all: the excerpts of a recording stay on one side of a split. A
recording that cannot be read, or is too short, is named and passed over.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import soundfile

DROPPED = ("path", "duration_s")  # of the whole recording


def starts_s(duration_s: float, clip_s: float, n_most: int) -> list[float]:
    """Where the excerpts begin, in seconds: at most ``n_most``, with equal gaps around them."""
    n = min(n_most, int(duration_s / clip_s))
    gap_s = (duration_s - n * clip_s) / (n + 1)
    return [gap_s + i * (clip_s + gap_s) for i in range(n)]


def excerpts_of(source: Path, clip_s: float, n_most: int, out: Path, stem: str) -> Iterator[Path]:
    """Write the excerpts of one recording as FLAC of its own rate and channels.

    Raises:
        soundfile.LibsndfileError: a file that cannot be read.
    """
    with soundfile.SoundFile(source) as audio:
        n_samples = round(clip_s * audio.samplerate)
        for i, start_s in enumerate(starts_s(audio.frames / audio.samplerate, clip_s, n_most)):
            audio.seek(round(start_s * audio.samplerate))
            samples = audio.read(n_samples, dtype="float32")
            if len(samples) < n_samples:
                return  # the header promised more than is there
            file = out / f"{stem}_e{i}.flac"
            soundfile.write(file, samples, audio.samplerate, subtype="PCM_16")
            yield file


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m corpus.excerpts", description="Excerpts of long recordings."
    )
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="folder for audio/ and manifest")
    parser.add_argument("--clip-s", type=float, default=30.0, help="seconds per excerpt")
    parser.add_argument("--per-track", type=int, default=1, help="excerpts of a recording at most")
    parser.add_argument("--split", action="append", help="only rows of this split; repeatable")
    args = parser.parse_args(arguments)
    if not args.clip_s > 0 or args.per_track < 1:
        parser.error("--clip-s must be above 0, --per-track at least 1")
    try:
        with args.manifest.open(newline="", encoding="utf-8") as stream:
            reader = csv.DictReader(stream)
            columns, rows = list(reader.fieldnames or ()), list(reader)
    except (OSError, ValueError) as error:
        parser.error(f"cannot read {args.manifest}: {error}")
    if "path" not in columns:
        parser.error(f"{args.manifest} has no column path")
    if args.split and "split" not in columns:
        parser.error(f"{args.manifest} has no column split")
    audio = args.out / "audio"
    audio.mkdir(parents=True, exist_ok=True)
    kept = ["group", *(c for c in columns if c not in (*DROPPED, "group"))]
    written: list[list[str]] = []
    n_without = 0
    for i, row in enumerate(rows):
        if args.split and row["split"] not in args.split:
            continue
        source = args.manifest.parent / row["path"]
        row["group"] = row.get("group") or row["path"]
        n_before = len(written)
        try:
            for file in excerpts_of(source, args.clip_s, args.per_track, audio, f"{i:05d}"):
                written.append([file.relative_to(args.out).as_posix(), *(row[c] for c in kept)])
        except (OSError, soundfile.LibsndfileError) as error:
            print(f"passed over: {source}: {error}", file=sys.stderr)
        else:
            if len(written) == n_before:
                print(f"passed over: {source}: shorter than {args.clip_s:g} s", file=sys.stderr)
        n_without += len(written) == n_before
    with (args.out / "manifest.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["path", *kept])
        writer.writerows(written)
    print(
        f"{len(written)} excerpts, {n_without} recordings gave none -> {args.out}",
        file=sys.stderr,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
