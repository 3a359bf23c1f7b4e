"""Where does a model's ONNX graph spend its time, and how near is that to what the machine can do?

    python benchmarks/graph_profile.py [--model loevpp-small] [--batch-size 2] [--runs 40]

ONNX Runtime's own profiler on one thread: microseconds per window of every kind of operator, and of
the largest nodes, each the lower quartile over the runs. Convolutions and matrix products are also
given in multiply-adds per second, as the runtime carries them out (channels filled up to its
blocks), beside those of a product of two matrices of 512 x 512 in the same process.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # read when numpy is imported

import numpy as np

from loev_cli import bundle  # isort: split

import onnxruntime as ort  # after loev_cli, which turns its telemetry off

from loev_cli.bundle import ONNX_FILE

N_LARGEST = 12
_KERNEL = "_kernel_time"


def profiled(file: Path, windows: np.ndarray, n_runs: int) -> list[dict[str, Any]]:
    """The profiler's record of every node in every run."""
    with tempfile.TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.enable_profiling = True
        options.profile_file_prefix = f"{folder}/profile"
        session = ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        for _ in range(n_runs):
            session.run(None, {"waveform": windows})
        events = json.loads(Path(session.end_profiling()).read_text())
    return [event for event in events if event["name"].endswith(_KERNEL)]


def n_multiply_adds(inputs: list[list[int]], output: list[int]) -> int:
    """Of a convolution or a matrix product, by its shapes."""
    if len(inputs[0]) == len(inputs[1]) == 4 and len(output) == 4 and len(inputs) > 2:
        return int(np.prod(output)) * int(np.prod(inputs[1][1:]))  # weights (O, I, F, T)
    return int(np.prod(output)) * inputs[0][-1]


def peak_per_s() -> float:
    """Multiply-adds per second of a large matrix product on one thread."""
    a, times = np.ones((512, 512), np.float32), []
    for _ in range(20):
        began = time.thread_time()
        a @ a
        times.append(time.thread_time() - began)
    return float(512**3 / statistics.quantiles(times, n=4)[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=bundle.DEFAULT_MODEL)
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--runs", type=int, default=40)
    args = parser.parse_args()
    model = bundle.find(args.model)
    shape = (args.batch_size, model.window_n_samples)
    windows = (0.1 * np.random.default_rng(0).standard_normal(shape)).astype(np.float32)
    times, said = defaultdict(list), {}
    for event in profiled(model.path / ONNX_FILE, windows, args.runs):
        name = event["name"].removesuffix(_KERNEL)
        times[name].append(event["dur"] / args.batch_size)
        said[name] = event["args"]
    took = {name: statistics.quantiles(t, n=4)[0] for name, t in times.items()}
    total = sum(took.values())
    kinds: Counter[str] = Counter()
    for name, micros in took.items():
        kinds[said[name]["op_name"]] += micros
    print(f"{total:.0f} us per window, batches of {args.batch_size}, one thread")
    print(f"matrix product of 512 x 512: {peak_per_s() / 1e9:.0f} G multiply-adds per second\n")
    print("| operator | us per window | share |\n|---|---|---|")
    for kind, micros in kinds.most_common(N_LARGEST):
        print(f"| {kind} | {micros:.0f} | {micros / total:.1%} |")
    print("\n| node | weights | output | us per window | share | G multiply-adds per s |")
    print("|---|---|---|---|---|---|")
    for name in sorted(took, key=lambda name: -took[name])[:N_LARGEST]:
        inputs = [next(iter(each.values())) for each in said[name]["input_type_shape"]]
        output = next(iter(said[name]["output_type_shape"][0].values()))
        speed = ""
        if said[name]["op_name"] in ("Conv", "MatMul", "Gemm"):
            n = n_multiply_adds(inputs, output) / args.batch_size
            speed = f"{n / took[name] / 1e3:.0f}"
        print(
            f"| {said[name]['op_name']} {name} | {inputs[1] if len(inputs) > 1 else ''} | {output} "
            f"| {took[name]:.0f} | {took[name] / total:.1%} | {speed} |"
        )


if __name__ == "__main__":
    main()
