"""What distance in `invariant` is still the same recording?

    python benchmarks/dedup_threshold.py FOLDER... [--n 60] [--model loevpp-small]

Of N tracks, copies are made that a library may hold (re-encoded, cut, resampled, played faster as
by another turntable, shifted and stretched by rubberband) and their distances to the original are
set against those of all pairs of different tracks. Distances are cosine about the mean of all
tracks found, as `loev dedup` takes them. The tracks given are taken to be different recordings.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
import soxr

from loev_cli import bundle as bundles
from loev_cli.audio import find, load
from loev_cli.embed import Request, embed
from loev_cli.evaluate.equivariance import STRETCH_RATE_HZ, Rubberband
from loev_cli.search import open_library
from loev_cli.search.session import model_of

RATE_HZ = STRETCH_RATE_HZ
POOR_RATE_HZ = 16000  # at 44.1 kHz MP3 has no fewer than 32 kbit/s
THRESHOLDS = (0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3)
Change = Callable[[np.ndarray, Path], Path]


def encoded(suffix: str, rate_hz: int = RATE_HZ, **options: object) -> Change:
    def change(waveform: np.ndarray, folder: Path) -> Path:
        file = folder / f"copy{suffix}"
        soundfile.write(file, soxr.resample(waveform, RATE_HZ, rate_hz), rate_hz, **options)
        return file

    return change


def changed(make: Callable[[np.ndarray], np.ndarray]) -> Change:
    return lambda waveform, folder: encoded(".wav")(make(waveform), folder)


def rubberband(*, rate: float = 1.0, semitones: float = 0.0) -> Change:
    return changed(lambda x: Rubberband()(x, rate=rate, semitones=semitones))


def played(rate: float) -> Change:
    """As by a turntable that turns so many times as fast."""
    return changed(lambda x: soxr.resample(x, rate * RATE_HZ, RATE_HZ))


def narrow(waveform: np.ndarray) -> np.ndarray:
    return soxr.resample(soxr.resample(waveform, RATE_HZ, 22050), 22050, RATE_HZ)


CHANGES: dict[str, Change] = {
    "MP3, 60 kbit/s, mono": encoded(".mp3", bitrate_mode="CONSTANT", compression_level=0.9),
    "MP3, 16 kbit/s, mono": encoded(
        ".mp3", POOR_RATE_HZ, bitrate_mode="CONSTANT", compression_level=0.95
    ),
    "Ogg Vorbis, lowest quality": encoded(".ogg", compression_level=1.0),
    "22.05 kHz": changed(narrow),
    "10 dB softer": changed(lambda x: 0.316 * x),
    "first 3 s cut off": changed(lambda x: x[3 * RATE_HZ :]),
    "played 1 % faster": played(1.01),
    "played 4 % faster": played(1.04),
    "played 10 % faster": played(1.1),
    "played 12.2 % faster: 2 semitones": played(1.12246),
    "stretched by 1.05": rubberband(rate=1.05),
    "stretched by 1.15": rubberband(rate=1.15),
    "shifted by +1": rubberband(semitones=1),
    "shifted by -2": rubberband(semitones=-2),
    "shifted by -5, stretched by 1.25": rubberband(rate=1.25, semitones=-5),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--n", type=int, default=60, help="tracks that are copied")
    parser.add_argument("--model", default=bundles.DEFAULT_MODEL)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "emb.npz"
        folders = [str(folder) for folder in arguments.folders]
        embed(Request(folders, str(out), model=arguments.model))
        library = open_library(out)
        x = library.vectors["invariant"]
        space = library.subspaces["invariant"]
        sources = {source.path: source.file for source in find(folders)}
        chosen = np.linspace(0, len(library) - 1, min(arguments.n, len(library))).round()
        model = model_of(library.meta, model=arguments.model)

        other = 1 - x @ x.T
        pairs = other[np.triu_indices(len(x), 1)]
        header = "".join(f" {t:g} |" for t in THRESHOLDS)
        print(f"{len(library)} tracks, {len(chosen)} of them copied; share within a threshold\n")
        print(f"| copy | median | 90 % | {header}\n|---|---|---|{'---|' * len(THRESHOLDS)}")
        for name, change in CHANGES.items():
            distances = []
            for row in chosen.astype(int).tolist():
                waveform = load(sources[library.paths[row]], RATE_HZ)
                file = change(waveform, Path(scratch))
                vector = model.embed_file(file, hop_s=library.meta["hop_s"])["invariant"]
                distances.append(float(1 - space.ready(vector) @ x[row]))
            d = np.array(distances)
            shares = "".join(f" {np.mean(d <= t):.2f} |" for t in THRESHOLDS)
            print(
                f"| {name} | {np.median(d):.4f} | {np.percentile(d, 90):.4f} |{shares}", flush=True
            )
        shares = "".join(f" {np.mean(pairs <= t):.1e} |" for t in THRESHOLDS)
        print(
            f"| different tracks | {np.median(pairs):.4f} | (nearest {pairs.min():.4f}) |{shares}"
        )
        near = np.argsort(pairs)[:10]
        i, j = (index[near] for index in np.triu_indices(len(x), 1))
        print("\nnearest of different tracks:")
        for a, b in zip(i.tolist(), j.tolist(), strict=True):
            print(f"  {other[a, b]:.4f}  {library.paths[a]}  {library.paths[b]}")


if __name__ == "__main__":
    main()
