"""Clips shorter than a window: repeated, or followed by silence? What linear probes say of both.

    python -m benchmarks.short_clips --digits fsdd.tar.xz --work FOLDER

Spoken digits (recordings 0 to 19 of every speaker and digit; 0 to 4 are tested on), embedded by the
shipped model as they are, which repeats them, and with silence up to its window.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import soundfile
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import loev_cli as loev
from examples.speech import RATE_HZ, f0_hz, recorded
from loev_cli.evaluate.statistics import Bootstrap, mean_of, r2_of

N_RECORDINGS, N_TEST = 20, 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--digits", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    args = parser.parse_args()
    found = recorded(args.digits, args.work)
    number = {clip.file: int(clip.file.stem.split("_")[2]) for clip in found}
    clips = [clip for clip in found if number[clip.file] < N_RECORDINGS]
    is_test = np.array([number[clip.file] < N_TEST for clip in clips])
    waves = [soundfile.read(clip.file, dtype="float32")[0] for clip in clips]
    classes = {"speaker": [c.speaker for c in clips], "digit": [str(c.digit) for c in clips]}
    numbers = {
        "log2 F0": np.log2([f0_hz(clip.file) for clip in clips]),
        "log2 duration": np.log2([len(wave) / RATE_HZ for wave in waves]),
    }
    model = loev.load()
    n_samples = round(model.window_s * RATE_HZ)
    padded = [np.pad(wave, (0, max(0, n_samples - len(wave)))) for wave in waves]
    for way, sounds in (("repeated", waves), ("padded", padded)):
        vectors = model.embed_batch(sounds, RATE_HZ)
        for name in vectors[0]:
            x = np.stack([one[name] for one in vectors])
            cells = []
            for label, texts in classes.items():
                y = np.array(texts)
                probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=300))
                hit = probe.fit(x[~is_test], y[~is_test]).predict(x[is_test]) == y[is_test]
                score = Bootstrap(np.arange(len(hit))).of(mean_of(hit.astype(float)))
                cells.append(f"{label} {score}")
            for label, y in numbers.items():
                known = np.isfinite(y)
                probe = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-1, 5, 13)))
                probe.fit(x[~is_test & known], y[~is_test & known])
                truth, said = y[is_test & known], probe.predict(x[is_test & known])
                score = Bootstrap(np.arange(len(truth))).of(r2_of(truth, said), bounds=None)
                cells.append(f"{label} {score}")
            print(way, name, *cells, sep="  ")


if __name__ == "__main__":
    main()
