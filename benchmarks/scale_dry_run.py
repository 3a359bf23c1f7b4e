"""Does the coordinator hold with a million files? Everything of `loev embed`, `merge` and `index`
but the audio.

    python benchmarks/scale_dry_run.py [--counts 10000,100000,1000000] [--dir FOLDER]

Makes that many empty files, a hundred in a folder, and runs on them the real search for files,
journal, output, merge and index; only the engine is a stub, which gives each file a random vector
of the shipped model's `tempo`. Each step is a process of its own:

    embed, killed   kill -9 after half of the files
    embed, resumed  the same command: the other half, then the output
    embed, again    nothing to do
    embed, changed  one file in a hundred has another time
    embed, 2 shards one after the other; the largest figure of one
    merge           of the shards; the result must have the rows of the unsharded run
    index, search   a database of them, and one query; not beyond --index-up-to files, since a
                    larger one is what benchmarks/search_scale.py makes

and is given with its wall time, CPU time and peak memory (VmHWM). Linux only. A million files take
5 GB in FOLDER.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from loev_cli.audio import Source
from loev_cli.embed import Event, Request, TrackDone, embed, job, parse_shard
from loev_cli.embed.report import Stats
from loev_cli.formats import Row, open_columns, read_meta

N_SHARDS = 2
ORIGIN = {"backend": "onnx", "device": "cpu", "precision": "fp32"}


def vectors_of(path: str, subspaces: dict[str, int]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(zlib.crc32(path.encode()))
    return {name: rng.standard_normal(dim, np.float32) for name, dim in subspaces.items()}


@contextlib.contextmanager
def stub(
    request: Request, bundle: Any, sources: Sequence[Source], on_event: object
) -> Iterator[tuple[dict[str, str], Stats, Iterator[tuple[int, Row]]]]:
    """In the place of the local engine: rows without audio, out of order like those of many
    decoders."""
    dims = {name: bundle.subspaces[name] for name in request.subspaces or bundle.subspaces}
    order = np.random.default_rng(0).permutation(len(sources)).tolist()
    found = (
        (i, Row(sources[i].path, 180.0, False, vectors_of(sources[i].path, dims))) for i in order
    )
    yield ORIGIN, Stats(1, 1), found


def embed_step(folder: Path, out: str, shard: str | None, kill_after: int | None) -> None:
    job._engine = stub  # type: ignore[assignment]
    n_done = 0

    def on_event(event: Event) -> None:
        nonlocal n_done
        n_done += isinstance(event, TrackDone)
        if n_done == kill_after:
            report_use()
            os.kill(os.getpid(), signal.SIGKILL)

    part = shard and parse_shard(shard, {})
    request = Request([str(folder / "music")], out, subspaces=["tempo"], shard=part)
    report = embed(request, on_event=on_event)
    print(json.dumps({"n_done": report.n_done, "n_rows": report.n_rows}))


def report_use() -> None:
    status = Path("/proc/self/status").read_text().split("VmHWM:")[1]
    mb = int(status.split()[0]) / 1024
    times = os.times()
    print(json.dumps({"mb": mb, "cpu_s": times.user + times.system}), flush=True)


def step(label: str, *arguments: str, code: int = 0) -> dict[str, Any]:
    """Run one step in a process of its own; what it says."""
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, __file__, *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode != code:
        raise SystemExit(f"{label} ended with {done.returncode}: {done.stderr}")
    said: dict[str, Any] = {"wall_s": time.monotonic() - began}
    for line in done.stdout.splitlines():
        if line.startswith("{"):
            said |= json.loads(line)
    return said


def show(n: int, label: str, said: dict[str, Any], note: str = "") -> None:
    per_file = 1e6 * said["cpu_s"] / n
    print(
        f"| {n} | {label} | {said['wall_s']:.1f} | {said['cpu_s']:.1f} | {per_file:.0f} | "
        f"{said['mb']:.0f} | {note} |",
        flush=True,
    )


def make_files(folder: Path, n: int) -> None:
    for i in range(n):
        if i % 100 == 0:
            album = folder / f"artist {i // 10_000:03}" / f"album {i // 100 % 100:02}"
            album.mkdir(parents=True)
        (album / f"{i:07}.flac").touch()


def run(folder: Path, n: int, index_up_to: int) -> None:
    music, out = folder / "music", folder / "emb.parquet"
    make_files(music, n)
    a_part = ["embed", str(folder), str(out)]
    said = step("embed, killed", *a_part, "--kill-after", str(n // 2), code=-signal.SIGKILL)
    show(n, "embed, killed", said)
    said = step("embed, resumed", *a_part)
    assert (said["n_done"], said["n_rows"]) == (n - n // 2, n), said
    show(n, "embed, resumed", said, f"{n - n // 2} embedded, {out.stat().st_size / 1e6:.0f} MB")
    said = step("embed, again", *a_part)
    assert (said["n_done"], said["n_rows"]) == (0, n), said
    show(n, "embed, again", said)
    for file in sorted(music.rglob("*.flac"))[::100]:
        os.utime(file, (0, 0))
    said = step("embed, changed", *a_part)
    assert (said["n_done"], said["n_rows"]) == (n // 100, n), said
    show(n, "embed, changed", said, f"{n // 100} embedded")
    parts = [folder / f"part-{i}.parquet" for i in range(1, N_SHARDS + 1)]
    shards = [
        step("shard", "embed", str(folder), str(part), "--shard", f"{i}/{N_SHARDS}")
        for i, part in enumerate(parts, start=1)
    ]
    assert sum(said["n_rows"] for said in shards) == n
    largest = {key: max(said[key] for said in shards) for key in ("wall_s", "cpu_s", "mb")}
    show(n, f"embed, {N_SHARDS} shards", largest)
    merged = folder / "merged.parquet"
    show(n, "merge", step("merge", "merge", str(merged), *map(str, parts)))
    assert np.array_equal(open_columns(out).load("path"), open_columns(merged).load("path"))
    if n > index_up_to:
        return
    show(n, "index", step("index", "index", str(merged), str(folder / "db")))
    n_bytes = sum(file.stat().st_size for file in (folder / "db").rglob("*") if file.is_file())
    show(n, "search", step("search", "search", str(folder / "db")), f"{n_bytes / 1e6:.0f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--counts", default="10000,100000,1000000")
    parser.add_argument("--dir", type=Path, help="where there is room; default: a temporary folder")
    parser.add_argument("--index-up-to", type=int, default=100_000)
    options = parser.parse_args()
    print("| files | step | wall s | CPU s | CPU us a file | peak MB | |")
    print("|---|---|---|---|---|---|---|")
    for n in map(int, options.counts.split(",")):
        with tempfile.TemporaryDirectory(dir=options.dir) as name:
            run(Path(name), n, options.index_up_to)


def one_step(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser()
    steps = parser.add_subparsers(dest="step")
    of_embed = steps.add_parser("embed")
    of_embed.add_argument("folder", type=Path)
    of_embed.add_argument("out")
    of_embed.add_argument("--shard")
    of_embed.add_argument("--kill-after", type=int)
    of_merge = steps.add_parser("merge")
    of_merge.add_argument("out")
    of_merge.add_argument("parts", nargs="+")
    of_index = steps.add_parser("index")
    of_index.add_argument("emb", type=Path)
    of_index.add_argument("db", type=Path)
    steps.add_parser("search").add_argument("db", type=Path)
    given = parser.parse_args(arguments)
    if given.step == "embed":
        embed_step(given.folder, given.out, given.shard, given.kill_after)
    elif given.step == "merge":
        from loev_cli.embed.merge import merge

        assert read_meta(Path(given.parts[0]))["shard"] == f"1/{len(given.parts)}"
        merge(given.parts, given.out)
    elif given.step == "index":
        from loev_cli.search.indexing import index

        index(given.emb, given.db)
    else:
        from loev_cli.search.session import Session

        assert len(Session(given.db, k=10).ask("0000007.flac")) == 10
    report_use()


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in ("embed", "merge", "index", "search"):
        one_step(sys.argv[1:])
    else:
        main()
