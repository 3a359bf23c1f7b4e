"""How long does a search from the shell take, process start included?

    python benchmarks/search_start.py [--n 10000]

Makes a library of N rows with the shipped model's subspaces in every format, and a database of it,
and times whole processes, best and median of several, as ratios to two floors of the same run:
`python -c "import numpy"`, and that with `numpy.load` of every array in the .npz. CPU time is that
of all threads together; on a busy machine it is the figure to go by.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from loev_cli import bundle as bundles
from loev_cli.formats import Row, make_meta, open_writer
from loev_cli.search.indexing import index

N_RUNS = 5
FORMATS = (".npz", ".parquet", ".lance", ".jsonl")


def write(out: Path, n: int) -> None:
    bundle = bundles.find(bundles.DEFAULT_MODEL)
    meta = make_meta(
        bundle,
        subspaces=bundle.subspaces,
        hop_n_samples=bundle.hop_n_samples(),
        per_window=False,
        backend="onnx",
        device="cpu",
        precision="fp32",
        tags=["artist", "title"],
    )
    rng = np.random.default_rng(0)
    with open_writer(str(out), meta) as writer:
        for i in range(n):
            vectors = {
                name: rng.standard_normal(dim, np.float32) for name, dim in bundle.subspaces.items()
            }
            path = f"artist {i // 100:04}/album {i // 10:05}/{i:07} a title of usual length.mp3"
            said = {"artist": f"artist {i // 100:04}", "title": f"title {i}"}
            writer.add(Row(path, 180 + i % 120, i % 500 == 0, vectors, tags=said))
        writer.commit()


def cpu_of_children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=10_000)
    n = parser.parse_args().n
    with tempfile.TemporaryDirectory() as folder:
        commands = {
            'floor: python -c "import numpy"': [sys.executable, "-c", "import numpy"],
            "floor: numpy.load of all arrays": [
                *(sys.executable, "-c"),
                "import numpy, sys; f = numpy.load(sys.argv[1]); [f[k] for k in f.files]",
                f"{folder}/x.npz",
            ],
        }
        loev = [sys.executable, "-m", "loev_cli", "search"]
        query = [f"{n // 2:07} a title of usual length.mp3"]
        for suffix in FORMATS:
            write(Path(folder) / f"x{suffix}", n)
            commands[f"loev search x{suffix} --by tempo"] = [
                *(*loev, f"{folder}/x{suffix}", *query, "--by", "tempo")
            ]
        index(Path(folder) / "x.npz", Path(folder) / "db")
        commands["loev search DB --by tempo"] = [*loev, f"{folder}/db", *query, "--by", "tempo"]
        commands["loev search x.npz, three weights and a filter"] = [
            *(*loev, f"{folder}/x.npz", *query, "--weights", "invariant=1,pitch=-0.3,tempo=1"),
            *("--where", "duration_s > 200 and not silent and tag_artist contains '7'"),
        ]
        times: dict[str, list[float]] = {name: [] for name in commands}
        cpu_times: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(N_RUNS + 1):  # in turn, so that a busy machine disturbs all alike
            for name, command in commands.items():
                began, cpu_began = time.perf_counter(), cpu_of_children_s()
                subprocess.run(command, check=True, capture_output=True)
                times[name].append(time.perf_counter() - began)
                cpu_times[name].append(cpu_of_children_s() - cpu_began)
        floor_s = min(next(iter(times.values()))[1:])
        print(f"{n} rows\n\n| command | best, s | median, s | CPU, median, s | best x floor |")
        print("|---|---|---|---|---|")
        for name, taken in times.items():
            best, cpu_s = min(taken[1:]), np.median(cpu_times[name][1:])
            print(
                f"| {name} | {best:.2f} | {np.median(taken[1:]):.2f} | {cpu_s:.2f} | "
                f"{best / floor_s:.1f} |"
            )


if __name__ == "__main__":
    main()
