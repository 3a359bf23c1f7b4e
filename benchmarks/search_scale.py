"""Search among a million tracks: recall, latency, memory, and how long the index takes to build.

    python benchmarks/search_scale.py [--n 1000000] [--dir FOLDER] [--queries 200]

Makes a library of N rows x 3 subspaces x 256 that lie as embeddings do and not as noise: groups of
unequal size (2,000, Zipf with exponent 0.7), spread 0.6 of that of their centers, and in both a
variance that falls along the axes as i ** -1.65, the slope measured on `tempo` of the shipped model
over 206 clips; those of the other two subspaces fall faster, and are easier. Nearly all queries
have their answers in their own group. Then runs `loev index`, and in a process of its own asks for
the 10 nearest of rows drawn at random, themselves left out; what comes is compared with the exact
answer. The numpy search over all rows, in the same run, is the peer. On a busy machine the CPU time
is the figure to go by.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa

from loev_cli.formats.tables import schema_of
from loev_cli.search.database import Database
from loev_cli.search.find import RowQuery
from loev_cli.search.library import Query

DIM = 256
SUBSPACES = ("invariant", "pitch", "tempo")
META = {
    "format_version": 1,
    "model": "synthetic",
    "model_sha256": "0" * 64,
    "window_s": 10.24,
    "hop_s": 5.12,
    "pooling": "mean",
    "subspaces": dict.fromkeys(SUBSPACES, DIM),
}
WEIGHTS: dict[str, dict[str, float]] = {
    **{name: {name: 1.0} for name in SUBSPACES},
    "invariant=1, tempo=1": {"invariant": 1.0, "tempo": 1.0},
    "invariant=1, tempo=0.5, pitch=-0.3": {"invariant": 1.0, "tempo": 0.5, "pitch": -0.3},
}
K = 10
N_GROUPS = 2000
SPREAD = 0.6
SLOPE = 1.65
BLOCK = 20_000


class Source:
    """Rows of one subspace, in blocks, the same every time."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.seed = seed
        self.scale = (np.arange(1, DIM + 1) ** (-SLOPE / 2)).astype(np.float32)
        self.rotation = np.linalg.qr(rng.standard_normal((DIM, DIM)))[0].astype(np.float32)
        self.centers = rng.standard_normal((N_GROUPS, DIM), np.float32) * self.scale
        share = np.arange(1, N_GROUPS + 1) ** -0.7
        self.share = share / share.sum()

    def block(self, number: int, n: int) -> np.ndarray:
        rng = np.random.default_rng([self.seed, number])
        group = rng.choice(N_GROUPS, n, p=self.share)
        noise = rng.standard_normal((n, DIM), np.float32) * self.scale
        return (self.centers[group] + SPREAD * noise) @ self.rotation


def path_of(row: int) -> str:
    return f"artist {row // 100:05}/{row:07}.mp3"


def blocks(n: int) -> Iterator[tuple[int, int]]:
    for number, start in enumerate(range(0, n, BLOCK)):
        yield number, min(BLOCK, n - start)


def write_library(out: Path, n: int) -> None:
    schema = schema_of(META)
    sources = [Source(seed) for seed in range(len(SUBSPACES))]

    def batches() -> Iterator[pa.RecordBatch]:
        for number, size in blocks(n):
            rows = range(number * BLOCK, number * BLOCK + size)
            vectors = [
                pa.FixedSizeListArray.from_arrays(
                    pa.array(source.block(number, size).reshape(-1)), DIM
                )
                for source in sources
            ]
            first = [
                pa.array([path_of(row) for row in rows]),
                pa.array(np.full(size, 200, np.float32)),
                pa.array(np.zeros(size, np.bool_)),
            ]
            yield pa.RecordBatch.from_arrays([*first, *vectors], schema=schema)

    lance.write_dataset(pa.RecordBatchReader.from_batches(schema, batches()), str(out))


