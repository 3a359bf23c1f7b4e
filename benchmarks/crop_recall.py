"""Do crops of one recording find each other?

    python benchmarks/crop_recall.py FOLDER... [--crop-s 15] [--model loevpp-small]

Every recording is cut into crops that do not overlap; each asks among the crops of all recordings,
itself left out, by angle about the mean. Recall@1: is the nearest one of the same recording?
Chance is what drawing a crop at random would get. The fewer the recordings, the easier.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from loev_cli import audio
from loev_cli import bundle as bundles
from loev_cli.api import Model
from loev_cli.backends import open_encoder
from loev_cli.errors import InputError
from loev_cli.evaluate.statistics import Bootstrap


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--crop-s", type=float, default=15.0)
    parser.add_argument("--most", type=int, default=8, help="crops of one recording")
    parser.add_argument("--model", default=bundles.DEFAULT_MODEL)
    args = parser.parse_args()
    model = Model(open_encoder(bundles.find(args.model)))
    n_samples = round(args.crop_s * model.sample_rate_hz)
    crops, names = [], []
    for source in audio.find([str(folder) for folder in args.folders]):
        try:
            waveform = audio.load(source.file, model.sample_rate_hz)
        except InputError:
            continue
        starts = np.arange(0, len(waveform) - n_samples + 1, n_samples)
        spread = np.linspace(0, len(starts) - 1, min(args.most, len(starts))).round().astype(int)
        if len(spread) < 2:
            continue
        crops += [model(waveform[s : s + n_samples], model.sample_rate_hz) for s in starts[spread]]
        names += [source.path] * len(spread)
    recording = np.unique(names, return_inverse=True)[1]
    same = recording[:, None] == recording
    np.fill_diagonal(same, False)
    bootstrap = Bootstrap(recording)
    chance = same.sum(axis=1).mean() / (len(names) - 1)
    print(
        f"{len(names)} crops of {args.crop_s:g} s, {recording.max() + 1} recordings, {args.model}"
    )
    print(f"\n| subspace | recall@1 (chance {chance:.2f}) |\n|---|---|")
    for name in crops[0]:
        x = np.stack([crop[name] for crop in crops])
        x = x - x.mean(axis=0)
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        similarity = x @ x.T
        np.fill_diagonal(similarity, -np.inf)
        nearest = similarity.argmax(axis=1)
        hits = same[np.arange(len(x)), nearest].astype(np.float64)
        found = bootstrap.mean(hits)
        print(f"| `{name}` | {found.value:.2f} [{found.low:.2f}, {found.high:.2f}] |", flush=True)


if __name__ == "__main__":
    main()
