"""How well can a label of instruments be told by a network that is taught it?

    python benchmarks/timbre_ceiling.py TRAIN/manifest.csv EVAL/manifest.csv --label melody_family

A limit to hold subspaces against that no label taught: a convolutional network on log-mel spectra
(64 bands, 62.5 frames a second, mean removed), trained on one random patch of every clip per epoch
with cross-entropy, dropout and one cycle of AdamW. Trained on the rows with split=train; after
every epoch in --report it is judged on val and test by the mean of its log-probabilities over
patches half a patch apart. The last one is the result, whatever val says in between.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
import torchaudio
from torch import Tensor, nn
from torch.nn import functional as F

from loev_cli import audio
from loev_cli.evaluate.manifest import read_manifests, split
from loev_cli.evaluate.statistics import Bootstrap

RATE_HZ, HOP, N_MELS = 16000, 256, 64
BATCH_SIZE, LEARNING_RATE, WEIGHT_DECAY = 32, 2e-3, 0.02


class Network(nn.Module):
    """(B, 1, mels, frames) -> (B, classes): four convolutions, means and maxima over time."""

    def __init__(self, n_classes: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        n_in = 1
        for width in widths:
            layers += [
                nn.Conv2d(n_in, width, 3, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
                nn.MaxPool2d(2),
            ]
            n_in = width
        self.layers = nn.Sequential(*layers)
        n_flat = n_in * (N_MELS >> len(widths))
        self.out = nn.Sequential(nn.Dropout(0.4), nn.Linear(2 * n_flat, n_classes))

    def forward(self, x: Tensor) -> Tensor:
        x = self.layers(x).flatten(1, 2)
        out: Tensor = self.out(torch.cat([x.mean(dim=-1), x.amax(dim=-1)], dim=1))
        return out


def spectra(files: list[Path], least_n_frames: int) -> list[Tensor]:
    """(mels, frames) of each file, float16; short ones are repeated."""
    mel = torchaudio.transforms.MelSpectrogram(RATE_HZ, 1024, hop_length=HOP, n_mels=N_MELS)
    found = []
    for file in files:
        x = torch.log10(mel(torch.from_numpy(audio.load(file, RATE_HZ))) + 1e-5)
        x = x - x.mean()
        n_times = -(-least_n_frames // x.shape[1])
        found.append(x.repeat(1, n_times).half())
    return found


def log_probabilities(network: Network, x: Tensor, n_frames: int) -> Tensor:
    """Mean over patches half a patch apart: (classes,)."""
    patches = x.unfold(1, n_frames, n_frames // 2).transpose(0, 1).float()
    with torch.inference_mode():
        return F.log_softmax(network(patches.unsqueeze(1)), dim=1).mean(dim=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("manifest", type=Path, nargs="+")
    parser.add_argument("--label", default="melody_family")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--report", type=int, default=5, help="epochs between reports")
    parser.add_argument("--patch-s", type=float, default=3.0)
    parser.add_argument("--widths", type=int, nargs="+", default=[24, 48, 96, 128])
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    manifest = read_manifests(args.manifest)
    names, labels = np.unique(manifest.column(args.label).values.astype(str), return_inverse=True)
    fold = split(manifest).folds[0]
    n_frames = round(args.patch_s * RATE_HZ / HOP)
    began = time.monotonic()
    x = spectra([Path(file) for file in manifest.files], n_frames)
    print(f"{len(x)} clips, {len(names)} classes, {time.monotonic() - began:.0f} s", flush=True)
    network = Network(len(names), tuple(args.widths))
    optimizer = torch.optim.AdamW(network.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    n_batches = len(fold.train) // BATCH_SIZE
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LEARNING_RATE, total_steps=args.epochs * n_batches
    )
    bootstrap = Bootstrap(manifest.groups[fold.test])
    for epoch in range(1, args.epochs + 1):
        network.train()
        total = 0.0
        for rows in rng.permutation(fold.train)[: n_batches * BATCH_SIZE].reshape(n_batches, -1):
            starts = [int(rng.integers(x[row].shape[1] - n_frames + 1)) for row in rows]
            batch = torch.stack(
                [x[row][:, s : s + n_frames] for row, s in zip(rows, starts, strict=True)]
            )
            loss = F.cross_entropy(
                network(batch.float().unsqueeze(1)), torch.from_numpy(labels[rows])
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item() / n_batches
        if epoch % args.report and epoch != args.epochs:
            continue
        network.eval()
        told = []
        for rows in (fold.val, fold.test):
            said = torch.stack([log_probabilities(network, x[row], n_frames) for row in rows])
            told.append((said.argmax(dim=1).numpy() == labels[rows]).astype(np.float64))
        score = bootstrap.mean(told[1])
        print(
            f"epoch {epoch}: loss {total:.3f}, val {told[0].mean():.3f}, "
            f"test {score.value:.3f} [{score.low:.2f}, {score.high:.2f}] of {len(told[1])}, "
            f"{time.monotonic() - began:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
