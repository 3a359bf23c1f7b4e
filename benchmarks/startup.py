"""How long do commands take to answer, against importing what they cannot do without?

    python benchmarks/startup.py

Whole processes, in turn, best of several, each beside its floor: Python importing the libraries
that the command needs. CPU time is that of all threads and child processes together; on a busy
machine it is the figure to go by. Without torch installed the last rows are left out.
"""

from __future__ import annotations

import importlib.util
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from search_start import write

N_RUNS = 7
N_ROWS = 10_000
MUSIC = Path(__file__).parent.parent / "examples" / "music"
CLIP = MUSIC / "arcade-in-a-minor-150bpm.wav"
# Modules are compiled once, as pip does when it installs them.
ENVIRONMENT = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
ENVIRONMENT["ORT_DISABLE_TELEMETRY"] = "1"  # as loev sets it for itself

NO_TORCH = (
    "import sys; sys.modules['torch'] = None; from loev_cli.cli import main; main(['doctor'])"
)
TRIAL = ["--augs", "pitch,tempo", "--steps", "10", "--batch-size", "8", "--dry-run"]


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def loev(*words: str | Path) -> list[str]:
    return [sys.executable, "-m", "loev_cli", *map(str, words)]


def commands(folder: Path) -> dict[str, tuple[list[str], str]]:
    """Name -> command, and the libraries that are its floor."""
    write(folder / "x.npz", N_ROWS)
    write(folder / "x.parquet", 100)
    once = ["embed", CLIP, "--out", folder / "one.npz", "--overwrite", "--quiet"]
    measured = {
        "loev --help": (loev("--help"), "typer, typer.rich_utils"),
        "loev embed, one clip": (loev(*once), "typer, numpy, soundfile, onnxruntime"),
        "loev annotate, one clip": (loev("annotate", CLIP), "typer, numpy, soundfile, onnxruntime"),
        "loev annotate, 100 rows of .parquet": (
            loev("annotate", folder / "x.parquet"),
            "typer, numpy, pyarrow.parquet",
        ),
        f"loev search, {N_ROWS} rows of .npz": (
            loev(
                "search",
                folder / "x.npz",
                f"{N_ROWS // 2:07} a title of usual length.mp3",
                "--by",
                "tempo",
            ),
            "typer, numpy",
        ),
        "loev doctor, torch hidden": (
            python(NO_TORCH),
            "typer, numpy, soundfile, onnxruntime, av",
        ),
    }
    if importlib.util.find_spec("torch") is not None:
        measured["loev doctor"] = (loev("doctor"), "typer, numpy, torch")
        trial = loev("train", MUSIC, *TRIAL, "--out", folder / "run")
        measured["loev train --dry-run"] = (trial, "typer, numpy, torch")
    return measured


def cpu_of_children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        measured = commands(Path(folder))
        floors = {libraries: python(f"import {libraries}") for _, libraries in measured.values()}
        everything = {name: command for name, (command, _) in measured.items()} | floors
        best: dict[str, tuple[float, float]] = {}
        for run in range(N_RUNS + 1):  # in turn, so that a busy machine disturbs all alike
            for name, command in everything.items():
                began, cpu_began = time.perf_counter(), cpu_of_children_s()
                subprocess.run(command, check=True, capture_output=True, env=ENVIRONMENT)
                took = (cpu_of_children_s() - cpu_began, time.perf_counter() - began)
                if run:  # the first fills the caches
                    best[name] = tuple(map(min, best.get(name, took), took))
        print("| command | clock, s | CPU, s | floor: import | clock, s | CPU, s | CPU, x floor |")
        print("|---|---|---|---|---|---|---|")
        for name, (_, libraries) in measured.items():
            (cpu_s, clock_s), (floor_cpu_s, floor_s) = best[name], best[libraries]
            print(
                f"| {name} | {clock_s:.2f} | {cpu_s:.2f} | {libraries} | {floor_s:.2f} | "
                f"{floor_cpu_s:.2f} | {cpu_s / floor_cpu_s:.2f} |"
            )


if __name__ == "__main__":
    main()
