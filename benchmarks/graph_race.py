"""Is one ONNX graph of a model faster than another, and does it give the same?

    python benchmarks/graph_race.py OLD.onnx NEW.onnx ... [--batch-size 2] [--rounds 40]

All graphs run in this process on one thread, taking turns, on windows of the example music; the
figure is the lower quartile of their CPU time, so that others at work on the machine move the ratio
little. Prints ms per window, its speed in times real time with windows at the model's hop, the
ratio to the first graph, and the largest difference from what the first graph gives.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import numpy as np

from loev_cli import audio, bundle  # isort: split

import onnxruntime as ort  # after loev_cli, which turns its telemetry off

MUSIC = Path(__file__).parent.parent / "examples" / "music"


def open_session(file: str) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("graphs", nargs="+")
    parser.add_argument("--model", default=bundle.DEFAULT_MODEL, help="whose windows to take")
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=40)
    args = parser.parse_args()
    model = bundle.find(args.model)
    music = [audio.load(file, model.sample_rate_hz) for file in sorted(MUSIC.glob("*.mp3"))]
    size = (args.batch_size, model.window_n_samples)
    windows = np.resize(np.concatenate(music), size).astype(np.float32)

    sessions = [open_session(file) for file in args.graphs]
    vectors = [session.run(None, {"waveform": windows}) for session in sessions]
    times: list[list[float]] = [[] for _ in sessions]
    for _ in range(args.rounds):
        for session, taken in zip(sessions, times, strict=True):
            began = time.thread_time()
            session.run(None, {"waveform": windows})
            taken.append((time.thread_time() - began) / args.batch_size)
    quartiles = [statistics.quantiles(taken, n=4)[0] for taken in times]
    print("| graph | ms per window | x real time | ratio | largest difference |")
    print("|---|---|---|---|---|")
    for file, took_s, given in zip(args.graphs, quartiles, vectors, strict=True):
        apart = max(float(abs(a - b).max()) for a, b in zip(vectors[0], given, strict=True))
        speed = model.hop_n_samples() / model.sample_rate_hz / took_s
        print(
            f"| {file} | {took_s * 1000:.2f} | {speed:.0f} "
            f"| {quartiles[0] / took_s:.2f} | {apart:.1e} |"
        )


if __name__ == "__main__":
    main()
