"""How long does `loev` take to answer, against importing what it cannot do without?

    python benchmarks/startup.py

Times whole processes, best of several: `loev --help` and an ONNX embed of one 60 s file (made
here), as ratios to the floor `python -c "import numpy, soundfile, onnxruntime, typer"`; and checks
with `-X importtime` that neither imports torch.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

N_RUNS = 5
FLOOR = [sys.executable, "-c", "import numpy, soundfile, onnxruntime, typer"]
LOEV = [sys.executable, "-m", "loev_cli"]
ENVIRONMENT = os.environ | {"ORT_DISABLE_TELEMETRY": "1"}  # as loev sets it for itself


def best_s(command: list[str]) -> float:
    """Fastest wall-clock time of the command over several runs, after one to warm the caches."""
    times = []
    for _ in range(N_RUNS + 1):
        began = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True, env=ENVIRONMENT)
        times.append(time.perf_counter() - began)
    return min(times[1:])


def imports_torch(command: list[str]) -> bool:
    traced = [command[0], "-X", "importtime", *command[1:]]
    done = subprocess.run(traced, check=True, capture_output=True, text=True)
    return any(line.split("|")[-1].strip() == "torch" for line in done.stderr.splitlines())


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "minute.wav"
        noise = np.random.default_rng(0).standard_normal(60 * 44100).astype(np.float32)
        soundfile.write(file, 0.1 * noise, 44100)
        commands = {
            "floor: import numpy, soundfile, onnxruntime, typer": FLOOR,
            "loev --help": [*LOEV, "--help"],
            "loev embed, one 60 s file": [
                *[*LOEV, "embed", str(file), "--out", str(Path(folder) / "x.npz"), "--quiet"],
            ],
        }
        floor_s = best_s(FLOOR)
        print("| command | s | x floor | imports torch |\n|---|---|---|---|")
        for name, command in commands.items():
            took_s = floor_s if command is FLOOR else best_s(command)
            torch = "yes" if imports_torch(command) else "no"
            print(f"| {name} | {took_s:.2f} | {took_s / floor_s:.2f} | {torch} |", flush=True)


if __name__ == "__main__":
    main()
