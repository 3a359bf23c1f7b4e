"""How often does `loev dedup` say rightly what two versions of a recording are to each other?

    python benchmarks/dedup_labels.py FOLDER... [--seconds 40]

Of every track versions are made: encoded again, cut, transposed and stretched (by Signalsmith
Stretch, as `loev evaluate` does without rubberband), played faster as by another turntable. All are
embedded, and each is compared with its original. Silent tracks are left out.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
import soxr

from loev_cli.audio import find, load
from loev_cli.embed import Request, embed
from loev_cli.evaluate.equivariance import STRETCH_RATE_HZ, open_stretcher
from loev_cli.search import Library, open_library
from loev_cli.search.duplicates import Comparison, Relation

RATE_HZ = STRETCH_RATE_HZ
POOR_RATE_HZ = 16000
Write = Callable[[np.ndarray, Path], None]


def encoded(rate_hz: int = RATE_HZ, **options: object) -> Write:
    def write(waveform: np.ndarray, file: Path) -> None:
        soundfile.write(file, soxr.resample(waveform, RATE_HZ, rate_hz), rate_hz, **options)

    return write


def changed(make: Callable[[np.ndarray], np.ndarray]) -> Write:
    return lambda waveform, file: soundfile.write(file, make(waveform), RATE_HZ)


def stretched(rate: float = 1.0, semitones: float = 0.0) -> Write:
    stretch = open_stretcher("signalsmith")
    return changed(lambda x: stretch(x, rate=rate, semitones=semitones))


# Name -> extension, how it is made, and what it is.
VERSIONS: dict[str, tuple[str, Write, Relation]] = {
    "MP3": (".mp3", encoded(), Relation("copy", 0)),
    "MP3 of 16 kbit/s": (
        ".mp3",
        encoded(POOR_RATE_HZ, bitrate_mode="CONSTANT", compression_level=0.95),
        Relation("copy", 0),
    ),
    "Ogg Vorbis of the lowest quality": (
        ".ogg",
        encoded(compression_level=1.0),
        Relation("copy", 0),
    ),
    "the first 85 %": (
        ".flac",
        changed(lambda x: x[: round(0.85 * len(x))]),
        Relation("excerpt", 0),
    ),
    "the middle half": (
        ".flac",
        changed(lambda x: x[len(x) // 4 : 3 * len(x) // 4]),
        Relation("excerpt", 0),
    ),
    **{
        f"{n:+} semitones": (".flac", stretched(semitones=n), Relation("key", n))
        for n in (1, -1, 2, -3, 5)
    },
    **{
        f"{rate:g} times as fast": (".flac", stretched(rate), Relation("tempo", 0, rate))
        for rate in (1.03, 1.06, 0.94, 1.12, 0.85)
    },
    "+2 semitones, 1.06 times as fast": (
        ".flac",
        stretched(1.06, 2),
        Relation("key+tempo", 2, 1.06),
    ),
    "as a turntable 6 % faster": (
        ".flac",
        changed(lambda x: soxr.resample(x, 1.06 * RATE_HZ, RATE_HZ)),
        Relation("key+tempo", 1, 1.06),
    ),
}


def write_versions(folders: list[Path], seconds: float, target: Path) -> int:
    """Originals and versions of the tracks, numbered; how many tracks."""
    n = 0
    for source in find([str(folder) for folder in folders]):
        waveform = load(source.file, RATE_HZ)[: round(seconds * RATE_HZ)]
        soundfile.write(target / f"{n:03}-original.flac", waveform, RATE_HZ)
        for i, (extension, write, _) in enumerate(VERSIONS.values()):
            write(waveform, target / f"{n:03}-{i:02}{extension}")
        n += 1
    return n


def report(library: Library, n: int) -> None:
    compare = Comparison(library)
    originals = [library.row_of[f"{k:03}-original.flac"] for k in range(n)]
    loud = [k for k in range(n) if not library.columns["silent"][originals[k]]]
    print(f"{len(loud)} tracks\n\n| version | is | share right | others | semitones | rate |")
    print("|---|---|---|---|---|---|")
    n_right = 0
    for i, (name, (extension, _, is_)) in enumerate(VERSIONS.items()):
        versions = [library.row_of[f"{k:03}-{i:02}{extension}"] for k in range(n)]
        said = [compare(originals[k], versions[k]) for k in loud]
        right = [each for each in said if each.kind == is_.kind]
        n_right += len(right)
        cells = [name, is_.kind, f"{len(right) / len(said):.2f}"]
        cells.append(", ".join(sorted({each.kind for each in said} - {is_.kind})))
        cells.append(f"{np.mean([each.semitones == is_.semitones for each in right]):.2f}")
        rates = np.array([each.rate for each in right if each.rate is not None])
        near = np.abs(rates / (is_.rate or 1) - 1) < 0.01
        cells.append(f"{near.mean():.2f} of {len(rates)}" if len(rates) else "")
        print(f"| {' | '.join(cells)} |")
    print(f"\nright: {n_right} of {len(loud) * len(VERSIONS)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--seconds", type=float, default=40.0, help="of each track at most")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        n = write_versions(arguments.folders, arguments.seconds, Path(scratch))
        emb = Path(scratch) / "emb.npz"
        embed(Request([scratch], str(emb), annotate=True))
        report(open_library(emb), n)  # which reads the file


if __name__ == "__main__":
    main()
