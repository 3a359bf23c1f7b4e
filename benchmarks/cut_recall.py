"""Does a recording whose start is cut off stay where it was?

    python benchmarks/cut_recall.py MANIFEST... [--cut-s 1,3,5,7.5] [--model loevpp-small]

Without its first seconds every window of a recording lies elsewhere. The distance from what is left
to the whole, about the mean of all as `loev dedup` takes it, and recall@1: is the whole recording
the nearest of all? Beside it the distance of the nearest two different recordings.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from loev_cli import audio
from loev_cli import bundle as bundles
from loev_cli.api import Model
from loev_cli.backends import open_encoder
from loev_cli.evaluate.manifest import read_manifests


def unit(x: np.ndarray, mean: np.ndarray) -> np.ndarray:
    shares: np.ndarray = (x - mean) / np.linalg.norm(x - mean, axis=1, keepdims=True)
    return shares


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("manifest", type=Path, nargs="+")
    parser.add_argument("--cut-s", default="1,3,5,7.5")
    parser.add_argument("--model", default=bundles.DEFAULT_MODEL)
    args = parser.parse_args()
    model = Model(open_encoder(bundles.find(args.model), device="cpu"))
    rate_hz, cuts_s = model.sample_rate_hz, [0.0, *map(float, args.cut_s.split(","))]
    rows = []
    for file in read_manifests(args.manifest).files:
        waveform = audio.load(file, rate_hz)
        rows.append([model(waveform[round(cut_s * rate_hz) :], rate_hz) for cut_s in cuts_s])
    print(
        f"{len(rows)} recordings, model {args.model}, windows {model.bundle.hop_n_samples()} apart"
    )
    print("\n| subspace | cut off | median | 90 % | largest | recall@1 | different recordings |")
    print("|---|---|---|---|---|---|---|")
    for name in rows[0][0]:
        whole, *cut = (np.stack([row[i][name] for row in rows]) for i in range(len(cuts_s)))
        mean = whole.mean(axis=0)
        known = unit(whole, mean)
        others = (1 - known @ known.T)[np.triu_indices(len(known), 1)].min()
        for cut_s, x in zip(cuts_s[1:], cut, strict=True):
            similarity = unit(x, mean) @ known.T
            d = 1 - np.diag(similarity)
            found = (similarity.argmax(axis=1) == np.arange(len(d))).mean()
            print(
                f"| `{name}` | {cut_s:g} s | {np.median(d):.4f} | {np.percentile(d, 90):.4f} "
                f"| {d.max():.4f} | {found:.3f} | {others:.3f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
