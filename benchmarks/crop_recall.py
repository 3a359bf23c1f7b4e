"""What lies near a crop: its recording changed, its other crops, other recordings of its folder?

    python benchmarks/crop_recall.py FOLDER... [--crop-s 15] [--model loevpp-small]

Every recording is cut into crops that do not overlap. A crop asks among the crops of all
recordings, by angle about the mean, and recall@1 says how often the nearest one is right:

changed     the recording's first crop, shifted by 1 to 6 semitones and played at 0.75 to 1.3 times
            its speed, finds a crop of the recording
crops       a crop, itself left out, finds a crop of the recording
folder      a crop, its recording left out, finds one of the same folder: an album, artist or game

Beside the model's subspaces: mean and deviation over time of 20 MFCCs and of their differences,
scaled to unit variance. Chance is what a crop drawn at random would get; the fewer the recordings,
the easier. Intervals: bootstrap over recordings, for `folder` over folders.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import soxr
import torch
import torchaudio

from loev_cli import audio
from loev_cli import bundle as bundles
from loev_cli.api import Model
from loev_cli.backends import open_encoder
from loev_cli.errors import InputError
from loev_cli.evaluate.equivariance import STRETCH_RATE_HZ, STRETCHERS, Stretcher, open_stretcher
from loev_cli.evaluate.statistics import Bootstrap, Estimate

SHIFT_SEMITONES = (1.0, 6.0)
RATE = (0.75, 1.3)
N_MFCC = 20
MFCC = "MFCC statistics"


class Features:
    """The vectors of a waveform: the model's subspaces, and the plain ones."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.mfcc = torchaudio.transforms.MFCC(model.sample_rate_hz, N_MFCC)

    def __call__(self, waveform: np.ndarray) -> dict[str, np.ndarray]:
        frames = self.mfcc(torch.from_numpy(waveform)).numpy()  # (20, T)
        parts = [frames, np.diff(frames)]
        plain = np.concatenate([f(part, axis=1) for part in parts for f in (np.mean, np.std)])
        return self.model(waveform, self.model.sample_rate_hz) | {MFCC: plain}


def changed(crop: np.ndarray, rate_hz: int, stretcher: Stretcher, seed: int) -> np.ndarray:
    """The crop, shifted and stretched as ``seed`` says."""
    rng = np.random.default_rng(seed)
    semitones = float(rng.uniform(*SHIFT_SEMITONES) * rng.choice([-1, 1]))
    rate = float(np.exp(rng.uniform(*np.log(RATE))))
    at_its_rate = soxr.resample(crop, rate_hz, STRETCH_RATE_HZ)
    moved = stretcher(at_its_rate, rate=rate, semitones=semitones)
    return np.ascontiguousarray(soxr.resample(moved, STRETCH_RATE_HZ, rate_hz), np.float32)


def recall(
    asking: np.ndarray, among: np.ndarray, right: np.ndarray, allowed: np.ndarray
) -> np.ndarray:
    """(Q,): whether the nearest allowed one of ``among`` (N, D) is right, both (Q, N)."""
    asking, among = asking - among.mean(axis=0), among - among.mean(axis=0)
    similarity = (asking / np.linalg.norm(asking, axis=1, keepdims=True)) @ (
        among / np.linalg.norm(among, axis=1, keepdims=True)
    ).T
    nearest = np.where(allowed, similarity, -np.inf).argmax(axis=1)
    return right[np.arange(len(asking)), nearest].astype(np.float64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--crop-s", type=float, default=15.0)
    parser.add_argument("--most", type=int, default=8, help="crops of one recording")
    parser.add_argument("--model", default=bundles.DEFAULT_MODEL)
    parser.add_argument("--stretcher", default="auto", choices=STRETCHERS)
    args = parser.parse_args()
    model = Model(open_encoder(bundles.find(args.model)))
    features, stretcher = Features(model), open_stretcher(args.stretcher)
    n_samples = round(args.crop_s * model.sample_rate_hz)
    crops, names, queries = [], [], []
    for source in audio.find([str(folder) for folder in args.folders]):
        try:
            waveform = audio.load(source.file, model.sample_rate_hz)
        except InputError:
            continue
        starts = np.arange(0, len(waveform) - n_samples + 1, n_samples)
        spread = np.linspace(0, len(starts) - 1, min(args.most, len(starts))).round().astype(int)
        if len(spread) < 2:
            continue
        cut = [waveform[s : s + n_samples] for s in starts[spread]]
        queries.append(
            features(changed(cut[0], model.sample_rate_hz, stretcher, seed=len(queries)))
        )
        crops += [features(crop) for crop in cut]
        names += [source.path] * len(cut)
    paths, recording = np.unique(names, return_inverse=True)
    folder_of = np.unique([str(Path(path).parent) for path in paths], return_inverse=True)[1]
    folder = folder_of[recording]
    same = recording[:, None] == recording
    others = same & ~np.eye(len(names), dtype=bool)
    same_folder = (folder[:, None] == folder) & ~same
    asks = same_folder.any(axis=1)  # has another recording in its folder
    of_recording = np.arange(len(paths))[:, None] == recording

    def row(name: str) -> list[Estimate]:
        x = np.stack([crop[name] for crop in crops]).astype(np.float64)
        moved = np.stack([query[name] for query in queries]).astype(np.float64)
        if name == MFCC:
            moved, x = moved / x.std(axis=0), x / x.std(axis=0)
        found = [
            Bootstrap(np.arange(len(paths))).mean(
                recall(moved, x, of_recording, np.ones_like(of_recording))
            ),
            Bootstrap(recording).mean(recall(x, x, others, ~np.eye(len(x), dtype=bool))),
        ]
        if asks.any():
            hits = recall(x[asks], x, same_folder[asks], ~same[asks])
            found.append(Bootstrap(folder[asks]).mean(hits))
        return found

    n = len(names)
    chances = [of_recording.mean(), others.sum(axis=1).mean() / (n - 1)]
    columns = ["changed", "crops"]
    if asks.any():
        columns.append("folder")
        chances.append(float((same_folder[asks].sum(axis=1) / (~same[asks]).sum(axis=1)).mean()))
    print(
        f"{n} crops of {args.crop_s:g} s, {len(paths)} recordings, {folder.max() + 1} folders, "
        f"{args.model}, {stretcher.name}\n"
    )
    heads = [f"{name} (chance {chance:.2f})" for name, chance in zip(columns, chances, strict=True)]
    print(f"| recall@1 | {' | '.join(heads)} |\n|---|{'---|' * len(heads)}")
    for name in crops[0]:
        label = name if name == MFCC else f"`{name}`"
        print(f"| {label} | {' | '.join(str(estimate) for estimate in row(name))} |", flush=True)


if __name__ == "__main__":
    main()
