"""Draw who is near whom in each subspace of an embedding file.

    loev embed examples/music --out emb.npz
    python examples/plot_subspaces.py emb.npz examples/music/manifest.csv --out docs/subspaces.png

One panel per subspace: cosine similarity between all tracks, after taking the library's mean off.
Tracks are sorted by what the subspace is meant to hear: `pitch` by key (around the circle of
fifths, a minor key beside its relative major), `tempo` by tempo, others by the manifest's group.
Needs matplotlib (`pip install 'loev-cli[train]'`).
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Rectangle

SORTED_BY = {"pitch": "key", "tempo": "tempo"}
PITCH_CLASSES = ["C", "C#", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B"]


def around_the_fifths(key: str) -> tuple[int, str]:
    """Sorts "A minor" next to "C major", and that next to "G major"."""
    tonic, mode = key.split()
    relative_major = PITCH_CLASSES.index(tonic) + (3 if mode == "minor" else 0)
    return (relative_major * 7 + 1) % 12, mode


SORT_KEYS: dict[str, Callable[[str], object]] = {"key": around_the_fifths, "tempo": float}


def similarity(vectors: np.ndarray) -> np.ndarray:
    """Cosine similarity (N, N) of vectors (N, D) around their mean."""
    centred = vectors - vectors.mean(axis=0)
    centred /= np.linalg.norm(centred, axis=1, keepdims=True)
    return centred @ centred.T


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("embeddings", type=Path)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()

    with args.manifest.open(encoding="utf-8", newline="") as stream:
        rows = {row["path"]: row for row in csv.DictReader(stream)}
    with np.load(args.embeddings, allow_pickle=False) as data:
        labels = [rows[str(path)] for path in data["path"]]
        names = list(json.loads(str(data["meta"]))["subspaces"])
        vectors = {name: data[name] for name in names}

    figure, axes = plt.subplots(
        1, len(names), figsize=(5.2 * len(names), 5.4), layout="constrained"
    )
    for axis, name in zip(axes, names, strict=True):
        column = SORTED_BY.get(name, "group")
        values = [row[column] for row in labels]
        sort_key = SORT_KEYS.get(column, str)
        order = sorted(
            range(len(labels)),
            key=lambda i, v=values, k=sort_key: (k(v[i]), labels[i]["path"]),  # type: ignore[misc]
        )
        matrix = similarity(vectors[name])[np.ix_(order, order)]
        image = axis.imshow(matrix, cmap="RdBu_r", vmin=-1, vmax=1)
        ticks = [values[i] + (" BPM" if column == "tempo" else "") for i in order]
        axis.set_xticks(range(len(order)), ticks, rotation=90)
        axis.set_yticks(range(len(order)), ticks)
        axis.set_title(f"{name}, sorted by {'tune' if column == 'group' else column}", pad=10)
        for first, last in runs([values[i] for i in order]):
            size = last - first
            axis.add_patch(
                Rectangle((first - 0.5, first - 0.5), size, size, fill=False, lw=1.6, ec="black")
            )
    figure.colorbar(image, ax=axes, shrink=0.7, label="similarity")
    figure.savefig(args.out, dpi=110)


def runs(values: list[str]) -> list[tuple[int, int]]:
    """Where equal values stand next to each other: [first, last) of every run longer than one."""
    edges = [0, *(i for i in range(1, len(values)) if values[i] != values[i - 1]), len(values)]
    return [(a, b) for a, b in pairwise(edges) if b - a > 1]


if __name__ == "__main__":
    main()
