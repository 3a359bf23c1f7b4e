"""Does the memory of `loev embed` depend on how many files there are, or how long they are?

    python benchmarks/embed_memory.py [--out-format npz] [--counts 10,100,10000] [--hours 3]

The highest sum of the resident memory (VmRSS) of the command and all its decoder processes, looked
at every 50 ms: for 10, 100 and 10,000 files of 2 seconds, and for one file of 3 minutes and one
of 3 hours (FLAC, stereo, 44.1 kHz). Pages that processes share are counted in each. Linux only.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

from loev_cli import audio, bundle

ROOT = Path(__file__).parent.parent
RATE_HZ = 44100
LOOK_EVERY_S = 0.05


def tree(pid: int) -> list[int]:
    """A process and all below it."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += [p for child in task.read_text().split() for p in tree(int(child))]
        except OSError:
            continue
    return found


def resident_mb(pid: int) -> float:
    total_kb = 0
    for each in tree(pid):
        try:
            status = Path(f"/proc/{each}/status").read_text()
        except OSError:
            continue
        total_kb += sum(int(x.split()[1]) for x in status.splitlines() if x.startswith("VmRSS"))
    return total_kb / 1024


def peak_mb(source: Path, out: Path, options: list[str]) -> tuple[float, float]:
    """Peak memory, and how long it took."""
    command = [sys.executable, "-m", "loev_cli", "embed", str(source), "--out", str(out), "--quiet"]
    began, peak = time.monotonic(), 0.0
    process = subprocess.Popen([*command, *options], env=os.environ | {"PYTHONPATH": str(ROOT)})
    while process.poll() is None:
        peak = max(peak, resident_mb(process.pid))
        time.sleep(LOOK_EVERY_S)
    if process.returncode != 0:
        raise SystemExit(f"loev embed failed on {source}")
    return peak, time.monotonic() - began


def many_files(folder: Path, n: int, samples: np.ndarray) -> Path:
    """``n`` names of 10 different files."""
    folder.mkdir()
    for i in range(n):
        file = folder / f"{i % 100:02}" / f"track {i:06}.flac"
        file.parent.mkdir(exist_ok=True)
        if i < 10:
            soundfile.write(file, np.roll(samples, i * 5000)[: 2 * RATE_HZ], RATE_HZ)
        else:
            os.link(folder / f"{i % 10:02}" / f"track {i % 10:06}.flac", file)
    return folder


def long_file(file: Path, seconds: float, samples: np.ndarray) -> Path:
    stereo = np.stack([samples, np.roll(samples, 400)], axis=1)
    n_left = round(seconds * RATE_HZ)
    with soundfile.SoundFile(file, "w", RATE_HZ, 2, compression_level=0.0) as stream:
        while n_left > 0:
            stream.write(stereo[:n_left])
            n_left -= len(stereo)
    return file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=bundle.DEFAULT_MODEL)
    parser.add_argument("--counts", default="10,100,10000")
    parser.add_argument("--hours", type=float, default=3.0)
    parser.add_argument("--out-format", default="npz")
    parser.add_argument("--per-window", action="store_true")
    args = parser.parse_args()
    options = ["--model", args.model, *(["--per-window"] if args.per_window else [])]
    files = sorted((ROOT / "examples" / "music").glob("*.mp3"))
    samples = np.concatenate([audio.load(file, RATE_HZ) for file in files])
    print(f"peak memory of the process tree, .{args.out_format}, {' '.join(options)}")
    print("| input | MB | seconds |\n|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        out = root / f"x.{args.out_format}"
        jobs = [
            (f"{n} files of 2 s", lambda n=int(n): many_files(root / f"{n}", n, samples))
            for n in args.counts.split(",")
        ]
        lengths = {"3 minutes": 180.0, f"{args.hours:g} hours": args.hours * 3600}
        for name, seconds in lengths.items():
            file = root / f"{seconds:.0f}.flac"
            jobs.append((name, lambda file=file, s=seconds: long_file(file, s, samples)))
        for name, make in jobs:
            peak, seconds = peak_mb(make(), out, [*options, "--overwrite"])
            print(f"| {name} | {peak:.0f} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
