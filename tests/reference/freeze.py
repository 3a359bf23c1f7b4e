"""Freeze what the shipped models give for two example clips, for tests/test_shipped.py.

    python tests/reference/freeze.py

Run it only when a shipped model changes on purpose, and say so in the commit.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from loev_cli import audio, bundle, windows
from loev_cli.annotations import open_annotator
from loev_cli.backends import open_encoder
from loev_cli.bundle import Bundle

HERE = Path(__file__).parent
MUSIC = HERE.parent.parent / "examples" / "music"
# Lossless, so that no decoder's rounding is frozen with the model.
CLIPS = ("arcade-in-a-minor-150bpm.wav", "bossa-in-f-major-124bpm.flac")


def frozen_file(model: Bundle) -> Path:
    return HERE / f"{model.name}.npz"


def first_windows(model: Bundle) -> np.ndarray:
    """The first window of every clip, (B, N)."""
    waveforms = [audio.load(MUSIC / clip, model.sample_rate_hz) for clip in CLIPS]
    window = model.window_n_samples
    return np.stack([windows.cut(w, window, window)[0].samples for w in waveforms])


def annotates(model: Bundle) -> bool:
    """Whether the model has readouts of key and tempo."""
    return "annotations" in model.config


def main() -> None:
    for model in bundle.shipped():
        encoder = open_encoder(model, backend="onnx", device="cpu", precision="fp32")
        arrays = encoder.encode(first_windows(model))
        readouts = ""
        if annotates(model):
            annotator = open_annotator(model)
            readouts = annotator.sha256
            logits = annotator.logits(arrays)
            arrays |= {annotator.readouts[n].output: np.float32(x) for n, x in logits.items()}
        np.savez_compressed(
            frozen_file(model), sha256=model.sha256, readouts_sha256=readouts, **arrays
        )
        print(f"{frozen_file(model)}: {', '.join(arrays)}")


if __name__ == "__main__":
    main()
