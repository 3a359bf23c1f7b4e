"""How fast are frontend and encoder, against decoding the audio they need?

    python benchmarks/encode_speed.py [--model loevpp-small] [--threads 1]

Seconds of audio per CPU second of a model's ONNX graph (waveform in, all subspaces out, fp32),
with windows at the model's hop; and, in the same run, of decoding and resampling a FLAC and an MP3
of it.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile

from loev_cli import audio, bundle, windows
from loev_cli.backends import open_encoder

MINUTE_S = 60.0
N_RUNS = 5


def best_s(work: Callable[[], object]) -> float:
    times = []
    for _ in range(N_RUNS + 1):
        began = time.process_time()
        work()
        times.append(time.process_time() - began)
    return min(times[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=bundle.DEFAULT_MODEL)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=8)
    args = parser.parse_args()
    model = bundle.find(args.model)
    encoder = open_encoder(
        model, backend="onnx", device="cpu", precision="fp32", n_threads=args.threads
    )
    rng = np.random.default_rng(0)
    waveform = (0.1 * rng.standard_normal(int(MINUTE_S * model.sample_rate_hz))).astype(np.float32)
    cuts = windows.cut(waveform, model.window_n_samples, model.hop_n_samples())
    batches = [
        np.stack([cut.samples for cut in cuts[i : i + args.batch_size]])
        for i in range(0, len(cuts), args.batch_size)
    ]

    print("| stage | x real time |\n|---|---|")
    encode_s = best_s(lambda: [encoder.encode(batch) for batch in batches])
    print(f"| frontend and encoder, ONNX, {args.threads} thread(s) | {MINUTE_S / encode_s:.0f} |")
    with tempfile.TemporaryDirectory() as folder:
        stereo = 0.1 * rng.standard_normal((int(MINUTE_S * 44100), 2))
        for suffix in ("flac", "mp3"):
            file = Path(folder) / f"minute.{suffix}"
            soundfile.write(file, stereo, 44100)
            decode_s = best_s(lambda file=file: audio.load(file, model.sample_rate_hz))  # type: ignore[misc]
            print(f"| floor: decode and resample {suffix.upper()} | {MINUTE_S / decode_s:.0f} |")


if __name__ == "__main__":
    main()
