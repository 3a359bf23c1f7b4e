"""Does Ray give the same rows, and do two workers get through them faster than one?

    python benchmarks/cluster_speed.py [--files 64] [--seconds 60]

Makes that many FLAC files, embeds them with the shipped model by the local engine, by one Ray
worker, by two, and by two of which one is killed in mid-run; prints wall time, throughput in
seconds of audio per second, and the largest difference from the local engine's rows. Needs the
extra cluster. Ray's own start (several seconds) is in its times, and told apart.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

sys.path.insert(0, str(Path(__file__).parent.parent))

from loev_cli.embed import Event, Request, TrackDone, embed
from loev_cli.formats import EmbeddingFile, read
from tests.embed.test_cluster import workers_of_ours


def make_library(folder: Path, n_files: int, seconds: float) -> None:
    rng = np.random.default_rng(0)
    for i in range(n_files):
        noise = 0.1 * rng.standard_normal(round(seconds * 44100)).astype(np.float32)
        soundfile.write(folder / f"{i:04}.flac", noise, 44100)


def largest_difference(a: EmbeddingFile, b: EmbeddingFile) -> float:
    assert a.paths == b.paths
    return max(float(np.abs(a.vectors[name] - b.vectors[name]).max()) for name in a.vectors)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--files", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60.0)
    options = parser.parse_args()
    import ray

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "library").mkdir()
        make_library(folder / "library", options.files, options.seconds)
        began = time.monotonic()
        ray.init(include_dashboard=False, log_to_driver=False, object_store_memory=256 << 20)
        print(f"Ray's start: {time.monotonic() - began:.1f} s\n")
        print("| engine | wall s | audio s / s | largest difference |\n|---|---|---|---|")
        reference: EmbeddingFile | None = None
        for label, engine, workers, kills in (
            ("local", "local", None, False),
            ("ray, 1 worker", "ray", 1, False),
            ("ray, 2 workers", "ray", 2, False),
            ("ray, 2 workers, one killed", "ray", 2, True),
        ):
            killed: list[int] = []

            def kill_one(event: Event, killed: list[int] = killed, kills: bool = kills) -> None:
                if kills and isinstance(event, TrackDone) and not killed:
                    killed.extend(workers_of_ours()[:1])
                    os.kill(killed[0], signal.SIGKILL)

            out = folder / f"{label}.npz"
            report = embed(
                Request([str(folder / "library")], str(out), engine=engine, workers=workers),
                on_event=kill_one,
            )
            assert bool(killed) == kills
            file = read(out)
            reference = reference or file
            speed = report.audio_s / report.wall_s
            difference = largest_difference(file, reference)
            print(f"| {label} | {report.wall_s:.1f} | {speed:.0f} | {difference:.1e} |", flush=True)
        ray.shutdown()


if __name__ == "__main__":
    main()
