"""Does `Model.embed_batch` embed arrays as fast as `loev embed` embeds files?

    python benchmarks/api_speed.py [--tracks 24] [--minutes 2] [--repeats 5] [--rate 16000]

The same tracks as WAV files (32-bit float, so that decoding is next to nothing) through the
command's own job, and as arrays through `embed_batch`; both in turns in the same run, on all cores.
Prints the median time of each and their ratio: above 1, arrays are faster. With --rate other than
the model's, both resample.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

import loev_cli as loev
from loev_cli import audio

MUSIC = Path(__file__).parent.parent / "examples" / "music"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tracks", type=int, default=24)
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rate", type=int, default=16000, help="of the tracks, Hz")
    args = parser.parse_args()

    joined = np.concatenate([audio.load(f, args.rate) for f in sorted(MUSIC.glob("*.mp3"))])
    n_samples = round(args.minutes * 60 * args.rate)
    waves = [np.resize(np.roll(joined, i * args.rate * 7), n_samples) for i in range(args.tracks)]
    model = loev.load()
    by_command: list[float] = []
    by_batch: list[float] = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "music"
        folder.mkdir()
        for i, wave in enumerate(waves):
            soundfile.write(folder / f"{i:03}.wav", wave, args.rate, subtype="FLOAT")
        out = Path(scratch) / "emb.npz"
        for _ in range(args.repeats):
            report = loev.embed(folder, out, overwrite=True)
            by_command.append(report.stats.wall_s)  # without opening the model and writing
            began = time.monotonic()
            rows = model.embed_batch(waves, args.rate)
            by_batch.append(time.monotonic() - began)
        vectors = loev.read(out).vectors
    off = max(
        float(np.abs(np.stack([row[name] for row in rows]) - x).max())
        for name, x in vectors.items()
    )
    seconds = statistics.median(by_command), statistics.median(by_batch)
    audio_s = args.tracks * args.minutes * 60
    print(f"loev embed   {seconds[0]:7.2f} s   {audio_s / seconds[0]:6.0f} x real time")
    print(f"embed_batch  {seconds[1]:7.2f} s   {audio_s / seconds[1]:6.0f} x real time")
    print(f"ratio        {seconds[0] / seconds[1]:7.2f}     largest difference {off:.1e}")


if __name__ == "__main__":
    main()
