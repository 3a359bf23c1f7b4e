"""Plain features to hold a model against: what does it know that a chroma does not?

    python benchmarks/floor_features.py CORPUS/manifest.csv --out floors.npz
    loev evaluate --data CORPUS/manifest.csv --embeddings floors.npz --out floors

Writes an embedding file with two subspaces: `chroma`, the mean and deviation of a 12-bin chroma in
three registers, and `autocorrelation`, the log-lag autocorrelation of onsets; both from the model's
own frontend, without anything learned. A subspace that does not beat its floor has only forgotten.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from loev_cli import __version__, audio, windows
from loev_cli.evaluate.manifest import read_manifests
from loev_cli.formats import Row, open_writer
from loev_cli.formats.meta import FORMAT_VERSION, POOLED
from loev_cli.model import LoevModel, ModelSpec
from loev_cli.model.encoders.small import PitchBranch, TempoBranch, loudness


def floor_features(file: Path, model: LoevModel) -> tuple[dict[str, np.ndarray], float]:
    """Both features of a file, window by window, averaged; and its length in seconds."""
    pitch, tempo = model.encoder.branches["pitch"], model.encoder.branches["tempo"]
    assert isinstance(pitch, PitchBranch) and isinstance(tempo, TempoBranch)
    window, rate_hz = model.spec.window_n_samples, model.spec.frontend.sample_rate_hz
    waveform = audio.load(file, rate_hz)
    cuts = windows.cut(waveform, window, window // 2)
    with torch.inference_mode():
        batch = torch.from_numpy(np.stack([cut.samples for cut in cuts]))
        features = model.frontend.center(model.frontend(batch))
        vectors = {
            "chroma": pitch.chroma(loudness(features.spectrum)),
            "autocorrelation": tempo.periodicity(features.bands),
        }
        means = {name: x.flatten(1).mean(dim=0).numpy() for name, x in vectors.items()}
    return means, len(waveform) / rate_hz


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("manifest", type=Path, nargs="+")
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    manifest = read_manifests(args.manifest)
    model = LoevModel(ModelSpec()).eval()
    rows = []
    for file in sorted(manifest.files):
        vectors, duration_s = floor_features(file, model)
        rows.append(Row(file.absolute().as_posix(), duration_s, False, vectors))
    meta = {
        "format_version": FORMAT_VERSION,
        "loev_version": __version__,
        "model": "plain features",
        "model_sha256": "",
        "window_s": model.spec.window_n_samples / model.spec.frontend.sample_rate_hz,
        "hop_s": model.spec.window_n_samples // 2 / model.spec.frontend.sample_rate_hz,
        "pooling": POOLED,
        "subspaces": {name: len(x) for name, x in rows[0].vectors.items()},
    }
    with open_writer(args.out, meta) as writer:
        for row in rows:
            writer.add(row)
        writer.commit()
    print(f"{len(rows)} files -> {args.out}")


if __name__ == "__main__":
    main()
