"""Does a recording find itself after it was shifted and stretched?

    python benchmarks/changed_recall.py CORPUS/manifest.csv --changed FOLDER [--model loevpp-small]

Every track of the manifests is shifted by 1 to 6 semitones up or down (any fraction) and played at
0.75 to 1.3 times its speed, both at once, by the `rubberband` command (finer engine), a program
that training does not use. Each changed track asks among all unchanged ones, by angle about their
mean. `invariant` should find it; `pitch` and `tempo` should not. Changed audio is kept in FOLDER,
so that another model is asked the same. Intervals: bootstrap over the manifest's groups.
"""

from __future__ import annotations

import argparse
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from loev_cli import audio
from loev_cli import bundle as bundles
from loev_cli.api import Model
from loev_cli.backends import open_encoder
from loev_cli.evaluate.manifest import read_manifests
from loev_cli.evaluate.statistics import Bootstrap
from loev_cli.evaluate.vectors import embed_manifest

SHIFT_SEMITONES = (1.0, 6.0)
RATE = (0.75, 1.3)
RANKS = (1, 5, 10)


def change(source: Path, target: Path, seed: list[int]) -> None:
    """``source``, shifted and stretched as ``seed`` says, unless it is there already."""
    if target.exists():
        return
    rng = np.random.default_rng(seed)
    semitones = rng.uniform(*SHIFT_SEMITONES) * rng.choice([-1, 1])
    rate = np.exp(rng.uniform(*np.log(RATE)))
    partial = target.with_name(f"partial-{target.name}")
    words = [f"--pitch={semitones:.6f}", f"--tempo={rate:.6f}", str(source), str(partial)]
    subprocess.run(["rubberband", "-q", "-3", *words], check=True, capture_output=True)
    partial.replace(target)


def unit(x: np.ndarray, mean: np.ndarray) -> np.ndarray:
    centered = x - mean
    shares: np.ndarray = centered / np.linalg.norm(centered, axis=1, keepdims=True)
    return shares


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("manifest", type=Path, nargs="+")
    parser.add_argument("--changed", type=Path, required=True, help="folder for changed audio")
    parser.add_argument("--model", default=bundles.DEFAULT_MODEL)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1, help="rubberbands at a time")
    args = parser.parse_args()
    manifest = read_manifests(args.manifest)
    args.changed.mkdir(parents=True, exist_ok=True)
    targets = [args.changed / f"{row:05d}.flac" for row in range(len(manifest))]
    with ThreadPoolExecutor(args.workers) as pool:
        seeds = [[args.seed, row] for row in range(len(manifest))]
        list(pool.map(change, manifest.files, targets, seeds))

    model = Model(open_encoder(bundles.find(args.model)))
    known, rows = embed_manifest(manifest, model)
    changed = [
        model(audio.load(targets[row], model.sample_rate_hz), model.sample_rate_hz) for row in rows
    ]
    bootstrap = Bootstrap(np.array(manifest.groups)[rows])
    print(f"{len(rows)} tracks, {bootstrap.n_groups} groups, model {args.model}\n")
    print("| subspace | " + " | ".join(f"recall@{k}" for k in RANKS) + " | median rank |")
    print("|---|" + "---|" * (len(RANKS) + 1))
    for name, x in known.subspaces.items():
        mean = x.mean(axis=0)
        similarity = unit(np.stack([each[name] for each in changed]), mean) @ unit(x, mean).T
        right = np.diag(similarity)
        rank = 1 + (similarity > right[:, None]).sum(axis=1)
        cells = [bootstrap.mean((rank <= k).astype(np.float64)) for k in RANKS]
        text = " | ".join(f"{e.value:.3f} [{e.low:.2f}, {e.high:.2f}]" for e in cells)
        print(f"| `{name}` | {text} | {np.median(rank):g} |", flush=True)


if __name__ == "__main__":
    main()