def exact(n: int, rows: np.ndarray) -> tuple[dict[str, list[set[str]]], float]:
    """Weights -> per query the paths of the 10 nearest; and seconds a query takes in numpy, over
    all rows of one subspace held in memory."""
    scores = {name: np.zeros((len(rows), n), np.float32) for name in WEIGHTS}
    seconds = 0.0
    for seed, name in enumerate(SUBSPACES):
        source = Source(seed)
        x = np.concatenate([source.block(number, size) for number, size in blocks(n)])
        x -= x.mean(axis=0, dtype=np.float64).astype(np.float32)
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        for i, row in enumerate(rows.tolist()):
            began = time.perf_counter()
            similarity = x @ x[row]
            seconds += time.perf_counter() - began
            for label, weights in WEIGHTS.items():
                if name in weights:
                    scores[label][i] += np.float32(weights[name]) * similarity
    answers: dict[str, list[set[str]]] = {}
    for label, score in scores.items():
        score[np.arange(len(rows)), rows] = -np.inf
        best = np.argpartition(-score, K, axis=1)[:, :K]
        answers[label] = [{path_of(i) for i in some} for some in best.tolist()]
    return answers, seconds / (len(rows) * len(SUBSPACES))


def ask(folder: Path, paths: list[str]) -> dict[str, Any]:
    """In the process that searches: answers, milliseconds, and its peak memory."""
    began = time.perf_counter()
    database = Database(folder)
    opened_s = time.perf_counter() - began
    found: dict[str, Any] = {"opened_s": opened_s}
    found |= {key: {} for key in ("answers", "ms", "cpu_ms", "first_ms")}
    for label, weights in WEIGHTS.items():
        answers, taken, cpu = [], [], []
        for path in [*paths[:20], *paths]:  # the first 20 to warm up
            began, cpu_began = time.perf_counter(), time.process_time()
            query = Query(weights, K, exclude=frozenset({path}))
            hits = database.search(database.query_of(RowQuery(path, -1)), query)
            taken.append(1000 * (time.perf_counter() - began))
            cpu.append(1000 * (time.process_time() - cpu_began))
            answers.append([hit.path for hit in hits])
        found["answers"][label], found["ms"][label] = answers[20:], taken[20:]
        found["first_ms"][label], found["cpu_ms"][label] = taken[0], cpu[20:]
    found["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=1_000_000)
    parser.add_argument("--dir", type=Path, help="keep everything there; default: a temporary one")
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--ask", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.ask:
        print(json.dumps(ask(arguments.ask, json.load(sys.stdin))))
        return
    with tempfile.TemporaryDirectory(dir=arguments.dir) as scratch:
        run(arguments.dir or Path(scratch), arguments.n, arguments.queries)


def run(folder: Path, n: int, n_queries: int) -> None:
    emb, db = folder / "emb.lance", folder / "db"
    if not emb.exists():
        write_library(emb, n)
    if not db.exists():
        began = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "loev_cli", "index", str(emb), "--db", str(db)], check=True
        )
        built_s = time.perf_counter() - began
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        print(
            f"built in {built_s:.0f} s ({used.ru_utime + used.ru_stime:.0f} s of CPU time), "
            f"peak memory {used.ru_maxrss / 1000:.0f} MB",
            flush=True,
        )
    n_bytes = sum(file.stat().st_size for file in db.rglob("*") if file.is_file())
    of_index = sum(file.stat().st_size for file in db.rglob("_indices/**/*") if file.is_file())
    print(f"{n} rows: {n_bytes / 1e6:.0f} MB on disk, {of_index / 1e6:.0f} MB of it indexes")
    rows = np.random.default_rng(7).choice(n, n_queries, replace=False)
    done = subprocess.run(
        [sys.executable, __file__, "--ask", str(db)],
        input=json.dumps([path_of(row) for row in rows.tolist()]),
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout)
    print(f"searching: opened in {found['opened_s']:.2f} s, peak memory {found['peak_mb']:.0f} MB")
    answers, numpy_s = exact(n, rows)
    print(f"numpy over all rows of one subspace in memory: {1000 * numpy_s:.0f} ms a query\n")
    print("| by | recall@10 | p50, ms | p95, ms | CPU time, p50, ms | first, ms |")
    print("|---|---|---|---|---|---|")
    for label, exact_answers in answers.items():
        recall = np.mean(
            [
                len(set(ours) & theirs) / K
                for ours, theirs in zip(found["answers"][label], exact_answers, strict=True)
            ]
        )
        ms = found["ms"][label]
        print(
            f"| {label} | {recall:.3f} | {np.median(ms):.1f} | {np.percentile(ms, 95):.1f} | "
            f"{np.median(found['cpu_ms'][label]):.1f} | {found['first_ms'][label]:.0f} |"
        )


if __name__ == "__main__":
    main()
