"""Labels on which independent estimators agree: key and tempo for recordings without labels.

    python -m corpus.agreed MANIFEST --tempo-cnn ANSWERS.csv --out LABELED.csv

    MANIFEST (path, split, group, ...) -> OUT (path, key, tempo, split, group), next to the manifest

key     where Essentia's KeyExtractor gives the same with the profiles edma, bgate and temperley
tempo   where a beat tracker of Essentia (PercivalBpmEstimator or RhythmExtractor2013, degara) and
        tempo-cnn lie within 3 % of each other, octave included

Both are empty otherwise, and a recording with neither is left out. The group is the column
`package` of the manifest, if it has one. Agreement is not truth: it favors
what is easy for these tools. Essentia (AGPL) has to be installed: `pip install essentia`; no part
of it goes into a model. tempo-cnn lives in an environment of its own; its answers are a CSV with
`path`, as in the manifest, and `bpm`. A file that cannot be read is named on stderr.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from loev_cli import audio
from loev_cli.errors import InputError
from loev_cli.music_keys import KEYS, parse_key

RATE_HZ = 44100
PROFILES = ("edma", "bgate", "temperley")
TOLERANCE = 0.03
COLUMNS = ("path", "key", "tempo", "split", "group")


@dataclass(frozen=True)
class Estimates:
    """What estimators say of a recording.

    Attributes:
        keys: one per profile, as text.
        bpm: of the beat trackers.
    """

    keys: tuple[str, ...]
    bpm: tuple[float, ...]


def by_essentia(file: Path) -> Estimates:
    """Essentia's estimates for an audio file.

    Raises:
        ImportError: Essentia is not installed.
        InputError: the file cannot be read.
    """
    import essentia.standard as es  # type: ignore[import-not-found]

    waveform = audio.load(file, RATE_HZ)
    keys = []
    for profile in PROFILES:
        tonic, mode, _ = es.KeyExtractor(profileType=profile, sampleRate=RATE_HZ)(waveform)
        keys.append(f"{tonic} {mode}")
    degara = es.RhythmExtractor2013(method="degara")(waveform)[0]
    return Estimates(tuple(keys), (float(es.PercivalBpmEstimator()(waveform)), float(degara)))


def agreed_key(estimates: Estimates) -> str:
    """The key that all say, or empty text."""
    keys = {parse_key(text) for text in estimates.keys}
    key = keys.pop() if len(keys) == 1 else None
    return "" if key is None else KEYS[key]


def agreed_tempo(estimates: Estimates, other_bpm: float | None) -> str:
    """The mean of ``other_bpm`` and the tracker nearest to it, if within 3 %; or empty text."""
    if not other_bpm:
        return ""
    nearest = min(estimates.bpm, key=lambda bpm: abs(bpm / other_bpm - 1))
    if abs(nearest / other_bpm - 1) > TOLERANCE:
        return ""
    return f"{(nearest + other_bpm) / 2:.2f}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m corpus.agreed", description="Labels on which estimators agree."
    )
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--tempo-cnn", type=Path, required=True, help="CSV: path,bpm")
    parser.add_argument("--out", type=Path, required=True, help="manifest beside MANIFEST")
    args = parser.parse_args(arguments)
    if args.out.resolve().parent != args.manifest.resolve().parent:
        parser.error("--out must be in the folder of the manifest, whose paths it keeps")
    try:
        with args.manifest.open(newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
        with args.tempo_cnn.open(newline="", encoding="utf-8") as stream:
            bpm_of = {row["path"]: float(row["bpm"]) for row in csv.DictReader(stream)}
    except (OSError, ValueError, KeyError) as error:
        parser.error(f"cannot read the manifest or the answers: {error}")
    n_failed = 0
    written = []
    for row in rows:
        try:
            estimates = by_essentia(args.manifest.parent / row["path"])
        except InputError as error:
            n_failed += 1
            print(f"left out: {row['path']}: {error.message}", file=sys.stderr)
            continue
        key, tempo = agreed_key(estimates), agreed_tempo(estimates, bpm_of.get(row["path"]))
        if key or tempo:
            written.append(
                [row["path"], key, tempo, row["split"], row.get("package") or row["group"]]
            )
    with args.out.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(written)
    print(f"{len(written)} of {len(rows)} have a label -> {args.out}", file=sys.stderr)
    return 3 if n_failed else 0


if __name__ == "__main__":
    sys.exit(main())
