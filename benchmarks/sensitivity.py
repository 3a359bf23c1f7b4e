"""Does each subspace move with its own augmentation, on real recordings, and with no other?

    python benchmarks/sensitivity.py FOLDER [--model loevpp-small]

Every file of FOLDER is shifted in pitch and stretched in time by an outside tool (the `rubberband`
command, Debian package rubberband-cli), embedded, and compared with itself untouched. A cell is
the mean distance moved over the mean distance between different files of the folder, in one
subspace: 0 is not moved, 1 is as far away as another recording. Distances are Euclidean.

It also checks the circle: a file shifted by n semitones should have the `pitch` embedding of the
original turned by n pitch classes; the last row gives the distance left after turning it back.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from itertools import combinations
from pathlib import Path

import numpy as np
import soundfile

from loev_cli import audio, bundle, windows
from loev_cli.backends import Encoder, open_encoder

SEMITONES = (-5, -2, 2, 5)
RATES = (0.8, 0.9, 1.1, 1.25)
N_PITCH_CLASSES = 12


def embed(encoder: Encoder, file: Path) -> dict[str, np.ndarray]:
    """Mean of the windows, subspace -> (D,)."""
    model = encoder.bundle
    waveform = audio.load(file, model.sample_rate_hz)
    pool = windows.MeanPool()
    for cut in windows.cut(waveform, model.window_n_samples, model.window_n_samples // 2):
        vectors = encoder.encode(cut.samples[None])
        pool.add({name: vector[0] for name, vector in vectors.items()})
    return pool.mean()


def rubberband(source: Path, target: Path, *options: str) -> Path:
    command = ["rubberband", "--quiet", *options, str(source), str(target)]
    subprocess.run(command, check=True, capture_output=True)
    return target


def distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a - b))


def turned(pitch: np.ndarray, semitones: int) -> np.ndarray:
    return np.roll(pitch.reshape(N_PITCH_CLASSES, -1), semitones, axis=0).ravel()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("--model", default=bundle.DEFAULT_MODEL)
    args = parser.parse_args()
    encoder = open_encoder(bundle.find(args.model), backend="onnx", device="cpu", precision="fp32")
    names = list(encoder.bundle.subspaces)
    plain = {s.file: embed(encoder, s.file) for s in audio.find([args.folder])}
    between = {
        name: np.mean([distance(a[name], b[name]) for a, b in combinations(plain.values(), 2)])
        for name in names
    }

    moved: dict[str, dict[str, list[float]]] = {
        "pitch": {name: [] for name in names},
        "tempo": {name: [] for name in names},
    }
    turned_back = []
    with tempfile.TemporaryDirectory() as scratch:
        original, changed = Path(scratch) / "original.wav", Path(scratch) / "changed.wav"
        for file, vectors in plain.items():
            # rubberband reads what libsndfile writes, whatever the file was.
            soundfile.write(original, audio.load(file, 44100), 44100)
            for semitones in SEMITONES:
                rubberband(original, changed, "-3", f"--pitch={semitones}")
                shifted = embed(encoder, changed)
                for name in names:
                    moved["pitch"][name].append(distance(vectors[name], shifted[name]))
                turned_back.append(distance(turned(vectors["pitch"], semitones), shifted["pitch"]))
            for rate in RATES:
                rubberband(original, changed, "-3", f"--tempo={rate}")
                stretched = embed(encoder, changed)
                for name in names:
                    moved["tempo"][name].append(distance(vectors[name], stretched[name]))

    print(f"{len(plain)} files, shifts {SEMITONES} semitones, stretches {RATES}")
    print("| subspace | moved by pitch | moved by tempo |\n|---|---|---|")
    for name in names:
        cells = [np.mean(moved[change][name]) / between[name] for change in ("pitch", "tempo")]
        print(f"| {name} | {cells[0]:.2f} | {cells[1]:.2f} |")
    print(f"| pitch, turned back | {np.mean(turned_back) / between['pitch']:.2f} | |")


if __name__ == "__main__":
    main()
