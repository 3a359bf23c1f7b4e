"""How long does the way of docs/dj.md take, from a folder to tags and a playlist?

    python benchmarks/dj_way.py FOLDER

Runs its commands on a copy of the folder and prints wall time and CPU time of each.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from loev_cli.search import open_library

TAGS = "annotate Music --write-tags --yes --undo-log old-tags.jsonl"
EMBED = "embed Music --out emb.parquet --annotate --tags --quiet"
PLAYLIST = "playlist emb.parquet --minutes 10 --max-key-step 1 --keep invariant --out set.m3u8"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        shutil.copytree(arguments.folder, Path(scratch) / "Music")

        def run(command: str, *more: str) -> None:
            began = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
            words = [sys.executable, "-m", "loev_cli", *command.split(), *more]
            subprocess.run(words, cwd=scratch, check=True, capture_output=True)
            wall_s = time.monotonic() - began[0]
            used = resource.getrusage(resource.RUSAGE_CHILDREN)
            cpu_s = used.ru_utime + used.ru_stime - began[1].ru_utime - began[1].ru_stime
            print(f"| `loev {command}` | {wall_s:.1f} | {cpu_s:.1f} |", flush=True)

        print("| command | wall, s | CPU, s |\n|---|---|---|")
        run(TAGS)
        run(EMBED)
        run("dedup emb.parquet")
        library = open_library(Path(scratch) / "emb.parquet")
        seconds = library.columns["duration_s"].sum()
        run(PLAYLIST, "--seed", library.paths[0])
        print(f"\n{len(library)} tracks, {seconds / 60:.0f} minutes")


if __name__ == "__main__":
    main()
