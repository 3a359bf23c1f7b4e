"""How well can tempo labels be told from what the tempo branch is given?

    python benchmarks/floor_features.py TRAIN/manifest.csv EVAL/manifest.csv --out floors.npz
    python benchmarks/tempo_ceiling.py TRAIN/manifest.csv EVAL/manifest.csv --floors floors.npz

A limit to hold `tempo`, which no label taught, against: a convolutional network over the log-lag
autocorrelation of onsets, the branch's own input averaged over a track, that *is* taught the labels
(soft targets of 3 % on 48 tempi per octave, dropout, one cycle of AdamW). Trained on the rows with
split=train, as many epochs as are best on val, judged on test; the mean over --seeds networks.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from loev_cli.annotations import TempoReadout
from loev_cli.evaluate.manifest import read_manifests, split
from loev_cli.evaluate.probes import ACC1_FACTORS, ACC2_FACTORS, tempo_hits, tempo_targets
from loev_cli.evaluate.statistics import Bootstrap
from loev_cli.evaluate.vectors import read_embeddings
from loev_cli.model.encoders import small

N_LAGS = small.N_LAG_OCTAVES * small.LAGS_PER_OCTAVE
SPREAD = 0.03
BATCH_SIZE, LEARNING_RATE, WEIGHT_DECAY = 128, 1e-3, 0.05


class Network(nn.Module):
    """(B, C, lags) -> (B, tempi): the branch's three convolutions, wider apart each time."""

    def __init__(self, n_channels: int, n_tempi: int, hidden: int = 48) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for kernel, dilation in ((9, 1), (7, 6), (5, 12)):
            padding = kernel // 2 * dilation
            layers += [
                nn.Conv1d(n_channels, hidden, kernel, padding=padding, dilation=dilation),
                nn.ReLU(),
                nn.Dropout(0.2),
            ]
            n_channels = hidden
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Linear(hidden * N_LAGS, n_tempi))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return out


def trained(x: Tensor, targets: Tensor, n_epochs: int, seed: int) -> Network:
    torch.manual_seed(seed)
    network = Network(x.shape[1], targets.shape[1])
    optimiser = torch.optim.AdamW(network.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    n_batches = len(x) // BATCH_SIZE
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, LEARNING_RATE, total_steps=n_epochs * n_batches
    )
    for _ in range(n_epochs):
        for rows in torch.randperm(len(x))[: n_batches * BATCH_SIZE].split(BATCH_SIZE):
            optimiser.zero_grad()
            F.cross_entropy(network(x[rows]), targets[rows]).backward()
            optimiser.step()
            schedule.step()
    return network.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("manifest", type=Path, nargs="+")
    parser.add_argument("--floors", type=Path, action="append", required=True, metavar="FILE")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, nargs="+", default=[12, 25])
    args = parser.parse_args()
    manifest = read_manifests(args.manifest)
    vectors = read_embeddings(manifest, args.floors).subspaces["autocorrelation"]
    bpm = manifest.column("tempo").values
    log2_bpm = TempoReadout("tempo").log2_bpm
    fold = split(manifest).folds[0]
    x = torch.from_numpy(vectors.reshape(len(vectors), -1, N_LAGS))
    mean, deviation = x[fold.train].mean(dim=0), x[fold.train].std(dim=0)
    x = (x - mean) / (deviation + 1e-4)
    targets = torch.from_numpy(tempo_targets(bpm[fold.train], log2_bpm, SPREAD))
    bootstrap = Bootstrap(manifest.groups[fold.test])
    best, told = -1.0, ""
    for n_epochs in args.epochs:
        parts: list[NDArray[np.float64]] = []
        for seed in range(args.seeds):
            network = trained(x[fold.train], targets, n_epochs, seed)
            with torch.inference_mode():
                said = 2 ** log2_bpm[network(x).argmax(dim=1).numpy()]
            hits = [tempo_hits(bpm, said, f) for f in (ACC1_FACTORS, ACC2_FACTORS)]
            parts.append(np.stack(hits).astype(np.float64))
        one, two = np.mean(parts, axis=0)
        print(f"{n_epochs} epochs: Acc1 {one[fold.val].mean():.3f} on val", flush=True)
        if one[fold.val].mean() > best:
            best = float(one[fold.val].mean())
            scores = [bootstrap.mean(hits[fold.test]) for hits in (one, two)]
            told = " / ".join(f"{s.value:.3f} [{s.low:.2f}, {s.high:.2f}]" for s in scores)
            told += f" with {n_epochs} epochs, {len(fold.test)} tracks"
    print(f"Acc1 / Acc2 on test: {told}")


if __name__ == "__main__":
    main()
