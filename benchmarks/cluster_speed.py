"""What does Ray cost, per run and per file, and are its rows the same?

    python benchmarks/cluster_speed.py [--files 32,128] [--seconds 180] [--repeats 3]

Makes as many FLAC files as the larger number says, and embeds the first few and all of them with
the shipped model: by the local engine with one decoder, by one Ray worker, by the local engine with
all cores, and by two Ray workers. The difference of the two runs is what a file costs, the rest
what a run costs. Engines take turns; the shortest of the repeats counts. Then two Ray workers of
which one is killed in mid-run. Ray itself is started once, which is told apart. Needs the extra
cluster, and Linux: the CPU time is that of all processes below this one.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.embed_memory import tree
from loev_cli.embed import Event, Request, TrackDone, embed
from loev_cli.formats import EmbeddingFile, read
from tests.embed.test_cluster import workers_of_ours

ENGINES = {
    "local, 1 core": ("local", 1),
    "ray, 1 worker": ("ray", 1),
    "local, all cores": ("local", None),
    "ray, 2 workers": ("ray", 2),
}
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def make_library(folder: Path, n_files: int, seconds: float) -> None:
    """Copies of ten pieces of noise."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(n_files):
        file = folder / f"{i:04}.flac"
        if i < 10:
            noise = 0.1 * rng.standard_normal(round(seconds * 44100)).astype(np.float32)
            soundfile.write(file, noise, 44100)
        else:
            shutil.copyfile(folder / f"{i % 10:04}.flac", file)


def cpu_s() -> dict[int, float]:
    """CPU seconds of this process and all below it, with those below them that have ended."""
    found = {}
    for pid in tree(os.getpid()):
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        found[pid] = sum(map(int, fields[11:15])) / TICKS_PER_S
    return found


def since(before: dict[int, float]) -> float:
    """CPU seconds since then of those that are there: workers of earlier runs have gone."""
    return sum(seconds - before.get(pid, 0.0) for pid, seconds in cpu_s().items())


def timed(inputs: list[str], out: Path, engine: str, workers: int | None) -> tuple[float, float]:
    """Wall seconds of a run, and CPU seconds until its last track: then the workers go."""
    began, cpu_began = time.monotonic(), cpu_s()
    n_done, used_s = 0, 0.0

    def on_event(event: Event) -> None:
        nonlocal n_done, used_s
        n_done += isinstance(event, TrackDone)
        if n_done == len(inputs):
            used_s = since(cpu_began)

    request = Request(inputs, str(out), engine=engine, workers=workers, overwrite=True)
    embed(request, on_event=on_event)
    return time.monotonic() - began, used_s


def largest_difference(a: EmbeddingFile, b: EmbeddingFile) -> float:
    assert a.paths == b.paths
    return max(float(np.abs(a.vectors[name] - b.vectors[name]).max()) for name in a.vectors)


def killed(inputs: list[str], out: Path) -> float:
    """Wall seconds of a run of two workers of which one is killed after the first track."""
    gone: list[int] = []

    def kill_one(event: Event) -> None:
        if isinstance(event, TrackDone) and not gone:
            gone.extend(workers_of_ours()[:1])
            os.kill(gone[0], signal.SIGKILL)

    report = embed(Request(inputs, str(out), engine="ray", workers=2), on_event=kill_one)
    assert gone
    return report.wall_s


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--files", default="32,128", help="few and many")
    parser.add_argument("--seconds", type=float, default=180.0)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    few, many = map(int, options.files.split(","))
    import ray

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_library(folder / "library", many, options.seconds)
        files = [str(file) for file in sorted((folder / "library").iterdir())]
        # On a busy machine workers are else the last to get a core.
        os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112
        began, cpu_began = time.monotonic(), cpu_s()
        ray.init(include_dashboard=False, log_to_driver=False, object_store_memory=256 << 20)
        start_s = time.monotonic() - began
        print(f"Ray's start: {start_s:.1f} s, {since(cpu_began):.1f} s of CPU time\n", flush=True)
        best: dict[tuple[str, int], np.ndarray] = {}
        for _ in range(options.repeats):
            for label, (engine, workers) in ENGINES.items():
                for n in (few, many):
                    out = folder / f"{label}.npz"
                    taken = np.array(timed(files[:n], out, engine, workers))
                    best[label, n] = np.minimum(best.get((label, n), np.inf), taken)
        reference = read(folder / "local, 1 core.npz")
        print("| engine | a run, s | CPU s | a file, s | CPU s | largest difference |")
        print("|---|---|---|---|---|---|", flush=True)
        for label in ENGINES:
            a_file = (best[label, many] - best[label, few]) / (many - few)
            a_run = best[label, few] - few * a_file
            difference = largest_difference(read(folder / f"{label}.npz"), reference)
            taken = " | ".join(f"{seconds:.3f}" for seconds in (*a_run, *a_file))
            print(f"| {label} | {taken} | {difference:.1e} |")
        wall_s = killed(files, folder / "killed.npz")
        difference = largest_difference(read(folder / "killed.npz"), reference)
        print(f"\n2 workers, one killed: {wall_s:.1f} s, largest difference {difference:.1e}")
        ray.shutdown()


if __name__ == "__main__":
    main()
