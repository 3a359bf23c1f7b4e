"""Freeze what the shipped models give for two example clips, for tests/test_shipped.py.

    python tests/reference/freeze.py

Run it only when a shipped model changes on purpose, and say so in the commit.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from loev_cli import audio, bundle, windows
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
        encoder = open_encoder(
            model, backend="onnx", device="cpu", precision="fp32", annotate=annotates(model)
        )
        vectors = encoder.encode(first_windows(model))
        readouts = encoder.annotator.sha256 if encoder.annotator else ""
        np.savez_compressed(
            frozen_file(model), sha256=model.sha256, readouts_sha256=readouts, **vectors
        )
        print(f"{frozen_file(model)}: {', '.join(vectors)}")


if __name__ == "__main__":
    main()
