"""Are changes of key and tempo found, and where?

    python benchmarks/segment_boundaries.py examples/music/manifest.csv [--n 60] [--seed 0]

Pieces of two recordings with other keys and tempi are made from a manifest with `path`, `key` and
`tempo`: the first from a random place within its first 6 s on, the second whole. Then they are
split as `loev annotate --segments` does. Keys count as changed if they differ, tempi if they differ
by more than 6 %, octaves aside. Every recording alone has no change.
"""

from __future__ import annotations

import argparse
import csv
import math
from pathlib import Path

import numpy as np

import loev_cli as loev
from loev_cli import bundle as bundles
from loev_cli.annotations import open_annotator
from loev_cli.audio import load
from loev_cli.music_keys import parse_key
from loev_cli.segments import Segment, find_segments

OTHER_TEMPO = math.log2(1.06)


def octave_apart(first: float, second: float) -> float:
    """In octaves, but for whole ones."""
    octaves = math.log2(second / first)
    return abs(octaves - round(octaves))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--n", type=int, default=60, help="pieces")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    bundle = bundles.find(bundles.DEFAULT_MODEL)
    annotator, model, rate_hz = open_annotator(bundle), loev.load(), bundle.sample_rate_hz
    hop_s = bundle.window_s / 2

    def segments_of(waveform: np.ndarray) -> list[Segment]:
        vectors, start_s = model(waveform, rate_hz, per_window=True, hop_s=hop_s)
        duration_s = len(waveform) / rate_hz
        return find_segments(
            annotator, vectors, start_s, window_s=bundle.window_s, duration_s=duration_s
        )

    rows = list(csv.DictReader(arguments.manifest.open(encoding="utf-8")))
    audio = [load(arguments.manifest.parent / row["path"], rate_hz) for row in rows]
    keys = [parse_key(row["key"]) for row in rows]
    tempi = [float(row["tempo"]) for row in rows]
    rng = np.random.default_rng(arguments.seed)
    errors_s, n_missed, n_extra, right = [], 0, 0, []
    pairs = [
        (i, j)
        for i in range(len(rows))
        for j in range(len(rows))
        if keys[i] != keys[j] or octave_apart(tempi[i], tempi[j]) > OTHER_TEMPO
    ]
    chosen = rng.permutation(len(pairs))[: arguments.n]
    for i, j in (pairs[n] for n in chosen):
        first = audio[i][rng.integers(0, 6 * rate_hz) :]
        found = segments_of(np.concatenate([first, audio[j]]))
        bounds_s = np.array([segment.end_s for segment in found[:-1]])
        if not len(bounds_s):
            n_missed += 1
            continue
        errors_s.append(float(np.abs(bounds_s - len(first) / rate_hz).min()))
        n_extra += len(bounds_s) - 1
        for segment, k in ((found[0], i), (found[-1], j)):
            said = segment.answer
            tempo_is_right = octave_apart(tempi[k], float(said["bpm"])) < math.log2(1.04)
            right.append((parse_key(str(said["key"])) == keys[k], tempo_is_right))
    alone = sum(len(segments_of(waveform)) - 1 for waveform in audio)
    e = np.array(errors_s)
    print(f"{len(chosen)} pieces with one change, of {len(rows)} recordings; hop {hop_s:g} s")
    print(f"not found: {n_missed}; more than one: {n_extra}; in the {len(rows)} alone: {alone}")
    print(
        f"boundary off by: median {np.median(e):.2f} s, 90 % {np.percentile(e, 90):.2f} s, most "
        f"{e.max():.2f} s; within one hop {np.mean(e <= hop_s):.3f}"
    )
    key, tempo = np.mean(right, axis=0)
    print(f"of the first and last segments right: key {key:.2f}, tempo but for octaves {tempo:.2f}")


if __name__ == "__main__":
    main()
